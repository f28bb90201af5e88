package nix

// FailureKind says why a build has no outputs, more closely than a BuildStatus, whose
// numbers are those of Nix's protocols.
type FailureKind uint8

// The kinds. FailureOther is everything that has no kind of its own.
const (
	FailureNone FailureKind = iota
	FailureOther
	FailureExit             // the builder ended with another code than 0: Code
	FailureSignal           // the builder was ended by a signal: Code
	FailureOutOfMemory      // the kernel killed processes of the builder for want of memory: Peak, Limit
	FailureProcesses        // the builder could not make more processes: Limit
	FailureOutputSize       // the outputs became too large: Peak, Limit
	FailureBuildDirSize     // the build directory became too large: Peak, Limit
	FailureNoSpace          // the machine's disk is full
	FailureTimeout          // the builder took too long: Limit in seconds
	FailureSilence          // the builder printed nothing for too long: Limit in seconds
	FailureLogSize          // the builder printed too much: Limit
	FailureInputRejected    // the derivation, or what was asked of it, cannot be built
	FailureNotHere          // this machine cannot build it, or not so: system, features, limits
	FailureOutputRejected   // the outputs are not what they may be
	FailureHashMismatch     // a fixed output has another hash than stated
	FailureNotDeterministic // the outputs differ from those of an earlier build
	FailureDependency       // another derivation failed, which is needed: Causes of the result
	FailureInterrupted      // the build was stopped, or its machine was
)

var failureNames = [...]string{
	FailureNone: "", FailureOther: "other", FailureExit: "exit", FailureSignal: "signal", FailureOutOfMemory: "out-of-memory",
	FailureProcesses: "too-many-processes", FailureOutputSize: "output-size", FailureBuildDirSize: "build-dir-size",
	FailureNoSpace: "no-space", FailureTimeout: "timeout", FailureSilence: "silence", FailureLogSize: "log-size",
	FailureInputRejected: "input-rejected", FailureNotHere: "not-here", FailureOutputRejected: "output-rejected",
	FailureHashMismatch: "hash-mismatch", FailureNotDeterministic: "not-deterministic", FailureDependency: "dependency",
	FailureInterrupted: "interrupted",
}

// String is a word for programs: "out-of-memory".
func (k FailureKind) String() string {
	if int(k) < len(failureNames) {
		return failureNames[k]
	}
	return failureNames[FailureOther]
}

// Failure says why a build failed.
type Failure struct {
	Kind FailureKind
	Code int // exit code, or number of the signal
	// Limit is what was exceeded, 0 if the machine itself was the limit; Peak is what
	// was reached. Both are in the unit of the limit.
	Limit, Peak int64
}

// RetryHelps tells whether the same build may succeed when it is tried again on the same
// machine with the same limits.
func (f Failure) RetryHelps() bool {
	switch f.Kind {
	case FailureInterrupted, FailureNoSpace:
		return true
	case FailureOutOfMemory, FailureProcesses:
		return f.Limit == 0 // somebody else may have taken it
	case FailureSignal:
		return true // builders do not send such to themselves as a rule
	}
	return false
}

// AnotherMachineHelps tells whether the same build with the same limits may succeed on
// another machine.
func (f Failure) AnotherMachineHelps() bool {
	switch f.Kind {
	case FailureNoSpace, FailureNotHere, FailureInterrupted, FailureSignal:
		return true
	case FailureOutOfMemory, FailureProcesses:
		return f.Limit == 0
	case FailureTimeout, FailureSilence:
		return true // it may be faster
	}
	return false
}

// Why is the failure of a result; its kind is FailureNone for a success. What the result
// does not say itself follows from its status.
func (r *BuildResult) Why() Failure {
	if r.Status.Success() {
		return Failure{}
	}
	if r.Failure != nil {
		return *r.Failure
	}
	kind := FailureOther
	switch r.Status {
	case StatusInputRejected:
		kind = FailureInputRejected
	case StatusOutputRejected:
		kind = FailureOutputRejected
	case StatusHashMismatch:
		kind = FailureHashMismatch
	case StatusNotDeterministic:
		kind = FailureNotDeterministic
	case StatusDependencyFailed:
		kind = FailureDependency
	case StatusTimedOut:
		kind = FailureTimeout
	case StatusLogLimitExceeded:
		kind = FailureLogSize
	case StatusCancelled:
		kind = FailureInterrupted
	}
	return Failure{Kind: kind}
}
