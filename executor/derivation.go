package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/drvopts"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// wantOutputs makes outputs of a derivation valid.
func (r *request) wantOutputs(ctx context.Context, drvPath nix.StorePath, wanted nix.OutputSpec) outcome {
	drv, err := r.load(ctx, drvPath)
	if err != nil {
		return outcomeOf(err)
	}
	for _, name := range wanted.Names {
		if _, ok := drv.Outputs[name]; !ok {
			return failure(nix.BuildErrorf(nix.StatusInputRejected,
				"derivation '%s' does not have wanted output '%s'; it has %s", r.print(drvPath), name, joinNames(drv.OutputNames())))
		}
	}
	if err := r.rootOutputs(ctx, drvPath, drv); err != nil {
		return outcome{err: err}
	}
	if out, err := r.alreadyValid(ctx, drvPath, drv, wanted); out != nil || err != nil {
		if err != nil {
			return outcome{err: err}
		}
		return *out
	}
	key := goalKey{kind: buildGoal, path: drvPath, mode: r.mode}
	out := r.await(ctx, key, func(ctx context.Context) outcome { return r.build(ctx, drvPath, drv) })
	if out.err == nil && out.result.Status.Success() {
		out.result.Outputs = maps.Clone(out.result.Outputs)
		maps.DeleteFunc(out.result.Outputs, func(name nix.OutputName, _ nix.Realisation) bool { return !wanted.Contains(name) })
	}
	return out
}

// alreadyValid gives the answer when every wanted output is in the store.
func (r *request) alreadyValid(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, wanted nix.OutputSpec) (*outcome, error) {
	if r.mode != nix.BuildNormal {
		return nil, nil
	}
	outputs := make(map[nix.OutputName]nix.Realisation)
	var paths []nix.StorePath
	for name, o := range drv.Outputs {
		if !wanted.Contains(name) {
			continue
		}
		if o.Path == "" {
			return nil, nil
		}
		paths = append(paths, o.Path)
		outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: drvPath, Output: name}, OutPath: o.Path}
	}
	valid, err := r.executor.store.ValidPaths(ctx, paths)
	if err != nil || len(valid) != len(paths) {
		return nil, err
	}
	return &outcome{result: nix.BuildResult{Status: nix.StatusAlreadyValid, Outputs: outputs}}, nil
}

// rootOutputs keeps a collector away from everything that the goal is about,
// before the first look at what is valid.
func (r *request) rootOutputs(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation) error {
	roots := []nix.StorePath{drvPath}
	for _, o := range drv.Outputs {
		if o.Path != "" {
			roots = append(roots, o.Path)
		}
	}
	return r.executor.store.AddTempRoot(ctx, roots...)
}

// build is the goal that makes all outputs of a derivation valid.
func (r *request) build(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation) outcome {
	kind, err := drv.Kind()
	if err != nil {
		return failure(nix.BuildErrorf(nix.StatusInputRejected, "%v", err))
	}
	if !kind.HasKnownOutputPaths() {
		return failure(nix.BuildErrorf(nix.StatusInputRejected,
			"cannot build '%s': derivations with %s outputs are not supported", r.print(drvPath), kind))
	}
	options, err := drvopts.Parse(r.executor.store.Dir(), drv)
	if err != nil {
		return failure(nix.BuildErrorf(nix.StatusInputRejected, "cannot build '%s': %v", r.print(drvPath), err))
	}
	inputs, out := r.realiseInputs(ctx, drvPath, drv)
	if out != nil {
		return *out
	}
	if rejection := r.admissible(drvPath, drv, options); rejection != nil {
		return failure(rejection)
	}
	closure, err := store.ClosureInfos(ctx, r.executor.store, inputs...)
	if err != nil {
		return outcome{err: fmt.Errorf("inputs of '%s': %w", r.print(drvPath), err)}
	}
	return r.attempt(ctx, drvPath, drv, options, closure)
}

// attempt builds under the locks of the outputs.
func (r *request) attempt(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, options *drvopts.Options, closure map[nix.StorePath]*nix.PathInfo) outcome {
	st := r.executor.store
	var lockPaths []nix.StorePath
	for _, o := range drv.Outputs {
		lockPaths = append(lockPaths, o.Path)
	}
	locks, err := st.LockPaths(ctx, lockPaths, func(path string) {
		r.event(nix.EventWaiting, drvPath, fmt.Sprintf("waiting for lock on '%s'", path))
	})
	if err != nil {
		return outcome{err: err}
	}
	defer locks.Release()

	// Somebody else may have built it while we waited.
	if out, err := r.alreadyValid(ctx, drvPath, drv, nix.AllOutputs); out != nil || err != nil {
		if err != nil {
			return outcome{err: err}
		}
		return *out
	}

	release, err := r.executor.slots.acquire(ctx)
	if err != nil {
		return outcome{err: err}
	}
	defer release()

	attempt := &build.Attempt{
		DrvPath: drvPath, Drv: &drv.BasicDerivation, Options: options, Closure: closure, Log: r.log, BuilderEnded: release,
	}
	done, err := r.executor.machine.Run(ctx, attempt, &r.settings.Attempt)
	return r.report(drvPath, drv, done, err)
}

