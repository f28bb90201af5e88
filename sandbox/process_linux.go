package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// Process is a program that a Launcher started. It is safe for concurrent use.
// Wait must be called until it gives the end.
type Process struct {
	name  string
	steps *program.Program
	// processGroup says that its process group is to be killed with it: it has no pid
	// namespace.
	processGroup bool
	spec         *Spec // nil for what no guest can be with
	report       Report
	group        *cgroup.Group // nil for most
	// network serves the program and ends with it; nil for most.
	network *wayOut

	started chan error // one value: how the set-up went
	exited  chan struct{}
	exit    Exit
	err     error

	mu        sync.Mutex
	once      bool // exited is closed
	pidfd     *os.File
	received  []*os.File // namespaces, until takeNamespace
	namespace *mountns.Namespace
}

// Wait waits for the end of the program, with everything that it started if it is
// isolated. The stack of its network is killed by then, and gone soon, at the latest
// when the launcher is closed. An error that wraps ErrInterrupted says that the end is
// not known. A *UserNetworkError says that the program was killed because its network
// had ended; that can be tried again.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.over():
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
	exit := p.exit
	if p.group != nil {
		// One that cannot be removed yet is removed with the launcher's others.
		p.group.Close()
		usage := p.group.Usage()
		exit.Group = &usage
	}
	if p.network != nil && p.network.lost != nil {
		return exit, p.network.lost
	}
	return exit, p.err
}

// Usage is what the program has used so far with everything that it started; ok is false
// if it has no control group to count it.
func (p *Process) Usage() (usage cgroup.Usage, ok bool) {
	if p.group == nil || !p.group.Counts() {
		return usage, false
	}
	return p.group.Usage(), true
}

// over is closed when the program has ended and there is no network for it any more.
func (p *Process) over() <-chan struct{} {
	if p.network != nil {
		return p.network.over
	}
	return p.exited
}

// Kill kills the program; if it is isolated, with everything that it started.
// Killing what has ended already is no error.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return nil
	}
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill '%s': %w", p.name, err)
	}
	return nil
}

// Report says what keeps the program apart from the machine.
func (p *Process) Report() Report { return p.report }

// Namespace is where paths can be attached while the program runs; nil without
// Spec.Live. It is closed when the program ends.
func (p *Process) Namespace() *mountns.Namespace { return p.namespace }

// begun notes that the program runs.
func (p *Process) begun(files []*os.File) {
	p.mu.Lock()
	if len(files) > 0 {
		p.pidfd, p.received = files[0], files[1:]
	}
	p.mu.Unlock()
	p.started <- nil
}

// fail ends a Process whose program never ran. Only the first call counts.
func (p *Process) fail(err error) {
	select {
	case p.started <- err:
	default:
	}
}

// killPIDGroup makes pidfd_send_signal mean the process group (Linux 6.9). It does
// even when the process itself has been reaped.
const killPIDGroup = 1 << 2

// orphaned kills what a launcher that died has left.
func (p *Process) orphaned() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return // it dies with the launcher
	}
	fd := int(p.pidfd.Fd())
	if p.processGroup && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, killPIDGroup) == nil {
		return
	}
	unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

// patience is how long a killed process may take to be gone. It may be in the
// middle of a large write.
const patience = 30 * time.Second

// gone waits until a killed process is dead.
func (p *Process) gone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for end := time.Now().Add(patience); p.pidfd != nil; {
		fds := []unix.PollFd{{Fd: int32(p.pidfd.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, int(time.Until(end).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// end notes how the program ended.
func (p *Process) end(exit Exit, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.once {
		return
	}
	p.once, p.exit, p.err = true, exit, err
	if p.pidfd != nil {
		p.pidfd.Close()
		p.pidfd = nil
	}
	if p.namespace != nil {
		p.namespace.Close()
	}
	close(p.exited)
}

// takeNamespace makes a Namespace of the descriptors that came with the start.
func (p *Process) takeNamespace(runner mountns.Runner, s *Spec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.received) != 2 {
		return fmt.Errorf("start '%s': the launcher gave no namespace", p.name)
	}
	mount, user := p.received[0], p.received[1]
	p.received = nil
	if !s.Users.Namespace {
		user.Close()
		user = nil
	}
	p.namespace = mountns.NewNamespace(runner, path.Join(s.Root, s.Live), mount, user)
	if p.once {
		return p.namespace.Close() // it has ended already
	}
	return nil
}

// discard kills a program that nobody will wait for, and waits.
func (p *Process) discard() error {
	err := p.Kill()
	<-p.over()
	if p.group != nil {
		err = errors.Join(err, p.group.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	closeFiles(p.received)
	p.received = nil
	return err
}

// stepFailed makes an error of the instruction that failed.
func (p *Process) stepFailed(index int, errno syscall.Errno) error {
	if index >= len(p.steps.Instructions) {
		return fmt.Errorf("set up sandbox of '%s': unknown step %d: %w", p.name, index, errno)
	}
	in := p.steps.Instructions[index]
	if in.Call.Number == unix.SYS_EXECVE {
		return &ExecError{Path: in.Args[0].Text(), Errno: errno}
	}
	stage := in.What
	if stage == "" {
		stage = in.Call.Name
	}
	return &SetupError{Name: p.name, Stage: stage, Call: in.Call.Name, Errno: errno, Hint: hint(stage, in.Call.Name, errno)}
}

// refused makes an error of what the launcher itself could not do.
func (p *Process) refused(stage uint64, errno syscall.Errno) error {
	names := map[uint64]string{
		launcher.StageRequest: "read the request", launcher.StageProgram: "load the program", launcher.StagePipe: "create pipes",
		launcher.StageClone: "clone into new namespaces", launcher.StageIDMap: "write the user and group maps", launcher.StageNamespaces: "hold the namespaces",
		launcher.StageSuccessor: "hold the process in the namespaces",
	}
	call := map[uint64]string{launcher.StageClone: "clone3", launcher.StageIDMap: "uid_map"}[stage]
	return &SetupError{Name: p.name, Stage: names[stage], Call: call, Errno: errno, Hint: hint(names[stage], call, errno)}
}

// hint says what a person can do about a failure of the set-up.
func hint(stage, call string, errno syscall.Errno) string {
	if remedy := lookAround().remedy(stage, call, errno); remedy != "" {
		return remedy
	}
	switch {
	case call == "clone3" && errno == unix.ENOSPC:
		return "the limit of namespaces is reached: raise /proc/sys/user/max_*_namespaces"
	case call == "clone3" && (errno == unix.EPERM || errno == unix.EACCES):
		return "this process may not create namespaces: run `kiln doctor` to see why"
	case call == "uid_map" && errno == unix.EPERM:
		return "this process may not map the build user's id: run `kiln doctor` to see why"
	case errno == unix.ENOSYS:
		return "this kernel does not have the call: Linux " + mountns.MountFloor + " or later is needed"
	case call == "mount" && errno == unix.EPERM:
		return "this process may not mount here: run `kiln doctor` to see why"
	}
	return ""
}
