package sandbox

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// Facts are what a program of system calls depends on besides the Spec.
type Facts struct {
	// Privileged says that the launcher may act as any user: it is root, outside
	// of any user namespace that would forbid it.
	Privileged bool
	// LandlockABI is the version of Landlock that the kernel has, 0 for none.
	LandlockABI int
	// IPv6 says that the kernel has it.
	IPv6 bool
	// Groups is how many entrances of control groups come with the program, after all
	// other descriptors.
	Groups int
}

func call(name string, number uintptr) program.Call { return program.Call{Name: name, Number: number} }

// Descriptors that come with every program.
const (
	fdStdin = iota
	fdStdout
	fdStderr
)

// compile turns a staged Spec into the program that its process begins with.
// mounts are what Stage gave. It is a pure function.
func compile(s *Spec, mounts []mountns.Mount, f Facts) *program.Program {
	c := &compiler{s: s, f: f, p: &program.Program{}}
	const besideMounts, ofMount = 100, 4 // about how many calls
	c.p.Grow(besideMounts + ofMount*len(mounts))
	c.begin()
	if s.Isolation == Full {
		c.network()
		c.names()
		mountns.Root(c.p, s.Root, s.Live)
		for _, m := range mounts {
			m.Compile(c.p, s.Root)
		}
		if s.Live != "" {
			mountns.Fork(c.p)
		}
		mountns.Pivot(c.p, s.Root)
		if s.Network == NetworkUser {
			c.awaitNetwork()
			c.keepOut(s.UserNetwork)
		}
	}
	c.restrict()
	c.become()
	c.end()
	return c.p
}

type compiler struct {
	s *Spec
	f Facts
	p *program.Program
}

// begin waits until the launcher has written the id maps, and takes the standard
// descriptors.
func (c *compiler) begin() {
	c.p.Begin()
	if c.s.Isolation == Full && c.s.Network == NetworkUser {
		c.enterGroups(fdNetwork + 1)
		c.handOver() // early: the network comes while the rest is made
	} else {
		c.enterGroups(fdStderr + 1)
	}
	c.session()
}

// session starts a session, with the standard descriptors that came, and takes its
// terminal.
func (c *compiler) session() {
	c.p.Add("start a session", call("setsid", unix.SYS_SETSID))
	for to, from := range []int{fdStdin, fdStdout, fdStderr} {
		c.p.Add("", call("dup3", unix.SYS_DUP3), program.Descriptor(from), program.Number(to), program.Number(0))
	}
	_, key := c.p.Add("start a session keyring", call("keyctl", unix.SYS_KEYCTL),
		program.Named(uint(unix.KEYCTL_JOIN_SESSION_KEYRING), "KEYCTL_JOIN_SESSION_KEYRING"), program.Null)
	key.AnyError = true // not every kernel or container has keyrings
	if c.s.Terminal {
		c.p.Add("take the terminal", call("ioctl", unix.SYS_IOCTL), program.Number(fdStdin), program.Named(uint(unix.TIOCSCTTY), "TIOCSCTTY"), program.Number(0))
	}
}

// enterGroups puts the process into its control groups, before it takes anything of the
// machine. Each descriptor, from the first on, is one's cgroup.procs; 0 means whoever
// writes it.
func (c *compiler) enterGroups(first int) {
	for i := range c.f.Groups {
		c.p.Add("enter the control group", call("write", unix.SYS_WRITE), program.Descriptor(first+i), program.Bytes([]byte("0"), `"0"`), program.Number(1))
	}
}

// network brings the loopback interface of a network of its own up.
func (c *compiler) network() {
	if c.s.Network == NetworkHost {
		return
	}
	sock, _ := c.p.Add("bring up the loopback interface", call("socket", unix.SYS_SOCKET),
		program.Named(uint(unix.AF_INET), "AF_INET"), program.Named(uint(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), "SOCK_DGRAM|SOCK_CLOEXEC"), program.Number(0))
	ifreq := make([]byte, 40)
	copy(ifreq, "lo")
	binary.NativeEndian.PutUint16(ifreq[unix.IFNAMSIZ:], unix.IFF_UP|unix.IFF_LOOPBACK|unix.IFF_RUNNING)
	c.p.Add("bring up the loopback interface", call("ioctl", unix.SYS_IOCTL), program.Result(sock),
		program.Named(uint(unix.SIOCSIFFLAGS), "SIOCSIFFLAGS"), program.Bytes(ifreq, `{"lo", IFF_UP|IFF_LOOPBACK|IFF_RUNNING}`))
	c.p.Add("", call("close", unix.SYS_CLOSE), program.Result(sock))
}