// report turns what an attempt gave into the outcome of its goal.
func (r *request) report(drvPath nix.StorePath, drv *nix.Derivation, done *build.Result, err error) outcome {
	var result nix.BuildResult
	if done != nil {
		result = nix.BuildResult{TimesBuilt: 1, Start: done.Start, Stop: done.Stop,
			Resources: done.Resources, Isolation: done.Isolation, KeptBuildDir: done.KeptBuildDir}
	}
	var exit *build.BuilderError
	var failed *nix.BuildError
	switch {
	case errors.As(err, &exit):
		result.Status, result.Message = exit.Status, r.builderFailed(drvPath, drv, exit, done)
	case errors.As(err, &failed):
		result.Status, result.Message = failed.Status, failed.Message
	case err != nil:
		return outcome{err: fmt.Errorf("build '%s': %w", r.print(drvPath), err)}
	default:
		result.Status, result.Outputs = nix.StatusBuilt, done.Outputs
	}
	r.log.Event(nix.Event{Kind: nix.EventFinished, Path: drvPath, Status: result.Status})
	return outcome{result: result}
}

// builderFailed is the message about a builder that ran and failed.
func (r *request) builderFailed(drvPath nix.StorePath, drv *nix.Derivation, exit *build.BuilderError, done *build.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Cannot build '%s'.\nReason: builder %s.", r.print(drvPath), exit.Reason)
	b.WriteString(outputPathsNote(r.executor.store.Dir(), &drv.BasicDerivation))
	if r.settings.LogTail && done != nil && len(done.LogTail) > 0 {
		fmt.Fprintf(&b, "\nLast %d log lines:\n", len(done.LogTail))
		for _, line := range done.LogTail {
			fmt.Fprintf(&b, "> %s\n", line)
		}
		fmt.Fprintf(&b, "For full logs, run:\n  %s %s", r.settings.LogCommand, r.print(drvPath))
	}
	b.WriteString(exit.Note)
	return b.String()
}

// realiseInputs makes the inputs of a derivation valid and gives them. The
// outcome is set when that did not succeed.
func (r *request) realiseInputs(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation) ([]nix.StorePath, *outcome) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	type input struct {
		drv     nix.StorePath
		outputs nix.OutputSpec
	}
	var (
		wanted []input
		paths  = slices.Clone(drv.InputSrcs)
	)
	for _, p := range slices.Sorted(maps.Keys(drv.InputDrvs)) {
		if len(drv.InputDrvs[p].Dynamic) > 0 {
			out := failure(nix.BuildErrorf(nix.StatusInputRejected, "cannot build '%s': its input '%s' is a dynamic derivation, which is not supported", r.print(drvPath), r.print(p)))
			return nil, &out
		}
		wanted = append(wanted, input{p, nix.OutputSpec{Names: drv.InputDrvs[p].Outputs}})
	}

	outs := make([]outcome, len(wanted)+len(drv.InputSrcs))
	var wg sync.WaitGroup
	fail := func(out outcome) {
		if !r.settings.KeepGoing && (out.err != nil || !out.result.Status.Success()) {
			cancel(errSiblingFailed)
		}
	}
	valid, err := r.executor.store.ValidPaths(ctx, drv.InputSrcs)
	if err != nil {
		return nil, &outcome{err: err}
	}
	for i, p := range drv.InputSrcs {
		if _, ok := slices.BinarySearch(valid, p); !ok {
			outs[len(wanted)+i] = failure(nix.BuildErrorf(nix.StatusMiscFailure,
				"dependency '%s' of '%s' does not exist, and there is no substituter that can build it", r.print(p), r.print(drvPath)))
			fail(outs[len(wanted)+i])
		}
	}
	for i, in := range wanted {
		// What is valid already needs no goroutine.
		if out := r.validInput(ctx, in.drv, in.outputs); out != nil {
			outs[i] = *out
			fail(*out)
			continue
		}
		wg.Go(func() {
			outs[i] = r.wantOutputs(ctx, in.drv, in.outputs)
			fail(outs[i])
		})
	}
	wg.Wait()

	var failed []nix.BuildResult
	for _, out := range outs {
		switch {
		case errors.Is(out.err, errSiblingFailed):
		case out.err != nil:
			return nil, &out
		case !out.result.Status.Success():
			failed = append(failed, out.result)
		default:
			for _, o := range out.result.Outputs {
				paths = append(paths, o.OutPath)
			}
		}
	}
	if len(failed) > 0 {
		return nil, r.dependencyFailed(drvPath, drv, failed)
	}
	return paths, nil
}

