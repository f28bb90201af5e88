package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/executor/outputs"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// Run makes one attempt. The caller holds the locks of the output paths that are
// known, and a slot.
//
// The result is set whenever a builder ran. A *BuilderError says how the builder
// failed, a *nix.BuildError what else is wrong with the derivation or with what
// its builder made; any other error is trouble of the machine, and what became
// of the build is not known. Nothing of the attempt is left when Run returns,
// but the log, a build directory that was asked to be kept, and valid outputs.
func (m *Machine) Run(ctx context.Context, a *Attempt, s *Settings) (_ *Result, err error) {
	mode, fallback, err := m.isolation(ctx, a, s)
	if err != nil {
		return nil, err
	}
	if kind, _ := a.Drv.Kind(); a.Offline && mode == sandbox.None && !kind.IsPure() {
		return nil, nix.BuildErrorf(nix.StatusInputRejected,
			"cannot build '%s' for a builder: nothing keeps it from the network without a sandbox; the setting 'recursive-nix-fixed-output = allow' lets it have the network", m.Store.Dir().Join(a.DrvPath))
	}
	user, err := m.Users.Acquire(ctx, func() {
		a.Log.Event(nix.Event{Kind: nix.EventWaiting, Path: a.DrvPath,
			Message: fmt.Sprintf("waiting for a free build user ID for '%s'", m.Store.Dir().Join(a.DrvPath))})
	})
	if err != nil {
		return nil, err
	}
	defer user.Release()
	if mode == sandbox.None && !user.Own {
		user.GID = m.Users.storeGroup
		if err := m.Store.OpenToGroup(user.GID); err != nil {
			return nil, err
		}
	}

	work, err := newWorkspace(m.Store, a.DrvPath, s.BuildDir, user, mode == sandbox.Full)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, work.Remove()) }()

	if mode == sandbox.None && !user.Own {
		// Nobody but builders of ours has this user, and none of them runs now.
		if err := m.Launcher.KillUser(ctx, user.UID); err != nil {
			return nil, err
		}
	}

	r := &run{machine: m, attempt: a, settings: s, user: user, work: work, isolation: mode, fallback: fallback}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	if err := r.openRecursion(); err != nil {
		return nil, err
	}
	result := &Result{Start: time.Now()}
	err = r.build(ctx, result)
	r.endRecursion(result)
	if mode == sandbox.None && !user.Own {
		err = errors.Join(err, m.Launcher.KillUser(context.WithoutCancel(ctx), user.UID))
	}
	a.BuilderEnded()
	if err == nil {
		result.Outputs, err = r.register(ctx, result)
	}
	if err == nil {
		err = r.postBuildHook(ctx, result.Outputs)
	}
	result.Stop = time.Now()
	if err != nil && s.KeepFailed && !a.Drv.IsBuiltin() {
		kept, kerr := work.Keep()
		if kerr != nil {
			return result, errors.Join(err, kerr)
		}
		result.KeptBuildDir = kept
		a.Log.Event(nix.Event{Kind: nix.EventNotice, Path: a.DrvPath, Message: fmt.Sprintf("note: keeping build directory \"%s\"", kept)})
	}
	if err != nil && ctx.Err() == nil && a.KeepSandbox && !a.Drv.IsBuiltin() && r.ran {
		if kerr := r.keepSandbox(result); kerr != nil {
			// It is no reason to know less of the failure.
			a.Log.Event(nix.Event{Kind: nix.EventWarning, Path: a.DrvPath, Message: fmt.Sprintf("the sandbox is not kept: %v", kerr)})
		}
	}
	return result, err
}