func (c *compiler) names() {
	if h := c.s.Hostname; h != "" {
		c.p.Add("set the host name", call("sethostname", unix.SYS_SETHOSTNAME), program.String(h), program.Number(len(h)))
	}
	if d := c.s.Domainname; d != "" {
		c.p.Add("set the domain name", call("setdomainname", unix.SYS_SETDOMAINNAME), program.String(d), program.Number(len(d)))
	}
}

// restrict takes away what may need privilege to be taken away. The filter has
// nothing against what still comes.
func (c *compiler) restrict() {
	s := c.s
	if s.Isolation == Full && !s.Users.many() {
		c.dropBoundingSet()
	}
	if !s.AllowNewPrivileges {
		c.p.Add("allow no new privileges", call("prctl", unix.SYS_PRCTL),
			program.Named(uint(unix.PR_SET_NO_NEW_PRIVS), "PR_SET_NO_NEW_PRIVS"), program.Number(1), program.Number(0), program.Number(0), program.Number(0))
	}
	persona, names := uint(addrNoRandomize), "ADDR_NO_RANDOMIZE"
	if s.Personality.Linux32 {
		persona, names = persona|perLinux32, "PER_LINUX32|"+names
	}
	if s.Personality.Uname26 {
		persona, names = persona|uname26, names+"|UNAME26"
	}
	c.p.Add("set the personality", call("personality", unix.SYS_PERSONALITY), program.Named(persona, names))
	c.landlock()
	c.seccomp()
}

// Flags of personality(2) that the syscall packages do not have.
const (
	perLinux32      = 0x0008
	uname26         = 0x0020000
	addrNoRandomize = 0x0040000
)

func (c *compiler) dropBoundingSet() {
	for n := range lastKnownCapability + 1 {
		_, in := c.p.Add("", call("prctl", unix.SYS_PRCTL), program.Named(uint(unix.PR_CAPBSET_DROP), "PR_CAPBSET_DROP"), program.Number(n), program.Number(0), program.Number(0), program.Number(0))
		in.Tolerate = unix.EINVAL
	}
}

// lastKnownCapability is CAP_CHECKPOINT_RESTORE.
const lastKnownCapability = unix.CAP_LAST_CAP

// become takes the identity of the user that the program runs as.
func (c *compiler) become() {
	u := c.s.Users
	switch {
	case u.Namespace:
		// The launcher has no supplementary groups, and none can be had.
		c.ids(u.InsideUID, u.InsideGID)
	case c.f.Privileged && u.OutsideUID != 0:
		c.p.Add("drop supplementary groups", call("setgroups", unix.SYS_SETGROUPS), program.Number(0), program.Null)
		c.ids(u.OutsideUID, u.OutsideGID)
	}
	if c.s.Isolation == Full && !u.many() {
		header, data := make([]byte, 8), make([]byte, 24)
		binary.NativeEndian.PutUint32(header, unix.LINUX_CAPABILITY_VERSION_3)
		c.p.Add("give up all capabilities", call("capset", unix.SYS_CAPSET), program.Bytes(header, "{_LINUX_CAPABILITY_VERSION_3}"), program.Bytes(data, "{0}"))
	}
	// A change of ids takes the death signal back.
	c.p.DieWithLauncher()
}

func (c *compiler) ids(uid, gid int) {
	c.p.Add("become the group", call("setresgid", unix.SYS_SETRESGID), program.Number(gid), program.Number(gid), program.Number(gid))
	c.p.Add("become the user", call("setresuid", unix.SYS_SETRESUID), program.Number(uid), program.Number(uid), program.Number(uid))
}

// landlockScopes is the version of Landlock that can keep a process from
// abstract sockets and signals of others.
const landlockScopes = 6

func (c *compiler) landlock() {
	if c.s.Isolation != Full || c.f.LandlockABI < landlockScopes || c.s.AllowNewPrivileges || c.s.Users.many() {
		return
	}
	c.scope()
}

