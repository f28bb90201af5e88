//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

// Launcher starts programs. On this system they are not isolated: Specs that ask
// for isolation are refused.
type Launcher struct {
	mu      sync.Mutex
	closed  bool
	running map[*Process]bool
}

// NewLauncher makes a launcher.
func NewLauncher() *Launcher { return &Launcher{running: make(map[*Process]bool)} }

// Close kills what was started and still runs, and waits for its end.
func (l *Launcher) Close() error {
	l.mu.Lock()
	l.closed = true
	var procs []*Process
	for p := range l.running {
		procs = append(procs, p)
	}
	l.mu.Unlock()
	var errs []error
	for _, p := range procs {
		errs = append(errs, p.Kill())
		<-p.exited
	}
	return errors.Join(errs...)
}

// Stdio are the standard descriptors of a program; nil is /dev/null. They stay
// the caller's.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// UserNamespaces says that there are none.
func (l *Launcher) UserNamespaces(context.Context) error { return errors.ErrUnsupported }

// UserNetwork says that there is none.
func (l *Launcher) UserNetwork(context.Context, string) (UserNetwork, error) {
	return UserNetwork{}, &UserNetworkError{Reason: "programs are isolated on Linux only"}
}

// TryUserNetwork says that there is none.
func (l *Launcher) TryUserNetwork(context.Context, UserNetwork) error {
	return &UserNetworkError{Reason: "programs are isolated on Linux only"}
}

// EnforcedLimits are none.
func (l *Launcher) EnforcedLimits() []cgroup.Resource { return nil }

// KillUser does nothing: here programs run as the user that kiln runs as.
func (l *Launcher) KillUser(context.Context, int) error { return nil }

// Capable has nothing to say on this system.
func Capable() error { return nil }

// NeedsUserNamespaces is of no account on this system.
func NeedsUserNamespaces() bool { return true }

// CanIsolate says that there is no isolation on this system.
func (l *Launcher) CanIsolate(context.Context) error { return errors.ErrUnsupported }

// Probe says that there is no isolation on this system.
func (l *Launcher) Probe(context.Context) []Check {
	return []Check{{Name: "isolation", Needed: true, Found: "builders are isolated on Linux only", Remedy: "set `sandbox = false` to build without isolation"}}
}

// Start starts a Spec's program, which must not ask for isolation.
func (l *Launcher) Start(_ context.Context, s *Spec, stdio Stdio) (*Process, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if s.Isolation != None {
		return nil, fmt.Errorf("start '%s': isolation is not available on this system; set `sandbox = false` to build without it", s.Name)
	}
	if wanted := s.Limits.Wanted(); s.RequireLimits && len(wanted) > 0 {
		return nil, &LimitError{Name: s.Name, Resource: wanted[0], Why: noGroups}
	}
	cmd := exec.Command(s.Path)
	cmd.Args, cmd.Env, cmd.Dir = s.Args, s.Env, s.Dir
	if stdio.Stdin != nil {
		cmd.Stdin = stdio.Stdin
	}
	if stdio.Stdout != nil {
		cmd.Stdout = stdio.Stdout
	}
	if stdio.Stderr != nil {
		cmd.Stderr = stdio.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 && s.Users.OutsideUID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.Users.OutsideUID), Gid: uint32(s.Users.OutsideGID)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("start '%s': the launcher is closed", s.Name)
	}
	if err := cmd.Start(); err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return nil, &ExecError{Path: s.Path, Errno: errno}
		}
		return nil, err
	}
	p := &Process{name: s.Name, pid: cmd.Process.Pid, exited: make(chan struct{}), limits: s.Limits}
	l.running[p] = true
	go func() {
		// How it ended is in the state, whatever the error says.
		_ = cmd.Wait()
		p.exit = exitOf(cmd.ProcessState)
		l.mu.Lock()
		delete(l.running, p)
		l.mu.Unlock()
		close(p.exited)
	}()
	return p, nil
}

func exitOf(state *os.ProcessState) Exit {
	e := Exit{Code: state.ExitCode(), UserTime: state.UserTime(), SystemTime: state.SystemTime()}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Code, e.Signal = 0, status.Signal()
	}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		e.MaxRSS = usage.Maxrss
	}
	return e
}

// Process is a program that a Launcher started.
type Process struct {
	name   string
	pid    int
	exited chan struct{}
	exit   Exit
	limits cgroup.Limits
}

const noGroups = "there are control groups on Linux only"

// Usage says that nothing is counted.
func (p *Process) Usage() (usage cgroup.Usage, ok bool) { return usage, false }

// Wait waits for the end of the program.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.exited:
		return p.exit, nil
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// Kill kills the program and what is left of its session.
func (p *Process) Kill() error {
	err := syscall.Kill(-p.pid, syscall.SIGKILL)
	if err == nil || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EPERM) {
		return nil
	}
	return fmt.Errorf("kill '%s': %w", p.name, err)
}

// Report says that nothing keeps the program apart from the machine.
func (p *Process) Report() Report {
	layers := []Layer{{Name: "isolation", Asked: "none", InForce: "none", Why: "this system has none"}}
	for _, l := range limitTexts(p.limits) {
		layers = append(layers, Layer{Name: string(l.of) + " limit", Asked: l.text, InForce: "not enforced", Why: noGroups})
	}
	return Report{Level: string(None), Layers: layers}
}

// Enter says that there are no sandboxes.
func (l *Launcher) Enter(context.Context, *Process, Guest, Stdio) (*Process, error) {
	return nil, errors.ErrUnsupported
}

// Namespace is nil: nothing can be attached.
func (p *Process) Namespace() *mountns.Namespace { return nil }

// PTY is a pipe through which a program's output is read.
type PTY struct {
	Master, Slave *os.File
}

// OpenPTY makes the pipe. The caller closes it.
func OpenPTY(int) (*PTY, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &PTY{Master: r, Slave: w}, nil
}

// OpenTerminal says that there are no terminals.
func OpenTerminal(int) (*PTY, error) { return nil, errors.ErrUnsupported }

// Resize does nothing.
func (p *PTY) Resize(uint16, uint16) error { return nil }

// CloseSlave closes the end that is written to.
func (p *PTY) CloseSlave() {
	if p.Slave != nil {
		p.Slave.Close()
		p.Slave = nil
	}
}

// Close closes both ends.
func (p *PTY) Close() {
	p.CloseSlave()
	p.Master.Close()
}
