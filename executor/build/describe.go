package build

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

// What a sandbox looks like, as Nix has it.
const (
	insideUID = 1000
	insideGID = 100

	defaultBuildDir = "/build"
	defaultShmSize  = "50%"
)

// site says where things are on this machine for one attempt, and what the
// machine has.
type site struct {
	dir       nix.StoreDir
	realPath  func(nix.StorePath) string
	isolation sandbox.Isolation
	root      string // becomes "/"
	buildDir  string // on the machine
	user      *User
	// userNamespace says that ids can be mapped. Without, a builder has the ids of
	// its user inside as well.
	userNamespace bool
	shm, kvm      bool // the machine has /dev/shm, and /dev/kvm that builders may use
	// sandboxPathClosure has the store objects that sandbox paths need.
	sandboxPathClosure []nix.StorePath
}

// insideBuildDir is where the builder finds its build directory.
func (p *site) insideBuildDir(s *Settings) string {
	if p.isolation != sandbox.Full {
		return p.buildDir
	}
	return cmp.Or(s.SandboxBuildDir, defaultBuildDir)
}

// describe says which sandbox a derivation asks for. It is a pure function: the
// result can be printed, compared, and put into a bug report.
func describe(a *Attempt, s *Settings, p *site, sur *surroundings, outputs map[nix.OutputName]nix.StorePath) (*sandbox.Spec, error) {
	kind, err := a.Drv.Kind()
	if err != nil {
		return nil, err
	}
	buildDir := p.insideBuildDir(s)
	spec := &sandbox.Spec{
		Name:               string(a.DrvPath),
		Path:               a.Drv.Builder,
		Args:               sur.args,
		Env:                environ(sur.env),
		Dir:                buildDir,
		Isolation:          p.isolation,
		FilterSyscalls:     s.FilterSyscalls,
		AllowNewPrivileges: s.AllowNewPrivileges,
		Personality: sandbox.Personality{
			Linux32: s.System == "x86_64-linux" && a.Drv.System == "i686-linux",
			Uname26: s.ImpersonateLinux26,
		},
		Users: sandbox.Users{OutsideUID: p.user.UID, OutsideGID: p.user.GID, InsideUID: p.user.UID, InsideGID: p.user.GID},
	}
	limitResources(spec, s, a.limits(s), usesUIDRange(a))
	if p.isolation != sandbox.Full {
		return spec, nil
	}
	if p.userNamespace {
		spec.Users.Namespace = true
		spec.Users.InsideUID, spec.Users.InsideGID = insideUID, insideGID
	}
	if usesUIDRange(a) {
		spec.Users.InsideUID, spec.Users.InsideGID, spec.Users.Count = 0, 0, p.user.Count
	}
	if within(string(p.dir), buildDir) || buildDir == string(p.dir) {
		return nil, fmt.Errorf("sandbox-build-dir '%s' must not contain the store directory '%s'", buildDir, p.dir)
	}
	for _, own := range []string{"/dev", "/proc", "/sys"} {
		if within(string(p.dir), own) {
			return nil, fmt.Errorf("cannot build in a sandbox for the store directory '%s': sandboxes have a %s of their own; use a store directory elsewhere", p.dir, own)
		}
	}
	spec.Root = p.root
	spec.Hostname, spec.Domainname = "localhost", "(none)"
	if kind.IsPure() || a.Offline {
		spec.Network = sandbox.NetworkPrivate
	} else {
		spec.Network = sandbox.NetworkHost
	}
	if a.Recursive() {
		spec.Live = string(p.dir)
	}
	spec.Tree = tree(p, spec, buildDir, kind)
	spec.Mounts = mounts(a, s, p, buildDir, kind, outputs)
	return spec, nil
}

// limitResources asks for a control group where one is wanted.
func limitResources(spec *sandbox.Spec, s *Settings, l nix.Limits, uidRange bool) {
	spec.Group = s.UseCgroups || uidRange
	spec.Limits = cgroup.Limits{Memory: l.Memory, Processes: l.Processes, CPUWeight: l.CPUWeight, CPUQuota: l.CPUQuota}
	spec.RequireLimits = l.Require
}

// usesUIDRange tells whether a derivation's builder is to be the root of a range of
// users.
func usesUIDRange(a *Attempt) bool {
	return slices.Contains(a.Options.RequiredSystemFeatures, "uid-range")
}

