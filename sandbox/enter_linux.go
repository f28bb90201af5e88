package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// fdHost is the descriptor of a guest's host, a pidfd, after the standard ones.
const fdHost = fdStderr + 1

// Enter starts a guest in the sandbox of a host that l has started. Errors are those of
// Start, and ErrEnded. A guest in a pid namespace ends with its host at the latest: the
// kernel sees to it. Without isolation it is the caller who does, before anybody relies
// on nobody's being there.
//
// That the guest is not the host's child has a price: Landlock would not let it send
// signals to the host, which is what guests are for. They are not restricted by it
// where the namespaces keep them from everybody else.
func (l *Launcher) Enter(ctx context.Context, host *Process, g Guest, stdio Stdio) (*Process, error) {
	s := host.spec
	if s == nil {
		return nil, fmt.Errorf("enter sandbox of '%s': it has none", host.name)
	}
	guest := *s
	guest.Path, guest.Args, guest.Terminal = g.Path, g.Args, g.Terminal
	if err := guest.Validate(); err != nil {
		return nil, err
	}
	pidfd, err := host.dupPIDFD()
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	descriptors, done, err := stdio.descriptors()
	if err != nil {
		return nil, err
	}
	defer done()
	descriptors = append(descriptors, pidfd)
	facts := hostFacts()
	if s.Isolation == Full && s.Network != NetworkHost {
		facts.LandlockABI = 0
	}
	if host.group != nil {
		facts.Groups = len(host.group.Entrances())
		descriptors = append(descriptors, host.group.Entrances()...)
	}
	request := launcher.Request{Successor: 1}
	if s.Isolation == None {
		request = launcher.Request{KillGroup: 1}
	}
	p, err := l.launch(ctx, "guest of "+s.Name, compileGuest(&guest, facts), request, descriptors)
	var setup *SetupError
	if errors.As(err, &setup) {
		select {
		case <-host.exited:
			return nil, ErrEnded // whatever it was that was not there
		default:
		}
		if setup.Errno == unix.ESRCH {
			return nil, ErrEnded
		}
	}
	return p, err
}

// dupPIDFD gives a descriptor of the process, which the caller closes.
func (p *Process) dupPIDFD() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return nil, ErrEnded
	}
	fd, err := unix.FcntlInt(p.pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("enter sandbox of '%s': %w", p.name, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// compileGuest turns a guest, whose Spec is that of its host but for what it runs, into
// the program that its process begins with. It is a pure function.
func compileGuest(s *Spec, f Facts) *program.Program {
	c := &compiler{s: s, f: f, p: &program.Program{}}
	c.p.Begin()
	c.enterGroups(fdHost + 1)
	if s.Isolation == Full {
		c.join()
	}
	c.session()
	c.restrict()
	c.become()
	c.end()
	return c.p
}

// join enters the host's namespaces, all at once, since one may need what another gives.
// A process never changes its pid namespace: its child goes on, and is the launcher's
// like itself. Its number is told before it does anything that can fail.
func (c *compiler) join() {
	flags, names := uint(unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS), "CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWIPC|CLONE_NEWUTS"
	if c.s.Network != NetworkHost {
		flags, names = flags|unix.CLONE_NEWNET, names+"|CLONE_NEWNET"
	}
	if c.s.Users.Namespace {
		flags, names = flags|unix.CLONE_NEWUSER, names+"|CLONE_NEWUSER"
	}
	const what = "enter the namespaces"
	// From here to its exec the host's program can name it, perhaps as the same user or as
	// root of the namespace, and it has open what the launcher has: nobody inside may get
	// at it, which needs a privilege over the memory of what is not dumpable. It ends with exec.
	c.p.Add(what, call("prctl", unix.SYS_PRCTL), program.Named(uint(unix.PR_SET_DUMPABLE), "PR_SET_DUMPABLE"), program.Number(0), program.Number(0), program.Number(0), program.Number(0))
	c.p.Add(what, call("setns", unix.SYS_SETNS), program.Descriptor(fdHost), program.Named(flags, names))
	pid := program.Shared(make([]byte, 8), "pid")
	_, clone := c.p.Add(what, call("clone", unix.SYS_CLONE), program.Named(uint(unix.CLONE_PARENT|unix.CLONE_PARENT_SETTID), "CLONE_PARENT|CLONE_PARENT_SETTID"),
		program.Null, pid, program.Null, program.Null)
	clone.Skip = 2
	_, tell := c.p.Add(what, call("write", unix.SYS_WRITE), program.ReadyFD, pid, program.Number(4))
	tell.Check, tell.Want = true, 4
	c.p.Add(what, call("exit_group", unix.SYS_EXIT_GROUP), program.Number(0))
	c.p.DieWithLauncher()
}
