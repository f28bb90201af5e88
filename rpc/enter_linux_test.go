package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// console is kiln at a pseudo-terminal, as a person has it.
type console struct {
	t   *testing.T
	pty *sandbox.PTY
	cmd *exec.Cmd
}

// prompt is what shells in the sandboxes of these tests ask with (PS1).
const prompt = "kiln> "

// console runs kiln at a terminal. Input is only for a shell that has asked for it.
func (m *machine) console(t *testing.T, words ...string) *console {
	t.Helper()
	pty, err := sandbox.OpenTerminal(os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pty.Close)
	c := &console{t: t, pty: pty, cmd: m.kiln(t, words...)}
	if err := pty.Resize(100, 30); err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = pty.Slave, pty.Slave, pty.Slave
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pty.CloseSlave()
	return c
}

// kiln is a command line of kiln in the scene.
func (m *machine) kiln(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(testenv.Kiln(t), words...)
	cmd.Env = append(m.scene.Env(), "KILN_EXECUTOR=unix://"+m.socket)
	return cmd
}

// say types something, and gives what comes up to the text that is waited for.
func (c *console) say(text, until string) string {
	c.t.Helper()
	if _, err := io.WriteString(c.pty.Master, text); err != nil {
		c.t.Fatal(err)
	}
	c.pty.Master.SetReadDeadline(time.Now().Add(20 * time.Second))
	var heard bytes.Buffer
	for buf := make([]byte, 4096); !strings.Contains(heard.String(), until); {
		n, err := c.pty.Master.Read(buf)
		heard.Write(buf[:n])
		if err != nil {
			c.t.Fatalf("waiting for %q: %v after\n%s", until, err, heard.String())
		}
	}
	return heard.String()
}

// ask runs a command in the shell, and gives what it prints.
func (c *console) ask(command string) string {
	c.t.Helper()
	heard := c.say(command+"\n", "\n"+prompt)
	_, answer, _ := strings.Cut(heard, "\r\n") // what was typed
	answer, _, _ = strings.Cut(answer, prompt)
	return strings.ReplaceAll(answer, "\r\n", "\n")
}

// leave says a last word, and gives the exit code.
func (c *console) leave(text string) int {
	c.t.Helper()
	if _, err := io.WriteString(c.pty.Master, text); err != nil {
		c.t.Fatal(err)
	}
	c.pty.Master.SetReadDeadline(time.Now().Add(20 * time.Second))
	rest, _ := io.ReadAll(c.pty.Master)
	var exit *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if code := c.cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	c.t.Fatalf("it ended with %v after\n%s", c.cmd.ProcessState, rest)
	return 0
}

