package conf

// executorSettings are about what runs here and how.
var executorSettings = []Definition{
	{
		Name: "system", Type: TypeString, Wire: WireOverride,
		DefaultText: "the system of this machine, such as `x86_64-linux`", defaultFor: defaultSystem,
		Doc: "The system type of this machine. A derivation is built here if its system is this one or one of " +
			"`extra-platforms`, or if its builder is built in.",
		field: func(s *Settings) value { return plain{&s.System} },
	},
	{
		Name: "extra-platforms", Type: TypeSet, Wire: WireOverride,
		DefaultText: "what the processor runs beside its own system: `i686-linux` and the microarchitecture levels on `x86_64-linux`, `x86_64-darwin` where Rosetta is installed",
		defaultFor:  defaultExtraPlatforms,
		Doc: "Further system types that this machine builds for. Naming one here promises that its programs run, by the " +
			"processor or by an emulator registered with the kernel; nothing checks it.",
		field: func(s *Settings) value { return set{&s.ExtraPlatforms} },
	},
	{
		Name: "system-features", Type: TypeSet, Wire: WireOverride,
		DefaultText: "`benchmark`, `big-parallel`, `nixos-test`; `uid-range` on Linux; `kvm` if `/dev/kvm` can be read and written; `apple-virt` if macOS can run virtual machines",
		defaultFor:  defaultSystemFeatures,
		Doc: "What this machine offers to derivations that ask by `requiredSystemFeatures`. A derivation whose features " +
			"are not all here is not built here. The names are free, but `kvm`, `uid-range` and `recursive-nix` also " +
			"change the sandbox.",
		field: func(s *Settings) value { return set{&s.SystemFeatures} },
	},
	{
		Name: "experimental-features", Type: TypeFeatures,
		Doc: "The experimental features of Nix that are switched on. Names that nobody knows are left out with a warning. " +
			"Within one file they count before every other line, wherever they stand.",
		field: func(s *Settings) value { return features{&s.ExperimentalFeatures} },
	},
	{
		Name: "max-jobs", Aliases: []string{"build-max-jobs"}, Type: TypeJobs, Default: "1", Wire: WireField,
		Doc: "How many builds run here at the same time; `auto` means one for each processor. With 0 nothing is built " +
			"here.",
		field: func(s *Settings) value { return jobs{&s.MaxJobs, s.cpus} },
	},
	{
		Name: "cores", Aliases: []string{"build-cores"}, Type: TypeInt, Default: "0", Wire: WireField,
		Doc: "How many processors one build is told to use, in `NIX_BUILD_CORES`; 0 means all of them. It is a request to " +
			"the builder, not a limit.",
		field: func(s *Settings) value { return number[int]{&s.Cores} },
	},
	{
		Name: "timeout", Aliases: []string{"build-timeout"}, Type: TypeSeconds, Default: "0", Wire: WireOverride, Untrusted: Allowed,
		Doc:   "A build that runs longer than this many seconds is killed; 0 lets it run.",
		field: func(s *Settings) value { return seconds(&s.Timeout) },
	},
	{
		Name: "max-silent-time", Aliases: []string{"build-max-silent-time"}, Type: TypeSeconds, Default: "0", Wire: WireField, Untrusted: Allowed,
		Doc:   "A build that prints nothing for this many seconds is killed; 0 lets it be silent.",
		field: func(s *Settings) value { return seconds(&s.MaxSilentTime) },
	},
	{
		Name: "max-build-log-size", Aliases: []string{"build-max-log-size"}, Type: TypeSize, Default: "0", Wire: WireOverride,
		Doc:   "A build that prints more bytes than this is killed; 0 sets no limit.",
		field: func(s *Settings) value { return number[Size]{&s.MaxBuildLogSize} },
	},
	{
		Name: "build-poll-interval", Type: TypeSeconds, Default: "5", Wire: WireOverride, Untrusted: Allowed,
		Doc: "How many seconds to wait before looking again at a lock that another process holds, on an output or on a " +
			"build user.",
		field: func(s *Settings) value { return seconds(&s.PollInterval) },
	},
	{
		Name: "keep-failed", Type: TypeBool, Default: "false", Wire: WireField,
		Doc:   "Keep the temporary directory of a build that failed, and say where it is.",
		field: func(s *Settings) value { return boolean{&s.KeepFailed} },
	},
	{
		Name: "keep-going", Type: TypeBool, Default: "false", Wire: WireField,
		Doc:   "After a build has failed, go on with the others that don't need it.",
		field: func(s *Settings) value { return boolean{&s.KeepGoing} },
	},
	{
		Name: "log-lines", Type: TypeInt, Default: "25", Wire: WireOverride,
		Doc:   "How many of the last lines of its log are shown when a build fails.",
		field: func(s *Settings) value { return number[int]{&s.LogLines} },
	},
	{
		Name: "impure-env", Type: TypeMap, Wire: WireOverride, Feature: ConfigurableImpure,
		Doc: "Environment variables, as `name=value` words, for fixed-output derivations that list the names in " +
			"`impureEnvVars`. They count before the executor's own environment.",
		field: func(s *Settings) value { return dict{&s.ImpureEnv} },
	},
	{
		Name: "builders", Type: TypeString, Wire: WireOverride, Untrusted: EmptyOK,
		DefaultText: "`@machines` in the configuration directory", defaultFor: defaultBuilders,
		Doc: "The machines that builds are passed on to, or `@` and a file that lists them, in the form that real Nix's " +
			"`nix __build-remote` reads. Where there are any, every build is offered to them first, but for those that " +
			"say `preferLocalBuild`. If the file does not exist or lists none, everything is built here.",
		field: func(s *Settings) value { return plain{&s.Builders} },
	},
	{
		Name: "builders-use-substitutes", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc:   "Let the machines of `builders` substitute what they need, in place of copying it to them. `build-hook` is told.",
		field: func(s *Settings) value { return boolean{&s.BuildersUseSubstitutes} },
	},
	{
		Name: "build-hook", Type: TypeList, Default: "nix __build-remote", Wire: WireOverride,
		Doc: "The program, with its arguments, that passes builds on to `builders`: that of a real Nix. It is only run " +
			"where there are any.",
		field: func(s *Settings) value { return list{&s.BuildHook} },
	},
	{
		Name: "build-hook-kill-timeout", Type: TypeMilliseconds, Default: "500", Wire: WireOverride,
		Doc:   "How many milliseconds a build hook may take to end after it was told to, before it is killed.",
		field: func(s *Settings) value { return milliseconds(&s.BuildHookKillTimeout) },
	},
	{
		Name: "pre-build-hook", Type: TypeString, Wire: WireOverride,
		Doc: "A program that is run before each build with the derivation's path, and in a sandboxed build the root of the " +
			"sandbox. What it prints after a line `extra-sandbox-paths`, up to an empty line, is added to the sandbox of " +
			"this build, an entry a line.",
		field: func(s *Settings) value { return plain{&s.PreBuildHook} },
	},
	{
		Name: "post-build-hook", Type: TypeString, Wire: WireOverride,
		Doc: "A program that is run after each successful build, with the derivation's path in `DRV_PATH` and the output " +
			"paths in `OUT_PATHS`. It runs with the rights of the executor. If it fails the outputs stay valid, but no " +
			"further build is started.",
		field: func(s *Settings) value { return plain{&s.PostBuildHook} },
	},
	{
		Name: "diff-hook", Type: TypeOptionalPath, Wire: WireOverride,
		Doc: "A program that is run, if `run-diff-hook` is set, when a repeated build came out differently. Its arguments " +
			"are the first output, the second, the derivation and the build's temporary directory; it runs as the build " +
			"user.",
		field: func(s *Settings) value { return file{&s.DiffHook} },
	},
	{
		Name: "run-diff-hook", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc:   "Run the program that `diff-hook` names.",
		field: func(s *Settings) value { return boolean{&s.RunDiffHook} },
	},
	{
		Name: "hook-timeout", Type: TypeSeconds, Default: "3600", Own: true,
		Doc: "How many seconds `pre-build-hook`, `post-build-hook` and `diff-hook` may take before they are killed, with " +
			"everything that they started. 0 stands for no limit.",
		field: func(s *Settings) value { return seconds(&s.HookTimeout) },
	},
	{
		Name: "require-limits", Type: TypeBool, Default: "false", Own: true,
		Doc: "Refuse to start a build on a machine where its resources cannot be limited, because no control group can be " +
			"had. Without it such a build runs, and its isolation report says which limits it ran without.",
		field: func(s *Settings) value { return boolean{&s.RequireLimits} },
	},

	{
		Name: "sandbox", Aliases: []string{"build-use-chroot", "build-use-sandbox"}, Type: TypeChoice, Wire: WireOverride,
		Choices:     []string{string(SandboxOn), string(SandboxRelaxed), string(SandboxOff)},
		DefaultText: "`true` on Linux, `false` elsewhere", defaultFor: defaultSandbox,
		Doc: "Whether builds are isolated from the machine: they see their inputs, a temporary directory, private /proc " +
			"and /dev, and what `sandbox-paths` adds, in process, mount, network, IPC and host name spaces of their own. " +
			"Only fixed-output builds reach the network. With `relaxed`, fixed-output derivations and those that set " +
			"`__noChroot` run outside.",
		field: func(s *Settings) value { return choice[SandboxMode]{&s.Sandbox} },
	},
	{
		Name: "sandbox-fallback", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc: "Build without a sandbox, after a warning, when the kernel doesn't let one be made. Nix does so unless told " +
			"otherwise; kiln only if this is set by hand.",
		field: func(s *Settings) value { return boolean{&s.SandboxFallback} },
	},
	{
		Name: "sandbox-paths", Aliases: []string{"build-chroot-dirs", "build-sandbox-paths"}, Type: TypeSandboxPaths, Wire: WireOverride,
		DefaultText: "nothing on Linux; the frameworks and shells of the system on macOS", defaultFor: defaultSandboxPaths,
		Doc: "Files and directories of the machine that every sandbox sees: `path`, or `target=source` to put it somewhere " +
			"else, with a '?' behind it if it may be missing. Of a source in the store, the closure is there as well.",
		field: func(s *Settings) value { return mounts{&s.SandboxPaths} },
	},
	{
		Name: "sandbox-build-dir", Type: TypePath, Default: "/build", Wire: WireOverride,
		Doc:   "Where a builder in a sandbox sees its temporary directory (Linux).",
		field: func(s *Settings) value { return file{&s.SandboxBuildDir} },
	},
	{
		Name: "sandbox-dev-shm-size", Type: TypeString, Default: "50%", Wire: WireOverride,
		Doc:   "How large /dev/shm may grow in a sandbox (Linux), in the notation of the `size` option of tmpfs.",
		field: func(s *Settings) value { return plain{&s.SandboxDevShmSize} },
	},
	{
		Name: "allowed-impure-host-deps", Type: TypeSet, Wire: WireOverride,
		DefaultText: "nothing on Linux; the parts of the system that every program needs on macOS", defaultFor: defaultImpureHostDeps,
		Doc:   "Directories below which a derivation may ask for host files by `__impureHostDeps`.",
		field: func(s *Settings) value { return set{&s.AllowedImpureHostDeps} },
	},
	{
		Name: "allow-new-privileges", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc: "Let builders gain privileges by running setuid or setgid programs or programs with file capabilities " +
			"(Linux). There are none in a sandbox unless `sandbox-paths` brings them in.",
		field: func(s *Settings) value { return boolean{&s.AllowNewPrivileges} },
	},
	{
		Name: "filter-syscalls", Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc: "Keep builders from the system calls that make setuid and setgid files and those that set extended attributes " +
			"(Linux).",
		field: func(s *Settings) value { return boolean{&s.FilterSyscalls} },
	},
	{
		Name: "impersonate-linux-26", Aliases: []string{"build-impersonate-linux-26"}, Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc:   "Show builders a kernel version that begins with 2.6, for programs that refuse any other (Linux).",
		field: func(s *Settings) value { return boolean{&s.ImpersonateLinux26} },
	},
	{
		Name: "use-cgroups", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc: "Run each build in a control group of its own (Linux). Builds with the feature `uid-range` get one in any " +
			"case.",
		field: func(s *Settings) value { return boolean{&s.UseCgroups} },
	},
	{
		Name: "build-memory-max", Type: TypeSize, Default: "0", Own: true,
		Doc: "How many bytes of memory, swap included, one build may use with everything that it starts (Linux); 0 sets no " +
			"limit. It needs a control group, which a build with such a limit gets whatever `use-cgroups` says. A request and " +
			"a derivation (`kilnLimits`) can have limits of their own: the tightest counts.",
		field: func(s *Settings) value { return number[Size]{&s.BuildMemoryMax} },
	},
	{
		Name: "build-processes-max", Type: TypeInt, Default: "0", Own: true,
		Doc:   "How many processes and threads one build may have at a time (Linux); 0 sets no limit. It needs a control group.",
		field: func(s *Settings) value { return number[int]{&s.BuildProcessesMax} },
	},
	{
		Name: "build-cpu-weight", Type: TypeInt, Default: "0", Own: true,
		Doc: "The share of one build in processors that others want as well, from 1 to 10000; 100 is what everything else " +
			"has (Linux); 0 leaves it. It needs a control group.",
		field: func(s *Settings) value { return number[int]{&s.BuildCPUWeight} },
	},
	{
		Name: "build-cpu-quota", Type: TypeInt, Default: "0", Own: true,
		Doc: "How much processor time one build may use, in hundredths of one processor: 150 is one and a half (Linux); 0 " +
			"sets no limit. It needs a control group.",
		field: func(s *Settings) value { return number[int]{&s.BuildCPUQuota} },
	},
	{
		Name: "build-output-max", Type: TypeSize, Default: "0", Own: true,
		Doc: "How many bytes the outputs of one build may have together; 0 sets no limit. They are looked at again and " +
			"again while it runs, so for a moment there may be more.",
		field: func(s *Settings) value { return number[Size]{&s.BuildOutputMax} },
	},
	{
		Name: "build-dir-max", Type: TypeSize, Default: "0", Own: true,
		Doc: "How many bytes one build may have in its build directory, and in whatever else of its sandbox it can write to, " +
			"but for its outputs; 0 sets no limit. It is enforced as `build-output-max` is.",
		field: func(s *Settings) value { return number[Size]{&s.BuildDirMax} },
	},
	{
		Name: "service-roles", Type: TypeMap, Own: true,
		Doc: "Who may do what at the executor service, as `who=role` words. A role is `watch`, `submit` (watch, build and " +
			"cancel one's own builds), `admin` (everything) or `none`. Who is `user:` and a name or number of a user of this " +
			"machine, `users` for all others of them, `cert:` and a name that stands in a client's certificate (a URI, a DNS " +
			"name or the common name), or `plaintext` for whoever comes unencrypted by loopback. Root and the user that " +
			"kiln runs as are `admin`; nobody else has a role who is not given one.",
		field: func(s *Settings) value { return dict{&s.ServiceRoles} },
	},
	{
		Name: "service-retention", Type: TypeSeconds, Default: "86400", Own: true,
		Doc:   "For how many seconds the executor service keeps the result and the log of a build after its end.",
		field: func(s *Settings) value { return seconds(&s.ServiceRetention) },
	},
	{
		Name: "user-network", Type: TypeChoice, Default: string(UserNetworkAuto), Own: true,
		Choices: []string{string(UserNetworkAuto), string(UserNetworkRequire), string(UserNetworkOff)},
		Doc: "Whether sandboxed builds that reach the network, which are fixed-output builds, do so from a network " +
			"namespace of their own, whose way out is a user-mode network stack (Linux). They cannot reach the machine's " +
			"loopback interface, its abstract sockets, or link-local addresses, then. With `auto` they get the machine's " +
			"network where that cannot be had, or where a proxy of theirs is on the machine's loopback interface, and their " +
			"isolation report says why; with `require` they fail; with `off` they always get the machine's network, as in " +
			"Nix.",
		field: func(s *Settings) value { return choice[UserNetwork]{&s.UserNetwork} },
	},
	{
		Name: "user-network-program", Type: TypeOptionalPath, Own: true,
		Doc: "The user-mode network stack for `user-network`: the file of `pasta` or `slirp4netns`. Empty, they are looked " +
			"for in `PATH`, in this order.",
		field: func(s *Settings) value { return file{&s.UserNetworkProgram} },
	},
	{
		Name: "recursive-nix-fixed-output", Type: TypeChoice, Default: string(NestedFetchOffline), Own: true,
		Choices: []string{string(NestedFetchOffline), string(NestedFetchRefuse), string(NestedFetchAllow)},
		Doc: "What becomes of a fixed-output derivation that a builder asks for through recursive Nix. With `offline` it " +
			"is built without network, so that only what needs none succeeds; with `refuse` it is not built; with `allow` " +
			"it gets the network, as in Nix. A builder that may start downloads can use their success and failure to " +
			"learn things that a pure build must not depend on.",
		field: func(s *Settings) value { return choice[NestedFetch]{&s.RecursiveNixFixedOutput} },
	},

	{
		Name: "build-users-group", Type: TypeString, Wire: WireOverride,
		DefaultText: "`nixbld` for root, nothing for others", defaultFor: defaultBuildUsersGroup,
		Doc: "The group whose members are the accounts that builds run as, one build an account at a time. They must not " +
			"be used for anything else: a build kills every process of its account. Empty, builds run as the user of the " +
			"executor itself. Only root can use it.",
		field: func(s *Settings) value { return plain{&s.BuildUsersGroup} },
	},
	{
		Name: "auto-allocate-uids", Type: TypeBool, Default: "false", Wire: WireOverride, Feature: AutoAllocateUIDs,
		Doc: "Run builds as user ids taken from the range that `start-id` and `id-count` describe, which needs no " +
			"accounts, in place of `build-users-group`.",
		field: func(s *Settings) value { return boolean{&s.AutoAllocateUIDs} },
	},
	{
		Name: "start-id", Type: TypeInt, Wire: WireOverride,
		DefaultText: "872415232 on Linux, 56930 elsewhere", defaultFor: defaultStartID,
		Doc:   "The first user and group id for `auto-allocate-uids`.",
		field: func(s *Settings) value { return number[uint32]{&s.StartID} },
	},
	{
		Name: "id-count", Type: TypeInt, Wire: WireOverride,
		DefaultText: "8388608 on Linux, 128 elsewhere", defaultFor: defaultIDCount,
		Doc:   "How many ids from `start-id` on `auto-allocate-uids` may use.",
		field: func(s *Settings) value { return number[uint32]{&s.IDCount} },
	},
	{
		Name: "require-drop-supplementary-groups", Type: TypeBool, Wire: WireOverride,
		DefaultText: "`true` for root, `false` for others", defaultFor: defaultDropGroups,
		Doc: "Fail a sandboxed build if the supplementary groups of the executor cannot be dropped. Set to false, builders " +
			"may keep them where dropping needs a privilege that is missing.",
		field: func(s *Settings) value { return boolean{&s.RequireDropSupplementaryGroups} },
	},
	{
		Name: "build-dir", Type: TypeOptionalPath, Wire: WireOverride,
		Doc: "Where builds get their temporary directories on the machine; empty leaves it to the store, which has " +
			"`builds` in its state directory. It must not be writable by everybody.",
		field: func(s *Settings) value { return file{&s.BuildDir} },
	},
}
