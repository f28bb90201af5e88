package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"github.com/opencontainers/runc/libcontainer/apparmor"
	"golang.org/x/sys/unix"
)

// UserNamespaces tells whether this process may make user namespaces: it makes
// one, the first time it is asked. A *SetupError says why not.
func (l *Launcher) UserNamespaces(ctx context.Context) error {
	l.mu.Lock()
	known, err := l.userNSKnown, l.userNSErr
	l.mu.Unlock()
	if known {
		return err
	}
	err = l.try(ctx, unix.CLONE_NEWUSER, nil)
	var failed *SetupError
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	if failed != nil {
		failed.Hint = userNamespaceRemedy(failed)
		failed.Stage = "create a user namespace"
	}
	l.mu.Lock()
	l.userNSKnown, l.userNSErr = true, err
	l.mu.Unlock()
	return err
}

// CanIsolate tries whether this process can make the namespaces of a Full
// sandbox and mount /proc in them. The error says why not.
func (l *Launcher) CanIsolate(ctx context.Context) error {
	if err := Capable(); err != nil {
		return err
	}
	flags := uint64(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET)
	if err := l.UserNamespaces(ctx); err == nil {
		flags |= unix.CLONE_NEWUSER
	} else if NeedsUserNamespaces() {
		return err
	}
	return l.try(ctx, flags, func(p *program.Program) {
		tryRoot(p)
		tryPivot(p)
	})
}

// tryMounts begins a root directory as sandboxes do. It writes nothing on the machine: the
// directory is in memory, where nothing is mounted that could not be seen through.
func tryMounts(p *program.Program) {
	mountns.Private(p)
	mountns.Mount{Kind: mountns.Tmpfs, Target: "/tmp"}.Compile(p, "/")
	mountns.Root(p, "/tmp", "")
}

// tryRoot is tryMounts with a /proc.
func tryRoot(p *program.Program) {
	tryMounts(p)
	mountns.Mount{Kind: mountns.Proc, Target: "/proc"}.Compile(p, "/")
}

// tryPivot makes every other call with which sandboxes change what is seen.
func tryPivot(p *program.Program) {
	mountns.Mount{Kind: mountns.Bind, Source: "/tmp", Target: "/tmp"}.Compile(p, "/")
	p.Add("copy the mount namespace", call("unshare", unix.SYS_UNSHARE), program.Named(uint(unix.CLONE_NEWNS), "CLONE_NEWNS"))
	mountns.Pivot(p, "/tmp")
}

// try runs a program of system calls in new namespaces.
func (l *Launcher) try(ctx context.Context, flags uint64, steps func(*program.Program)) error {
	p := &program.Program{}
	p.Begin()
	if steps != nil {
		steps(p)
	}
	request := launcher.Request{CloneFlags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		request.MapIDs = 1
		request.UIDMap = [3]uint64{1000, uint64(os.Geteuid()), 1}
		request.GIDMap = [3]uint64{100, uint64(os.Getegid()), 1}
		if os.Geteuid() == 0 {
			// As for a build user: to map root itself takes other capabilities.
			request.UIDMap[1], request.GIDMap[1] = nobody, nobody
		}
	}
	proc, err := l.launch(ctx, "probe", p, request, nil)
	if err != nil {
		return err
	}
	_, err = proc.Wait(context.WithoutCancel(ctx))
	return err
}

// nobody is an id that also containers with few ids have.
const nobody = 65534

