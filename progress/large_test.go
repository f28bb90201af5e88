package progress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// forms of large graphs: each plans n goals and starts some of them.
var graphs = map[string]func(w *watched, n int){
	"wide": func(w *watched, n int) {
		var all []string
		for i := range n - 1 {
			all = append(all, fmt.Sprint("leaf-", i))
		}
		w.plan("root", all...)
		for _, name := range all {
			w.plan(name)
		}
		for _, name := range all[:50] {
			w.start(name)
		}
	},
	"deep": func(w *watched, n int) {
		for i := range n - 1 {
			w.plan(fmt.Sprint("link-", i), fmt.Sprint("link-", i+1))
		}
		last := fmt.Sprint("link-", n-1)
		w.plan(last)
		w.start(last)
	},
	"alone": func(w *watched, n int) {
		for i := range n {
			w.plan(fmt.Sprint("single-", i))
		}
		for i := range 50 {
			w.start(fmt.Sprint("single-", i))
		}
	},
	"dense": func(w *watched, n int) {
		// Layers of a hundred, each goal waiting for all of the next.
		layer := func(k int) (names []string) {
			for i := range 100 {
				names = append(names, fmt.Sprintf("layer-%d-%d", k, i))
			}
			return names
		}
		for k := range n / 100 {
			var below []string
			if k < n/100-1 {
				below = layer(k + 1)
			}
			for _, name := range layer(k) {
				w.plan(name, below...)
			}
		}
		for _, name := range layer(n/100 - 1)[:50] {
			w.start(name)
		}
	},
}

// TestLargeGraph wants that a drawing takes no more rows than there are, and no
// more work for a large graph than for a small one.
func TestLargeGraph(t *testing.T) {
	for name, graph := range graphs {
		for _, f := range []Format{Tree, Multiline, Bar} {
			t.Run(name+" "+string(f), func(t *testing.T) {
				cost := func(n int) (allocations float64, bytes int) {
					w := watch(t, Options{Format: f, Terminal: allOfIt})
					w.d.Print("said before")
					graph(w, n)
					w.draw()
					screen := w.screen()
					if !strings.HasPrefix(screen, "said before\n") {
						t.Errorf("%d goals scroll away what was said before:\n%s", n, screen)
					}
					if f == Tree && !strings.Contains(screen, fmt.Sprintf("○ %d waiting", w.d.goals.waiting)) {
						t.Errorf("the number of %d goals is not there:\n%s", n, screen)
					}
					allocations = testing.AllocsPerRun(5, func() {
						w.pass(time.Second)
						bytes = len(w.d.draw(w.now))
					})
					return allocations, bytes
				}
				few, fewBytes := cost(200)
				many, manyBytes := cost(10000)
				if many > 2*few+1000 {
					t.Errorf("a drawing allocates %v times for 10000 goals, %v times for 200", many, few)
				}
				if most := 2*fewBytes + 1000; manyBytes > most || manyBytes > 24*80*4 {
					t.Errorf("a drawing writes %d bytes for 10000 goals, %d for 200", manyBytes, fewBytes)
				}
			})
		}
	}
}

// TestForgets wants that little is kept of goals that ended, and nothing beyond
// the limits.
func TestForgets(t *testing.T) {
	w := watch(t, Options{Format: Tree, Terminal: allOfIt})
	graphs["dense"](w, 10000)
	talker := w.d.goals.byPath[drv("layer-99-0")]
	w.log("layer-99-0", "a line\n")
	for k := range 100 {
		for i := range 100 {
			w.built(fmt.Sprintf("layer-%d-%d", 99-k, i))
		}
	}
	w.draw()
	gs := w.d.goals
	if len(gs.byPath)+len(gs.active)+len(gs.tops)+len(gs.noted)+gs.edges+gs.waiting+gs.building != 0 {
		t.Errorf("%d goals, %d active, %d tops, %d noted, %d edges, %d waiting and %d building are kept of a build that is over",
			len(gs.byPath), len(gs.active), len(gs.tops), len(gs.noted), gs.edges, gs.waiting, gs.building)
	}
	if len(talker.tail.buf) > 0 {
		t.Errorf("the log of a builder that ended is kept: %q", talker.tail.buf)
	}
	if !strings.Contains(w.screen(), "✓ 50 built") {
		t.Errorf("50 builders ran:\n%s", w.screen())
	}
}

// TestTooManyGoals wants that goals that cannot be remembered are counted.
func TestTooManyGoals(t *testing.T) {
	w := watch(t, Options{Format: Tree, Terminal: allOfIt})
	const most, more = 1000, 100
	w.d.goals.most = most
	for i := range most + more {
		w.event(nix.Event{Kind: nix.EventPlanned, Path: nix.StorePath(someHash + fmt.Sprint(i))})
	}
	w.draw()
	if want := fmt.Sprintf("○ %d waiting", most+more); len(w.d.goals.byPath) != most || !strings.Contains(w.screen(), want) {
		t.Errorf("%d goals are remembered, and this is shown, want %s:\n%s", len(w.d.goals.byPath), want, w.screen())
	}
	for i := range most + more {
		w.event(nix.Event{Kind: nix.EventFinished, Path: nix.StorePath(someHash + fmt.Sprint(i)), Status: nix.StatusAlreadyValid})
	}
	if gs := w.d.goals; gs.waiting != 0 || gs.unknown != 0 || len(gs.byPath) != 0 {
		t.Errorf("%d goals wait, %d more, and %d are remembered at the end", gs.waiting, gs.unknown, len(gs.byPath))
	}
}

// TestCycle wants that goals that wait for each other, which no build has, do no
// harm.
func TestCycle(t *testing.T) {
	w := watch(t, Options{Format: Tree, Terminal: allOfIt})
	w.plan("a", "b", "a")
	w.plan("b", "c")
	w.plan("c", "a")
	w.start("c")
	w.draw()
	w.built("c", "b", "a")
	w.draw()
	w.close()
	if !strings.Contains(w.screen(), "✓ 1 built") {
		t.Error(w.screen())
	}
}
