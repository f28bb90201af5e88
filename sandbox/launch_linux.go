package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// Launcher starts programs in sandboxes, through a process of its own that is
// started with the first of them. It is safe for concurrent use. Close it: what
// it started and still runs is killed then.
type Launcher struct {
	mu     sync.Mutex
	closed bool
	conn   *conn // nil until it is needed, and after it broke

	groups *cgroup.Parent

	// Whether user namespaces can be made, once that was tried.
	userNSKnown bool
	userNSErr   error
}

// NewLauncher makes a launcher. No process is started yet.
func NewLauncher() *Launcher { return &Launcher{groups: cgroup.NewParent()} }

// Close ends the launcher process and everything that it started. It returns when
// they are gone.
func (l *Launcher) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var err error
	if l.conn != nil {
		err = l.conn.close()
		l.conn = nil
	}
	return errors.Join(err, l.groups.Close())
}

// get gives the connection to a launcher process that lives.
func (l *Launcher) get() (*conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("start program: the sandbox launcher is closed")
	}
	if l.conn != nil {
		select {
		case <-l.conn.broken:
			l.conn.close()
			l.conn = nil
		default:
		}
	}
	if l.conn == nil {
		hidden := lookAround().uncoverable()
		c, err := startLauncher(len(hidden) > 0)
		if err != nil {
			return nil, fmt.Errorf("start sandbox launcher: %w", err)
		}
		l.conn = c
		if err := c.uncover(hidden); err != nil {
			return nil, fmt.Errorf("start sandbox launcher: %w", err)
		}
	}
	return l.conn, nil
}

// Stdio are the standard descriptors of a program; nil is /dev/null. They stay
// the caller's.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// descriptors gives them with /dev/null in place of nil, until done is called.
func (s Stdio) descriptors() (list []*os.File, done func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	list = []*os.File{s.Stdin, s.Stdout, s.Stderr}
	for i, f := range list {
		if f == nil {
			list[i] = null
		}
	}
	return list, func() { null.Close() }, nil
}

// Start stages and starts a Spec's program. It returns when the program itself
// runs, or did. A *SetupError says which step of the set-up failed, an *ExecError
// that the program could not be executed, a *UserNetworkError why its network could
// not be had. Nothing is left of a failure but what
// is in the root directory.
//
// Cancelling ctx ends the wait for the set-up and kills what was started; after
// Start has returned, ctx has no meaning for the process.
func (l *Launcher) Start(ctx context.Context, s *Spec, stdio Stdio) (*Process, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	var mounts []mountns.Mount
	if s.Isolation == Full {
		var err error
		if mounts, err = s.Stage(); err != nil {
			return nil, err
		}
	}
	descriptors, done, err := stdio.descriptors()
	if err != nil {
		return nil, err
	}
	defer done()
	facts := hostFacts()
	group, err := l.group(s)
	if err != nil {
		return nil, err
	}
	if group != nil {
		facts.Groups = len(group.Entrances())
		descriptors = append(descriptors, group.Entrances()...)
	}
	p := compile(s, mounts, facts)
	request := launcher.Request{CloneFlags: s.cloneFlags()}
	if s.Isolation == Full && s.Users.Namespace {
		request.MapIDs = 1
		count := uint64(max(s.Users.Count, 1))
		request.UIDMap = [3]uint64{uint64(s.Users.InsideUID), uint64(s.Users.OutsideUID), count}
		request.GIDMap = [3]uint64{uint64(s.Users.InsideGID), uint64(s.Users.OutsideGID), count}
		if s.Users.many() {
			request.KeepGroups = 1
		}
	}
	if s.Isolation == Full && s.Live != "" {
		request.Siblings = 1
	}
	if s.Isolation == None {
		request.KillGroup = 1 // in a pid namespace the kernel does it
	}
	var proc *Process
	if s.Isolation == Full && s.Network == NetworkUser {
		proc, err = l.launchNetworked(ctx, s.Name, s.UserNetwork, s.Users, p, request, descriptors)
	} else {
		proc, err = l.launch(ctx, s.Name, p, request, descriptors)
	}
	if err != nil {
		if group != nil {
			err = errors.Join(err, group.Close())
		}
		return nil, err
	}
	proc.spec, proc.group = s, group
	proc.report = report(s, facts, group)
	if request.Siblings != 0 {
		if err := proc.takeNamespace(l, s); err != nil {
			return nil, errors.Join(err, proc.discard())
		}
	}
	return proc, nil
}

