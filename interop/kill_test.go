//go:build linux

package interop

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// killRounds is how often kiln is killed; KILN_KILL_ROUNDS says otherwise.
const killRounds = 50

// phases are what kiln is killed in. The derivations of testdata/kill.nix have
// these names. Each spends most of its time in its phase, and writes the file
// "started" when its builder starts, or in the last phase when it ends.
var phases = []string{"staging", "running", "registering"}

// TestT28KillEachPhase kills kiln with SIGKILL again and again in one store,
// with a build before, in and after its sandbox. Builders must be gone with it,
// the next build must work as if nothing had been, and then nothing may be left
// of what was killed.
func TestT28KillEachPhase(t *testing.T) {
	needs(t)
	rounds := killRounds
	if text := os.Getenv("KILN_KILL_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	k := newKiller(t)
	for round := range rounds {
		phase := phases[round%len(phases)]
		when := k.interrupt(phase, syscall.SIGKILL)
		what := fmt.Sprintf("round %d, killed %v (%s)", round, when, phase)
		testenv.NoProcesses(t, k.scene.Mark())
		testenv.NoMounts(t, k.scene.Mark())

		// The killed build may have come to its end, so there is something new to
		// build as well.
		k.mustBuild(what, k.drvs(phase), k.next[round%len(k.next)])
		k.nothingLeft(what)
		verify(t, k.scene, k.kiln.store)
		k.forget(phase)
		if t.Failed() {
			t.Fatalf("%s: see above", what)
		}
	}
}

// TestT27InterruptEachPhase does the same with SIGINT, after which kiln ends by
// itself: it has to leave nothing at once, and to say that it did not succeed.
func TestT27InterruptEachPhase(t *testing.T) {
	needs(t)
	k := newKiller(t)
	for round := range 12 {
		phase := phases[round%len(phases)]
		when := k.interrupt(phase, syscall.SIGINT)
		what := fmt.Sprintf("round %d, interrupted %v (%s)", round, when, phase)
		testenv.NoProcesses(t, k.scene.Mark())
		testenv.NoMounts(t, k.scene.Mark())
		k.nothingLeft(what)
		verify(t, k.scene, k.kiln.store)
		k.mustBuild(what, k.drvs(phase))
		k.nothingLeft(what)
		k.forget(phase)
		if t.Failed() {
			t.Fatalf("%s: see above", what)
		}
	}
}

// TestT28KillItsProcesses kills what kiln started instead of kiln: the process
// that launches sandboxes, and builders. Kiln has to notice, to say so or to try
// again, and to leave nothing.
func TestT28KillItsProcesses(t *testing.T) {
	needs(t)
	k := newKiller(t)
	for round := range 6 {
		k.mark("go", false)
		cmd := k.command(k.drvs("running"))
		stderr, err := os.Create(k.scene.Path("stderr"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			cmd.Wait()
			close(ended)
		}()
		k.await("started", ended)
		family := descendants(cmd.Process.Pid)
		if len(family) == 0 {
			t.Fatalf("round %d: kiln has no process below itself:\n%s", round, k.said())
		}
		victim := family[round%len(family)]
		what := fmt.Sprintf("round %d, killed %d of %v", round, victim, family)
		k.mark("go", true)
		syscall.Kill(victim, syscall.SIGKILL)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Fatalf("%s: kiln does not end:\n%s", what, k.said())
		}
		stderr.Close()
		testenv.NoProcesses(t, k.scene.Mark())
		k.nothingLeft(what)
		k.mustBuild(what, k.drvs("running"))
		verify(t, k.scene, k.kiln.store)
		k.forget("running")
		if t.Failed() {
			t.Fatalf("%s: see above", what)
		}
	}
}

// descendants are the processes below a process, parents first.
func descendants(pid int) []int {
	var found []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				found = append(append(found, child), descendants(child)...)
			}
		}
	}
	return found
}

// A killer ends kiln at a chosen moment.
type killer struct {
	t      *testing.T
	scene  *testenv.Scene
	kiln   *side
	shared string
	byName map[string]string
	next   []string
	state  []string                 // files of the state directory before kiln ran
	took   map[string]time.Duration // how long a phase takes
}

func newKiller(t *testing.T) *killer {
	t.Helper()
	scene := newScene(t)
	k := &killer{t: t, scene: scene, kiln: newSide(t, "kiln", "store", scene, takeLane(t)),
		shared: scene.Mkdir("shared"), byName: map[string]string{}, took: map[string]time.Duration{}}
	if err := os.Chmod(k.shared, 0o777); err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Abs("testdata/kill.nix")
	if err != nil {
		t.Fatal(err)
	}
	evaluate(t, scene, k.kiln.store, fmt.Sprintf(`removeAttrs (import %s) [ "next" ]`, file), &k.byName)
	evaluate(t, scene, k.kiln.store, fmt.Sprintf("(import %s).next", file), &k.next)

	k.state = stateFiles(t, k.kiln.store)
	for _, phase := range phases {
		k.measure(phase)
		k.forget(phase)
	}
	return k
}

