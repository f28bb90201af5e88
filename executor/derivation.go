package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/drvopts"
)

// wantOutputs makes outputs of a derivation valid.
func (t task) wantOutputs(ctx context.Context, drvPath nix.StorePath, wanted nix.OutputSpec, mode nix.BuildMode) outcome {
	drv, err := t.loadOrFetch(ctx, drvPath)
	if err != nil {
		return outcomeOf(err)
	}
	for _, name := range wanted.Names {
		if _, ok := drv.Outputs[name]; !ok {
			return failure(nix.BuildErrorf(nix.StatusInputRejected,
				"derivation '%s' does not have wanted output '%s'; it has %s", t.print(drvPath), name, joinNames(drv.OutputNames())))
		}
	}
	kind, err := drv.Kind()
	if err != nil {
		return failure(nix.BuildErrorf(nix.StatusInputRejected, "%v", err))
	}
	if rejection := t.enabled(drv, kind); rejection != nil {
		return failure(rejection)
	}
	if err := t.rootOutputs(ctx, drvPath, drv); err != nil {
		return outcome{err: err}
	}
	known, err := t.knownOutputs(ctx, drvPath, drv, mode)
	if err != nil {
		return outcome{err: err}
	}
	if out, err := t.nothingToBuild(ctx, drvPath, known, wanted, kind, mode); out != nil || err != nil {
		if err != nil {
			return outcome{err: err}
		}
		return *out
	}
	if t.substitutes(drv, kind, mode) {
		if out := t.substitute(ctx, drvPath, drv, known, wanted, mode); out != nil {
			return *out
		}
	}
	if mustResolve(drv, kind, t.hasFeature(conf.CADerivations)) {
		return t.wantResolved(ctx, drvPath, drv, kind, wanted, mode)
	}
	key := goalKey{kind: buildGoal, path: drvPath, mode: mode, network: t.network, limits: t.limits, minIsolation: t.minIsolation}
	out := t.await(ctx, t.goal(key, func(ctx context.Context, t task) outcome {
		return t.told(drvPath, t.build(ctx, drvPath, drv, kind, mode))
	}))
	return out.only(wanted)
}

// only gives the outcome for a part of the outputs.
func (o outcome) only(wanted nix.OutputSpec) outcome {
	some := make(map[nix.OutputName]nix.Realisation)
	for name, realisation := range o.result.Outputs {
		if wanted.Contains(name) {
			some[name] = realisation
		}
	}
	if len(some) < len(o.result.Outputs) { // else all who wait can have the same map
		o.result.Outputs = some
	}
	return o
}

// nothingToBuild gives the outcome when the wanted outputs are as they should be,
// or when they cannot be what they should be. It is nil when there is something
// to build.
func (t task) nothingToBuild(ctx context.Context, drvPath nix.StorePath, known knownOutputs, wanted nix.OutputSpec, kind nix.OutputKind, mode nix.BuildMode) (*outcome, error) {
	outputs, valid := known.wanted(drvPath, wanted)
	switch {
	case mode == nix.BuildCheck && kind == nix.Impure:
		out := failure(nix.BuildErrorf(nix.StatusMiscFailure,
			"derivation '%s' is impure: it may make something else each time, so checking is not possible", t.print(drvPath)))
		return &out, nil
	case mode == nix.BuildCheck && !valid:
		out := failure(nix.BuildErrorf(nix.StatusMiscFailure,
			"some outputs of '%s' are not valid, so checking is not possible\nHint: build it without --check or --rebuild first, or use --repair if it is damaged", t.print(drvPath)))
		return &out, nil
	case mode == nix.BuildCheck || !valid:
		return nil, nil
	case mode == nix.BuildRepair:
		if out := t.repairClosure(ctx, drvPath, known); out != nil {
			return out, nil
		}
	}
	if err := t.recordKnown(ctx, drvPath, outputs); err != nil {
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
	return r.store.AddTempRoot(ctx, roots...)
}

// wantResolved makes outputs of a derivation valid that has to be resolved first.
// When what its inputs turn out to be has been built from before, nothing is built.
func (t task) wantResolved(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, kind nix.OutputKind, wanted nix.OutputSpec, mode nix.BuildMode) outcome {
	key := goalKey{kind: resolveGoal, path: drvPath, mode: inputMode(mode), network: t.network, limits: t.limits, minIsolation: t.minIsolation}
	resolution := t.await(ctx, t.goal(key, func(ctx context.Context, t task) outcome {
		return t.told(drvPath, t.resolve(ctx, drvPath, drv, kind, mode))
	}))
	if resolution.err != nil || resolution.resolved == "" {
		return resolution
	}
	out := t.wantOutputs(ctx, resolution.resolved, wanted, mode)
	if out.err != nil {
		return out
	}
	if !out.result.Status.Success() {
		if out.result.Status != nix.StatusDependencyFailed {
			out.result.Causes = []nix.BuildStatus{out.result.Status}
		}
		out.result.Status = nix.StatusDependencyFailed
		out.result.Message += fmt.Sprintf("\nbuild of resolved derivation '%s' failed", t.print(resolution.resolved))
		return out
	}
	if out.result.Status == nix.StatusAlreadyValid {
		out.result.Status = nix.StatusResolvesToAlreadyValid
	}
	outputs := make(map[nix.OutputName]nix.Realisation, len(out.result.Outputs))
	for name, o := range out.result.Outputs {
		outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: drvPath, Output: name}, OutPath: o.OutPath}
	}
	out.result.Outputs = outputs
	if kind != nix.Impure {
		if err := t.recordKnown(ctx, drvPath, outputs); err != nil {
			return outcome{err: err}
		}
	}
	return out
}