// group makes the control group of a Spec, nil if it asks for none.
func (l *Launcher) group(s *Spec) (*cgroup.Group, error) {
	if !s.grouped() {
		return nil, nil
	}
	g, err := l.groups.Create(s.Limits)
	if err != nil {
		return nil, fmt.Errorf("start '%s': %w", s.Name, err)
	}
	if lacks := g.Lacks(); s.RequireLimits && len(lacks) > 0 {
		return nil, errors.Join(&LimitError{Name: s.Name, Resource: lacks[0].Resource, Why: lacks[0].Why}, g.Close())
	}
	return g, nil
}

// EnforcedLimits are the resources that this machine can limit for this process.
func (l *Launcher) EnforcedLimits() []cgroup.Resource {
	g, err := l.groups.Create(cgroup.Limits{})
	if err != nil {
		return nil
	}
	defer g.Close()
	return l.groups.Enforced()
}

// Run carries out a program of system calls in a plain fork of the launcher, and
// waits for its end: the mountns.Runner through which paths are attached.
func (l *Launcher) Run(ctx context.Context, p *program.Program, descriptors ...*os.File) error {
	proc, err := l.launch(ctx, "attachment", p, launcher.Request{}, descriptors)
	if err != nil {
		return err
	}
	exit, err := proc.Wait(ctx)
	if err == nil && (exit.Code != 0 || exit.Signal != 0) {
		err = fmt.Errorf("run program of system calls: it ended with %v", exit)
	}
	return err
}

// KillUser kills every process of a user that no program of ours but one may run
// as: what a program without isolation has left behind may be in any session. They
// are gone when it returns. It needs privilege.
func (l *Launcher) KillUser(ctx context.Context, uid int) error {
	if uid <= 0 || uid == os.Getuid() || uid == os.Geteuid() {
		return fmt.Errorf("kill processes of user %d: not a user of its own", uid)
	}
	p := &program.Program{}
	p.Begin()
	p.Add("become the user", call("setresuid", unix.SYS_SETRESUID), program.Number(uid), program.Number(uid), program.Number(uid))
	_, in := p.Add("kill everything of the user", call("kill", unix.SYS_KILL), program.Number(-1), program.Named(uint(unix.SIGKILL), "SIGKILL"))
	in.Tolerate = unix.ESRCH // there was nothing
	proc, err := l.launch(ctx, "kill user", p, launcher.Request{}, nil)
	if err == nil {
		_, err = proc.Wait(ctx)
	}
	if err == nil {
		err = userGone(ctx, uid)
	}
	if err != nil {
		return fmt.Errorf("kill processes of user %d: %w", uid, err)
	}
	return nil
}

// userGone waits until no process of a user lives.
func userGone(ctx context.Context, uid int) error {
	const pause = 2 * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("they do not end"))
	defer cancel()
	for userLives(uid) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
	return nil
}

// userLives tells whether a process of the user is there that can still do
// something.
func userLives(uid int) bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	mark := "\nUid:\t" + strconv.Itoa(uid) + "\t"
	for _, e := range entries {
		if name := e.Name(); name[0] < '0' || name[0] > '9' {
			continue
		}
		status, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err == nil && strings.Contains(string(status), mark) && !strings.Contains(string(status), "\nState:\tZ") {
			return true
		}
	}
	return false
}

// launch sends a program to the launcher and waits until it has run to its end,
// or to its exec.
func (l *Launcher) launch(ctx context.Context, name string, p *program.Program, request launcher.Request, descriptors []*os.File) (*Process, error) {
	code, err := p.Encode()
	if err != nil {
		return nil, err
	}
	memory, err := memoryFile(code)
	if err != nil {
		return nil, fmt.Errorf("start '%s': %w", name, err)
	}
	defer memory.Close()
	request.Size = uint64(len(code))
	proc := &Process{
		name: name, steps: p, processGroup: request.KillGroup != 0,
		started: make(chan error, 1), exited: make(chan struct{}),
	}
	if err := l.send(proc, &request, append([]*os.File{memory}, descriptors...)); err != nil {
		return nil, fmt.Errorf("start '%s': %w", name, err)
	}
	select {
	case err = <-proc.started:
	case <-ctx.Done():
		// The set-up takes milliseconds: let it come to its end, so that there is
		// something to kill.
		if err = <-proc.started; err == nil {
			return nil, errors.Join(context.Cause(ctx), proc.discard())
		}
	}
	proc.steps = nil // it takes much more than the rest, for as long as the process runs
	return proc, err
}

// send sends a request to the launcher. That the launcher died before it had the
// request is no reason to fail: there is another one.
func (l *Launcher) send(p *Process, request *launcher.Request, files []*os.File) error {
	for again := true; ; again = false {
		c, err := l.get()
		if err != nil {
			return err
		}
		err = c.send(p, request, files)
		if !again || !errors.Is(err, ErrInterrupted) {
			return err
		}
		<-c.broken
	}
}

