package rpc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
)

// A matrix has a service, and builds in it each of which is kept in another phase until
// the gate is opened.
type matrix struct {
	*service
	gate string
}

// phases are those that builds are kept in, in the order in which they are begun.
var phases = []string{"post", "pre", "running", "input", "locked", "queued"}

// newMatrix starts a service with hooks that wait for the gate, and three slots: those who
// have one are in the phases pre, running and input.
func newMatrix(t *testing.T) *matrix {
	m := newMachine(t, 3)
	m.socket = m.scene.Path("socket")
	x := &matrix{service: &service{machine: m}, gate: m.scene.Mkdir("gate")}
	hook := func(phase string, drv string) string {
		name := m.scene.Path(phase + "-hook")
		script := fmt.Sprintf("#!/bin/sh\ncase %s in *-%s-*.drv) : > %s/%s-$(basename %s); while ! [ -e %s/open ]; do sleep 0.02; done;; esac\n", drv, phase, x.gate, phase, drv, x.gate)
		if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		return name
	}
	conf := fmt.Sprintf("sandbox = true\nbuild-users-group =\nmax-jobs = 3\nsandbox-paths = /bin/sh=%s /gate=%s\npre-build-hook = %s\npost-build-hook = %s\n",
		testenv.Busybox(t), x.gate, hook("pre", "$1"), hook("post", "$DRV_PATH"))
	if err := os.WriteFile(m.scene.Path("conf", "nix.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	x.run()
	return x
}

const waits = "echo begun; while ! [ -e /gate/open ]; do sleep 0.02; done; echo over; echo > $out"

// request asks for the derivation of a phase, detached.
func (x *matrix) request(phase, id string, round int) *kilnv1.BuildRequest {
	x.t.Helper()
	name := fmt.Sprintf("m-%s-%d", phase, round)
	script := waits
	if phase == "post" || phase == "done" {
		script = "echo begun; echo over; echo > $out"
	}
	r := x.machine.request(id, name, script, nil)
	if phase == "input" {
		r.Targets[0].GetDerivationText().Text = x.dependent(name)
	}
	r.Detached = true
	return r
}

// dependent is a derivation whose input waits.
func (x *matrix) dependent(name string) []byte {
	x.t.Helper()
	ctx := x.t.Context()
	input, err := parseText(x.machine, x.derivation(name+"-input", waits, nil))
	var drv nix.StorePath
	if err == nil {
		drv, err = x.store.AddDerivation(ctx, input)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	d, err := parseText(x.machine, x.derivation(name, "echo over; echo > $out", nil))
	if err != nil {
		x.t.Fatal(err)
	}
	d.Outputs = map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Deferred}}
	d.Env["out"] = ""
	d.InputDrvs = map[nix.StorePath]nix.InputOutputs{drv: {Outputs: []nix.OutputName{"out"}}}
	if err := x.store.Hasher().FillOutputPaths(ctx, d); err != nil {
		x.t.Fatal(err)
	}
	text, err := aterm.Marshal(x.store.Dir(), d)
	if err != nil {
		x.t.Fatal(err)
	}
	return text
}

// lock takes the lock of the output of a derivation, as somebody who builds it would.
func (x *matrix) lock(d *kilnv1.DerivationText) (release func()) {
	x.t.Helper()
	drv, err := parseText(x.machine, d)
	if err != nil {
		x.t.Fatal(err)
	}
	f, err := os.OpenFile(x.store.RealPath(drv.Outputs["out"].Path)+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	return func() {
		os.Remove(f.Name())
		f.Close()
	}
}

// fill brings a build into each phase. Each is begun by a connection of its own and has a
// watcher; leave ends them all, and their programs as far as the service can tell.
func (x *matrix) fill(round int) (leave func()) {
	x.t.Helper()
	var ends []func()
	for _, phase := range phases {
		id := fmt.Sprintf("%s-%d", phase, round)
		r := x.request(phase, id, round)
		if phase == "locked" {
			ends = append(ends, x.lock(r.Targets[0].GetDerivationText()))
		}
		c, watcher := x.dial(), x.dial()
		ends = append(ends, func() { c.Close(); watcher.Close() })
		stream, err := c.Executor.Build(x.t.Context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			x.t.Fatal(err)
		}
		watching, err := watcher.Executor.WatchBuild(x.t.Context(), &kilnv1.WatchBuildRequest{Id: id})
		if err != nil {
			x.t.Fatal(err)
		}
		x.reached(phase, id, watching)
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// reached waits until a build is in its phase.
func (x *matrix) reached(phase, id string, stream eventStream) {
	x.t.Helper()
	switch phase {
	case "queued":
		time.Sleep(50 * time.Millisecond)
		return
	case "post", "pre":
		await(x.t, "the hook of "+id, func() bool {
			found, _ := filepath.Glob(filepath.Join(x.gate, phase+"-*-m-"+id+".drv"))
			return len(found) > 0
		})
		return
	}
	for log, waiting := "", false; !strings.Contains(log, "begun") && !waiting; {
		e, err := stream.Recv()
		if err != nil {
			x.t.Fatal(err)
		}
		log += string(e.GetLog().GetData())
		waiting = strings.Contains(e.GetWaiting().GetWhy(), "lock")
	}
}

// open lets everything go on.
func (x *matrix) open() {
	x.t.Helper()
	if err := os.WriteFile(filepath.Join(x.gate, "open"), nil, 0o644); err != nil {
		x.t.Fatal(err)
	}
}

// log is what is kept of the log of a build.
func (x *matrix) log(c *Client, id string) string {
	x.t.Helper()
	stream, err := c.Executor.WatchBuild(x.t.Context(), &kilnv1.WatchBuildRequest{Id: id, LogOnly: true})
	if err != nil {
		x.t.Fatal(err)
	}
	got, err := collect(stream)
	if err != nil {
		x.t.Fatal(err)
	}
	return strings.ReplaceAll(got.log, "\r", "")
}

// TestKill kills whoever takes part in detached builds, in each of their phases: clients
// and watchers, which change nothing, and the service, whose successor tells the truth.
// Nothing is left of whom was killed, and everything is built in the end.
func TestKill(t *testing.T) {
	x := newMatrix(t)
	// What each phase has printed.
	printed := map[string]string{"post": "begun\nover\n", "running": "begun\n", "input": "begun\n"}
	c := x.dial()
	for round, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		done := fmt.Sprint("done-", round)
		got := x.build(t, c, x.request("done", done, round))
		leave := x.fill(round)
		x.kill(sig)
		leave()
		c.Close()
		x.service.run()
		c = x.dial()
		if info := x.state(c, done); info.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED || len(info.Results) != 1 || info.LogBytes != uint64(len(got.log)) || x.log(c, done) != "begun\nover\n" {
			t.Errorf("%v: %s is %v", sig, done, info)
		}
		for _, phase := range phases {
			id := fmt.Sprintf("%s-%d", phase, round)
			info := x.state(c, id)
			if info.State != kilnv1.BuildState_BUILD_STATE_INTERRUPTED || !info.Failure.GetRetryHelps() || !info.Failure.AnotherMachineHelps {
				t.Errorf("%v: %s is %v", sig, id, info)
			}
			if log := x.log(c, id); log != printed[phase] {
				t.Errorf("%v: the log of %s is %q", sig, id, log)
			}
		}
	}
	// Clients and watchers go while builds are in all phases.
	leave := x.fill(2)
	leave()
	time.Sleep(50 * time.Millisecond)
	for _, phase := range phases {
		id := phase + "-2"
		if info := x.state(c, id); info.Ended != nil && phase != "locked" { // whose lock went, too
			t.Errorf("whoever began %s has gone, and it is %v", id, info)
		}
	}
	x.open()
	for _, phase := range phases {
		id := phase + "-2"
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		info, err := c.Executor.WaitBuild(ctx, &kilnv1.WaitBuildRequest{Id: id})
		cancel()
		if err != nil || info.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
			t.Errorf("%s: %v, %v", id, info, err)
		}
		if log := x.log(c, id); !strings.HasSuffix(log, "over\n") {
			t.Errorf("the log of %s is %q", id, log)
		}
		// What was interrupted is asked for again under another name.
		for round := range 2 {
			if again := x.build(t, c, x.request(phase, fmt.Sprintf("%s-%d-again", phase, round), round)); again.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
				t.Errorf("%s of round %d again: %v", phase, round, again.result)
			}
		}
	}
	c.Close()
	x.kill(syscall.SIGTERM)
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/kiln-*"); len(left) > 0 {
		t.Logf("control groups of others, or left: %v", left)
	}
}