// isolation decides whether the builder is isolated. fallback says why it is not
// although it should be.
func (m *Machine) isolation(ctx context.Context, a *Attempt, s *Settings) (mode sandbox.Isolation, fallback string, err error) {
	kind, err := a.Drv.Kind()
	if err != nil {
		return "", "", err
	}
	drv := m.Store.Dir().Join(a.DrvPath)
	switch {
	case s.Sandbox == SandboxOff:
		return sandbox.None, "", nil
	case s.Sandbox == SandboxRelaxed && (!kind.IsPure() || a.Options.NoChroot):
		return sandbox.None, "", nil
	case a.Options.NoChroot:
		return "", "", nix.BuildErrorf(nix.StatusMiscFailure,
			"derivation '%s' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'", drv)
	case !s.SandboxFallback:
		return sandbox.Full, "", nil
	}
	if err := m.Launcher.CanIsolate(ctx); err != nil {
		fallback = fmt.Sprintf("sandbox-fallback is set, and this machine cannot isolate builders: %v", err)
		a.Log.Event(nix.Event{Kind: nix.EventWarning, Path: a.DrvPath,
			Message: fmt.Sprintf("building '%s' without a sandbox: %s", drv, fallback)})
		return sandbox.None, fallback, nil
	}
	return sandbox.Full, "", nil
}

// run is an attempt under way.
type run struct {
	machine   *Machine
	attempt   *Attempt
	settings  *Settings
	user      *User
	work      *workspace
	isolation sandbox.Isolation
	fallback  string // why there is no isolation although there should be

	scratch map[nix.OutputName]nix.StorePath
	// redirected has, for outputs that are built elsewhere than where they are
	// known to belong, the scratch path by that path.
	redirected map[nix.StorePath]nix.StorePath
	spec       *sandbox.Spec
	hostSpec   *sandbox.Spec // the same with the machine's network, if spec has a user-mode one
	request    []byte        // what a builtin builder is told
	recursion  *recursion    // nil for a builder that does not call Nix
	ran        bool          // the builder was started
	// alsoVisible are store objects in the sandbox that are no inputs.
	alsoVisible []nix.StorePath
}

// prepare describes the sandbox and writes the builder's files.
func (r *run) prepare(ctx context.Context) error {
	a, st := r.attempt, r.machine.Store
	if err := r.chooseScratch(); err != nil {
		return err
	}
	graphs, err := referencesGraphs(st.Dir(), a.Options, a.Closure, func(drv nix.StorePath) ([]*nix.PathInfo, error) { return r.outputClosure(ctx, drv) })
	if err != nil {
		return err
	}
	if err := r.hasUIDRange(); err != nil {
		return err
	}
	userNS := false
	if r.isolation == sandbox.Full {
		// Root with all privileges can do without: builders then have the ids of their users inside.
		if err := r.machine.Launcher.UserNamespaces(ctx); err == nil {
			userNS = true
		} else if sandbox.NeedsUserNamespaces() || usesUIDRange(a) {
			return fmt.Errorf("cannot build '%s' in a sandbox: %w", st.Dir().Join(a.DrvPath), err)
		}
	}
	p := &site{
		dir: st.Dir(), realPath: st.RealPath, isolation: r.isolation, root: r.work.root, buildDir: r.work.inner, user: r.user,
		userNamespace: userNS, shm: exists("/dev/shm"), kvm: exists("/dev/kvm"),
	}
	if r.isolation == sandbox.None {
		if err := r.writeDirectly(); err != nil {
			return err
		}
	}
	settings, err := r.withPaths(ctx)
	if err != nil {
		return err
	}
	if r.isolation == sandbox.Full {
		if p.sandboxPathClosure, err = r.sandboxPathClosure(ctx); err != nil {
			return err
		}
		r.alsoVisible = p.sandboxPathClosure
	}
	sur := builtinSurroundings()
	if a.Drv.IsBuiltin() {
		r.request, err = r.builtinRequest(p.insideBuildDir(r.settings))
	} else {
		sur, err = surround(a, r.settings, st.Dir(), p.insideBuildDir(r.settings), r.scratch, r.redirected, graphs)
	}
	if err != nil {
		return err
	}
	if err := r.work.WriteFiles(sur.files); err != nil {
		return err
	}
	if r.spec, err = describe(a, settings, p, sur, r.scratch); err != nil {
		return err
	}
	if a.Drv.IsBuiltin() {
		r.machine.describeBuiltin(r.spec)
	}
	r.spec.Fallback = r.fallback
	return r.separateNetwork(ctx)
}

