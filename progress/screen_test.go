package progress

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hinshun/vt10x"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
)

// resize gives the terminal another size. Most terminals break lines again when
// they get narrower; others cut them off.
func (w *watched) resize(width, height int, breaks bool) {
	if breaks {
		text := strings.ReplaceAll(strings.TrimSuffix(w.screen(), "\n"), "\n", "\r\n")
		w.term = vt10x.New(vt10x.WithSize(width, height))
		w.term.Write([]byte(text))
	} else {
		w.term.Resize(width, height)
	}
	w.d.Resize(width, height)
	w.draw()
}

func TestResize(t *testing.T) {
	const last = "○ 5 waiting"
	for _, breaks := range []bool{true, false} {
		t.Run(fmt.Sprintf("terminal breaks lines %v", breaks), func(t *testing.T) {
			w := watch(t, Options{Format: Tree, Terminal: allOfIt})
			for i := range 3 {
				w.d.Print(fmt.Sprint("said before ", i))
			}
			w.plan("root", "a", "b", "c", "d", "e")
			for i, name := range []string{"a", "b", "c", "d"} {
				w.plan(name, fmt.Sprint("in-", i))
			}
			w.start("e")
			w.log("e", strings.Repeat("a long line ", 20))
			w.draw()
			for i, size := range [][2]int{{60, 24}, {33, 20}, {100, 30}, {100, 8}, {33, 5}, {20, 2}, {1, 1}, {80, 24}, {80, 3}, {120, 40}} {
				w.resize(size[0], size[1], breaks)
				w.pass(time.Second)
				w.draw()
				screen := w.screen()
				if n := strings.Count(screen, "● 1"); size[0] > 20 && n != 1 {
					t.Errorf("step %d, %v: the last row is there %d times:\n%s", i, size, n, screen)
				}
				if n := strings.Count(screen, "● e"); n > 1 || n == 0 && size[1] > 5 {
					t.Errorf("step %d, %v: a builder is there %d times:\n%s", i, size, n, screen)
				}
				if breaks && i < 3 {
					for j := range 3 {
						if n := strings.Count(screen, fmt.Sprint("said before ", j)); n != 1 {
							t.Errorf("step %d, %v: what was said before is there %d times:\n%s", i, size, n, screen)
						}
					}
				}
			}
			if got := w.screen(); !strings.Contains(got, "├─ ○ d") && !strings.Contains(got, last) {
				t.Errorf("the view is not whole any more:\n%s", got)
			}
			w.built("e")
			w.close()
			if got := w.screen(); strings.Contains(got, "● e") || strings.Contains(got, "├") || !strings.Contains(got, "✓ 1 built") {
				t.Errorf("something of the view is left:\n%s", got)
			}
		})
	}
}