// memoryFile makes a file in memory with the given content.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "program")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("write memory file: %w", err)
	}
	return f, nil
}

// conn is the connection to one launcher process.
type conn struct {
	sock   *os.File
	cmd    *exec.Cmd
	broken chan struct{} // closed when the launcher is gone
	read   sync.WaitGroup

	mu    sync.Mutex
	next  uint64
	procs map[uint64]*Process
}

// startLauncher starts the launcher process: this binary, under its other name. apart
// gives it a mount namespace of its own, for which it takes CAP_SYS_ADMIN.
func startLauncher(apart bool) (*conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "launcher"), os.NewFile(uintptr(fds[1]), "launcher")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{launcher.Argv0}
	cmd.Dir = "/"
	cmd.Env = []string{"GOTRACEBACK=single"}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs} // becomes launcher.Socket
	// Away from the terminal: an interrupt is for us to pass on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if apart {
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	c := &conn{sock: ours, cmd: cmd, broken: make(chan struct{}), procs: make(map[uint64]*Process)}
	c.read.Go(c.receive)
	return c, nil
}

// close ends the launcher process and everything that it started, and waits until
// they are gone.
func (c *conn) close() error {
	c.mu.Lock()
	for _, p := range c.procs {
		p.orphaned()
	}
	c.mu.Unlock()
	// The other end reads the end of the connection and exits. It may be dead
	// already; how it ended is no news then, nor is it otherwise.
	unix.Shutdown(int(c.sock.Fd()), unix.SHUT_RDWR)
	stuck := time.AfterFunc(patience, func() { c.cmd.Process.Kill() })
	c.cmd.Wait()
	stuck.Stop()
	c.read.Wait()
	return c.sock.Close()
}

func (c *conn) send(p *Process, request *launcher.Request, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.broken:
		return ErrInterrupted
	default:
	}
	c.next++
	request.Magic, request.ID = launcher.Magic, c.next
	c.procs[c.next] = p
	for {
		err := unix.Sendmsg(int(c.sock.Fd()), request.Bytes(), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			delete(c.procs, request.ID)
		}
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ENOTCONN):
			return ErrInterrupted
		case err != nil:
			return fmt.Errorf("talk to the sandbox launcher: %w", err)
		}
		return nil
	}
}

// receive passes the launcher's answers on until it is gone, and then tells
// whoever still waits.
func (c *conn) receive() {
	defer c.orphan()
	oob := make([]byte, unix.CmsgSpace(4*4))
	for {
		var reply launcher.Reply
		n, oobn, _, _, err := unix.Recvmsg(int(c.sock.Fd()), reply.Bytes(), oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != len(reply.Bytes()) || reply.Magic != launcher.Magic {
			return
		}
		c.deliver(&reply, receivedFiles(oob[:oobn]))
	}
}

func receivedFiles(oob []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "sandbox"))
		}
	}
	return files
}

func (c *conn) deliver(reply *launcher.Reply, files []*os.File) {
	c.mu.Lock()
	p := c.procs[reply.ID]
	if reply.Kind != launcher.Started {
		delete(c.procs, reply.ID)
	}
	c.mu.Unlock()
	if p == nil {
		closeFiles(files)
		return
	}
	switch reply.Kind {
	case launcher.Started:
		p.begun(files)
	case launcher.Failed:
		p.fail(p.stepFailed(int(reply.Index), syscall.Errno(reply.Errno)))
	case launcher.Refused:
		p.fail(p.refused(reply.Index, syscall.Errno(reply.Errno)))
	case launcher.Exited:
		p.end(exitOf(reply), nil)
	}
}

func (c *conn) orphan() {
	close(c.broken)
	c.mu.Lock()
	procs := c.procs
	c.procs = make(map[uint64]*Process)
	c.mu.Unlock()
	for _, p := range procs {
		p.orphaned()
	}
	for _, p := range procs {
		p.gone()
		p.fail(ErrInterrupted)
		p.end(Exit{}, ErrInterrupted)
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func exitOf(r *launcher.Reply) Exit {
	status := syscall.WaitStatus(r.Status)
	e := Exit{UserTime: time.Duration(r.UserNS), SystemTime: time.Duration(r.SysNS), MaxRSS: int64(r.MaxRSS) << 10}
	if status.Signaled() {
		e.Signal = status.Signal()
	} else {
		e.Code = status.ExitStatus()
	}
	return e
}

var _ mountns.Runner = (*Launcher)(nil)
