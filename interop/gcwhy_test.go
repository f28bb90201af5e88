//go:build linux

package interop

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestWhy lets kiln say what keeps an object: a profile, a library that a process has
// mapped, and a build that runs.
func TestWhy(t *testing.T) {
	y := newYard(t)
	y.reset()
	defer y.clear()
	y.profile("profiles", "right", "top")
	f, err := os.Open(y.full("self/bin/run"))
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_PRIVATE)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	y.temp(true, y.full("left")+"\x00")
	for name, want := range map[string][]string{
		"bottom": {y.root + "/state/profiles/p-2-link", "  -> " + y.full("top"), "    -> " + y.full("middle") + " (is referred to)", "      -> " + y.full("bottom") + " (is referred to)"},
		"self":   {"/proc/" + strconv.Itoa(os.Getpid()) + "/maps (used by process " + strconv.Itoa(os.Getpid()), "  -> " + y.full("self")},
		"left":   {"{temp:4711}", "  -> " + y.full("left")},
		"text":   {y.full("text"), "  is not alive: the next `kiln gc` deletes it"},
	} {
		got := must(t, y.kiln("gc", "roots", "--why", y.full(name)))
		if len(got) != len(want) {
			t.Errorf("%s: %q, want %q", name, got, want)
			continue
		}
		for i, line := range want {
			if !strings.HasPrefix(got[i], line) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
	// What the newest one does, the other prints as well.
	before, after := y.full("left"), y.full("top")
	theirs := must(t, y.command("nix", "--extra-experimental-features", "nix-command", "store", "diff-closures", before, after))
	if d := cmp.Diff(theirs, must(t, y.kiln("store", "diff-closures", before, after))); d != "" {
		t.Errorf("diff-closures (-nix +kiln):\n%s", d)
	}
}

// TestWhyOfARunningBuild asks for the input of a build while that runs, and collects.
// The build has been told to make room, too: what nobody needs goes while it runs.
func TestWhyOfARunningBuild(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	shared := scene.Mkdir("shared")
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	drv := instantiateText(t, scene, kiln.store, `script "waiting" { input = builtins.toFile "input" "x"; } "echo > /shared/started; while ! test -e /shared/go; do sleep 0.05; done; cat $input > $out"`)
	var input string
	for _, line := range must(t, sceneCommand(scene, "nix-store", "--store", kiln.store, "--query", "--references", drv)) {
		if strings.HasSuffix(line, "-input") {
			input = line
		}
	}
	garbage := must(t, kilnCommand(t, scene, kiln.store, "store", "add", write(t, scene.Path("garbage"), "x")))[0]
	cmd := kiln.build(t, map[string]string{"sandbox-paths": "/bin/sh=@busybox@ /shared=@shared@", "min-free": "1000T"}, nil, target{drv: drv})
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	for end := time.Now().Add(30 * time.Second); !exists(filepath.Join(shared, "started")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			cmd.Process.Kill()
			cmd.Wait()
			ended = true
			t.Fatalf("the build does not start:\n%s", stderr.String())
		}
	}
	for end := time.Now().Add(30 * time.Second); exists(kiln.store + garbage); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody makes room")
		}
	}
	// The builder names its input, and kiln has its derivation as a temporary root.
	why := must(t, kilnCommand(t, scene, kiln.store, "gc", "roots", "--why", input))
	if strings.TrimSpace(why[len(why)-1]) != "-> "+input {
		t.Errorf("why %s is alive: %q", input, why)
	}
	why = must(t, kilnCommand(t, scene, kiln.store, "gc", "roots", "--why", drv))
	if !strings.HasPrefix(why[0], "{temp:"+strconv.Itoa(cmd.Process.Pid)) || !strings.HasSuffix(why[0], ", kiln)") {
		t.Errorf("why %s is alive: %q", drv, why)
	}
	t.Log(strings.Join(why, "\n"))
	must(t, kilnCommand(t, scene, kiln.store, "gc"))
	if err := os.WriteFile(filepath.Join(shared, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ended = true
	if err := cmd.Wait(); err != nil {
		t.Errorf("the build ends with %v:\n%s", err, stderr.String())
	}
}
