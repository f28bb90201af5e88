package nix

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// A Builder makes derived paths valid. Implementations are safe for concurrent
// use.
type Builder interface {
	// Build returns one result for each of req.Paths, in order. A builder program
	// that fails is a result; an error means that the outcome is not known
	// (cancelled, disk full, machine lost). Cancelling ctx withdraws the request:
	// what nobody else waits for is stopped.
	Build(ctx context.Context, req *BuildRequest) ([]BuildResult, error)
}

// BuildMode says what to do about outputs that are valid already.
type BuildMode uint8

// The modes, with their numbers in Nix's protocols.
const (
	BuildNormal BuildMode = 0 // build what is not valid
	BuildRepair BuildMode = 1 // build again what is damaged, and replace it
	BuildCheck  BuildMode = 2 // build again and compare with what is there
)

// NetworkPolicy says what becomes of derivations whose builders reach the network:
// those with fixed outputs, and impure ones.
type NetworkPolicy uint8

// The policies.
const (
	NetworkAllowed NetworkPolicy = iota
	NetworkOff                   // they are built without
	NetworkRefused               // they are not built
)

// BuildRequest asks for derived paths.
type BuildRequest struct {
	Paths []DerivedPath
	// Basic has derivations that the asker brings with it and which need not be
	// in the store, by the path that Paths has for them.
	Basic map[StorePath]*BasicDerivation
	Mode  BuildMode
	// Rounds is how often BuildCheck builds again; 0 stands for once.
	Rounds int
	// Network says what becomes of derivations whose builders reach the network.
	Network NetworkPolicy
	// Limits hold for each builder that runs for the request, besides those of the
	// settings and of the derivation: the tightest of them counts. Builders that other
	// requests have started already keep their own.
	Limits Limits
	// MinIsolation refuses builders that would be isolated less: "full", "partial" or
	// "none" as in Isolation.Level, "" for no demand.
	MinIsolation string
	// KeepSandbox keeps the sandboxes of builders that fail, to be entered: see Sandboxes.
	// Of a builder that other requests have asked for before, theirs counts.
	KeepSandbox bool
	// Log takes what builders print and what happens to the request. It may be
	// nil. It is called from many goroutines.
	Log LogSink
}

// BuildStatus is the outcome of a build. The numbers are those of Nix's
// protocols (BuildResult::Status).
type BuildStatus uint8

// The outcomes. Those up to AlreadyValid and ResolvesToAlreadyValid are
// successes.
const (
	StatusBuilt                  BuildStatus = 0
	StatusSubstituted            BuildStatus = 1
	StatusAlreadyValid           BuildStatus = 2
	StatusPermanentFailure       BuildStatus = 3
	StatusInputRejected          BuildStatus = 4
	StatusOutputRejected         BuildStatus = 5
	StatusTransientFailure       BuildStatus = 6
	StatusCachedFailure          BuildStatus = 7
	StatusTimedOut               BuildStatus = 8
	StatusMiscFailure            BuildStatus = 9
	StatusDependencyFailed       BuildStatus = 10
	StatusLogLimitExceeded       BuildStatus = 11
	StatusNotDeterministic       BuildStatus = 12
	StatusResolvesToAlreadyValid BuildStatus = 13
	StatusNoSubstituters         BuildStatus = 14

	// StatusHashMismatch is a fixed output with another hash than stated. On the
	// wire it is StatusOutputRejected: it has a value of its own here because it
	// has an exit code of its own.
	StatusHashMismatch BuildStatus = 0x80
	// StatusCancelled is a goal that was dropped before it ended, because another
	// one failed and the request does not keep going. It has no number in
	// protocols either.
	StatusCancelled BuildStatus = 0x81
)

var statusNames = map[BuildStatus]string{
	StatusBuilt: "Built", StatusSubstituted: "Substituted", StatusAlreadyValid: "AlreadyValid",
	StatusPermanentFailure: "PermanentFailure", StatusInputRejected: "InputRejected", StatusOutputRejected: "OutputRejected",
	StatusTransientFailure: "TransientFailure", StatusCachedFailure: "CachedFailure", StatusTimedOut: "TimedOut",
	StatusMiscFailure: "MiscFailure", StatusDependencyFailed: "DependencyFailed", StatusLogLimitExceeded: "LogLimitExceeded",
	StatusNotDeterministic: "NotDeterministic", StatusResolvesToAlreadyValid: "ResolvesToAlreadyValid",
	StatusNoSubstituters: "NoSubstituters", StatusHashMismatch: "HashMismatch", StatusCancelled: "Cancelled",
}

func (s BuildStatus) String() string {
	if name, ok := statusNames[s]; ok {
		return name
	}
	return "Unknown"
}

// Success tells whether the wanted outputs are valid now.
func (s BuildStatus) Success() bool {
	switch s {
	case StatusBuilt, StatusSubstituted, StatusAlreadyValid, StatusResolvesToAlreadyValid:
		return true
	}
	return false
}

