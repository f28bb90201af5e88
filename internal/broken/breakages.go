package main

// breakages has at least one entry for each number. Where a hole can be opened in
// several ways, the ones that a change would most likely make stand here.
var breakages = []breakage{
	{
		test: "T02 files of others are made canonical",
		pkg:  "store/local", run: "TestT02HardLinks",
		file: "store/local/canonical.go",
		old:  "if !c.owner.Owns(i.UID) {", new: "if false {",
	},
	{
		test: "T03 fixed outputs keep the builder's inodes",
		pkg:  "executor/outputs", run: "TestT03FixedOutputHasFreshInodes",
		file: "executor/outputs/collect.go",
		old:  "if !f.Spec.Kind.IsPure() {", new: "if false {",
	},
	{
		test: "T04 fchmodat2 sets the setuid bit",
		pkg:  "sandbox", run: "TestT04T23FilterInForce",
		file: "sandbox/seccomp_linux.go",
		old:  `{call: "fchmodat2", errno: unix.EPERM, when: setIDBits(2), only: rulesSetID},`, new: "",
	},
	{
		test: "T06 no certificate is looked at",
		pkg:  "executor/builtin", run: "TestT06Credentials",
		file: "executor/builtin/download.go",
		old:  "&tls.Config{RootCAs: roots,", new: "&tls.Config{InsecureSkipVerify: true, RootCAs: roots,",
	},
	{
		test: "T06 credentials go wherever a server sends us",
		pkg:  "executor/builtin", run: "TestT06Credentials",
		file: "executor/builtin/download.go",
		old:  "if r.URL.Scheme != d.url.Scheme || r.URL.Host != d.url.Host {", new: "if false {",
	},
	{
		test: "T08 objects are writable",
		pkg:  "executor/outputs", run: "TestT08CollectedOutputsAreCanonical",
		file: "store/local/canonical.go",
		old:  "storeExecutable = 0o555", new: "storeExecutable = 0o755",
	},
	{
		test: "T08b what is not canonical is moved into the store",
		pkg:  "store/local", run: "TestT08bFinalMode",
		file: "store/local/place.go",
		old:  "if !after.Same(&before) || !isCanonical(&after) {", new: "if false {",
	},
	{
		test: "T09 removal enters what a link leads to",
		pkg:  "internal/rmtree", run: "TestT09SwapWhileRemoving",
		file: "internal/dirfd/dirfd_linux.go",
		old:  "Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,", new: "Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,",
	},
	{
		test: "T09 names may have slashes",
		pkg:  "internal/rmtree", run: "TestT09NamesRefused",
		file: "internal/dirfd/dirfd.go",
		old:  `name == ".." || strings.ContainsAny(name, "/\x00")`, new: `name == "\x00" || strings.ContainsAny(name, "\x00")`,
	},
	{
		test: "T10 build directories have names that anybody can guess",
		pkg:  "executor/build", run: "TestT10BuildDirectory",
		file: "executor/build/workspace.go",
		old:  `rand.Text()[:12]`, new: `rand.Text()[:0]+"123456789012"`,
	},
	{
		test: "T10 everybody may enter what keeps a builder's directory",
		pkg:  "executor/build", run: "TestT10BuildDirectory",
		file: "executor/build/workspace.go",
		old:  "os.Mkdir(w.top, 0o700)", new: "os.Mkdir(w.top, 0o755)",
	},
	{
		test: "T11 everybody may write to the directory of build directories",
		pkg:  "executor/build", run: "TestT11BuildRoot",
		file: "executor/build/workspace.go",
		old:  "case st.Mode().Perm()&0o022 != 0:", new: "case false:",
	},
	{
		test: "T11 everybody may replace the directory of build directories",
		pkg:  "executor/build", run: "TestT11BuildRoot",
		file: "executor/build/workspace.go",
		old:  "if st.Mode().Perm()&0o002 != 0 && st.Mode()&fs.ModeSticky == 0 {", new: "if st.Mode()&fs.ModeNamedPipe != 0 {",
	},
	{
		test: "T13 a builder's files are written through links",
		pkg:  "executor/build", run: "TestT13ThingsInTheWay",
		file: "executor/build/workspace.go",
		old:  "os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644", new: "os.O_WRONLY|os.O_CREATE, 0o644",
	},
	{
		test: "T13 a builder's files are given to it by their names",
		pkg:  "executor/build", run: "TestT13SwapWhileWriting",
		file: "executor/build/workspace.go",
		old:  "err = f.Chown(w.user.UID, w.user.GID)", new: "err = os.Chown(filepath.Join(w.inner, name), w.user.UID, w.user.GID)",
	},
	{
		test: "T14 builtin builders reach what listens on this machine only",
		pkg:  "executor/builtin", run: "TestT14bAddresses",
		file: "executor/builtin/gate.go",
		old:  "case ip.IsLoopback(), ip.IsUnspecified():", new: "case false:",
	},
	{
		test: "T17 archives are made through links",
		pkg:  "nix/nar", run: "TestT17DumpFollowsNoLink",
		file: "internal/dirfd/dirfd_unix.go",
		old:  "flags|unix.O_NOFOLLOW|unix.O_CLOEXEC", new: "flags|unix.O_CLOEXEC",
	},
	{
		test: "T21 directories in archives are made through links",
		pkg:  "executor/builtin", run: "TestT21Members",
		file: "executor/builtin/unpack.go",
		old:  "return root.MkdirAll(name, 0o755)", new: "return os.MkdirAll(filepath.Join(root.Name(), name), 0o755)",
	},
	{
		test: "T21 hard links in archives lead anywhere",
		pkg:  "executor/builtin", run: "TestT21Members",
		file: "executor/builtin/unpack.go",
		old:  "return root.Link(target, name)", new: "_ = target; return os.Link(h.Linkname, filepath.Join(root.Name(), name))",
	},
	{
		test: "T23 user namespaces by clone3",
		pkg:  "sandbox", run: "TestT04T23FilterInForce",
		file: "sandbox/seccomp_linux.go",
		old:  `{call: "clone3", errno: unix.ENOSYS, only: rulesUserNS},`, new: "",
	},
	{
		test: "T23 packet sockets",
		pkg:  "sandbox", run: "TestT04T23FilterInForce",
		file: "sandbox/seccomp_linux.go",
		old:  "{arg: 0, mask: allBits, want: unix.AF_PACKET},", new: "",
	},
	{
		test: "T27 a build directory stays when a build is cancelled",
		pkg:  "interop", run: "TestT27InterruptEachPhase",
		file: "executor/build/attempt.go",
		old:  "defer func() { err = errors.Join(err, work.Remove()) }()", new: "defer func() { if ctx.Err() == nil { err = errors.Join(err, work.Remove()) } }()",
	},
	{
		test: "T28 nobody tidies up after a dead process",
		pkg:  "store/local", run: "TestT28Kill",
		file: "store/local/recover.go",
		old:  `strings.HasPrefix(name, ".") || s.journal.is(name)`, new: `true || s.journal.is(name)`,
	},
	{
		test: "T29 the machine's /proc is shown",
		pkg:  "sandbox", run: "TestT29NoMachineInProc",
		file: "mountns/compile_linux.go",
		old:  `mount(p, "mount "+m.Target, "proc", target, "proc", hardened, hardenedNames, "")`, new: `Mount{Source: "/proc", Target: "/proc", Writable: true}.bind(p, target)`,
	},
	{
		test: "T29 one build sees the processes of another",
		pkg:  "sandbox", run: "TestT29PtraceOfAnotherBuild",
		file: "mountns/compile_linux.go",
		old:  `mount(p, "mount "+m.Target, "proc", target, "proc", hardened, hardenedNames, "")`, new: `Mount{Source: "/proc", Target: "/proc", Writable: true}.bind(p, target)`,
	},
	{
		test: "T30 the umask is the caller's",
		pkg:  "sandbox", run: "TestT30FixedSurroundings",
		file: "sandbox/compile_linux.go",
		old:  `program.Named(uint(0o022), "022")`, new: `program.Named(uint(0o077), "022")`,
	},
}