// resolve is the goal that finds out what the inputs of a derivation are, and
// writes the derivation that has them in their place.
func (t task) resolve(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, kind nix.OutputKind, mode nix.BuildMode) outcome {
	if _, err := drvopts.Parse(t.store.Dir(), drv); err != nil {
		return failure(nix.BuildErrorf(nix.StatusMiscFailure, "while parsing derivation '%s': %v", t.print(drvPath), err))
	}
	if rejection := t.purity(ctx, drvPath, drv, kind); rejection != nil {
		return *rejection
	}
	_, found, out := t.realiseInputs(ctx, drvPath, drv, mode)
	if out != nil {
		return *out
	}
	if rejection := t.require(conf.CADerivations); rejection != nil {
		return failure(rejection)
	}
	st := t.store
	resolved := resolve(st.Dir(), drv, found)
	if err := st.Hasher().FillOutputPaths(ctx, resolved); err != nil {
		return failure(nix.BuildErrorf(nix.StatusInputRejected, "resolve '%s': %v", t.print(drvPath), err))
	}
	path, err := st.AddDerivation(ctx, resolved)
	if err != nil {
		return outcome{err: fmt.Errorf("resolve '%s': %w", t.print(drvPath), err)}
	}
	t.event(nix.EventDiagnostic, drvPath, fmt.Sprintf("resolved derivation: '%s' -> '%s'", t.print(drvPath), t.print(path)))
	return outcome{resolved: path}
}

// purity refuses pure derivations that depend on impure ones: they would not be
// the same twice either.
func (r *request) purity(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, kind nix.OutputKind) *outcome {
	if kind == nix.Impure || kind == nix.Fixed || !r.hasFeature(conf.ImpureDerivations) {
		return nil
	}
	for _, p := range slices.Sorted(maps.Keys(drv.InputDrvs)) {
		input, err := r.load(ctx, p)
		if err != nil {
			out := outcomeOf(err)
			return &out
		}
		if k, err := input.Kind(); err == nil && k == nix.Impure {
			out := failure(nix.BuildErrorf(nix.StatusMiscFailure, "pure derivation '%s' depends on impure derivation '%s'", r.print(drvPath), r.print(p)))
			return &out
		}
	}
	return nil
}

// build is the goal that makes all outputs of a derivation valid.
func (t task) build(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, kind nix.OutputKind, mode nix.BuildMode) outcome {
	options, err := drvopts.Parse(t.store.Dir(), drv)
	if err != nil {
		return failure(nix.BuildErrorf(nix.StatusMiscFailure, "while parsing derivation '%s': %v", t.print(drvPath), err))
	}
	if slices.Contains(options.RequiredSystemFeatures, drvopts.FeatureRecursive) && slices.Contains(t.settings.SystemFeatures, drvopts.FeatureRecursive) {
		if rejection := t.require(conf.RecursiveNix); rejection != nil {
			return failure(rejection)
		}
	}
	if t.network == nix.NetworkRefused && !kind.IsPure() {
		return failure(nix.BuildErrorf(nix.StatusInputRejected,
			"cannot build '%s' for a builder: its own builder may reach the network, and the setting 'recursive-nix-fixed-output' is 'refuse'", t.print(drvPath)))
	}
	inputs, _, out := t.realiseInputs(ctx, drvPath, drv, mode)
	if out != nil {
		return *out
	}
	rejection := t.admissible(drvPath, drv, options)
	if rejection != nil && !t.mayPassOn(drvPath, mode) {
		return failure(rejection)
	}
	closure, err := t.closures.of(ctx, inputs)
	if err != nil {
		return outcome{err: fmt.Errorf("inputs of '%s': %w", t.print(drvPath), err)}
	}
	attempt := &build.Attempt{
		DrvPath: drvPath, Drv: &drv.BasicDerivation, Options: options, Closure: closure, Mode: mode, Log: t.log,
		Realise: kind != nix.Impure && t.recordsRealisations(drvPath), Offline: t.network == nix.NetworkOff,
		Limits: t.limits, MinIsolation: t.minIsolation, KeepSandbox: t.keepSandbox,
	}
	where := machines{here: rejection == nil, elsewhere: t.mayPassOn(drvPath, mode) && (rejection != nil || !options.PreferLocalBuild)}
	for {
		out := t.attempt(ctx, drv, kind, attempt, where)
		if out == nil { // to be asked again
			if out := t.awaitMachine(ctx, drvPath); out != nil {
				return *out
			}
			continue
		}
		if out.err == nil && out.result.Status == nix.StatusInputRejected && rejection != nil {
			return failure(rejection)
		}
		return *out
	}
}

