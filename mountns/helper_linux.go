package mountns

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// helper is a process in the sibling namespace that attaches what it is asked to.
// Whoever enters a user namespace has a single thread, so it is a fork of the launcher
// that enters, by a program of system calls; and since a fork for each path would
// take longer than all the rest, that fork becomes this program again, which stays as
// long as the sandbox. It is not in the sandbox's pid namespace: builders cannot name
// it.
type helper struct {
	mu     sync.Mutex // one question at a time
	packet []byte     // room for what comes back
	socket *os.File
	ended  chan struct{} // closed when it has
	err    error         // set before
}

// HelperName is what the process is called (argv[0]).
const HelperName = "kiln-attach"

// maxBatch bounds one message, which has to fit into one packet.
const maxBatch = 128

// batch is what the helper is asked for.
type batch struct {
	Live        string
	Attachments []Attachment
	Detach      bool // take them back
}

// answer is what came of it.
type answer struct {
	Done  int     // how many are as asked for, all unless Errno is set
	What  string  // failed,
	Errno uintptr // and why
}

var (
	callSetns  = program.Call{Name: "setns", Number: unix.SYS_SETNS}
	callCapset = program.Call{Name: "capset", Number: unix.SYS_CAPSET}
	callPrctl  = program.Call{Name: "prctl", Number: unix.SYS_PRCTL}
	callDup3   = program.Call{Name: "dup3", Number: unix.SYS_DUP3}
	callExecve = program.Call{Name: "execve", Number: unix.SYS_EXECVE}
)

// helperEnviron keeps the runtime from sending signals to the helper while it waits.
var helperEnviron = []string{"GODEBUG=asyncpreemptoff=1"}

// startHelper starts it. The caller holds n.mu.
func (n *Namespace) startHelper() (*helper, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "attach")
	descriptors := []*os.File{n.mount, theirs}
	if n.user != nil {
		descriptors = append(descriptors, n.user)
	}
	// With descriptors of its own, the start is not in the way of Close.
	for i, f := range descriptors {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		descriptors[i] = os.NewFile(uintptr(fd), f.Name())
	}
	theirs.Close()
	h := &helper{packet: make([]byte, 16<<10), socket: os.NewFile(uintptr(pair[0]), "attach"), ended: make(chan struct{})}
	go func() {
		defer close(h.ended)
		h.err = n.runner.Run(context.Background(), helperProgram(n.user != nil), descriptors...)
		for _, f := range descriptors {
			f.Close()
		}
	}()
	return h, nil
}

// helperProgram enters the namespaces and becomes the helper. Descriptor 0 is the
// mount namespace, 1 the socket, 2 the user namespace.
func helperProgram(user bool) *program.Program {
	p := &program.Program{}
	p.Begin()
	if user {
		const what = "enter the sandbox's user namespace"
		p.Add(what, callSetns, program.Descriptor(2), program.Named(uint(unix.CLONE_NEWUSER), "CLONE_NEWUSER"))
		// Who is not root in there would lose by execve what mounting needs.
		header, data := make([]byte, 8), make([]byte, 24)
		binary.NativeEndian.PutUint32(header, unix.LINUX_CAPABILITY_VERSION_3)
		for _, set := range []int{0, 4, 8} { // effective, permitted, inheritable
			binary.NativeEndian.PutUint32(data[set:], 1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_SYS_CHROOT)
		}
		p.Add(what, callCapset, program.Bytes(header, "{_LINUX_CAPABILITY_VERSION_3}"), program.Bytes(data, "{CAP_SYS_ADMIN|CAP_SYS_CHROOT}"))
		p.Add(what, callPrctl, program.Named(uint(unix.PR_CAP_AMBIENT), "PR_CAP_AMBIENT"), program.Named(uint(unix.PR_CAP_AMBIENT_RAISE), "PR_CAP_AMBIENT_RAISE"),
			program.Named(uint(unix.CAP_SYS_ADMIN), "CAP_SYS_ADMIN"), program.Number(0), program.Number(0))
	}
	p.Add("enter the sibling mount namespace", callSetns, program.Descriptor(0), program.Named(uint(unix.CLONE_NEWNS), "CLONE_NEWNS"))
	const what = "become the helper that attaches"
	p.Add(what, callDup3, program.Descriptor(1), program.Number(0), program.Number(0))
	p.Add(what, callExecve, program.String("/proc/self/exe"), program.Strings([]string{HelperName}), program.Strings(helperEnviron))
	return p
}