// chooseScratch decides by which paths the builder knows its outputs. That is
// where they belong, unless nobody knows that yet, or something is there that a
// builder without a sandbox must not overwrite.
func (r *run) chooseScratch() (err error) {
	a, dir := r.attempt, r.machine.Store.Dir()
	r.scratch = make(map[nix.OutputName]nix.StorePath, len(a.Drv.Outputs))
	r.redirected = make(map[nix.StorePath]nix.StorePath)
	for name := range a.Drv.Outputs {
		known := a.Known[name]
		of := "name:" + string(name)
		switch {
		case known.Path == "":
		case r.isolation == sandbox.Full || !known.Valid && !known.Damaged:
			r.scratch[name] = known.Path
			continue
		default:
			of = string(known.Path)
		}
		if r.scratch[name], err = nix.ScratchPath(dir, a.DrvPath, of, nix.OutputPathName(a.Drv.Name, name)); err != nil {
			return err
		}
		if known.Path != "" {
			r.redirected[known.Path] = r.scratch[name]
		}
	}
	return nil
}

// writeDirectly makes the store ready for a builder without a sandbox.
func (r *run) writeDirectly() error {
	st := r.machine.Store
	if st.RealDir() != string(st.Dir()) {
		return fmt.Errorf("cannot build '%s' without a sandbox: the files of this store are in '%s', where builders do not look for '%s'; set `sandbox = true`, or use a store without a root of its own",
			st.Dir().Join(r.attempt.DrvPath), st.RealDir(), st.Dir())
	}
	return r.work.Direct(slices.Collect(maps.Values(r.scratch)))
}

// hasUIDRange checks that a builder that is to have a range of users can.
func (r *run) hasUIDRange() error {
	switch {
	case !usesUIDRange(r.attempt):
		return nil
	case r.isolation != sandbox.Full:
		return nix.BuildErrorf(nix.StatusMiscFailure, "feature 'uid-range' is only supported in sandboxed builds")
	case r.user.Count < autoIDsPer && r.user.Own:
		return nix.BuildErrorf(nix.StatusMiscFailure, "feature 'uid-range' needs %d user ids, which only kiln as root can give", autoIDsPer)
	case r.user.Count < autoIDsPer:
		return nix.BuildErrorf(nix.StatusMiscFailure, "feature 'uid-range' requires the setting 'auto-allocate-uids' to be enabled")
	}
	return nil
}

