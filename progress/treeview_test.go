package progress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

func TestMeter(t *testing.T) {
	for _, c := range []struct {
		cells int
		whole uint64
		parts []uint64
		want  string
	}{
		{10, 10, []uint64{3, 2}, "===~~-----"},
		{10, 1000, []uint64{1, 1}, "----------"},
		{10, 1000, []uint64{999, 1}, "=========="},
		{4, 3, []uint64{1, 2}, "=~~~"},
		{4, 2, []uint64{5, 5}, "===="},
		{4, 0, []uint64{0, 0}, "----"},
		{4, 1<<64 - 1, []uint64{1 << 63, 0}, "==--"},
		{0, 10, []uint64{3, 2}, ""},
	} {
		r := newRow(80, &asciiGlyphs)
		r.meter(c.cells, c.whole, portion{c.parts[0], good, "="}, portion{c.parts[1], busy, "~"})
		if got := string(r.appendTo(nil, false)); got != c.want {
			t.Errorf("%v of %d in %d cells: %q, want %q", c.parts, c.whole, c.cells, got, c.want)
		}
	}
}

func TestReserve(t *testing.T) {
	for _, c := range []struct {
		width      int
		text, want string
	}{
		{30, "short", "short                      12s"},
		{30, strings.Repeat("long", 9), "longlonglonglonglonglong…  12s"},
		{20, "too narrow for a time", "too narrow for a ti…"},
	} {
		r := newRow(c.width, &unicodeGlyphs)
		r.reserve(dim, "12s")
		if got := string(r.add(plain, c.text).finished().appendTo(nil, false)); got != c.want {
			t.Errorf("%q in %d columns: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

// TestDeepChain wants that the name of a builder can be read however long the
// chain is that waits for it.
func TestDeepChain(t *testing.T) {
	tall := allOfIt
	tall.Height = 100
	w := watch(t, Options{Format: Tree, Terminal: tall})
	for i := range 40 {
		w.plan(fmt.Sprint("link-", i), fmt.Sprint("link-", i+1))
	}
	w.plan("link-40")
	w.start("link-40")
	w.pass(time.Minute)
	w.draw()
	if screen := w.screen(); !strings.Contains(screen, "○ link-0\n└─ … ● link-40 ") || !strings.Contains(screen, "… and 39 more\n") {
		t.Errorf("the screen shows\n%s", screen)
	}
}

// TestManyDownloads wants columns in line, and one total.
func TestManyDownloads(t *testing.T) {
	w := watch(t, Options{Format: Tree, Terminal: allOfIt})
	path := func(i int) nix.StorePath { return output(strings.Repeat("long-", i) + "name") }
	for i := range 3 {
		w.event(nix.Event{Kind: nix.EventFetching, Path: path(i), Expected: 2 << 20})
	}
	w.draw()
	for i := range 3 {
		w.event(nix.Event{Kind: nix.EventTransfer, Path: path(i), Done: uint64(i) << 20, Expected: 2 << 20})
	}
	w.pass(2 * time.Second)
	w.draw()
	want := strings.TrimPrefix(`
╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍╍
↓ name            ──────────  0 B/2.0 MiB                                    2s
↓ long-name       ━━━━━─────  1.0/2.0 MiB                                    2s
↓ long-long-name  ━━━━━━━━━━  2.0 MiB                                        2s
↓ 3 fetching │ 3.0/6.0 MiB 1.5 MiB/s, 2s left                                2s
`, "\n")
	if got := w.screen(); got != want {
		t.Errorf("the screen shows\n%s, want\n%s", got, want)
	}
}
