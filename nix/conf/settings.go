package conf

import (
	"errors"
	"fmt"
	"iter"
	"time"
)

// Settings are the values of all settings. The fields are those that kiln
// honours; Value reaches every setting by name. What each means stands in its
// Definition.
//
// Make one with New or Load. Reading is safe for concurrent use, changing is
// not: a connection that may change settings works on a Clone. Slices and maps
// in the fields belong to the Settings and must not be changed in place.
type Settings struct {
	// What may run here, and how.
	System               string
	ExtraPlatforms       StringSet
	SystemFeatures       StringSet
	ExperimentalFeatures Features
	MaxJobs              int // 0: build nothing here
	Cores                int // 0: all
	Timeout              time.Duration
	MaxSilentTime        time.Duration
	MaxBuildLogSize      Size // 0: no limit
	PollInterval         time.Duration
	KeepFailed           bool
	KeepGoing            bool
	LogLines             int
	ImpureEnv            map[string]string
	Builders             string
	BuildHook            []string

	BuildersUseSubstitutes bool
	BuildHookKillTimeout   time.Duration
	PreBuildHook           string
	PostBuildHook          string
	DiffHook               string // "" if there is none
	RunDiffHook            bool
	HookTimeout            time.Duration // 0: no limit
	RequireLimits          bool
	BuildMemoryMax         Size // 0: no limit, as for those that follow
	BuildProcessesMax      int
	BuildCPUWeight         int // 0: as everything else
	BuildCPUQuota          int // hundredths of a processor
	BuildOutputMax         Size
	BuildDirMax            Size
	ServiceRoles           map[string]string
	ServiceRetention       time.Duration

	// The sandbox.
	Sandbox                 SandboxMode
	SandboxFallback         bool
	SandboxPaths            []SandboxPath // sorted by target
	SandboxBuildDir         string
	SandboxDevShmSize       string // as in the size option of tmpfs
	AllowedImpureHostDeps   StringSet
	AllowNewPrivileges      bool
	FilterSyscalls          bool
	ImpersonateLinux26      bool
	UseCgroups              bool
	RecursiveNixFixedOutput NestedFetch
	UserNetwork             UserNetwork
	UserNetworkProgram      string // "" to look for it

	// Who builds.
	BuildUsersGroup                string // "" builds as this process's user
	AutoAllocateUIDs               bool
	StartID                        uint32
	IDCount                        uint32
	RequireDropSupplementaryGroups bool
	BuildDir                       string // "" leaves it to the store

	// The store.
	Store                 string // a store URI
	AllowSymlinkedStore   bool
	AutoOptimiseStore     bool
	FsyncMetadata         bool
	FsyncStorePaths       bool
	SyncBeforeRegistering bool
	UseSQLiteWAL          bool
	IgnoredACLs           StringSet
	KeepBuildLog          bool
	CompressBuildLog      bool
	KeepDerivations       bool
	KeepOutputs           bool
	GCReservedSpace       Size
	MinFree               Size // 0: no automatic collection
	MaxFree               Size
	MinFreeCheckInterval  time.Duration

	// Trust.
	RequireSigs       bool
	TrustedPublicKeys []string
	SecretKeyFiles    []string
	AllowedUsers      []string
	TrustedUsers      []string

	// Substituters and downloads.
	Substitute              bool
	Substituters            []string // store URIs
	TrustedSubstituters     StringSet
	AlwaysAllowSubstitutes  bool
	Fallback                bool
	MaxSubstitutionJobs     int
	NarinfoCacheNegativeTTL time.Duration
	NarinfoCachePositiveTTL time.Duration
	NarinfoCacheMetaTTL     time.Duration
	HashedMirrors           []string
	HTTPConnections         int // 0: no limit
	HTTP2                   bool
	ConnectTimeout          time.Duration // 0: no limit
	StalledDownloadTimeout  time.Duration
	DownloadAttempts        int
	DownloadSpeed           int // KiB/s; 0: no limit
	RetryDelay              time.Duration
	RetryDelayRateLimited   time.Duration
	RetryMaxDelay           time.Duration
	RetryJitter             bool
	NetrcFile               string
	SSLCertFile             string // "" if there is none
	UserAgentSuffix         string
	AllowLoopbackDownloads  bool

	cpus    int     // what max-jobs = auto means
	entries []entry // one for each of definitions
}

// entry is the value of one setting and where it was given last.
type entry struct {
	value    value
	standard string // what it is if nobody gives it
	source   Source
}

// SandboxMode says which builds run isolated.
type SandboxMode string

// The values of the setting "sandbox".
const (
	SandboxOn      SandboxMode = "true"
	SandboxRelaxed SandboxMode = "relaxed" // not fixed outputs, nor what asks for __noChroot
	SandboxOff     SandboxMode = "false"
)

// NestedFetch says what becomes of a fixed-output derivation that a builder asks
// for through recursive Nix.
type NestedFetch string

// The values of the setting "recursive-nix-fixed-output".
const (
	NestedFetchOffline NestedFetch = "offline" // built without network
	NestedFetchRefuse  NestedFetch = "refuse"  // not built
	NestedFetchAllow   NestedFetch = "allow"   // built with network, as in Nix
)

// UserNetwork says whether builds that reach the network do so through a user-mode
// network stack.
type UserNetwork string

// The values of the setting "user-network".
const (
	UserNetworkAuto    UserNetwork = "auto"    // where it can be had
	UserNetworkRequire UserNetwork = "require" // or not at all
	UserNetworkOff     UserNetwork = "off"     // never
)