// userNamespaceRemedy says what keeps user namespaces from this process.
func userNamespaceRemedy(failed *SetupError) string {
	switch {
	case sysctl("user/max_user_namespaces") == "0":
		return "/proc/sys/user/max_user_namespaces is 0: set it to 10000, by `sysctl user.max_user_namespaces=10000`"
	case sysctl("kernel/unprivileged_userns_clone") == "0" && os.Geteuid() != 0:
		return "/proc/sys/kernel/unprivileged_userns_clone is 0: set it to 1, by `sysctl kernel.unprivileged_userns_clone=1`"
	case sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" && os.Geteuid() != 0:
		return "AppArmor forbids them to programs without a profile: set kernel.apparmor_restrict_unprivileged_userns to 0, or give kiln a profile with 'userns,'"
	case inChroot():
		return "this process runs in a chroot, where the kernel forbids them: enter the root by pivot_root instead, or run kiln outside of it"
	}
	if remedy := containerRemedy(failed); remedy != "" {
		return remedy
	}
	return "a filter or container forbids them: allow clone and unshare with CLONE_NEWUSER, or give CAP_SYS_ADMIN"
}

func sysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// inChroot tells whether the root directory is not the root of its mount.
func inChroot() bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" {
			return false
		}
	}
	return true
}

// Probe finds out what this machine gives to sandboxes, by trying. It takes some
// milliseconds.
func (l *Launcher) Probe(ctx context.Context) []Check {
	p := &prober{l: l, ctx: ctx}
	p.kernel()
	p.capabilities()
	p.userNamespaces()
	p.namespaces()
	p.userNetwork()
	p.filters()
	p.terminal()
	p.cgroups()
	p.apparmor()
	return p.checks
}

type prober struct {
	l      *Launcher
	ctx    context.Context
	checks []Check
	userNS bool
}

func (p *prober) add(c Check) { p.checks = append(p.checks, c) }

func (p *prober) kernel() {
	var u unix.Utsname
	unix.Uname(&u)
	c := Check{Name: "kernel", Needed: true, OK: true, Found: "Linux " + unix.ByteSliceToString(u.Release[:])}
	if _, _, errno := unix.Syscall6(unix.SYS_MOUNT_SETATTR, ^uintptr(0), 0, 0, 0, 0, 0); errno == unix.ENOSYS {
		c.OK, c.Remedy = false, "mount_setattr is missing: Linux "+mountns.MountFloor+" or later is needed, and a container's filter must allow it"
	}
	p.add(c)
}

func (p *prober) capabilities() {
	c := Check{Name: "capabilities", Needed: true, OK: true, Found: "none are needed"}
	if os.Geteuid() == 0 {
		c.Found = "those to run builders as their build users"
	}
	var lacks *CapabilitiesError
	if errors.As(Capable(), &lacks) {
		c.OK, c.Found, c.Remedy = false, "without CAP_"+strings.Join(lacks.Names, ", CAP_"), lacks.Error()
	}
	p.add(c)
}

func (p *prober) userNamespaces() {
	err := p.l.UserNamespaces(p.ctx)
	p.userNS = err == nil
	c := Check{Name: "user namespace", OK: p.userNS, Needed: NeedsUserNamespaces(), Found: "can be created"}
	var failed *SetupError
	if errors.As(err, &failed) {
		c.Found, c.Remedy = fmt.Sprintf("refused (%v)", failed.Errno), failed.Hint
		if !c.Needed {
			c.Found += "; builders run as their build users without a mapping"
		}
	} else if err != nil {
		c.Found = err.Error()
	}
	p.add(c)
}

func (p *prober) namespaces() {
	var flags uint64
	if p.userNS {
		flags = unix.CLONE_NEWUSER
	}
	tries := []struct {
		name   string
		flags  uint64
		steps  func(*program.Program)
		remedy string
	}{
		{"mount namespace", unix.CLONE_NEWNS, tryMounts, "allow unshare and mount, or give CAP_SYS_ADMIN"},
		{"root directory", unix.CLONE_NEWNS, func(pr *program.Program) { tryMounts(pr); tryPivot(pr) }, "allow every call that mounts, and pivot_root"},
		{"pid namespace with /proc", unix.CLONE_NEWNS | unix.CLONE_NEWPID, tryRoot, "parts of /proc are hidden here, so that the kernel refuses a fresh one: in a container, unmask it (docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked)"},
		{"network namespace", unix.CLONE_NEWNET, func(pr *program.Program) { (&compiler{s: &Spec{}, p: pr}).network() }, "allow CLONE_NEWNET, and raise /proc/sys/user/max_net_namespaces if it is low"},
		{"ipc and uts namespaces", unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, nil, "allow CLONE_NEWIPC and CLONE_NEWUTS"},
	}
	for _, t := range tries {
		c := Check{Name: t.name, Needed: true, OK: true, Found: "works"}
		if err := p.l.try(p.ctx, flags|t.flags, t.steps); err != nil {
			c.OK, c.Found, c.Remedy = false, err.Error(), t.remedy
			if failed := (*SetupError)(nil); errors.As(err, &failed) {
				c.Found, c.Remedy = fmt.Sprintf("%s: %v", failed.Stage, failed.Errno), cmp.Or(containerRemedy(failed), t.remedy)
			}
		}
		p.add(c)
	}
}