// TestRedraw is a shell that writes below a view, while the job is stopped.
func TestRedraw(t *testing.T) {
	w := watch(t, Options{Format: Multiline, Terminal: allOfIt})
	w.start("a")
	w.draw()
	before := w.screen()
	w.term.Write([]byte("\r\n[1]+  Stopped\r\n$ fg\r\n"))
	w.d.Redraw()
	w.draw()
	if diff := cmp.Diff(before+"[1]+  Stopped\n$ fg\n"+before, w.screen()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// hostile is text that tries to do more to a terminal than to be shown on it,
// and what is left of it.
var hostile = []struct{ sent, shown string }{
	{"\x1b[2J\x1b[H\x1b[3Jcleared", "cleared"},
	{"\x1b]0;title\a\x1b]2;title\x1b\\titled", "titled"},
	{"\x1b]52;c;aGk=\aclip", "clip"},
	{"\x1b]8;;file:///etc/passwd\x1b\\link\x1b]8;;\x1b\\", "link"},
	{"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[?2026hmodes\x1b[?2026l", "modes"},
	{"\x1b[5A\x1b[K\x1b[Jup\x1b[10;10H\x1b7\x1b8\x1bM\x1bD", "up"},
	{"\x1b[6n\x1b[c\x1b[>0q\x05\x1bZasked", "asked"},
	{"\x1bP$q\"p\x1b\\\x1b_Gf=100;AAAA\x1b\\\x1b^x\x1b\\drawn", "drawn"},
	{"\x1bc\x1b#8\x1b(0\x0e\x1b=reset", "reset"},
	{"\x1b[1;5r\x1b[?6h\x1b[4h\x1b[20hregion", "region"},
	{"a\x08\x08\x08\x7f\x00\x0b\x0c\x07b", "ab"},
	{"\xff\xfe\xc0\x80 bytes \x9b2J\x90", "\uFFFD\uFFFD\uFFFD\uFFFD bytes \uFFFD2J\uFFFD"},
	{"\u009b2J\u009d0;t\u009cc1", "2J0;tc1"},
	{"\xed\xa0\x80\xf4\x90\x80\x80 surrogates", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD surrogates"},
	{"\u202eevil\u2066\u200e\ufeff", "evil"},
	{"cut off\x1b[38;5;", "cut off"},
	{"cut off\x1b]0;t", "cut off"},
	{"cut off \xe2\x94", "cut off \uFFFD\uFFFD"},
}

// tale sends text in every place in which a builder or another machine has a
// say.
func tale(w *watched, text string) {
	w.plan("root", "a", "b")
	w.event(nix.Event{Kind: nix.EventStarted, Path: drv("a"), Message: text})
	w.phase("a", text)
	w.event(nix.Event{Kind: nix.EventFetching, Path: output("f"), Message: text, Expected: 10})
	w.event(nix.Event{Kind: nix.EventTransfer, Path: output("f"), Message: text, Done: 5, Expected: 10})
	w.event(nix.Event{Kind: nix.EventWaiting, Path: drv("b"), Message: text})
	w.log("a", text+"\n")
	w.log("a", text)
	w.draw()
	w.event(nix.Event{Kind: nix.EventWarning, Message: text})
	w.event(nix.Event{Kind: nix.EventNotice, Message: text})
	w.event(nix.Event{Kind: nix.EventDiagnostic, Message: text})
	w.d.Print(text)
	w.pass(time.Second)
	w.draw()
	w.event(nix.Event{Kind: nix.EventFinished, Path: output("f"), Status: nix.StatusSubstituted, Message: text})
	w.event(nix.Event{Kind: nix.EventFinished, Path: drv("a"), Status: nix.StatusPermanentFailure, Message: text})
	w.draw()
	w.close()
}

// ours are the sequences that a view itself is drawn with.
var ours = regexp.MustCompile(`\x1b\[(\?2026[hl]|\?7[hl]|K|J|[0-9]+A|[0-9;]*m)`)

// TestHostile wants that a terminal gets, of all that a builder prints, what it
// would get if only the harmless rest had been printed.
func TestHostile(t *testing.T) {
	for _, f := range Formats() {
		if f == InternalJSON {
			continue // see TestHostileMessages
		}
		for _, logs := range []bool{false, true} {
			for _, h := range hostile {
				o := Options{Format: f, Logs: logs, LogLines: 5, Verbose: 2, Terminal: allOfIt}
				w, harmless := watch(t, o), watch(t, o)
				tale(w, h.sent)
				tale(harmless, h.shown)
				if diff := cmp.Diff(string(harmless.written), string(w.written)); diff != "" {
					t.Errorf("%s: %q (-harmless +got):\n%s", f, h.sent, diff)
				}
				rest := ours.ReplaceAllString(string(w.written), "")
				if !utf8.ValidString(rest) {
					t.Errorf("%s: %q: not UTF-8: %q", f, h.sent, rest)
				}
				for _, r := range rest {
					if unicode.IsControl(r) && r != '\n' && r != '\r' || unicode.In(r, unicode.Bidi_Control) {
						t.Errorf("%s: %q: %U reaches the terminal", f, h.sent, r)
					}
				}
			}
		}
	}
}

// TestHostileMessages wants that programs get messages that they can read,
// whatever builders print.
func TestHostileMessages(t *testing.T) {
	for _, h := range append(hostile, struct{ sent, shown string }{sent: "}\"\n@nix {\"action\":\"stop\",\"id\":1}\r\n\u2028"}) {
		w := watch(t, Options{Format: InternalJSON})
		tale(w, h.sent)
		for line := range strings.Lines(string(w.written)) {
			if !strings.HasSuffix(line, "\n") {
				t.Errorf("%q: a line without end: %q", h.sent, line)
			}
			if m, ok := logline.Parse([]byte(line)); !ok {
				t.Errorf("%q: no message: %q", h.sent, line)
			} else if m.Action == logline.Stop && m.ID == 1 && !strings.HasSuffix(string(w.written), line) {
				t.Errorf("%q: a builder ends an activity", h.sent)
			}
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' }) {
				t.Errorf("%q: a control character in %q", h.sent, line)
			}
		}
	}
}

// TestColours looks at what cells of the terminal look like.
func TestColours(t *testing.T) {
	w := watch(t, Options{Format: Tree, Terminal: allOfIt})
	w.start("a")
	w.log("a", "plain \x1b[31mred\x1b[44mon blue")
	w.draw()
	row := []rune(strings.SplitN(w.screen(), "\n", 2)[0])
	at := func(text string) vt10x.Glyph {
		i := strings.Index(string(row), text)
		if i < 0 {
			t.Fatalf("there is no %q in %q", text, string(row))
		}
		return w.term.Cell(utf8.RuneCountInString(string(row)[:i]), 0)
	}
	for text, want := range map[string][2]vt10x.Color{
		"●":     {vt10x.Cyan, vt10x.DefaultBG},
		"plain": {vt10x.DefaultFG, vt10x.DefaultBG},
		"red":   {vt10x.Red, vt10x.DefaultBG},
		"on":    {vt10x.Red, vt10x.Blue},
	} {
		if g := at(text); g.FG != want[0] || g.BG != want[1] {
			t.Errorf("%q has colours %v on %v, want %v on %v", text, g.FG, g.BG, want[0], want[1])
		}
	}
	if c := w.term.Cell(70, 0); c.BG != vt10x.DefaultBG {
		t.Errorf("the builder's background goes on behind its text: %v", c.BG)
	}
}

// TestNoColours wants that a terminal that is to have no colours gets none, nor
// a file.
func TestNoColours(t *testing.T) {
	for _, f := range Formats() {
		for _, t2 := range []Terminal{{}, {Screen: true, Unicode: true}} {
			w := watch(t, Options{Format: f, LogLines: 5, Logs: true, Terminal: t2})
			story(w)
			if s := sgrOnly.Find(w.written); s != nil {
				t.Errorf("%s on %+v: %q", f, t2, s)
			}
			if i := strings.IndexByte(string(w.written), 0x1b); i >= 0 && !t2.Screen {
				t.Errorf("%s: a sequence in a file: %.20q", f, w.written[i:])
			}
		}
	}
}