// TestEnter enters sandboxes from the command line, at a terminal, as root and as an
// ordinary user.
func TestEnter(t *testing.T) {
	testEnter(t)
	if !testenv.Root() || t.Failed() {
		return
	}
	// For an ordinary user, who cannot build it where that test runs.
	kiln := testenv.Kiln(t)
	t.Setenv("KILN", kiln)
	if err := os.Chmod(filepath.Dir(kiln), 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.AsOrdinaryUser(t)
}

func testEnter(t *testing.T) {
	m := newMachine(t, 2)
	m.config = func(c *Config) {
		c.Access = func() *Access { return &Access{Plaintext: kilnv1.Role_ROLE_SUBMIT} }
	}
	m.start()
	c := m.dial()
	env := map[string]string{"PS1": prompt, "colour": "green"}
	begin := func(id, script string, keep bool) *kilnv1.BuildRequest {
		return &kilnv1.BuildRequest{Id: id, Detached: true, KeepSandbox: keep,
			Targets: []*kilnv1.Target{{What: &kilnv1.Target_DerivationText{DerivationText: m.derivation(id, script, env)}}}}
	}
	runs := func(id string) {
		t.Helper()
		await(t, "the builder", func() bool {
			info, _ := c.Executor.GetBuild(t.Context(), &kilnv1.GetBuildRequest{Id: id})
			return len(info.GetBuilders()) > 0
		})
	}
	where := func(c *console) {
		t.Helper()
		if got := c.ask("pwd; id -u; echo $colour; stty size"); got != "/build\n1000\ngreen\n30 100\n" {
			t.Errorf("inside it is\n%s", got)
		}
		if got := c.ask("echo /nix/store/*"); strings.Contains(got, ".drv") {
			t.Errorf("a store object that is no input is there: %s", got)
		}
	}

	t.Run("running", func(t *testing.T) {
		stream, err := c.Executor.Build(t.Context(), begin("running", "echo begun; until [ -e go ]; do sleep 0.05; done; echo > $out", false))
		if err != nil {
			t.Fatal(err)
		}
		runs("running")
		shell := m.console(t, "enter", "running")
		shell.say("", prompt)
		where(shell)
		if got := shell.ask("ps"); !strings.Contains(got, "until [ -e go ]") {
			t.Errorf("the builder is not to be seen:\n%s", got)
		}
		if err := shell.pty.Resize(80, 24); err != nil {
			t.Fatal(err)
		}
		await(t, "the new size", func() bool { return shell.ask("stty size") == "24 80\n" })
		if code := shell.leave("exit 7\n"); code != 7 {
			t.Errorf("it ended with %d, the shell with 7", code)
		}

		top := m.console(t, "top")
		if got := top.say("", "\x1b[J"); !strings.Contains(got, "builders: 1,") || !strings.Contains(got, "running") {
			t.Errorf("kiln top shows\n%s", got)
		}
		if code := top.leave("\x03"); code != 0 {
			t.Errorf("kiln top ended with %d", code)
		}

		// Without a terminal, and with both outputs.
		piped := m.kiln(t, "enter", "running", "--", "sh", "-c", "cat; echo and >&2; kill -TERM $$")
		piped.Stdin = strings.NewReader("what was typed\n")
		var out, errs bytes.Buffer
		piped.Stdout, piped.Stderr = &out, &errs
		if piped.Run(); out.String() != "what was typed\n" || errs.String() != "and\n" || piped.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) {
			t.Errorf("it printed %q and %q, and ended with %d", out.String(), errs.String(), piped.ProcessState.ExitCode())
		}
		// The builder ends by what this one does, and this one with it at the latest.
		m.kiln(t, "enter", "running", "--", "touch", "go").Run()
		told := ""
		for {
			e, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			told += e.GetMessage().GetText()
			if info := e.GetEnded(); info != nil {
				if info.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED || len(info.Builders) > 0 {
					t.Errorf("the build that was entered: %v", info)
				}
				break
			}
		}
		if strings.Count(told, "has entered the sandbox of") != 3 {
			t.Errorf("it is not told who was in there: %q", told)
		}
	})

	t.Run("ended under the guest", func(t *testing.T) {
		begun, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := c.Executor.Build(begun, begin("long", "echo begun; sleep 600", false)); err != nil {
			t.Fatal(err)
		}
		runs("long")
		input := make(chan nix.VisitInput)
		inside := make(chan struct{})
		var leaving sync.WaitGroup
		leaving.Go(func() {
			<-inside
			c.Executor.CancelBuild(t.Context(), &kilnv1.CancelBuildRequest{Id: "long"})
		})
		end, err := c.Enter(t.Context(), "long", "", &nix.Visit{Command: []string{"sleep", "600"}, Input: input, Output: io.Discard, Errors: io.Discard, Begun: func([]string) { close(inside) }})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "the builder has ended") {
			t.Errorf("the guest of a build that was cancelled: %v, %v", end, err)
		}
		leaving.Wait()
	})

	// Whoever does not listen to what a guest says keeps nobody from building.
	t.Run("deaf", func(t *testing.T) {
		watching, err := c.Executor.Build(t.Context(), begin("deaf", "until [ -e go ]; do sleep 0.05; done; echo > $out", false))
		if err != nil {
			t.Fatal(err)
		}
		runs("deaf")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := c.Executor.Enter(ctx)
		if err != nil {
			t.Fatal(err)
		}
		start := &kilnv1.EnterStart{Id: "deaf", Command: []string{"sh", "-c", "touch go; yes"}}
		if err := stream.Send(&kilnv1.EnterRequest{What: &kilnv1.EnterRequest_Start{Start: start}}); err != nil {
			t.Fatal(err)
		}
		if got, err := collect(watching); err != nil || got.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
			t.Errorf("the build ended with %v, %v", got.result, err)
		}
	})

	t.Run("failed", func(t *testing.T) {
		got := m.build(t, c, begin("failed", "echo old > left; mkdir $out; echo half > $out/part; exit 3", true))
		kept := got.result.GetKeptSandboxes()
		if len(kept) != 1 || got.result.Results[0].KeptSandbox != kept[0].Id {
			t.Fatalf("what was kept: %v", got.result)
		}
		shell := m.console(t, "enter", "failed")
		shell.say("", prompt)
		where(shell)
		if got := shell.ask("cat left $out/part; echo new > left"); got != "old\nhalf\n" {
			t.Errorf("the builder has left\n%s", got)
		}
		if _, err := c.Executor.DiscardSandbox(t.Context(), &kilnv1.DiscardSandboxRequest{Id: "failed"}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("discarding under somebody's feet: %v", err)
		}
		if code := shell.leave("exit 4\n"); code != 4 {
			t.Errorf("it ended with %d, the shell with 4", code)
		}
		// By the id of the sandbox, after the service was started again.
		m.stop()
		m.start()
		out, err := m.kiln(t, "enter", kept[0].Id, "--", "sh", "-c", "cat left; exit 6").Output()
		var exit *exec.ExitError
		if string(out) != "new\n" || !errors.As(err, &exit) || exit.ExitCode() != 6 {
			t.Errorf("entered again: %q, %v", out, err)
		}
		if out, err := m.kiln(t, "enter", "--discard", "failed").CombinedOutput(); err != nil {
			t.Errorf("discard: %v, %s", err, out)
		}
		if left, _ := filepath.Glob(m.scene.Path("builds", "*")); len(left) > 0 {
			t.Errorf("there is left: %s", left)
		}
	})
	testRefusals(t, m)

	// What is kept is forgotten with its build.
	c = m.dial()
	if got := m.build(t, c, begin("kept", "exit 3", true)); len(got.result.GetKeptSandboxes()) != 1 {
		t.Errorf("what was kept: %v", got.result)
	}
	m.server.discard(m.server.builds.sweep(time.Now().Add(2 * DefaultRetention)))
	if left, _ := filepath.Glob(m.scene.Path("builds", "*")); len(left) > 0 {
		t.Errorf("of a build that is forgotten there is left: %s", left)
	}
}