// scope keeps the process from abstract sockets and signals of others.
func (c *compiler) scope() {
	const scopeAbstract, scopeSignal = 1 << 0, 1 << 1
	attr := make([]byte, 24) // struct landlock_ruleset_attr: the scopes are its third word
	binary.NativeEndian.PutUint64(attr[16:], scopeAbstract|scopeSignal)
	fd, _ := c.p.Add("restrict by landlock", call("landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET),
		program.Bytes(attr, "{scoped=LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET|LANDLOCK_SCOPE_SIGNAL}"), program.Number(len(attr)), program.Number(0))
	c.p.Add("restrict by landlock", call("landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF), program.Result(fd), program.Number(0))
	c.p.Add("", call("close", unix.SYS_CLOSE), program.Result(fd))
}

// ruleSets are the parts of the filter that a Spec asks for.
func (s *Spec) ruleSets() ruleSet {
	if !s.FilterSyscalls {
		return 0
	}
	sets := rulesSetID
	if s.Isolation == Full && !s.AllowNewPrivileges && !s.Users.many() {
		sets |= rulesKernel
		if !s.AllowUserNS {
			sets |= rulesUserNS
		}
	}
	return sets
}

func (c *compiler) seccomp() {
	sets := c.s.ruleSets()
	if sets == 0 {
		return
	}
	code := filter(abisOf[runtime.GOARCH], sets)
	prog := make([]byte, 16) // struct sock_fprog
	binary.NativeEndian.PutUint16(prog, uint16(len(code)))
	const setModeFilter = 1
	c.p.Add("filter system calls", call("seccomp", unix.SYS_SECCOMP), program.Named(uint(setModeFilter), "SECCOMP_SET_MODE_FILTER"), program.Number(0),
		program.Struct(prog, 8, program.Bytes(encodeFilter(code), ""), fmt.Sprintf("{%d instructions}", len(code))))
}

// end makes the process what any program expects to find itself in, and becomes
// it.
func (c *compiler) end() {
	s := c.s
	c.p.Add("", call("umask", unix.SYS_UMASK), program.Named(uint(0o022), "022"))
	core := make([]byte, 16)
	binary.NativeEndian.PutUint64(core[8:], unix.RLIM_INFINITY)
	_, limit := c.p.Add("limit core files", call("prlimit64", unix.SYS_PRLIMIT64), program.Number(0), program.Named(uint(unix.RLIMIT_CORE), "RLIMIT_CORE"),
		program.Bytes(core, "{0, RLIM_INFINITY}"), program.Null)
	limit.Tolerate = unix.EPERM // the hard limit is lower already
	c.signals()
	c.p.Add("enter "+s.Dir, call("chdir", unix.SYS_CHDIR), program.String(s.Dir))
	_, cloexec := c.p.Add("close other descriptors", call("close_range", unix.SYS_CLOSE_RANGE), program.Number(3), program.Named(^uint32(0), "~0U"),
		program.Named(uint(unix.CLOSE_RANGE_CLOEXEC), "CLOSE_RANGE_CLOEXEC"))
	cloexec.Tolerate = unix.EINVAL
	c.p.Add("execute "+s.Path, call("execve", unix.SYS_EXECVE), program.String(s.Path), program.Strings(s.Args), program.Strings(s.Env))
}

// signals gives every signal its default meaning and unblocks all of them: what
// the launcher ignores, because whoever started it did, would stay ignored.
func (c *compiler) signals() {
	for sig := 1; sig <= 64; sig++ {
		if sig == int(unix.SIGKILL) || sig == int(unix.SIGSTOP) {
			continue
		}
		c.p.Add("", call("rt_sigaction", unix.SYS_RT_SIGACTION), program.Number(sig), program.Bytes(make([]byte, 32), "{SIG_DFL}"), program.Null, program.Number(8))
	}
	c.p.Add("", call("rt_sigprocmask", unix.SYS_RT_SIGPROCMASK), program.Named(uint(unix.SIG_SETMASK), "SIG_SETMASK"),
		program.Bytes(make([]byte, 8), "[]"), program.Null, program.Number(8))
}

// cloneFlags are the namespaces of a Spec.
func (s *Spec) cloneFlags() uint64 {
	if s.Isolation != Full {
		return 0
	}
	flags := uint64(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if s.Network != NetworkHost {
		flags |= unix.CLONE_NEWNET
	}
	if s.Users.Namespace {
		flags |= unix.CLONE_NEWUSER
	}
	return flags
}
