package progress

import (
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// TestCopy has nothing but copies, of which all is known that there is to be copied.
func TestCopy(t *testing.T) {
	w := watch(t, Options{Format: Tree, Terminal: Terminal{Screen: true, Unicode: true, Width: 100, Height: 24}})
	for name, size := range map[string]uint64{"small": 1 << 10, "large": 100 << 20, "last": 50<<20 - 1<<10} {
		w.event(nix.Event{Kind: nix.EventPlanned, Path: output(name), Expected: size})
	}
	w.event(nix.Event{Kind: nix.EventFetching, Path: output("small"), Message: "here", Expected: 1 << 10})
	w.event(nix.Event{Kind: nix.EventFinished, Path: output("small"), Status: nix.StatusSubstituted})
	w.event(nix.Event{Kind: nix.EventFetching, Path: output("large"), Message: "here", Expected: 100 << 20})
	w.look("begun")
	for i := range uint64(5) {
		w.pass(time.Second)
		w.event(nix.Event{Kind: nix.EventTransfer, Path: output("large"), Done: (i + 1) * 10 << 20, Expected: 100 << 20})
		w.look("under way")
	}
	const want = "↓ 1 fetching │ ○ 1 waiting │ ↓ 1 fetched │ 50.0/150.0 MiB 10.0 MiB/s, 10s left"
	if got := w.looks.String(); !strings.Contains(got, want) {
		t.Errorf("%s\nis without %q", got, want)
	}
	// Nobody knows how long a build takes.
	w.start("builder")
	w.pass(time.Second)
	before := w.looks.Len()
	w.look("a build")
	if got := w.looks.String()[before:]; strings.Contains(got, "left") {
		t.Error(got)
	}
	w.close()
}
