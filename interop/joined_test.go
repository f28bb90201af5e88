//go:build linux

package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestOneDaemon has real Nix clients and clients of the executor service ask one daemon at
// the same time: what both want is built once, both wait for the same slot, each sees what
// the others do, and when the daemon is told to end it finishes what both have begun.
func TestOneDaemon(t *testing.T) {
	needs(t)
	takeLane(t)
	scene := newScene(t)
	shared := scene.Mkdir("shared")
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	log := emptyLog(t, shared)
	executor := "unix://" + scene.Path("executor")
	s := newService(t, scene)
	s.remote = "unix://" + s.socket + "?root=" + s.root
	s.launch(sceneCommand(scene, testenv.Kiln(t), "daemon", "--store", s.root, "-v", "--listen", executor, "--max-jobs", "1",
		"--option", "sandbox-paths", "/bin/sh="+visible(t, testenv.Busybox(t))+" /shared="+shared))
	kiln := func(words ...string) *exec.Cmd {
		return kilnCommand(t, scene, scene.Path("ours"), append(words, "--executor", executor)...)
	}
	file := write(t, scene.Path("slow.nix"), `{ name }: derivation { inherit name; system = "`+testenv.System()+`"; builder = "/bin/sh";
		args = [ "-c" "echo start ${name} >> /shared/log; while ! [ -e /shared/go-${name} ]; do sleep 0.02; done; echo end ${name} >> /shared/log; echo printed by ${name}; echo > $out" ]; }`)
	instantiate := func(name string) string {
		return s.must("nix-instantiate", file, "--argstr", "name", name)
	}
	release := func(name string) { write(t, scene.Path("shared", "go-"+name), "") }
	happened := func() string {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	type build struct {
		ID, State, Owner string
		Targets          []string
		Results          []struct{ Status, Started string }
	}
	list := func(words ...string) (all []build) {
		for _, line := range must(t, kiln(append([]string{"ps", "--json"}, words...)...)) {
			var b build
			if err := json.Unmarshal([]byte(line), &b); err != nil {
				t.Fatal(err)
			}
			all = append(all, b)
		}
		return all
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain until %s; builders: %q, builds: %+v\n%s", what, happened(), list("-a"), s.said())
			}
		}
	}
	var running sync.WaitGroup
	defer func() {
		for _, name := range []string{"both", "ours", "theirs", "last"} {
			release(name)
		}
		running.Wait()
	}()
	ask := func(cmd *exec.Cmd) {
		running.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", cmd.Args, err, out)
			}
		})
	}
	drvs := make(map[string]string)
	for _, name := range []string{"both", "ours", "theirs", "last"} {
		drvs[name] = instantiate(name)
	}
	// The client of the service brings nothing: the derivations are there.
	detach := func(name, id string) {
		must(t, kilnCommand(t, scene, s.root, "build", "--executor", executor, "--detach", "--build-id", id, drvs[name]))
	}

	// One derivation, asked for through both at once.
	ask(s.client("nix-store", "--realise", drvs["both"]))
	detach("both", "both")
	eventually("both ask for it", func() bool { return len(list()) == 2 && strings.Contains(happened(), "start both") })
	var noted build
	for _, b := range list() {
		if strings.HasPrefix(b.ID, "nix-") {
			noted = b
		}
		if len(b.Targets) != 1 || !strings.HasPrefix(b.Targets[0], drvs["both"]) {
			t.Errorf("build %+v", b)
		}
	}
	if want := fmt.Sprintf("user:%d", os.Getuid()); noted.Owner != want {
		t.Errorf("the Nix client's build %+v, want one of %s", noted, want)
	}

	// Others wait for the only slot, whichever way they came.
	ask(s.client("nix-store", "--realise", drvs["theirs"]))
	detach("ours", "ours")
	eventually("four builds are there", func() bool { return len(list()) == 4 })
	time.Sleep(100 * time.Millisecond)
	if got := happened(); got != "start both\n" {
		t.Errorf("with one slot, builders did %q", got)
	}
	release("both")
	must(t, kiln("wait", "both"))
	for _, b := range list("-a") {
		if (b.ID == "both" || b.ID == noted.ID) && (len(b.Results) > 0 || b.State != "BUILD_STATE_SUCCEEDED") {
			t.Errorf("in the list: %+v", b)
		}
	}
	release("theirs")
	release("ours")
	must(t, kiln("wait", "ours"))
	running.Wait()
	builtOnce(t, log)
	var first, second build
	for id, b := range map[string]*build{"both": &first, noted.ID: &second} {
		if err := json.Unmarshal([]byte(must(t, kiln("wait", "--json", id))[0]), b); err != nil {
			t.Fatal(err)
		}
	}
	if len(first.Results) != 1 || len(second.Results) != 1 || first.Results[0] != second.Results[0] || first.Results[0].Started == "" {
		t.Errorf("one build, and two results: %+v, %+v", first, second)
	}
	if got := strings.Join(must(t, kiln("logs", noted.ID)), "\n"); !strings.Contains(got+strings.Join(must(t, kiln("logs", "both")), "\n"), "printed by both") {
		t.Errorf("neither log has what the builder printed: %q", got)
	}
	// What is there already leaves no record.
	before := len(list("-a"))
	s.must("nix-store", "--realise", drvs["both"])
	if after := len(list("-a")); after != before {
		t.Errorf("%d records, and %d after nothing was built", before, after)
	}

	// Whoever cancels a Nix client's build ends the client's command.
	cancelled := s.client("nix-store", "--realise", drvs["last"])
	ended := make(chan error, 1)
	go func() { ended <- cancelled.Run() }()
	eventually("the last one runs", func() bool { return strings.Contains(happened(), "start last") && len(list()) == 1 })
	must(t, kiln("cancel", list()[0].ID))
	if err := <-ended; err == nil {
		t.Error("the client whose build was cancelled succeeds")
	}

	// Told to end, the daemon finishes what goes on and takes nothing new.
	emptyLog(t, shared)
	detach("last", "last")
	eventually("it runs again", func() bool { return strings.Contains(happened(), "start last") })
	s.cmd.Process.Signal(syscall.SIGTERM)
	eventually("it drains", func() bool {
		o := run(t, kilnCommand(t, scene, s.root, "build", "--executor", executor, "--detach", drvs["both"]))
		return o.exit != 0 && strings.Contains(o.stderr, "drains")
	})
	if err := s.cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the daemon did not wait for its build: %v", err)
	}
	release("last")
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("the daemon: %v\n%s", err, s.said())
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("the daemon does not end\n%s", s.said())
	}
	s.ended <- nil // for the end of the test
	must(t, sceneCommand(scene, "nix-store", "--store", s.root, "--check-validity", s.outputs(drvs["last"])))
	builtOnce(t, log)
}

// outputs are the output of a derivation.
func (s *service) outputs(drv string) string {
	return derivationOutputs(s.t, s.root+drv)[0]
}