// outputClosure gives the closure of those outputs of a derivation that are valid.
func (r *run) outputClosure(ctx context.Context, drv nix.StorePath) ([]*nix.PathInfo, error) {
	st := r.machine.Store
	known, err := st.DerivationOutputs(ctx, drv)
	if err != nil {
		return nil, err
	}
	valid, err := st.ValidPaths(ctx, slices.Collect(maps.Values(known)))
	if err != nil {
		return nil, err
	}
	infos, err := store.ClosureInfos(ctx, st, valid...)
	return slices.Collect(maps.Values(infos)), err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// sandboxPathClosure gives the store objects that sandbox paths lead to.
func (r *run) sandboxPathClosure(ctx context.Context) ([]nix.StorePath, error) {
	var roots []nix.StorePath
	for _, sp := range r.settings.SandboxPaths {
		if p, _, err := r.machine.Store.Dir().Split(sp.Source); err == nil {
			roots = append(roots, p)
		}
	}
	if len(roots) == 0 {
		return nil, nil
	}
	closure, err := store.Closure(ctx, r.machine.Store, roots...)
	if err != nil {
		return nil, fmt.Errorf("sandbox-paths: %w", err)
	}
	return closure, nil
}

// build runs the builder to its end.
func (r *run) build(ctx context.Context, result *Result) (err error) {
	a, s := r.attempt, r.settings
	pty, err := sandbox.OpenPTY(r.user.UID)
	if err != nil {
		return err
	}
	defer pty.Close()
	logFile, err := createLog(r.machine, a, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logFile.Close()) }()

	stdio := sandbox.Stdio{Stdout: pty.Slave, Stderr: pty.Slave}
	if r.request != nil {
		if stdio.Stdin, err = feed(r.request); err != nil {
			return err
		}
	}
	process, err := r.start(ctx, stdio)
	if stdio.Stdin != nil {
		stdio.Stdin.Close() // only the builder has it now
	}
	if err != nil {
		return r.startFailed(err, logFile)
	}
	// From here on only the builder has the terminal's other end.
	pty.CloseSlave()
	r.ran = true
	noGuests := r.machine.first().hosts.open(a.DrvPath, process, r.spec)
	defer noGuests()
	result.Isolation = r.machine.reports.of(process.Report())
	a.Log.Event(nix.Event{Kind: nix.EventStarted, Path: a.DrvPath})

	tail := &logTail{max: s.LogLines}
	shown := &shownLog{drv: a.DrvPath, sink: a.Log, tail: tail}
	takers := newFanOut(logFile, shown)
	log := &sharedLog{all: takers, kept: logFile}
	if r.recursion != nil {
		var stop context.CancelCauseFunc
		ctx, stop = context.WithCancelCause(ctx)
		defer stop(nil)
		r.recursion.serve(ctx, log, process.Namespace(), stop)
		defer r.recursion.close()
	}
	lim := a.limits(s)
	exit, err := supervise(ctx, process, pty.Master, log, lim, r.watches(lim))
	noGuests()
	shown.Flush()
	result.LogTail = tail.Lines()
	result.Resources = &nix.Resources{UserTime: exit.UserTime, SystemTime: exit.SystemTime, MaxRSS: exit.MaxRSS}
	if exit.Group != nil {
		result.Resources.Group = groupResources(exit.Group)
		result.Resources.Group.Memory = 0
	}
	if err != nil {
		return r.stopped(err)
	}
	failed := r.exited(exit, lim)
	if failed == nil && lim.Output > 0 {
		if err := r.checkSizes(ctx, nix.Limits{Output: lim.Output}); err != nil {
			return r.stopped(err)
		}
	}
	if err := takers.errs[0]; err != nil {
		// A builder that failed as well says more: the disk is full for both.
		if failed == nil {
			return fmt.Errorf("write build log: %w", err)
		}
		a.Log.Event(nix.Event{Kind: nix.EventWarning, Path: a.DrvPath, Message: fmt.Sprintf("the log of '%s' is not complete: %v", a.DrvPath, err)})
	}
	return failed
}

// startFailed sorts out why there is no builder.
func (r *run) startFailed(err error, log io.Writer) error {
	var limit *sandbox.LimitError
	if errors.As(err, &limit) {
		return nix.BuildErrorf(nix.StatusInputRejected, "cannot build '%s' with its limits: the limit of %s is not enforced on this machine: %s; the setting 'require-limits = false' builds it without",
			r.machine.Store.Dir().Join(r.attempt.DrvPath), limit.Resource, limit.Why).Because(nix.Failure{Kind: nix.FailureNotHere})
	}
	var exec *sandbox.ExecError
	if !errors.As(err, &exec) {
		return err
	}
	if r.attempt.Drv.IsBuiltin() {
		return fmt.Errorf("run the builtin builder of '%s': %w: '%s' has to be a static program (built with CGO_ENABLED=0) that build users may run",
			r.attempt.DrvPath, err, r.machine.Self)
	}
	// The derivation names a program that is not there, or is none.
	fmt.Fprintf(log, "error: %v\n", exec)
	r.attempt.Log.BuildLog(r.attempt.DrvPath, fmt.Appendf(nil, "error: %v\n", exec))
	return &BuilderError{Status: nix.StatusPermanentFailure, Reason: "failed with exit code 1", Note: fmt.Sprintf("\n%v", exec),
		Failure: nix.Failure{Kind: nix.FailureExit, Code: 1}}
}