// ErrUnknown says that there is no setting of a name. Nix and kiln go on after a
// warning.
var ErrUnknown = errors.New("unknown setting")

// New gives every setting the value that it has on the machine that env
// describes when nobody sets anything.
func New(env Environment) *Settings {
	s := &Settings{cpus: max(env.CPUs, 1)}
	s.bind(nil)
	for i := range definitions {
		d := &definitions[i]
		text := d.Default
		if d.defaultFor != nil {
			text = d.defaultFor(env)
		}
		if err := s.entries[i].value.set(d, text, false); err != nil {
			// Only what env says can be wrong here, such as a relative directory.
			continue
		}
		s.entries[i].standard = text
	}
	return s
}

// bind makes the entries of a new Settings: those with a field point to it, the
// others to a place of their own with the value that from has.
func (s *Settings) bind(from []entry) {
	s.entries = make([]entry, len(definitions))
	for i := range definitions {
		d := &definitions[i]
		e := &s.entries[i]
		if d.field != nil {
			e.value = d.field(s)
			e.value.detach()
		} else {
			e.value = newValue(d.Type)
		}
		if from != nil {
			e.source, e.standard = from[i].source, from[i].standard
			if d.field == nil {
				// The text was printed by a value of the same type.
				_ = e.value.set(d, from[i].value.text(), false)
			}
		}
	}
}

// Clone gives a copy that can be changed on its own.
func (s *Settings) Clone() *Settings {
	c := *s
	c.bind(s.entries)
	return &c
}

// Set gives a setting a value, in the notation of nix.conf, and remembers where
// it came from. The name may be an alias, and "extra-" before the name of a list,
// set or map adds to what is there. After an error everything is as it was; an
// error that wraps ErrUnknown says that there is no such setting.
//
// Warnings tell what the user should know though nothing failed: an experimental
// feature that is unknown, a setting that its feature gates and that was
// therefore left alone, or one that kiln does not support.
func (s *Settings) Set(name, text string, from Source) ([]Warning, error) {
	i, add, ok := find(name)
	if !ok {
		return nil, fmt.Errorf("%w '%s'", ErrUnknown, name)
	}
	d, e := &definitions[i], &s.entries[i]
	if d.Feature != "" && !s.ExperimentalFeatures.Has(d.Feature) {
		return []Warning{{from, fmt.Sprintf("Ignoring setting '%s' because experimental feature '%s' is not enabled", d.Name, d.Feature)}}, nil
	}
	if err := e.value.set(d, text, add); err != nil {
		return nil, err
	}
	e.source = from

	var warnings []Warning
	if i == featuresAt {
		for _, w := range unknownFeatures(text) {
			warnings = append(warnings, Warning{from, w})
		}
	}
	if now := e.value.text(); d.Status == Unsupported && now != "" && now != e.standard {
		warnings = append(warnings, Warning{from, fmt.Sprintf("setting '%s' is not supported by kiln and has no effect", d.Name)})
	}
	return warnings, nil
}

// Value gives the value of a setting in the notation of nix.conf; false if there
// is no such setting. The name may be an alias. It follows the fields: what a
// program assigned to one shows here.
func (s *Settings) Value(name string) (string, bool) {
	i, ok := index[name]
	if !ok {
		return "", false
	}
	return s.entries[i].value.text(), true
}

// Source tells where a setting's value was given last; for one that nobody gave,
// or that doesn't exist, the zero Source. Assigning to a field doesn't change it.
func (s *Settings) Source(name string) Source {
	i, ok := index[name]
	if !ok {
		return Source{}
	}
	return s.entries[i].source
}

// Overridden tells whether somebody gave the setting, be it with the value that
// it has by default.
func (s *Settings) Overridden(name string) bool { return s.Source(name).Kind != FromDefault }

// An Entry is one setting with its value.
type Entry struct {
	*Definition
	Value  string // in the notation of nix.conf
	Source Source
}

// All lists every setting with its value, sorted by name.
func (s *Settings) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := range definitions {
			if !yield(Entry{&definitions[i], s.entries[i].value.text(), s.entries[i].source}) {
				return
			}
		}
	}
}

// A Source is the place where a setting was given.
type Source struct {
	Kind Kind
	Name string // the file, variable or flag; empty for a default
	Line int    // in a file or NIX_CONFIG, from 1; else 0
}

// String says it in short: "default", "/etc/nix/nix.conf:12", "NIX_CONFIG:1",
// "environment NIX_REMOTE", "--option", "client".
func (s Source) String() string {
	switch {
	case s.Kind == FromDefault:
		return "default"
	case s.Kind == FromEnvironment:
		return "environment " + s.Name
	case s.Line > 0:
		return fmt.Sprintf("%s:%d", s.Name, s.Line)
	default:
		return s.Name
	}
}

// A Kind of source. A later kind wins over an earlier one.
type Kind int

const (
	FromDefault     Kind = iota
	FromEnvironment      // a variable that stands for one setting, such as NIX_REMOTE
	FromSystem           // nix.conf in the configuration directory, and what it includes
	FromUser             // the user's configuration files
	FromNixConfig        // the text in NIX_CONFIG
	FromCommandLine
	FromClient // a client of the daemon
)

// A Warning is something that a user should know though nothing failed.
type Warning struct {
	Source Source
	Text   string
}

// String gives the text with the source before it.
func (w Warning) String() string {
	if w.Source.Kind == FromDefault {
		return w.Text
	}
	return w.Source.String() + ": " + w.Text
}
