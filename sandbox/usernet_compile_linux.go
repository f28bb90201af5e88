package sandbox

import (
	"encoding/binary"

	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// fdNetwork is the descriptor, after the standard ones, through which a program
// with a user-mode network hands out its namespaces and hears that they have a
// way out.
const fdNetwork = fdStderr + 1

// handOver sends the network namespace and the user namespace out. The numbers
// of the descriptors have to stand in the message, so the first two serve for
// it, before the standard ones come there.
func (c *compiler) handOver() {
	const what = "hand out the network namespace"
	for to, name := range []string{"/proc/self/ns/net", "/proc/self/ns/user"} {
		fd, _ := c.p.Add(what, call("openat", unix.SYS_OPENAT), program.Here, program.String(name), program.Named(uint(unix.O_RDONLY|unix.O_CLOEXEC), "O_RDONLY|O_CLOEXEC"))
		c.p.Add(what, call("dup3", unix.SYS_DUP3), program.Result(fd), program.Number(to), program.Number(0))
		c.p.Add("", call("close", unix.SYS_CLOSE), program.Result(fd))
	}
	rights := binary.NativeEndian.AppendUint64(nil, 16+8) // struct cmsghdr
	for _, word := range []uint32{unix.SOL_SOCKET, unix.SCM_RIGHTS, 0, 1} {
		rights = binary.NativeEndian.AppendUint32(rights, word)
	}
	message := make([]byte, 56) // struct msghdr
	const controlAt, controlLenAt = 32, 40
	binary.NativeEndian.PutUint64(message[controlLenAt:], uint64(len(rights)))
	c.p.Add(what, call("sendmsg", unix.SYS_SENDMSG), program.Descriptor(fdNetwork),
		program.Struct(message, controlAt, program.Bytes(rights, ""), "{SCM_RIGHTS 0, 1}"), program.Named(uint(unix.MSG_NOSIGNAL), "MSG_NOSIGNAL"))
}

// awaitNetwork waits until the network namespace has its way out.
func (c *compiler) awaitNetwork() {
	_, in := c.p.Add("wait for the user-mode network", call("read", unix.SYS_READ), program.Descriptor(fdNetwork), program.Bytes(make([]byte, 8), "buf"), program.Number(1))
	in.Check, in.Want = true, 1
}

// Descriptors of a stack's own program. The user namespace comes only if it is
// to be joined.
const (
	fdStackNamespace = iota // becomes standard input
	fdStackReady            // standard output
	fdStackSays             // standard error
	fdStackUser
)

// stackCapabilities are what a stack needs in the user namespace of what it
// serves: to enter its network namespace and to configure the interface there,
// and to see nothing of the machine's files afterwards.
var stackCapabilities = []uint{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}

// compileStack turns a stack into the program that its process begins with. With
// join it becomes the user that it serves, in that one's user namespace; otherwise
// it stays who we are. It is a pure function.
func compileStack(n UserNetwork, u Users, join bool, f Facts) *program.Program {
	c := &compiler{s: &Spec{}, f: f, p: &program.Program{}}
	p := c.p
	p.Begin()
	p.Add("start a session", call("setsid", unix.SYS_SETSID))
	for to := range fdStackUser {
		p.Add("", call("dup3", unix.SYS_DUP3), program.Descriptor(to), program.Number(to), program.Number(0))
	}
	// Nobody reads what it says while all is well: then it shall not wait for that.
	for _, fd := range []int{fdStdout, fdStderr} {
		p.Add("", call("fcntl", unix.SYS_FCNTL), program.Number(fd), program.Named(uint(unix.F_SETFL), "F_SETFL"), program.Named(uint(unix.O_WRONLY|unix.O_NONBLOCK), "O_WRONLY|O_NONBLOCK"))
	}
	if join {
		p.Add("join the user namespace", call("setns", unix.SYS_SETNS), program.Descriptor(fdStackUser), program.Named(uint(unix.CLONE_NEWUSER), "CLONE_NEWUSER"))
		c.ids(u.InsideUID, u.InsideGID)
		c.keepCapabilities(stackCapabilities)
	}
	p.Add("allow no new privileges", call("prctl", unix.SYS_PRCTL),
		program.Named(uint(unix.PR_SET_NO_NEW_PRIVS), "PR_SET_NO_NEW_PRIVS"), program.Number(1), program.Number(0), program.Number(0), program.Number(0))
	if f.LandlockABI >= landlockScopes {
		c.scope()
	}
	p.DieWithLauncher()
	c.signals()
	p.Add("enter /", call("chdir", unix.SYS_CHDIR), program.String("/"))
	_, cloexec := p.Add("close other descriptors", call("close_range", unix.SYS_CLOSE_RANGE), program.Number(3), program.Named(^uint32(0), "~0U"),
		program.Named(uint(unix.CLOSE_RANGE_CLOEXEC), "CLOSE_RANGE_CLOEXEC"))
	cloexec.Tolerate = unix.EINVAL
	p.Add("execute "+n.Program, call("execve", unix.SYS_EXECVE), program.String(n.Program), program.Strings(n.args(!join && f.Privileged)), program.Strings(nil))
	return p
}

// keepCapabilities gives all capabilities up but some, which stay over an exec.
func (c *compiler) keepCapabilities(keep []uint) {
	header, data := make([]byte, 8), make([]byte, 24)
	binary.NativeEndian.PutUint32(header, unix.LINUX_CAPABILITY_VERSION_3)
	var set uint32 // all are below 32
	for _, n := range keep {
		set |= 1 << n
	}
	for i := range 3 { // effective, permitted, inheritable
		binary.NativeEndian.PutUint32(data[4*i:], set)
	}
	c.p.Add("keep some capabilities", call("capset", unix.SYS_CAPSET), program.Bytes(header, "{_LINUX_CAPABILITY_VERSION_3}"), program.Bytes(data, "{CAP_NET_BIND_SERVICE|CAP_NET_ADMIN|CAP_SYS_ADMIN}"))
	for _, n := range keep {
		c.p.Add("keep some capabilities", call("prctl", unix.SYS_PRCTL), program.Named(uint(unix.PR_CAP_AMBIENT), "PR_CAP_AMBIENT"),
			program.Named(uint(unix.PR_CAP_AMBIENT_RAISE), "PR_CAP_AMBIENT_RAISE"), program.Number(n), program.Number(0), program.Number(0))
	}
}
