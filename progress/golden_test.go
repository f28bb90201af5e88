package progress

import (
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// story is a build in which everything happens that a display speaks of.
func story(w *watched) {
	w.event(nix.Event{Kind: nix.EventWarning, Message: "ignoring untrusted substituter 'https://example.org'"})
	w.plan("workshop", "pots-5.2", "firing-log-1.0", "manual-2.0")
	w.plan("pots-5.2", "libclay-2.1", "libglaze-1.4")
	w.plan("libclay-2.1", "ovens-0.9")
	w.plan("libglaze-1.4", "ovens-0.9")
	w.plan("firing-log-1.0", "thermometer-3.0", "pots-5.2")
	w.event(nix.Event{Kind: nix.EventPlanned, Path: output("ovens-0.9")})
	w.plan("thermometer-3.0")
	w.plan("manual-2.0")
	w.plan("elsewhere-1")
	w.look("planned")

	w.event(nix.Event{Kind: nix.EventFetching, Path: output("ovens-0.9"), Message: "https://cache.example.org", Expected: 40 << 20})
	w.start("thermometer-3.0")
	w.phase("thermometer-3.0", "buildPhase")
	w.log("thermometer-3.0", "gcc -O2 -c scale.c\nld: warning: \x1b[35mold\x1b[0m")
	w.event(nix.Event{Kind: nix.EventStarted, Path: drv("elsewhere-1"), Message: "ssh://builder"})
	w.event(nix.Event{Kind: nix.EventWaiting, Path: drv("manual-2.0"), Message: "waiting for a lock on '/nix/store/x'"})
	w.pass(2 * time.Second)
	w.event(nix.Event{Kind: nix.EventTransfer, Path: output("ovens-0.9"), Done: 10 << 20, Expected: 40 << 20})
	w.look("after 2 s")

	w.pass(time.Second)
	w.event(nix.Event{Kind: nix.EventTransfer, Path: output("ovens-0.9"), Done: 40 << 20, Expected: 40 << 20})
	w.event(nix.Event{Kind: nix.EventFinished, Path: output("ovens-0.9"), Status: nix.StatusSubstituted})
	w.start("libclay-2.1")
	w.phase("libclay-2.1", "unpackPhase")
	w.start("libglaze-1.4")
	w.log("libglaze-1.4", "checking for a glaze that does not run... yes\r\n")
	w.start("manual-2.0")
	w.log("manual-2.0", "chapter 1: throwing, with a title that is far too long for the line that it stands on\n")
	w.event(nix.Event{Kind: nix.EventTransfer, Path: drv("manual-2.0"), Message: "https://example.org/pictures.tar", Done: 5 << 20})
	w.event(nix.Event{Kind: nix.EventNotice, Message: "a notice\nof two lines"})
	w.event(nix.Event{Kind: nix.EventDiagnostic, Message: "a diagnostic"})
	w.look("after 3 s")

	w.pass(70 * time.Second)
	w.log("thermometer-3.0", "\nFAIL: test_cone_10\n  expected 1285 degrees, got 1240\n")
	w.event(nix.Event{Kind: nix.EventFinished, Path: drv("thermometer-3.0"), Status: nix.StatusPermanentFailure, Message: "builder failed with exit code 1"})
	w.event(nix.Event{Kind: nix.EventFinished, Path: drv("firing-log-1.0"), Status: nix.StatusDependencyFailed})
	w.built("elsewhere-1", "libclay-2.1", "manual-2.0")
	w.d.Print("a word of the program's own")
	w.look("after 1 min 13 s")

	w.pass(time.Hour)
	w.built("libglaze-1.4")
	w.event(nix.Event{Kind: nix.EventFinished, Path: drv("pots-5.2"), Status: nix.StatusAlreadyValid})
	w.event(nix.Event{Kind: nix.EventFinished, Path: drv("workshop"), Status: nix.StatusCancelled})
	w.log("late-1", "a line without an end")
	w.close()
}

// TestGolden holds what a person sees, or a program reads, to golden files.
func TestGolden(t *testing.T) {
	ascii := allOfIt
	ascii.Unicode, ascii.Colour = false, false
	for _, f := range Formats() {
		t.Run(string(f), func(t *testing.T) {
			w := watch(t, Options{Format: f, LogLines: 2, LogCommand: "kiln log", Terminal: allOfIt})
			story(w)
			w.golden(string(f))
		})
	}
	for name, o := range map[string]Options{
		"tree-ascii":   {Format: Tree, LogLines: 2, LogCommand: "kiln log", Terminal: ascii},
		"tree-logs":    {Format: Tree, Logs: true, LogLines: 2, Terminal: allOfIt},
		"tree-small":   {Format: Tree, Terminal: Terminal{Screen: true, Unicode: true, Width: 40, Height: 8}},
		"tree-in-file": {Format: Tree, LogLines: 2},
		"quiet":        {Format: Tree, Quiet: true, Terminal: allOfIt},
		"verbose":      {Format: Raw, Verbose: 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t, o)
			story(w)
			w.golden(name)
		})
	}
}