// stopped sorts out why a builder did not come to its end by itself.
func (r *run) stopped(err error) error {
	var limit *limitError
	if errors.As(err, &limit) {
		return nix.BuildErrorf(limit.status, "building derivation '%s' %s", r.machine.Store.Dir().Join(r.attempt.DrvPath), limit.text).Because(limit.failure)
	}
	return err
}

// exited says what a builder's exit status means.
func (r *run) exited(exit sandbox.Exit, lim nix.Limits) error {
	failed := &BuilderError{Status: nix.StatusPermanentFailure}
	switch {
	case exit.Signal != 0:
		failed.Reason = fmt.Sprintf("failed due to signal %d (%s)", int(exit.Signal), signalName(exit.Signal))
		failed.Failure = nix.Failure{Kind: nix.FailureSignal, Code: int(exit.Signal)}
	case exit.Code != 0:
		failed.Reason = fmt.Sprintf("failed with exit code %d", exit.Code)
		failed.Failure = nix.Failure{Kind: nix.FailureExit, Code: exit.Code}
	default:
		return nil
	}
	if kind, err := r.attempt.Drv.Kind(); err == nil && !kind.IsPure() {
		failed.Status = nix.StatusTransientFailure
	}
	switch group := exit.Group; {
	case group != nil && group.OutOfMemory > 0:
		failed.Failure.Kind, failed.Failure.Limit, failed.Failure.Peak = nix.FailureOutOfMemory, lim.Memory, group.PeakMemory
		failed.Note = fmt.Sprintf("\nnote: the kernel killed processes of it for want of memory, after a peak of %d bytes", group.PeakMemory)
		if lim.Memory > 0 {
			failed.Note += fmt.Sprintf("; its limit is %d", lim.Memory)
		}
	case group != nil && group.Refused > 0:
		failed.Failure.Kind, failed.Failure.Limit, failed.Failure.Peak = nix.FailureProcesses, lim.Processes, lim.Processes
		failed.Note = "\nnote: it could not make more processes"
		if lim.Processes > 0 {
			failed.Note += fmt.Sprintf("; its limit is %d at a time", lim.Processes)
		}
	case r.diskNearlyFull():
		failed.Status, failed.Failure.Kind = nix.StatusTransientFailure, nix.FailureNoSpace
		failed.Note = "\nnote: build failure may have been caused by lack of free disk space"
	}
	return failed
}

// nearlyFull is how much free space is too little, in bytes.
const nearlyFull = 8 << 20

func (r *run) diskNearlyFull() bool {
	for _, dir := range []string{r.machine.Store.RealDir(), r.work.inner} {
		var st syscall.Statfs_t
		if syscall.Statfs(dir, &st) == nil && st.Bavail*uint64(st.Bsize) < nearlyFull {
			return true
		}
	}
	return false
}

