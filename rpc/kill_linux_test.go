package rpc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/internal/testenv"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// begun starts a build that runs until it is stopped, and waits until its builder runs.
func (m *machine) begun(c *Client, id string, detached bool) (leave context.CancelFunc) {
	m.t.Helper()
	r := m.request(id, id, "echo begun; while :; do sleep 0.1; done", nil)
	r.Detached = detached
	ctx, cancel := context.WithCancel(m.t.Context())
	stream, err := c.Executor.Build(ctx, r)
	if err != nil {
		m.t.Fatal(err)
	}
	for log := ""; !strings.Contains(log, "begun"); {
		e, err := stream.Recv()
		if err != nil {
			m.t.Fatal(err)
		}
		log += string(e.GetLog().GetData())
	}
	return cancel
}

func (m *machine) state(c *Client, id string) *kilnv1.BuildInfo {
	m.t.Helper()
	info, err := c.Executor.GetBuild(m.t.Context(), &kilnv1.GetBuildRequest{Id: id})
	if err != nil {
		m.t.Fatal(err)
	}
	return info
}

// TestLeaving wants that a build ends with its last caller, unless it is detached.
func TestLeaving(t *testing.T) {
	m := newMachine(t, 4)
	m.start()
	c := m.dial()
	leave := m.begun(c, "attached", false)
	leaveDetached := m.begun(c, "detached", true)
	leaveBoth := m.begun(c, "both", false)
	watch, stop := context.WithCancel(t.Context())
	second, err := c.Executor.Build(watch, m.request("both", "both", "echo begun; while :; do sleep 0.1; done", nil))
	if err == nil {
		_, err = second.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	leave()
	leaveDetached()
	leaveBoth()
	await(t, "the end of the build that nobody waits for", func() bool {
		return m.state(c, "attached").State == kilnv1.BuildState_BUILD_STATE_CANCELLED
	})
	for _, id := range []string{"detached", "both"} {
		if s := m.state(c, id).State; s != kilnv1.BuildState_BUILD_STATE_RUNNING {
			t.Errorf("%s is %v", id, s)
		}
	}
	stop()
	await(t, "the end of the build that both have left", func() bool { return m.state(c, "both").State == kilnv1.BuildState_BUILD_STATE_CANCELLED })
	info, err := c.Executor.CancelBuild(t.Context(), &kilnv1.CancelBuildRequest{Id: "detached"})
	if err != nil || info.State != kilnv1.BuildState_BUILD_STATE_CANCELLED {
		t.Errorf("cancelled: %v, %v", info, err)
	}
	if _, err := c.Executor.Drain(t.Context(), &kilnv1.DrainRequest{}); err != nil {
		t.Error(err)
	}
	stream, err := c.Executor.Build(t.Context(), m.request("late", "late", "echo > $out", nil))
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a build while the executor drains: %v", err)
	}
}

// TestRestart stops the service in order, and wants that what it knew is known again.
func TestRestart(t *testing.T) {
	m := newMachine(t, 2)
	m.start()
	c := m.dial()
	got := m.build(t, c, m.request("done", "done", "echo something; echo > $out", nil))
	leave := m.begun(c, "running", true)
	defer leave()
	c.Close()
	m.stop()
	m.start()
	c = m.dial()
	if info := m.state(c, "done"); info.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED || info.Results[0].Outputs[0].NarHash != got.result.Results[0].Outputs[0].NarHash {
		t.Errorf("a build that had ended: %v", info)
	}
	stream, err := c.Executor.WatchBuild(t.Context(), &kilnv1.WatchBuildRequest{Id: "done"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := collect(stream); err != nil || again.log != got.log || again.last != got.last {
		t.Errorf("its events: %+v, %v, and before %+v", again, err, got)
	}
	m.interrupted(c, "running")
	if next := m.build(t, c, m.request("next", "next", "echo > $out", nil)); next.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
		t.Errorf("the next build: %v", next.result)
	}
}

// interrupted wants a build to be reported as interrupted, with its log.
func (m *machine) interrupted(c *Client, id string) {
	m.t.Helper()
	info := m.state(c, id)
	if info.State != kilnv1.BuildState_BUILD_STATE_INTERRUPTED || !info.Failure.GetRetryHelps() || !info.Failure.AnotherMachineHelps {
		m.t.Errorf("%s: %v", id, info)
	}
	stream, err := c.Executor.WatchBuild(m.t.Context(), &kilnv1.WatchBuildRequest{Id: id})
	if err != nil {
		m.t.Fatal(err)
	}
	if got, err := collect(stream); err != nil || !strings.HasPrefix(got.log, "begun") || got.result.GetState() != info.State {
		m.t.Errorf("%s: events %+v, %v", id, got, err)
	}
}

// A service is a program of its own that can be killed.
type service struct {
	*machine
	cmd *exec.Cmd
}

func (s *service) run() {
	s.t.Helper()
	s.cmd = exec.Command(testenv.Kiln(s.t), "serve", "--store", s.scene.Path("root"), "--listen", "unix://"+s.socket)
	s.cmd.Env = s.scene.Env()
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, "the service to listen", func() bool {
		c, err := Dial(s.t.Context(), Address{"unix", s.socket}, nil)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// kill ends the service, and wants nothing to be left of it.
func (s *service) kill(sig syscall.Signal) {
	s.t.Helper()
	s.cmd.Process.Signal(sig)
	s.cmd.Wait()
	testenv.NoProcesses(s.t, s.scene.Mark())
}

// TestSlowWatchers has watchers that never read, and others that leave, and wants that the
// build and those who do read notice nothing.
func TestSlowWatchers(t *testing.T) {
	m := newMachine(t, 1)
	m.start()
	c := m.dial()
	const lines, watchers = 20000, 20
	r := m.request("noisy", "noisy", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done; echo > $out", lines), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	build, err := c.Executor.Build(ctx, r)
	if err == nil {
		_, err = build.Recv() // it is there
	}
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error, watchers)
	for i := range watchers {
		stream, err := c.Executor.WatchBuild(ctx, &kilnv1.WatchBuildRequest{Id: "noisy", LogOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			results <- nil // never reads
			continue
		}
		go func() {
			got, err := collect(stream)
			if n := strings.Count(got.log, "\n"); err == nil && n != lines {
				err = fmt.Errorf("%d lines of %d", n, lines)
			}
			results <- err
		}()
	}
	if got, err := collect(build); err != nil || got.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
		t.Errorf("%+v, %v", got.result, err)
	}
	for range watchers {
		select {
		case err := <-results:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("a watcher hears nothing")
		}
	}
}