// ask asks for something, waits for it, and tells how much of it was done.
func (h *helper) ask(b batch) (done int, err error) {
	message, err := json.Marshal(b)
	if err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.socket.Write(message); err != nil {
		return 0, h.gone(err)
	}
	size, err := h.socket.Read(h.packet)
	if err != nil {
		return 0, h.gone(err)
	}
	var a answer
	if err := json.Unmarshal(h.packet[:size], &a); err != nil {
		return 0, fmt.Errorf("attach to sandbox: %w", err)
	}
	if a.Errno != 0 {
		err = fmt.Errorf("%s: %w", a.What, unix.Errno(a.Errno))
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: %w", ErrAttached, err)
		}
	}
	return a.Done, err
}

// gone says why there is no helper any more.
func (h *helper) gone(err error) error {
	h.socket.Close()
	<-h.ended
	return fmt.Errorf("attach to sandbox: the helper has ended: %w", errors.Join(h.err, err))
}

// Whoever imports this package is the helper when it is called so, before anything
// else happens.
func init() {
	if len(os.Args) == 1 && os.Args[0] == HelperName {
		// While packages are initialised, this goroutine is bound to a thread, and every
		// wait would be handed from thread to thread.
		go func() { unix.Exit(serve(0)) }()
		select {}
	}
}

// serve attaches what packets on a socket ask for, until that is closed.
func serve(socket int) int {
	request := make([]byte, 256<<10)
	for {
		await(socket)
		n, err := unix.Read(socket, request)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return 0
		}
		var b batch
		a := failed("read what to attach", unix.EBADMSG)
		if err := json.Unmarshal(request[:n], &b); err == nil {
			a = b.do()
		}
		packet, err := json.Marshal(a)
		if err != nil {
			return 1
		}
		if _, err := unix.Write(socket, packet); err != nil {
			return 0
		}
	}
}

// attentive is how long, in nanoseconds, the helper waits for the next packet without
// saying so to the runtime. That would look after it every 20 µs, which takes more time
// than attaching, and does nothing for a process with a single goroutine. What the
// runtime wants of it itself, as when it collects garbage, has to wait so long.
const attentive = 20e6

// await waits for a packet, but not for longer than attentive.
func await(socket int) {
	fd := unix.PollFd{Fd: int32(socket), Events: unix.POLLIN}
	timeout := unix.NsecToTimespec(attentive)
	unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fd)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
}

func failed(what string, err error) answer {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = unix.EIO
	}
	return answer{What: what, Errno: uintptr(errno)}
}

// do attaches up to the first failure, or detaches all that it can.
func (b *batch) do() (a answer) {
	dir, err := unix.Openat2(unix.AT_FDCWD, b.Live, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return failed("open "+b.Live, err)
	}
	defer unix.Close(dir)
	done := 0
	for _, attachment := range b.Attachments {
		what, do := "attach ", attachment.attachIn
		if b.Detach {
			what, do = "detach ", attachment.detachFrom
		}
		switch err := do(dir); {
		case err == nil:
			done++
			continue
		case a.Errno == 0:
			a = failed(what+attachment.Source, err)
		}
		if !b.Detach {
			break
		}
	}
	a.Done = done
	return a
}

func (a Attachment) attachIn(dir int) error {
	var st unix.Stat_t
	if err := unix.Lstat(a.Source, &st); err != nil {
		return err
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(a.Source)
		if err != nil {
			return err
		}
		return unix.Symlinkat(target, dir, a.Name)
	case unix.S_IFDIR:
		err = unix.Mkdirat(dir, a.Name, 0o755)
	default:
		err = unix.Mknodat(dir, a.Name, unix.S_IFREG|0o444, 0)
	}
	if err != nil {
		return err
	}
	if err := a.mountAt(dir); err != nil {
		// What it was made for is not coming.
		return errors.Join(err, a.unlinkFrom(dir, st.Mode))
	}
	return nil
}

// mountAt mounts it where there is a place for it.
func (a Attachment) mountAt(dir int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, a.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	// Done after the mount is in place, it would not reach the sandbox.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", dir, a.Name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// detachFrom takes back what attachIn did.
func (a Attachment) detachFrom(dir int) error {
	var st unix.Stat_t
	if err := unix.Lstat(a.Source, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		// By a name in the working directory: there is no unmounting by descriptor.
		if err := unix.Fchdir(dir); err != nil {
			return err
		}
		if err := unix.Unmount(a.Name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return err
		}
	}
	return a.unlinkFrom(dir, st.Mode)
}

// unlinkFrom removes the place of something of that mode.
func (a Attachment) unlinkFrom(dir int, mode uint32) error {
	flags := 0
	if mode&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
	}
	return unix.Unlinkat(dir, a.Name, flags)
}