// signalName is what the C library calls a signal.
func signalName(s syscall.Signal) string {
	names := map[syscall.Signal]string{
		syscall.SIGKILL: "Killed", syscall.SIGSEGV: "Segmentation fault", syscall.SIGABRT: "Aborted", syscall.SIGTERM: "Terminated",
		syscall.SIGILL: "Illegal instruction", syscall.SIGFPE: "Floating point exception", syscall.SIGBUS: "Bus error",
		syscall.SIGHUP: "Hangup", syscall.SIGINT: "Interrupt", syscall.SIGQUIT: "Quit", syscall.SIGPIPE: "Broken pipe",
		syscall.SIGALRM: "Alarm clock", syscall.SIGXCPU: "CPU time limit exceeded", syscall.SIGXFSZ: "File size limit exceeded",
		syscall.SIGSYS: "Bad system call", syscall.SIGTRAP: "Trace/breakpoint trap", syscall.SIGUSR1: "User defined signal 1",
		syscall.SIGUSR2: "User defined signal 2",
	}
	if n, ok := names[s]; ok {
		return n
	}
	return s.String()
}

// job says what the build left, and what has to be seen to.
func (r *run) job() *outputs.Job {
	a, ids := r.attempt, 1
	if usesUIDRange(a) {
		ids = r.user.Count
	}
	job := &outputs.Job{
		DrvPath: a.DrvPath, DrvName: a.Drv.Name, Inputs: append(slices.Collect(maps.Keys(a.Closure)), r.addedInputs()...),
		Owner: local.Owner{UID: r.user.UID, Count: ids, Own: r.user.Own}, DiscardReferences: a.Options.UnsafeDiscardReferences,
		Checks: a.Options.Checks, Replace: a.Mode == nix.BuildRepair,
	}
	for _, name := range a.Drv.OutputNames() {
		known := a.Known[name]
		job.Outputs = append(job.Outputs, outputs.Produced{
			Name: name, Spec: a.Drv.Outputs[name], Scratch: r.scratch[name], Actual: r.actual(r.scratch[name]),
			Known: known.Path, Valid: known.Valid && a.Mode != nix.BuildCheck,
		})
	}
	return job
}

// register takes the outputs and makes them valid, in one transaction.
func (r *run) register(ctx context.Context, result *Result) (map[nix.OutputName]nix.Realisation, error) {
	a, st := r.attempt, r.machine.Store
	if a.Mode == nix.BuildCheck {
		return r.compare(ctx, result)
	}
	collected, err := outputs.Collect(ctx, st, r.job())
	made := r.known()
	// What was made is registered even if it is not what was asked for: content
	// under the path that follows from it is always true.
	var registrations []local.Registration
	for _, c := range collected {
		c.Info.RegistrationTime = time.Now()
		realisation := nix.Realisation{ID: nix.DrvOutput{Drv: a.DrvPath, Output: c.Output}, OutPath: c.Info.Path}
		registration := local.Registration{Info: c.Info}
		serr := r.settings.signObject(st.Dir(), &registration.Info)
		if a.Realise && err == nil {
			if serr == nil {
				serr = r.settings.SignRealisation(ctx, st, &realisation)
			}
			registration.Realises = []nix.Realisation{realisation}
		}
		if serr != nil {
			return nil, errors.Join(err, fmt.Errorf("sign output '%s': %w", c.Output, serr), outputs.TakeBack(ctx, st, collected))
		}
		made[c.Output] = realisation
		registrations = append(registrations, registration)
	}
	if rerr := st.Register(ctx, registrations); rerr != nil {
		return nil, errors.Join(err, rerr, outputs.TakeBack(ctx, st, collected))
	}
	return made, err
}

// known gives the outputs that are known before the build.
func (r *run) known() map[nix.OutputName]nix.Realisation {
	made := make(map[nix.OutputName]nix.Realisation, len(r.attempt.Known))
	for name, k := range r.attempt.Known {
		if k.Path != "" {
			made[name] = nix.Realisation{ID: nix.DrvOutput{Drv: r.attempt.DrvPath, Output: name}, OutPath: k.Path}
		}
	}
	return made
}

// actual is where the builder left what it knew as p.
func (r *run) actual(p nix.StorePath) string {
	if r.isolation == sandbox.Full {
		return filepath.Join(r.work.root, r.machine.Store.Dir().Join(p))
	}
	return r.machine.Store.RealPath(p)
}