// testRefusals tries what cannot be entered. The machine had a build "failed" whose sandbox
// was discarded, and one "running" that has ended.
func testRefusals(t *testing.T, m *machine) {
	c := m.dial()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { m.server.Serve(l, Plaintext()) })
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { l.Close() })
	submitter, err := Dial(t.Context(), Address{"tcp", l.Addr().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer submitter.Close()
	for _, r := range []struct {
		name string
		by   *Client
		id   string
		drv  nix.StorePath
		v    nix.Visit
		want codes.Code
	}{
		{"a role that may not", submitter, "running", "", nix.Visit{}, codes.PermissionDenied},
		{"no build", c, "none", "", nix.Visit{}, codes.NotFound},
		{"no id of a sandbox", c, "abcdefghij", "", nix.Visit{}, codes.NotFound},
		{"a forged id", c, "../../etc", "", nix.Visit{}, codes.InvalidArgument},
		{"a build that has ended", c, "running", "", nix.Visit{}, codes.FailedPrecondition},
		{"a sandbox that was discarded", c, "failed", "", nix.Visit{}, codes.FailedPrecondition},
		{"no program's name", c, "running", "", nix.Visit{Command: []string{""}}, codes.InvalidArgument},
		{"a NUL", c, "running", "", nix.Visit{Command: []string{"a\x00b"}}, codes.InvalidArgument},
		{"too many words", c, "running", "", nix.Visit{Command: make([]string, maxWords+1)}, codes.InvalidArgument},
	} {
		r.v.Output, r.v.Errors = io.Discard, io.Discard
		if _, err := r.by.Enter(t.Context(), r.id, r.drv, &r.v); status.Code(err) != r.want {
			t.Errorf("%s: %v, want %v", r.name, err, r.want)
		}
	}
	if _, err := submitter.Executor.DiscardSandbox(t.Context(), &kilnv1.DiscardSandboxRequest{Id: "failed"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("discarding in a role that may not: %v", err)
	}
	if _, err := c.Executor.DiscardSandbox(t.Context(), &kilnv1.DiscardSandboxRequest{Id: "failed"}); status.Code(err) != codes.NotFound {
		t.Errorf("discarding twice: %v", err)
	}
	stream, err := c.Executor.Enter(t.Context())
	if err == nil {
		stream.Send(&kilnv1.EnterRequest{What: &kilnv1.EnterRequest_Input{Input: []byte("ls\n")}})
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("input without a start: %v", err)
	}
}
