package progress

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hinshun/vt10x"
	"go.uber.org/goleak"

	"github.com/kilnbuild/kiln/nix"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// allOfIt is a terminal that can do everything.
var allOfIt = Terminal{Screen: true, Colour: true, Unicode: true, Width: 80, Height: 24}

// noon is when every test begins.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// watched is a display whose time goes on only when a test says so, and a
// terminal that shows what it writes.
type watched struct {
	t       *testing.T
	d       *Display
	now     time.Time
	term    vt10x.Terminal
	written []byte // by the display, all of it
	looks   strings.Builder
}

func watch(t *testing.T, o Options) *watched {
	if o.Dir == "" {
		o.Dir = nix.DefaultStoreDir
	}
	w := &watched{t: t, d: newDisplay(o), now: noon}
	w.term = vt10x.New(vt10x.WithSize(w.d.width, w.d.height))
	return w
}

func (w *watched) pass(d time.Duration) { w.now = w.now.Add(d) }

func (w *watched) event(e nix.Event) {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	w.d.event(e, w.now)
}

func (w *watched) plan(name string, inputs ...string) {
	e := nix.Event{Kind: nix.EventPlanned, Path: drv(name)}
	for _, in := range inputs {
		e.Inputs = append(e.Inputs, drv(in))
	}
	w.event(e)
}

func (w *watched) start(name string) { w.event(nix.Event{Kind: nix.EventStarted, Path: drv(name)}) }

func (w *watched) log(name, text string) { w.d.BuildLog(drv(name), []byte(text)) }

func (w *watched) phase(name, phase string) {
	w.event(nix.Event{Kind: nix.EventPhase, Path: drv(name), Message: phase})
}

func (w *watched) built(names ...string) {
	for _, name := range names {
		w.event(nix.Event{Kind: nix.EventFinished, Path: drv(name), Status: nix.StatusBuilt})
	}
}

// show passes on what the display writes now. A terminal gets its lines' ends as
// a line discipline makes them.
func (w *watched) show(p []byte) {
	w.written = append(w.written, p...)
	w.term.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n")))
}

func (w *watched) draw() {
	if w.d.base.onScreen() {
		w.show(w.d.draw(w.now))
	} else {
		w.show(w.d.take())
	}
}

func (w *watched) close() {
	w.show(w.d.rest(w.now))
	w.see("at the end")
}

// screen is the text that the terminal shows, without the empty lines at its end.
func (w *watched) screen() string {
	w.term.Lock()
	defer w.term.Unlock()
	columns, lines := w.term.Size()
	var b strings.Builder
	for y := range lines {
		row := make([]rune, columns)
		for x := range columns {
			row[x] = w.term.Cell(x, y).Char
		}
		b.WriteString(strings.TrimRight(string(row), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// look draws, and adds what a person sees then to what is compared with the
// golden file.
func (w *watched) look(title string) {
	w.draw()
	w.see(title)
}

func (w *watched) see(title string) {
	if w.d.base.onScreen() {
		w.looks.WriteString("== " + title + "\n" + w.screen())
	}
}

func (w *watched) golden(name string) {
	w.t.Helper()
	got := w.looks.String()
	if !w.d.base.onScreen() {
		got = string(w.written)
	}
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		w.t.Errorf("%s differs (-want +got); go test -update accepts it:\n%s", file, diff)
	}
}

const someHash = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-"

func drv(name string) nix.StorePath { return nix.StorePath(someHash + name + ".drv") }

func output(name string) nix.StorePath { return nix.StorePath(someHash + name) }