func (p *prober) userNetwork() {
	c := Check{Name: "user-mode network", OK: true}
	n, err := p.l.UserNetwork(p.ctx, "")
	if err == nil {
		err = p.l.TryUserNetwork(p.ctx, n)
	}
	var network *UserNetworkError
	switch {
	case err == nil:
		c.Found = n.Program
	case errors.As(err, &network):
		c.OK, c.Found, c.Remedy = false, network.Reason, network.Remedy
	default:
		c.OK, c.Found = false, err.Error()
	}
	p.add(c)
}

func (p *prober) filters() {
	c := Check{Name: "seccomp", Needed: true, OK: true, Found: "filters"}
	const getActionAvail = 2
	action := uint32(retErrno)
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, getActionAvail, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		c.OK, c.Found, c.Remedy = false, errno.Error(), "the kernel needs CONFIG_SECCOMP_FILTER"
	}
	p.add(c)
	abi := landlockABI()
	c = Check{Name: "landlock", OK: abi >= landlockScopes, Found: "ABI " + strconv.Itoa(abi)}
	if !c.OK {
		c.Remedy = fmt.Sprintf("ABI %d (Linux 6.12) with landlock among the kernel's security modules keeps builders with a network from abstract sockets", landlockScopes)
	}
	p.add(c)
}

func (p *prober) terminal() {
	c := Check{Name: "pseudo-terminals", Needed: true, OK: true, Found: "work"}
	if pty, err := OpenPTY(os.Geteuid()); err != nil {
		c.OK, c.Found, c.Remedy = false, err.Error(), "mount devpts on /dev/pts"
	} else {
		pty.Close()
	}
	p.add(c)
}

func (p *prober) cgroups() {
	c := Check{Name: "cgroup", OK: true}
	var st unix.Statfs_t
	switch {
	case unix.Statfs("/sys/fs/cgroup", &st) != nil:
		c.OK, c.Found, c.Remedy = false, "not mounted", "mount cgroup2 on /sys/fs/cgroup"
		p.add(c)
		return
	case st.Type == unix.CGROUP2_SUPER_MAGIC:
		controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		c.Found = "version 2: " + strings.TrimSpace(string(controllers))
	default:
		c.Found = "version 1"
	}
	// Whether it can be used shows when it is. These limit nothing that is there.
	g, err := p.l.groups.Create(cgroup.Limits{Memory: 1 << 40, Processes: 1 << 15, CPUWeight: 100})
	if err != nil {
		c.OK, c.Remedy = false, err.Error()
		p.add(c)
		return
	}
	defer g.Close()
	if lacks := g.Lacks(); len(lacks) > 0 {
		c.OK = false
		var of []string
		for _, lack := range lacks {
			of = append(of, string(lack.Resource))
		}
		c.Found += "; not limited: " + strings.Join(of, ", ")
		c.Remedy = lacks[0].Why
	}
	p.add(c)
}

func (p *prober) apparmor() {
	if apparmor.IsEnabled() {
		p.add(Check{Name: "AppArmor", OK: true, Found: "enabled; kernel.apparmor_restrict_unprivileged_userns is " + sysctl("kernel/apparmor_restrict_unprivileged_userns")})
	}
}