// validInput is the outcome for an input that is valid already, nil otherwise.
func (r *request) validInput(ctx context.Context, drvPath nix.StorePath, wanted nix.OutputSpec) *outcome {
	known, err := r.executor.store.DerivationOutputs(ctx, drvPath)
	if err != nil {
		return nil
	}
	outputs := make(map[nix.OutputName]nix.Realisation, len(wanted.Names))
	var paths []nix.StorePath
	for _, name := range wanted.Names {
		p, ok := known[name]
		if !ok {
			return nil
		}
		paths = append(paths, p)
		outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: drvPath, Output: name}, OutPath: p}
	}
	if err := r.executor.store.AddTempRoot(ctx, paths...); err != nil {
		return &outcome{err: err}
	}
	valid, err := r.executor.store.ValidPaths(ctx, paths)
	if err != nil {
		return &outcome{err: err}
	}
	if len(valid) != len(paths) {
		return nil
	}
	return &outcome{result: nix.BuildResult{Status: nix.StatusAlreadyValid, Outputs: outputs}}
}

func (r *request) dependencyFailed(drvPath nix.StorePath, drv *nix.Derivation, failed []nix.BuildResult) *outcome {
	noun := "dependencies"
	if len(failed) == 1 {
		noun = "dependency"
	}
	var causes []nix.BuildStatus
	var b strings.Builder
	for _, f := range failed {
		if f.Status == nix.StatusDependencyFailed {
			causes = append(causes, f.Causes...)
		} else {
			causes = append(causes, f.Status)
		}
		b.WriteString(f.Message)
		b.WriteByte('\n')
	}
	slices.Sort(causes)
	fmt.Fprintf(&b, "Cannot build '%s'.\nReason: %d %s failed.", r.print(drvPath), len(failed), noun)
	b.WriteString(outputPathsNote(r.executor.store.Dir(), &drv.BasicDerivation))
	return &outcome{result: nix.BuildResult{Status: nix.StatusDependencyFailed, Message: b.String(), Causes: slices.Compact(causes)}}
}

// admissible tells whether this machine may build the derivation.
func (r *request) admissible(drvPath nix.StorePath, drv *nix.Derivation, options *drvopts.Options) *nix.BuildError {
	s := r.settings
	var reasons strings.Builder
	if s.MaxJobs == 0 {
		reasons.WriteString("\nReason: local builds are disabled (max-jobs = 0)\nHint: set 'max-jobs' to a non-zero value to enable local builds, or configure remote builders via 'builders'")
	}
	builtin := drv.IsBuiltin() && drv.System == "builtin"
	if !builtin && drv.System != s.System && !slices.Contains(s.ExtraPlatforms, drv.System) {
		fmt.Fprintf(&reasons, "\nReason: platform mismatch\nRequired system: '%s'\nCurrent system: '%s'", drv.System, s.System)
	}
	kind, _ := drv.Kind() // it was looked at before
	required := options.Features(kind)
	for _, f := range required {
		if !slices.Contains(s.SystemFeatures, f) {
			fmt.Fprintf(&reasons, "\nReason: missing system features\nRequired features: {%s}\nAvailable features: {%s}",
				strings.Join(required, ", "), strings.Join(slices.Sorted(slices.Values(s.SystemFeatures)), ", "))
			break
		}
	}
	if reasons.Len() == 0 {
		return nil
	}
	return nix.BuildErrorf(nix.StatusInputRejected, "Cannot build '%s'.%s", r.print(drvPath), reasons.String())
}

func (r *request) print(p nix.StorePath) string { return r.executor.store.Dir().Join(p) }

func (r *request) event(kind nix.EventKind, p nix.StorePath, message string) {
	r.log.Event(nix.Event{Kind: kind, Path: p, Message: message})
}

func joinNames(names []nix.OutputName) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = "'" + string(n) + "'"
	}
	return strings.Join(quoted, ", ")
}

// load gives a derivation: one that came with the request, or one of the store.
func (r *request) load(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
	if basic, ok := r.basic[p]; ok {
		return &nix.Derivation{BasicDerivation: *basic}, nil
	}
	return r.executor.drvs.load(ctx, p)
}

// derivations reads derivations from the store.
type derivations struct{ store *local.Store }

func newDerivations(st *local.Store) derivations { return derivations{st} }

// maxDrvFile bounds how much of a derivation file is read, in bytes.
const maxDrvFile = 64 << 20

func (d derivations) load(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
	full := d.store.Dir().Join(p)
	if !p.IsDerivation() {
		return nil, nix.BuildErrorf(nix.StatusInputRejected, "path '%s' is not a derivation", full)
	}
	valid, err := d.store.ValidPaths(ctx, []nix.StorePath{p})
	if err != nil {
		return nil, err
	}
	if len(valid) == 0 {
		return nil, nix.BuildErrorf(nix.StatusMiscFailure, "path '%s' is required, but it is not in the store and there is no substituter that can build it", full)
	}
	text, err := d.store.ReadFile(ctx, p, maxDrvFile)
	if err != nil {
		return nil, nix.BuildErrorf(nix.StatusMiscFailure, "read derivation: %v", err)
	}
	drv, err := aterm.Parse(d.store.Dir(), strings.TrimSuffix(p.Name(), nix.DrvExtension), text, aterm.Limits{})
	if err != nil {
		return nil, nix.BuildErrorf(nix.StatusMiscFailure, "%v", err)
	}
	return drv, nil
}
