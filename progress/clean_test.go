package progress

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnbuild/kiln/nix"
)

// foreign is a line as a terminal is shown it.
func foreign(line string, t Terminal) string {
	d := newDisplay(Options{Format: Raw, Dir: nix.DefaultStoreDir, Terminal: t})
	d.appendForeign(plain, []byte(line))
	return string(d.pending)
}

func TestCleaned(t *testing.T) {
	const red, off = "\x1b[0;31m", "\x1b[0m"
	for _, c := range []struct{ name, line, want string }{
		{"nothing special", "CC main.c", "CC main.c"},
		{"a colour", "a \x1b[31mred\x1b[0m b", "a " + red + "red" + off + " b"},
		{"a colour that is not taken back", "\x1b[31mred", red + "red" + off},
		{"bold and bright", "\x1b[1;93mx", "\x1b[0;1;93mx" + off},
		{"colours in their long forms", "\x1b[38;5;208mx\x1b[48;2;1;2;3my", "\x1b[0;38;5;208mx\x1b[0;38;5;208;48;2;1;2;3my" + off},
		{"colours with colons", "\x1b[38:5:9mx\x1b[38:2::7:8:9my\x1b[4:3mz", "\x1b[0;91mx\x1b[0;38;2;7;8;9my\x1b[0;4;38;2;7;8;9mz" + off},
		{"the colour of underlines", "\x1b[58;5;1;31mx", red + "x" + off},
		{"hidden and blinking text", "\x1b[8mpassword\x1b[5m!", "password!"},
		{"nonsense in a style", "\x1b[999999999999;;:;31;38;5mx", red + "x" + off},
		{"moving the cursor", "a\x1b[2Ab\x1b[10;10Hc", "abc"},
		{"clearing the screen", "\x1b[2J\x1b[3J\x1bcx", "x"},
		{"a private sequence that looks like a style", "\x1b[>4;2mx\x1b[?31my", "xy"},
		{"a title", "\x1b]0;evil\ax\x1b]2;evil\x1b\\y", "xy"},
		{"a title without end", "x\x1b]0;evil", "x"},
		{"a hyperlink", "\x1b]8;;https://example.org\x1b\\text\x1b]8;;\x1b\\", "text"},
		{"a device control string", "\x1bP+q544e\x1b\\x", "x"},
		{"the clipboard", "\x1b]52;c;ZXZpbA==\ax", "x"},
		{"a question that the terminal would answer", "\x1b[6nx\x1b[cy\x05z", "xyz"},
		{"a sequence cut off", "x\x1b[31", "x"},
		{"an escape at the end", "x\x1b", "x"},
		{"a character set", "\x1b(0qqq\x0e", "qqq"},
		{"a sequence in a sequence", "\x1b[3\x1b[31mx", red + "x" + off},
		{"eight-bit control characters", "a\u009b31mb\x9b31mc", "a31mb\uFFFD31mc"},
		{"other control characters", "a\x00\x07\x08\x0b\x7fb", "ab"},
		{"tabs", "\ta\tb", "        a       b"},
		{"a progress bar", "10%\r50%\rdone", "done"},
		{"line ends of a terminal", "done\r\r", "done"},
		{"other scripts", "ключ 鍵 🔑", "ключ 鍵 🔑"},
		{"not UTF-8", "caf\xe9", "caf\uFFFD"},
		{"writing turned around", "a\u202egnp.exe\u2066b\u200f", "agnp.exeb"},
		{"joined emoji", "👩\u200d🔧", "👩\u200d🔧"},
		{"a tower of accents", "a" + strings.Repeat("\u0301", 50) + "b", "a" + strings.Repeat("\u0301", maxMarks) + "b"},
		{"an accent on nothing", "\u0301a", "a"},
		{"line separators", "a\u2028b\u2029c\ufeffd", "abcd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, foreign(c.line, Terminal{Screen: true, Colour: true, Unicode: true})); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := foreign("\x1b[31mключ", Terminal{Screen: true}); got != "????" {
		t.Errorf("without colours and Unicode: %q", got)
	}
	if got := foreign("\x1b[31mключ", Terminal{}); got != "ключ" {
		t.Errorf("in a file: %q", got)
	}
}

func TestRuneCells(t *testing.T) {
	for r, want := range map[rune]int{'a': 1, 'é': 1, '─': 1, '●': 1, '…': 1, '鍵': 2, '한': 2, '🔑': 2, 'Ａ': 2, '\u0301': 0, '\u200d': 0, '\ufe0f': 0, '\u1160': 0} {
		if got := runeCells(r); got != want {
			t.Errorf("%q takes %d cells, want %d", r, got, want)
		}
	}
}

var sgrOnly = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// checkHarmless fails if text could do more to a terminal than print and colour
// one line.
func checkHarmless(t *testing.T, text string) {
	t.Helper()
	rest := sgrOnly.ReplaceAllString(text, "")
	if !utf8.ValidString(rest) {
		t.Errorf("not UTF-8: %q", text)
	}
	for _, r := range rest {
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			t.Errorf("%U reaches the terminal: %q", r, text)
		}
	}
	if i := strings.LastIndex(text, "\x1b["); i >= 0 && !strings.HasPrefix(text[i:], "\x1b[0m") {
		t.Errorf("the style is not taken back: %q", text)
	}
}

func FuzzCleaned(f *testing.F) {
	for _, s := range []string{
		"plain", "\x1b[31mred\x1b[0m", "\x1b]0;t\a", "\x1b[38;2;1;2;3m", "\x1b[38:2::1:2:3m\xff\x9b", "a\tb\rc", "\x1bP\x1b\\", "\u202e👩\u200d🔧\u0301",
		"\x1b[38;5m", "\x1b[48;2;1m\x1b(0", "\x1b[4:0;58:2::1:1:1m", "@nix {}",
	} {
		f.Add([]byte(s), 20)
	}
	f.Fuzz(func(t *testing.T, line []byte, width int) {
		if i := strings.IndexByte(string(line), '\n'); i >= 0 {
			line = line[:i]
		}
		checkHarmless(t, foreign(string(line), Terminal{Screen: true, Colour: true, Unicode: true}))
		if bare := foreign(string(line), Terminal{Screen: true}); strings.ContainsRune(bare, 0x1b) || !isPlain([]byte(bare)) {
			t.Errorf("without colours and Unicode: %q", bare)
		}

		width = width & 0x7f
		r := newRow(width, &unicodeGlyphs).addForeign(plain, line)
		text := string(r.appendTo(nil, true))
		checkHarmless(t, text)
		cells := 0
		for _, r := range sgrOnly.ReplaceAllString(text, "") {
			cells += runeCells(r)
		}
		if cells != r.width || cells > width {
			t.Errorf("%d cells, counted as %d, where %d fit: %q", cells, r.width, width, text)
		}
	})
}

func TestRowIsCut(t *testing.T) {
	for _, c := range []struct {
		max  int
		text string
		want string
	}{
		{5, "abcde", "abcde"},
		{5, "abcdef", "abcd…"},
		{5, "鍵鍵鍵", "鍵鍵…"},
		{4, "鍵鍵鍵", "鍵…"},
		{1, "ab", "…"},
		{0, "ab", ""},
		{2, "e\u0301e\u0301e", "e\u0301…"},
	} {
		if got := string(newRow(c.max, &unicodeGlyphs).add(plain, c.text).appendTo(nil, false)); got != c.want {
			t.Errorf("%q in %d columns: %q, want %q", c.text, c.max, got, c.want)
		}
	}
	if got := string(newRow(6, &asciiGlyphs).add(plain, "abcdefgh").appendTo(nil, false)); got != "abc..." {
		t.Errorf("ASCII: %q", got)
	}
}

func BenchmarkLogLines(b *testing.B) {
	line := []byte(strings.Repeat("gcc -O2 -c src/module.c -o build/module.o ", 2))
	coloured := append([]byte("\x1b[32mok\x1b[0m "), line...)
	for name, l := range map[string][]byte{"plain": line, "coloured": coloured} {
		b.Run(name, func(b *testing.B) {
			d := newDisplay(Options{Format: Raw, Terminal: Terminal{Colour: true, Unicode: true}})
			b.SetBytes(int64(len(l)))
			b.ReportAllocs()
			for b.Loop() {
				d.pending = d.pending[:0]
				d.logLine(plain, "name> ", l)
			}
		})
	}
}