// attempt builds under the locks of the outputs, here or elsewhere. It gives nil if
// there is no machine at the moment.
func (t task) attempt(ctx context.Context, drv *nix.Derivation, kind nix.OutputKind, attempt *build.Attempt, where machines) *outcome {
	st, drvPath := t.store, attempt.DrvPath
	known, err := t.knownOutputs(ctx, drvPath, drv, attempt.Mode)
	if err != nil {
		return &outcome{err: err}
	}
	locks, err := st.LockPaths(ctx, known.lockNames(drvPath), func(path string) {
		// Whoever has the lock may need the place.
		t.place.leave()
		t.event(nix.EventWaiting, drvPath, fmt.Sprintf("waiting for lock on '%s'", path))
	})
	if err != nil {
		return &outcome{err: err}
	}
	defer locks.Release()
	t.place.comeBack(ctx)

	// Somebody else may have built it while we waited.
	if known, err = t.knownOutputs(ctx, drvPath, drv, attempt.Mode); err != nil {
		return &outcome{err: err}
	}
	if out, err := t.nothingToBuild(ctx, drvPath, known, nix.AllOutputs, kind, attempt.Mode); out != nil || err != nil {
		if err != nil {
			return &outcome{err: err}
		}
		return out
	}
	attempt.Known = known
	if where.elsewhere {
		if out, declined := t.passOn(ctx, drv, attempt, where.here); !declined {
			return out
		}
	}
	if !where.here {
		out := failure(nix.BuildErrorf(nix.StatusInputRejected, "no machine builds '%s'", t.print(drvPath)))
		return &out
	}

	rounds := 1
	if attempt.Mode == nix.BuildCheck {
		rounds = max(t.rounds, 1)
	}
	for times := 1; ; times++ {
		out := t.once(ctx, drv, attempt)
		if out.result.TimesBuilt > 0 {
			out.result.TimesBuilt = times
		}
		if times == rounds || out.err != nil || !out.result.Status.Success() {
			return &out
		}
	}
}

// once runs the builder once, when there is a slot for it.
func (t task) once(ctx context.Context, drv *nix.Derivation, attempt *build.Attempt) outcome {
	slot, err := t.slots.acquire(ctx, t.place)
	if err != nil {
		return outcome{err: err}
	}
	defer slot.release()
	attempt.BuilderEnded = slot.release
	if attempt.Recursive() {
		attempt.Nested = &nested{outer: t, slot: slot}
		// What it waits for needs places, so it may not keep one.
		t.place.leave()
		defer t.place.comeBack(ctx)
	}
	done, err := t.machine.Run(ctx, attempt, &t.settings.Attempt)
	return t.report(attempt.DrvPath, drv, done, err)
}

// report turns what an attempt gave into the outcome of its goal.
func (r *request) report(drvPath nix.StorePath, drv *nix.Derivation, done *build.Result, err error) outcome {
	var result nix.BuildResult
	if done != nil {
		result = nix.BuildResult{TimesBuilt: 1, Start: done.Start, Stop: done.Stop,
			Resources: done.Resources, Isolation: done.Isolation, Nested: done.Nested, KeptBuildDir: done.KeptBuildDir, KeptSandbox: done.KeptSandbox, Differences: done.Differences}
	}
	var exit *build.BuilderError
	var failed *nix.BuildError
	switch {
	case errors.As(err, &exit):
		result.Status, result.Message = exit.Status, r.builderFailed(drvPath, drv, exit, done)
		result.Failure = &exit.Failure
	case errors.As(err, &failed):
		result.Status, result.Message, result.Failure = failed.Status, failed.Message, failed.Failure
		result.NonDeterministic = failed.Status == nix.StatusNotDeterministic
	case err != nil:
		return outcome{err: fmt.Errorf("build '%s': %w", r.print(drvPath), err)}
	default:
		result.Status, result.Outputs = nix.StatusBuilt, done.Outputs
	}
	return outcome{result: result}
}

// builderFailed is the message about a builder that ran and failed.
func (r *request) builderFailed(drvPath nix.StorePath, drv *nix.Derivation, exit *build.BuilderError, done *build.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Cannot build '%s'.\nReason: builder %s.", r.print(drvPath), exit.Reason)
	b.WriteString(outputPathsNote(r.store.Dir(), &drv.BasicDerivation))
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