// BuildResult is the answer for one derived path. What its fields refer to may be
// shared with other results: it is not to be changed.
type BuildResult struct {
	Path   DerivedPath
	Status BuildStatus
	// Message says what went wrong, in full and ready to print, several lines
	// long as it may be. It is empty for successes.
	Message string
	// CauseMessages has, for a derivation that failed because others did, their
	// messages: Message begins with these, each on a line of its own or more.
	CauseMessages []string
	// Causes has, for a derivation that failed because another one did, the
	// statuses of the builds at the bottom of it: exit codes follow from them.
	Causes []BuildStatus
	// Outputs has the wanted outputs of a success.
	Outputs map[OutputName]Realisation
	// TimesBuilt is how often the builder was run for this answer.
	TimesBuilt       int
	Start, Stop      time.Time
	NonDeterministic bool
	// Differences has the outputs that BuildCheck found to be different.
	Differences []OutputDifference
	Resources   *Resources // nil when no builder ran
	Isolation   *Isolation // nil when no builder ran
	// Nested has the builds that the builder asked for by recursive Nix, in the order
	// in which they ended.
	Nested []NestedBuild
	// KeptBuildDir is where a failed build's directory was kept, "" for nowhere.
	KeptBuildDir string
	// KeptSandbox is the id of a failed build's sandbox that was kept, "" for none.
	KeptSandbox string
	// Failure says more of a failure than Status, where there is more to say: see Why.
	Failure *Failure
}

// OwnMessage is Message without CauseMessages.
func (r *BuildResult) OwnMessage() string {
	own := r.Message
	for _, m := range r.CauseMessages {
		own = strings.TrimPrefix(strings.TrimPrefix(own, m), "\n")
	}
	return own
}

// NestedBuild is a derivation that a builder asked for.
type NestedBuild struct {
	Drv         StorePath
	Status      BuildStatus
	Start, Stop time.Time  // of its builder; zero if none ran for it
	Resources   *Resources // nil if no builder ran
	Isolation   *Isolation // nil if no builder ran
}

// OutputDifference is an output that is not what it was when it was built before.
type OutputDifference struct {
	Output OutputName
	Path   StorePath // the output as it was
	Kept   StorePath // where the new one was kept, "" for nowhere; it is no valid object
	// Files are the first of the differences, Total counts all.
	Files []FileDifference
	Total int
}

// FileDifference is one thing in which two trees of files differ.
type FileDifference struct {
	Path string // below the top, "" for the top itself; any bytes but NUL
	// Kind is "content", "mode", "type", "link target", "missing" or "extra".
	Kind string
	// Offset is the first byte that is different, where Kind is "content".
	Offset int64
	Text   string // all of it in one line for a person, with the path quoted if it has to be
}

// BuildError is a failure that belongs to the derivation, or to what it asked
// for: it becomes a BuildResult and not an error of the Builder.
type BuildError struct {
	Status  BuildStatus
	Message string   // in full, ready to print
	Failure *Failure // nil where Status says it all
}

func (e *BuildError) Error() string { return e.Message }

// BuildErrorf makes a BuildError.
func BuildErrorf(status BuildStatus, format string, args ...any) *BuildError {
	return &BuildError{Status: status, Message: fmt.Sprintf(format, args...)}
}

// Because adds to the error what kind of failure it is.
func (e *BuildError) Because(f Failure) *BuildError {
	e.Failure = &f
	return e
}

// ExitStatus is the exit code that Nix's commands give for failures of these
// kinds: 1, or 96 plus 4 for a build that failed, 1 for one that took too long,
// 2 for a wrong hash and 8 for one that is not deterministic.
func ExitStatus(failures ...BuildStatus) int {
	const special, buildFailure, timedOut, hashMismatch, checkMismatch = 0x60, 4, 1, 2, 8
	code := 0
	for _, s := range failures {
		switch s {
		case StatusPermanentFailure, StatusInputRejected:
			code |= special | buildFailure
		case StatusTimedOut:
			code |= special | buildFailure | timedOut
		case StatusHashMismatch:
			code |= special | buildFailure | hashMismatch
		case StatusNotDeterministic:
			code |= special | checkMismatch
		}
	}
	return max(code, 1)
}

// Resources is what a builder and all its children used.
type Resources struct {
	UserTime, SystemTime time.Duration
	MaxRSS               int64 // bytes, of the largest process
	// Group has what only a control group counts; nil where the builder had none.
	Group *GroupResources
}

// GroupResources is what all processes of a builder used together.
type GroupResources struct {
	Memory, PeakMemory    int64 // bytes, with what the kernel keeps for them; Memory is 0 at the end
	Processes             int64 // at the moment
	ReadBytes, WriteBytes int64 // of block devices
	// How long at least one of them could not go on for want of the resource (PSI).
	CPUStall, MemoryStall, IOStall time.Duration
}

// Isolation says what kept a builder apart from the machine: what was asked for
// and what was in force.
type Isolation struct {
	// Level is the summary: "full", "partial" or "none".
	Level  string
	Layers []IsolationLayer
}

// IsolationLayer is one means of isolation.
type IsolationLayer struct {
	Name    string // "mount namespace", "seccomp", "network", …
	Asked   string
	InForce string
	Why     string // where InForce is less than Asked, or a word of explanation
}