func (k *killer) drvs(phase string) string { return k.byName[phase] }

// command builds derivations with the shared directory in the sandbox.
func (k *killer) command(drvs ...string) *exec.Cmd {
	k.t.Helper()
	var targets []target
	for _, drv := range drvs {
		targets = append(targets, target{drv: drv})
	}
	return k.kiln.build(k.t, map[string]string{"sandbox-paths": "/bin/sh=@busybox@ /shared=@shared@"}, nil, targets...)
}

// measure lets a build run to its end, for how long its phase takes.
func (k *killer) measure(phase string) {
	k.t.Helper()
	k.mark("go", true)
	begin := time.Now()
	marked := make(chan time.Duration, 1)
	stop := make(chan struct{})
	go func() {
		k.await("started", stop)
		marked <- time.Since(begin)
	}()
	k.mustBuild("before anything is killed", k.drvs(phase))
	whole := time.Since(begin)
	close(stop)
	k.took[phase] = <-marked
	if phase == "registering" {
		k.took[phase] = whole - k.took[phase]
	}
	k.nothingLeft("after a build that was left alone")
}

// interrupt starts the build of a phase, sends kiln a signal somewhere in it, and
// waits for kiln's end. It tells when that was.
func (k *killer) interrupt(phase string, sig syscall.Signal) string {
	k.t.Helper()
	k.mark("go", false)
	k.mark("started", false)
	cmd := k.command(k.drvs(phase))
	// To a file: whatever outlives kiln may hold a pipe open.
	stderr, err := os.Create(k.scene.Path("stderr"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ended := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(stop)
	}()
	after := time.Duration(rand.Int64N(int64(k.took[phase]) + 1))
	when := fmt.Sprintf("%v after its start", after)
	if phase != "staging" {
		k.await("started", stop)
		when = fmt.Sprintf("%v after the mark", after)
	}
	if phase == "running" {
		after, when = after/4, fmt.Sprintf("%v after the mark", after/4)
	}
	select {
	case <-time.After(after):
	case <-stop:
	}
	// Kiln alone: what it started has to go by itself.
	cmd.Process.Signal(sig)
	select {
	case err := <-ended:
		if err == nil && phase == "running" {
			k.t.Errorf("kiln succeeded though it was stopped %s:\n%s", when, k.said())
		}
	case <-time.After(20 * time.Second):
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		k.t.Fatalf("kiln did not end in 20 s after %v:\n%s", sig, k.said())
	}
	return when
}

// said is what the interrupted kiln printed.
func (k *killer) said() string {
	text, _ := os.ReadFile(k.scene.Path("stderr"))
	return string(text)
}

// mustBuild builds derivations, which nothing hinders.
func (k *killer) mustBuild(what string, drvs ...string) {
	k.t.Helper()
	k.mark("go", true)
	// The builder may be another user this time, who cannot write to a file of the
	// last one.
	k.mark("started", false)
	if o := run(k.t, k.command(drvs...)); o.exit != 0 {
		k.t.Fatalf("%s: the build exits with %d:\n%s", what, o.exit, o.stderr)
	}
}

// forget deletes the outputs of a phase's build.
func (k *killer) forget(phase string) {
	k.t.Helper()
	outputs := derivationOutputs(k.t, k.kiln.store+k.drvs(phase))
	must(k.t, k.kiln.command(append([]string{"nix-store", "--store", k.kiln.store, "--delete", "--ignore-liveness"}, outputs...)...))
	k.mark("started", false)
}

// nothingLeft checks that the store and its state have nothing that is not
// valid: no lock, sandbox, build directory, temporary file or root.
func (k *killer) nothingLeft(what string) {
	k.t.Helper()
	snap := take(k.t, k.kiln)
	left := snap.strays
	for _, file := range snap.state {
		if !slices.Contains(k.state, file) {
			left = append(left, file)
		}
	}
	for _, name := range names(k.t, k.scene.Tmp()) {
		left = append(left, "TMPDIR/"+name)
	}
	if len(left) > 0 {
		k.t.Errorf("%s: left behind: %s", what, strings.Join(left, " "))
	}
}

// mark makes or removes a file in the shared directory.
func (k *killer) mark(name string, there bool) {
	k.t.Helper()
	file := filepath.Join(k.shared, name)
	if there {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			k.t.Fatal(err)
		}
	} else if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		k.t.Fatal(err)
	}
}

// await waits until a file is in the shared directory, or stop is closed.
func (k *killer) await(name string, stop <-chan struct{}) {
	for !exists(filepath.Join(k.shared, name)) {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
	}
}