// tree is what the sandbox's root has before anything is mounted on it.
func tree(p *site, spec *sandbox.Spec, buildDir string, kind nix.OutputKind) []sandbox.Entry {
	gid := p.user.GID
	uid, inGID := spec.Users.InsideUID, spec.Users.InsideGID
	root, etc := sandbox.Dir("/", 0o750).OwnedBy(0, gid), sandbox.Dir("/etc", 0o555)
	if spec.Users.Count > 1 {
		// What its builder does as root it may do here as well.
		root, etc = sandbox.Dir("/", 0o755).OwnedBy(p.user.UID, gid), sandbox.Dir("/etc", 0o755).OwnedBy(p.user.UID, gid)
	}
	entries := []sandbox.Entry{
		root,
		sandbox.Dir("/tmp", sandbox.ModeSticky),
		etc,
		sandbox.File("/etc/passwd", 0o644, fmt.Sprintf(
			"root:x:0:0:Nix build user:%[3]s:/noshell\nnixbld:x:%[1]d:%[2]d:Nix build user:%[3]s:/noshell\nnobody:x:65534:65534:Nobody:/:/noshell\n",
			uid, inGID, buildDir)),
		sandbox.File("/etc/group", 0o644, fmt.Sprintf("root:x:0:\nnixbld:!:%d:\nnogroup:x:65534:\n", inGID)),
		sandbox.Dir(string(p.dir), sandbox.ModeStickyGroup).OwnedBy(0, gid),
	}
	if kind.IsPure() {
		entries = append(entries, sandbox.File("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"))
	} else {
		entries = append(entries, sandbox.File("/etc/nsswitch.conf", 0o644, "hosts: files dns\nservices: files\n"))
	}
	return append(entries, sandbox.DevTree()...)
}

// mounts are what the sandbox shows of the machine, in the order of their places:
// parents come before what lies in them.
func mounts(a *Attempt, s *Settings, p *site, buildDir string, kind nix.OutputKind, outputs map[nix.OutputName]nix.StorePath) []mountns.Mount {
	at := make(map[string]mountns.Mount)
	for _, m := range sandbox.DevMounts() {
		at[m.Target] = m
	}
	if p.kvm && slices.Contains(a.Options.RequiredSystemFeatures, "kvm") {
		at["/dev/kvm"] = sandbox.Device("/dev/kvm")
	}
	if !kind.IsPure() {
		for _, f := range []string{"/etc/resolv.conf", "/etc/services", "/etc/hosts"} {
			at[f] = mountns.Mount{Kind: mountns.Bind, Source: f, Target: f, Optional: true, Follow: true}
		}
	}
	if !kind.IsPure() && s.Fetch.SSLCertFile != "" {
		const inside = "/etc/ssl/certs/ca-certificates.crt"
		at[inside] = mountns.Mount{Kind: mountns.Bind, Source: s.Fetch.SSLCertFile, Target: inside, Optional: true, Follow: true}
	}
	for _, sp := range s.SandboxPaths {
		if sp.Target != "/proc" {
			at[sp.Target] = mountns.Mount{Kind: mountns.Bind, Source: sp.Source, Target: sp.Target, Optional: sp.Optional, Writable: true, Devices: true}
		}
	}
	at[buildDir] = mountns.Mount{Kind: mountns.Bind, Source: p.buildDir, Target: buildDir, Writable: true, Devices: true}
	for in := range a.Closure {
		at[p.dir.Join(in)] = inputMount(p, in)
	}
	for _, in := range p.sandboxPathClosure {
		at[p.dir.Join(in)] = inputMount(p, in)
	}
	for _, o := range outputs {
		delete(at, p.dir.Join(o))
	}
	list := make([]mountns.Mount, 0, len(at)+3)
	for _, target := range slices.Sorted(maps.Keys(at)) {
		list = append(list, at[target])
	}
	list = append(list, mountns.Mount{Kind: mountns.Proc, Target: "/proc"})
	if usesUIDRange(a) {
		list = append(list, mountns.Mount{Kind: mountns.Sysfs, Target: "/sys"})
	}
	if p.shm {
		list = append(list, mountns.Mount{Kind: mountns.Tmpfs, Target: "/dev/shm", Size: cmp.Or(s.SandboxShmSize, defaultShmSize)})
	}
	return append(list, mountns.Mount{Kind: mountns.Devpts, Target: "/dev/pts"})
}

func inputMount(p *site, in nix.StorePath) mountns.Mount {
	return mountns.Mount{Kind: mountns.Bind, Source: p.realPath(in), Target: path.Join(string(p.dir), string(in))}
}

// within tells whether p lies below dir.
func within(p, dir string) bool { return strings.HasPrefix(p, dir+"/") }
