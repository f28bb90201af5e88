//go:build linux

package interop

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestOneStoreAtOnce lets real Nix and kiln build in one store at the same time,
// what they both want among it, while somebody else keeps asking the store.
// Everything must be built exactly once, and neither may see an error.
func TestOneStoreAtOnce(t *testing.T) {
	needs(t)
	lane := takeLane(t)
	scene := newScene(t)
	nix := newSide(t, "nix", "store", scene, lane)
	kiln := newSide(t, "kiln", "store", scene, lane)
	shared := scene.Mkdir("shared")
	options := map[string]string{
		"sandbox-paths":       "/bin/sh=@busybox@ /shared=@shared@",
		"build-poll-interval": "1",
	}
	file, err := filepath.Abs("testdata/together.nix")
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		var wanted struct{ Nix, Kiln []string }
		evaluate(t, scene, nix.store, fmt.Sprintf("import %s { round = %d; }", file, round), &wanted)
		log := emptyLog(t, shared)

		var builds sync.WaitGroup
		build := func(s *side, drvs []string) {
			var targets []target
			for _, drv := range drvs {
				targets = append(targets, target{drv: drv})
			}
			builds.Go(func() {
				if o := run(t, s.build(t, options, nil, targets...)); o.exit != 0 {
					t.Errorf("round %d: %s exits with %d:\n%s", round, s.name, o.exit, o.stderr)
				}
			})
		}
		done := make(chan struct{})
		var asker sync.WaitGroup
		asker.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
					pathInfos(t, scene, nix.store)
				}
			}
		})
		build(nix, wanted.Nix)
		build(kiln, wanted.Kiln)
		builds.Wait()
		close(done)
		asker.Wait()

		objects := pathInfos(t, scene, nix.store)
		all := slices.Concat(wanted.Nix, wanted.Kiln)
		slices.Sort(all)
		for _, drv := range slices.Compact(all) {
			for _, output := range derivationOutputs(t, nix.store+drv) {
				if _, ok := objects[output]; !ok {
					t.Errorf("round %d: %s is not valid", round, output)
				}
			}
		}
		builtOnce(t, log)
	}
	verify(t, scene, nix.store)
	if snap := take(t, kiln); len(snap.strays)+len(snap.state) > 0 {
		t.Errorf("left in the store: %s", strings.Join(append(snap.strays, snap.state...), " "))
	}
}

// emptyLog makes the file in which builders, whoever they are, may write.
func emptyLog(t *testing.T, dir string) string {
	t.Helper()
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(log, 0o666); err != nil {
		t.Fatal(err)
	}
	return log
}

// builtOnce checks that every builder started once and ended once.
func builtOnce(t *testing.T, log string) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for line := range strings.Lines(string(text)) {
		times[strings.TrimSpace(line)]++
	}
	if len(times) == 0 {
		t.Error("no builder wrote to the shared directory")
	}
	for _, event := range slices.Sorted(maps.Keys(times)) {
		if times[event] != 1 {
			t.Errorf("%q happened %d times", event, times[event])
		}
		if name, ok := strings.CutPrefix(event, "start "); ok && times["end "+name] != 1 {
			t.Errorf("the builder of %s started and did not end", name)
		}
	}
}
