package build

import (
	"slices"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/drvopts"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/store/local"
)

// SandboxMode says whether builders are isolated.
type SandboxMode uint8

// The values of the setting `sandbox`.
const (
	SandboxRequired SandboxMode = iota // true: always
	SandboxRelaxed                     // relaxed: except where a derivation says that it cannot be
	SandboxOff                         // false
)

// Settings are what an attempt can be told. They are the settings of nix.conf
// of nearly the same names; ARCHITECTURE.md says where each comes from.
type Settings struct {
	Sandbox SandboxMode
	// SandboxFallback builds without isolation on a machine that cannot give it.
	// It must only be set when a person asked for it by hand.
	SandboxFallback bool
	SandboxPaths    []SandboxPath
	// AllowedImpureHostDeps are the files and directories of the machine that
	// derivations may ask for themselves, with all that is below them.
	AllowedImpureHostDeps []string
	SandboxBuildDir       string // where the build directory is in the sandbox; "/build" when empty
	SandboxShmSize        string // size of /dev/shm as mount(8) takes it; "50%" when empty
	// BuildDir has the build directories on this machine; the store's own state
	// directory has them when it is empty.
	BuildDir           string
	System             string // of this machine, "x86_64-linux"
	Cores              int    // NIX_BUILD_CORES; 0 for all that there are
	FilterSyscalls     bool
	AllowNewPrivileges bool
	ImpersonateLinux26 bool
	KeepFailed         bool
	Limits             nix.Limits
	UseCgroups         bool // give each builder a control group also if no limit needs one
	LogLines           int  // lines of the log kept for messages
	DiscardLog         bool // do not keep the log
	// Sign gives signatures of a fingerprint (package nix/sign) of what was built, if it
	// is not nil.
	Sign func(fingerprint string) ([]string, error)
	// ImpureEnv are values for impureEnvVars that come before the environment's.
	ImpureEnv map[string]string
	// Environ gives the variables of kiln's own environment for impureEnvVars.
	Environ func(name string) (string, bool)
	Fetch   FetchSettings
	Hooks   Hooks
	// UserNetwork is for builders that have a network.
	UserNetwork UserNetworkSettings
	// NestedNetwork is for builders that other builders have asked for.
	NestedNetwork nix.NetworkPolicy
}

// Machine is what attempts have in common. All fields must be set. It is safe
// for concurrent use, and stays the caller's.
type Machine struct {
	Store    *local.Store
	Launcher *sandbox.Launcher
	Users    *Users
	// Self is the file of a static program that runs builtin.Main when it is
	// called builtin.Name. The users that build must be allowed to run it.
	Self string

	reports reports
	hosts   hosts
	origin  *Machine // of a With; nil for one that has the hosts itself
}

// With is the same machine with a lease of its store.
func (m *Machine) With(st *local.Store) *Machine {
	return &Machine{Store: st, Launcher: m.Launcher, Users: m.Users, Self: m.Self, origin: m.first()}
}

// first is the machine that others were made of.
func (m *Machine) first() *Machine {
	if m.origin != nil {
		return m.origin
	}
	return m
}

// Attempt is one derivation to be built, with everything that has been found out
// about it.
type Attempt struct {
	DrvPath nix.StorePath
	Drv     *nix.BasicDerivation
	Options *drvopts.Options
	// Closure has every store object that the builder may see.
	Closure map[nix.StorePath]*nix.PathInfo
	// Mode says what to do about outputs that are valid.
	Mode nix.BuildMode
	// Known has what is known of each output before the build.
	Known map[nix.OutputName]KnownOutput
	// Realise also records which objects the outputs are.
	Realise bool
	// Limits are those of who asked.
	Limits nix.Limits
	// MinIsolation is that of nix.BuildRequest.
	MinIsolation string
	// KeepSandbox is that of nix.BuildRequest.
	KeepSandbox bool
	// Offline gives the builder no network even if its derivation would have it.
	Offline bool
	// Nested makes what the builder asks for, if it may ask (Recursive).
	Nested nix.Builder
	Log    nix.LogSink
	// BuilderEnded is called as soon as the builder is gone, before its outputs
	// are looked at: another builder may start. It may be called again.
	BuilderEnded func()
}

// Recursive tells whether the builder may call Nix itself.
func (a *Attempt) Recursive() bool {
	return slices.Contains(a.Options.RequiredSystemFeatures, drvopts.FeatureRecursive)
}

// limits are those that hold for the attempt: of the machine, of who asked, and of the
// derivation.
func (a *Attempt) limits(s *Settings) nix.Limits {
	return s.Limits.Tightest(a.Limits).Tightest(a.Options.Limits)
}

// KnownOutput is what is known of an output before its derivation is built.
type KnownOutput struct {
	Path    nix.StorePath // where it belongs, or what it was before; "" if neither is known
	Valid   bool          // it is there and as it should be
	Damaged bool          // it counts as valid, but is to be replaced
}

// Result is what there is to say of an attempt in which a builder ran, whether
// it succeeded or not.
type Result struct {
	Outputs      map[nix.OutputName]nix.Realisation // of a success
	Start, Stop  time.Time
	Differences  []nix.OutputDifference // of BuildCheck
	Resources    *nix.Resources
	Isolation    *nix.Isolation
	Nested       []nix.NestedBuild
	LogTail      []string
	KeptBuildDir string
	KeptSandbox  string
}

// BuilderError is the failure of a builder that ran.
type BuilderError struct {
	Status nix.BuildStatus
	Reason string // "failed with exit code 3", "failed due to signal 9 (Killed)"
	Note   string // what may help, "" or text that begins with a line end
	// Failure says the same for programs.
	Failure nix.Failure
}

func (e *BuilderError) Error() string { return "builder " + e.Reason }
