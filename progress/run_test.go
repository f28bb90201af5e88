package progress

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// gate is a writer that keeps its callers waiting until it is open, and counts
// what came.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	text bytes.Buffer
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(p)
}

func (g *gate) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

// kept is how much waits to be written.
func (d *Display) kept() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

// TestSlowReader wants that a builder waits for a moment for a terminal that
// takes nothing, and goes on then; that little is kept meanwhile; and that a
// person is told what is missing.
func TestSlowReader(t *testing.T) {
	const builders, linesEach = 4, 20000
	line := strings.Repeat("x", 99) + "\n"
	for _, f := range []Format{RawWithLogs, BarWithLogs, InternalJSON} {
		t.Run(string(f), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				d := New(Options{Writer: g, Format: f, Dir: nix.DefaultStoreDir, Terminal: allOfIt})
				begin := time.Now()
				var wg sync.WaitGroup
				for b := range builders {
					wg.Go(func() {
						p := drv(fmt.Sprint("chatty-", b))
						d.Event(nix.Event{Kind: nix.EventStarted, Path: p})
						for range linesEach / 100 {
							d.BuildLog(p, []byte(strings.Repeat(line, 100)))
						}
					})
				}
				wg.Wait()
				if waited := time.Since(begin); waited < patience || waited > 2*patience {
					t.Errorf("builders waited for %v, which should be about %v", waited, patience)
				}
				if n := d.kept(); n < maxPendingLogs/2 || n > maxPendingLogs+1000 {
					t.Errorf("%d bytes wait to be written, where %d may", n, maxPendingLogs)
				}
				close(g.open)
				if err := d.Close(); err != nil {
					t.Error(err)
				}

				shown := strings.Count(g.String(), line[:99])
				lost := 0
				const told = " lines of logs are left out here"
				if _, after, ok := strings.Cut(g.String(), "warning: "); !ok {
					t.Error("nobody is told that lines are missing")
				} else if n, rest, _ := strings.Cut(after, " "); !strings.HasPrefix(" "+rest, told) {
					t.Errorf("the warning is %.100q", after)
				} else if _, err := fmt.Sscan(n, &lost); err != nil {
					t.Error(err)
				}
				if shown+lost != builders*linesEach || strings.Count(g.String(), told) != 1 {
					t.Errorf("%d lines are shown and %d told to be lost, of %d", shown, lost, builders*linesEach)
				}
			})
		})
	}
}

// TestReaderCatchesUp wants that nothing is lost when a terminal takes what there
// is before builders run out of patience.
func TestReaderCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		d := New(Options{Writer: g, Format: RawWithLogs, Terminal: allOfIt})
		time.AfterFunc(patience/2, func() { close(g.open) })
		const lines = 30000
		for range lines / 10 {
			d.BuildLog(drv("a"), []byte(strings.Repeat(strings.Repeat("y", 99)+"\n", 10)))
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(g.String(), "\n"); n != lines {
			t.Errorf("%d lines of %d came", n, lines)
		}
	})
}

// TestManyMessages wants that messages do not pile up either when nobody takes
// them.
func TestManyMessages(t *testing.T) {
	for _, f := range []Format{Raw, Tree, InternalJSON} {
		d := newDisplay(Options{Format: f, Dir: nix.DefaultStoreDir, Terminal: allOfIt})
		text := strings.Repeat("z", 99<<10)
		for range 100 {
			d.Event(nix.Event{Kind: nix.EventWarning, Message: text})
			d.Print(text)
		}
		if n := len(d.pending); n < maxPending || n > maxPending+2*len(text) {
			t.Errorf("%s: %d bytes wait to be written, where %d may", f, n, maxPending)
		}
		if p := d.take(); !bytes.Contains(p, []byte("messages are left out here")) {
			t.Errorf("%s: nobody is told that messages are missing", f)
		}
		if p := d.take(); len(p) > 0 {
			t.Errorf("%s: %q is said again", f, p)
		}
	}
}

// TestLongLines wants that builders that never end their lines fill no memory.
func TestLongLines(t *testing.T) {
	d := newDisplay(Options{Format: Tree, Logs: true, Terminal: allOfIt})
	d.Event(nix.Event{Kind: nix.EventStarted, Path: drv("a")})
	piece := bytes.Repeat([]byte("n"), 1000)
	for range 4 * maxLine / len(piece) {
		d.BuildLog(drv("a"), piece)
	}
	if n := len(d.lines.begun[drv("a")]); n > maxLine {
		t.Errorf("%d bytes of a line are kept, where %d may", n, maxLine)
	}
	if n := len(d.goals.byPath[drv("a")].tail.buf); n > 2*tailSize {
		t.Errorf("%d bytes of a log's end are kept, where %d may", n, 2*tailSize)
	}
	if n := bytes.Count(d.pending, []byte("\n")); n != 3 {
		t.Errorf("a line of four times the limit is shown as %d so far, want 3", n)
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

// TestClose wants that a closed display leaves no goroutine, and says what went
// wrong; TestMain looks for goroutines.
func TestClose(t *testing.T) {
	gone := errors.New("terminal is gone")
	for _, f := range Formats() {
		var text bytes.Buffer
		d := New(Options{Writer: &text, Format: f, Dir: nix.DefaultStoreDir, Terminal: allOfIt})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 50 {
					p := drv(fmt.Sprint("n-", i))
					d.Event(nix.Event{Kind: nix.EventPlanned, Path: p})
					d.Event(nix.Event{Kind: nix.EventStarted, Path: p})
					d.BuildLog(p, []byte("line\n"))
					d.Resize(80+i, 24)
					d.Redraw()
					d.Event(nix.Event{Kind: nix.EventFinished, Path: p})
					d.Print("said")
				}
			})
		}
		wg.Wait()
		if err := d.Close(); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if n := strings.Count(text.String(), "said"); n != 200 {
			t.Errorf("%s: %d of 200 messages were shown before Close returned", f, n)
		}

		d = New(Options{Writer: broken{gone}, Format: f, Dir: nix.DefaultStoreDir, Terminal: allOfIt})
		d.Print("a")
		d.Event(nix.Event{Kind: nix.EventStarted, Path: drv("a")})
		if err := d.Close(); !errors.Is(err, gone) {
			t.Errorf("%s: Close gives %v, want that the terminal is gone", f, err)
		}
	}
}

// TestPace wants that a view is drawn as time passes, at most so often, and that
// nothing is written when nothing changes.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		close(g.open)
		d := New(Options{Writer: g, Format: Tree, Terminal: allOfIt})
		drawings := func() int { return strings.Count(g.String(), endUpdate) }
		time.Sleep(time.Minute)
		if n := drawings(); n != 0 {
			t.Errorf("%d drawings of nothing", n)
		}
		d.Event(nix.Event{Kind: nix.EventStarted, Path: drv("a")})
		synctest.Wait()
		if n := drawings(); n != 1 {
			t.Errorf("%d drawings after the first event", n)
		}
		// A log that changes all the time for a second.
		for i := range 1000 {
			d.BuildLog(drv("a"), fmt.Appendln(nil, i))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n, most := drawings(), 2+int(time.Second/drawEvery); n > most || n < most/2 {
			t.Errorf("%d drawings in a second, want about %d", n, most)
		}
		before := drawings()
		time.Sleep(10 * time.Second)
		if n := drawings() - before; n < 9 || n > 11 {
			t.Errorf("%d drawings while ten seconds passed", n)
		}
		d.Close()
	})
}
