package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
)

// inputMode is the mode in which the inputs of what is built in mode are wanted.
func inputMode(mode nix.BuildMode) nix.BuildMode {
	if mode == nix.BuildRepair {
		return mode
	}
	return nix.BuildNormal
}

// input is what a derivation needs of another one.
type input struct {
	drv     nix.StorePath
	outputs nix.InputOutputs
}

// realiseInputs makes the inputs of a derivation valid. It gives them, and which
// of them is which output. The outcome is set when that did not succeed.
func (t task) realiseInputs(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, mode nix.BuildMode) ([]nix.StorePath, realised, *outcome) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	paths := slices.Sorted(maps.Keys(drv.InputDrvs))
	t.log.Event(nix.Event{Kind: nix.EventPlanned, Path: drvPath, Inputs: paths})
	wanted := make([]input, len(paths))
	for i, p := range paths {
		wanted[i] = input{p, drv.InputDrvs[p]}
	}
	outs := make([]outcome, len(wanted)+len(drv.InputSrcs))
	found := make([]realised, len(wanted))
	fail := func(out outcome) {
		if !t.settings.KeepGoing && (out.err != nil || !out.result.Status.Success()) {
			cancel(errSiblingFailed)
		}
	}
	valid, err := t.store.ValidPaths(ctx, drv.InputSrcs)
	if err != nil {
		return nil, nil, &outcome{err: err}
	}
	var missing []int
	var wants []want
	for i, p := range drv.InputSrcs {
		if _, ok := slices.BinarySearch(valid, p); ok {
			continue
		}
		if t.settings.Substituters != nil {
			missing = append(missing, len(wanted)+i)
			wants = append(wants, t.fetchWant(p, nix.ContentAddress{}, nix.BuildNormal))
			continue
		}
		outs[len(wanted)+i] = failure(nix.BuildErrorf(nix.StatusMiscFailure,
			"dependency '%s' of '%s' does not exist, and substitution is disabled", t.print(p), t.print(drvPath)))
		fail(outs[len(wanted)+i])
	}
	mode = inputMode(mode)
	for i, in := range wanted {
		// What is valid already needs no goal.
		if out := t.validInput(ctx, in, mode); out != nil {
			outs[i], found[i] = *out, in.realised(*out)
			fail(*out)
			continue
		}
		missing = append(missing, i)
		wants = append(wants, t.goal(goalKey{kind: wantGoal, path: in.drv, outputs: fmt.Sprint(in.outputs), mode: mode, network: t.network, limits: t.limits, minIsolation: t.minIsolation},
			func(ctx context.Context, t task) outcome { return t.realise(ctx, in, mode) }))
	}
	t.awaitAll(ctx, t.place, wants, func(n int, out *outcome) {
		i := missing[n]
		if outs[i] = *out; i < len(found) {
			found[i] = out.realised
		}
		fail(*out)
	})

	var failed []nix.BuildResult
	var failedAt nix.StorePath
	for i, out := range outs {
		switch {
		case errors.Is(out.err, errSiblingFailed):
		case out.err != nil:
			return nil, nil, &out
		case !out.result.Status.Success():
			if len(failed) == 0 && i < len(wanted) {
				failedAt = cmp.Or(out.failedAt, wanted[i].drv)
			}
			failed = append(failed, out.result)
		}
	}
	if len(failed) > 0 {
		out := t.dependencyFailed(drvPath, drv, failed)
		out.failedAt = failedAt
		return nil, nil, out
	}
	objects, all := slices.Clone(drv.InputSrcs), make(realised)
	for _, f := range found {
		for in, p := range f {
			all[in] = p
			objects = append(objects, p)
		}
	}
	return objects, all, nil
}

// realised says which outputs of an input the outcome is about.
func (in input) realised(out outcome) realised {
	found := make(realised, len(out.result.Outputs))
	for name, o := range out.result.Outputs {
		found[inputOutput{drv: in.drv, output: name}] = o.OutPath
	}
	return found
}

// realise makes valid what is needed of an input: its outputs, and those of the
// derivations that outputs of it are.
func (t task) realise(ctx context.Context, in input, mode nix.BuildMode) outcome {
	found := make(realised)
	var descend func(drv nix.StorePath, via string, needed nix.InputOutputs) outcome
	descend = func(drv nix.StorePath, via string, needed nix.InputOutputs) outcome {
		var spec nix.OutputSpec
		spec.Names = append(slices.Clone(needed.Outputs), slices.Collect(maps.Keys(needed.Dynamic))...)
		slices.Sort(spec.Names)
		spec.Names = slices.Compact(spec.Names)
		out := t.wantOutputs(ctx, drv, spec, mode)
		if out.err != nil || !out.result.Status.Success() {
			return out
		}
		for _, o := range needed.Outputs {
			found[inputOutput{in.drv, via, o}] = out.result.Outputs[o].OutPath
		}
		for _, o := range slices.Sorted(maps.Keys(needed.Dynamic)) {
			if out := descend(out.result.Outputs[o].OutPath, via+string(o)+"^", needed.Dynamic[o]); out.err != nil || !out.result.Status.Success() {
				return out
			}
		}
		return out
	}
	out := descend(in.drv, "", in.outputs)
	out.realised = found
	return out
}

// validInput is the outcome for an input that is valid already, nil if there is
// more to find out.
func (r *request) validInput(ctx context.Context, in input, mode nix.BuildMode) *outcome {
	if mode != nix.BuildNormal || len(in.outputs.Dynamic) > 0 || r.hasFeature(conf.CADerivations) {
		return nil
	}
	known, err := r.store.DerivationOutputs(ctx, in.drv)
	if err != nil {
		return nil
	}
	outputs := make(map[nix.OutputName]nix.Realisation, len(in.outputs.Outputs))
	var paths []nix.StorePath
	for _, name := range in.outputs.Outputs {
		p, ok := known[name]
		if !ok {
			return nil
		}
		paths = append(paths, p)
		outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: in.drv, Output: name}, OutPath: p}
	}
	if err := r.store.AddTempRoot(ctx, paths...); err != nil {
		return &outcome{err: err}
	}
	valid, err := r.store.ValidPaths(ctx, paths)
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
	var messages []string
	for _, f := range failed {
		if f.Status == nix.StatusDependencyFailed {
			causes = append(causes, f.Causes...)
		} else {
			causes = append(causes, f.Status)
		}
		messages = append(append(messages, f.CauseMessages...), f.OwnMessage())
	}
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(m)
		b.WriteByte('\n')
	}
	slices.Sort(causes)
	fmt.Fprintf(&b, "Cannot build '%s'.\nReason: %d %s failed.", r.print(drvPath), len(failed), noun)
	b.WriteString(outputPathsNote(r.store.Dir(), &drv.BasicDerivation))
	return &outcome{result: nix.BuildResult{Status: nix.StatusDependencyFailed, Message: b.String(), CauseMessages: messages, Causes: slices.Compact(causes)}}
}
