package executor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/drvopts"
	"github.com/kilnbuild/kiln/store"
)

// lookups is how many objects are asked for at once, besides those that are fetched
// (Nix: http-connections).
const lookups = 25

// fetchWant is the want of an object from the substituters. ca is its content address,
// if it is known to have one.
func (t task) fetchWant(p nix.StorePath, ca nix.ContentAddress, mode nix.BuildMode) want {
	key := goalKey{kind: fetchGoal, path: p, mode: mode, from: t.settings.Substituters}
	if !ca.IsZero() {
		key.outputs = ca.String()
	}
	return t.goal(key, func(ctx context.Context, t task) outcome { return t.fetch(ctx, p, ca, mode) })
}

// fetch is the goal that makes an object valid by fetching it, after what it refers to,
// from the first substituter that delivers. An outcome of StatusNoSubstituters is no
// failure of anybody unless it has fetchFailed set.
func (t task) fetch(ctx context.Context, p nix.StorePath, ca nix.ContentAddress, mode nix.BuildMode) outcome {
	if err := t.store.AddTempRoot(ctx, p); err != nil {
		return outcome{err: err}
	}
	if mode != nix.BuildRepair {
		valid, err := t.store.ValidPaths(ctx, []nix.StorePath{p})
		if err != nil {
			return outcome{err: err}
		}
		if len(valid) > 0 {
			return outcome{result: nix.BuildResult{Status: nix.StatusAlreadyValid}}
		}
	}
	set := t.settings.Substituters
	all, err := set.Substituters(ctx, t.warn)
	if err != nil {
		return outcome{err: err}
	}
	none := failure(nix.BuildErrorf(nix.StatusNoSubstituters,
		"path '%s' is required, but there is no substituter that can build it", t.print(p)))
	for _, from := range all {
		offer, err := set.Ask(ctx, from, p, ca)
		if err == nil {
			out := t.fetchOffer(ctx, offer, mode)
			if out.err != nil || out.result.Status.Success() {
				return out
			}
			if out.fetchFailed {
				none = out
			}
			continue
		}
		switch cause := context.Cause(ctx); {
		case cause != nil:
			return outcome{err: cause}
		case errors.Is(err, store.ErrNotFound):
		case errors.Is(err, substitute.ErrNotSigned):
			t.warn(err.Error())
		default:
			t.warn(err.Error())
			none.fetchFailed = true
			none.result.Message += "\n" + err.Error()
		}
	}
	return none
}

// fetchOffer fetches an object from a substituter that has it.
func (t task) fetchOffer(ctx context.Context, offer *substitute.Offer, mode nix.BuildMode) outcome {
	p := offer.Info.Path
	missing, err := t.missingReferences(ctx, offer.Info)
	if err != nil {
		return outcome{err: err}
	}
	t.log.Event(nix.Event{Kind: nix.EventPlanned, Path: p, Inputs: missing})
	if out := t.fetchReferences(ctx, p, missing); out != nil {
		return t.told(p, *out)
	}
	slot, err := t.fetches.acquire(ctx, nil)
	if err != nil {
		return t.told(p, outcome{err: err})
	}
	defer slot.release()
	err = store.Copy(ctx, offer, t.store, []nix.StorePath{p}, store.CopyOptions{
		Repair: mode == nix.BuildRepair, CheckSignatures: offer.CheckSignatures, Jobs: 1, From: offer.From.Name, To: "the store", Log: t.log,
	})
	switch cause := context.Cause(ctx); {
	case err == nil:
		return outcome{result: nix.BuildResult{Status: nix.StatusSubstituted}}
	case cause != nil:
		return outcome{err: cause}
	}
	t.warn(fmt.Sprintf("fetching '%s' from '%s' failed: %v", t.print(p), offer.From.Name, err))
	out := failure(nix.BuildErrorf(nix.StatusNoSubstituters,
		"path '%s' is required, but there is no substituter that can build it\n%v", t.print(p), err))
	// An archive that is gone is as if it had never been there.
	var copying *store.CopyError
	out.fetchFailed = !errors.As(err, &copying) || !copying.Reading || !errors.Is(err, store.ErrNotFound)
	return out
}

// missingReferences gives what an object refers to and is not valid.
func (t task) missingReferences(ctx context.Context, info *nix.PathInfo) ([]nix.StorePath, error) {
	references := info.SelfReferences().Others
	if err := t.store.AddTempRoot(ctx, references...); err != nil {
		return nil, err
	}
	valid, err := t.store.ValidPaths(ctx, references)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(references), func(r nix.StorePath) bool { return slices.Contains(valid, r) }), nil
}

// fetchReferences fetches what an object refers to. The outcome is set when that did
// not succeed.
func (t task) fetchReferences(ctx context.Context, p nix.StorePath, missing []nix.StorePath) *outcome {
	wants := make([]want, len(missing))
	for i, r := range missing {
		wants[i] = t.fetchWant(r, nix.ContentAddress{}, nix.BuildNormal)
	}
	var unknown, failed *outcome
	absent := false
	t.awaitAll(ctx, t.place, wants, func(_ int, out *outcome) {
		switch {
		case out.err != nil:
			unknown = out
		case !out.result.Status.Success():
			failed = out
			absent = absent || !out.fetchFailed
		}
	})
	if unknown != nil {
		return &outcome{err: unknown.err}
	}
	if failed == nil {
		return nil
	}
	out := failure(nix.BuildErrorf(nix.StatusDependencyFailed, "%s\nsome references of path '%s' could not be realised", failed.result.Message, t.print(p)))
	out.result.Causes = []nix.BuildStatus{nix.StatusNoSubstituters}
	out.fetchFailed = !absent
	return &out
}

// substitutes tells whether outputs of a derivation are looked for in the substituters.
// Where builders that ask for fixed outputs are not to reach the network by them, they
// do not reach a substituter either.
func (r *request) substitutes(drv *nix.Derivation, kind nix.OutputKind, mode nix.BuildMode) bool {
	if r.settings.Substituters == nil || kind == nix.Impure || mode == nix.BuildCheck || !kind.IsPure() && r.network != nix.NetworkAllowed {
		return false
	}
	if r.settings.AlwaysAllowSubstitutes {
		return true
	}
	options, err := drvopts.Parse(r.store.Dir(), drv)
	return err == nil && options.AllowSubstitutes // an error is told when it is built
}

// substitute fetches the wanted outputs of a derivation that are not valid. The outcome
// is nil if there is something left to be built.
func (t task) substitute(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, known knownOutputs, wanted nix.OutputSpec, mode nix.BuildMode) *outcome {
	var wants []want
	for name, k := range known {
		switch o := drv.Outputs[name]; {
		case !wanted.Contains(name) || k.Valid:
		case k.Path != "":
			var ca nix.ContentAddress
			if o.Kind == nix.Fixed {
				ca = o.ContentAddress()
			}
			wants = append(wants, t.fetchWant(k.Path, ca, mode))
		case t.recordsRealisations(drvPath):
			wants = append(wants, t.realisationWant(nix.DrvOutput{Drv: drvPath, Output: name}))
		default:
			return nil
		}
	}
	var unknown, failed *outcome
	t.awaitAll(ctx, t.place, wants, func(_ int, out *outcome) {
		switch {
		case out.err != nil:
			unknown = out
		case !out.result.Status.Success() && out.fetchFailed:
			failed = out
		}
	})
	switch {
	case unknown != nil:
		return &outcome{err: unknown.err}
	case failed != nil && !t.settings.Fallback:
		out := failure(nix.BuildErrorf(nix.StatusTransientFailure,
			"%s\nsome substitutes for the outputs of derivation '%s' failed (usually happens due to networking issues); try '--fallback' to build derivation from source",
			failed.result.Message, t.print(drvPath)))
		return &out
	}
	known, err := t.knownOutputs(ctx, drvPath, drv, mode)
	if err != nil {
		return &outcome{err: err}
	}
	outputs, valid := known.wanted(drvPath, wanted)
	if !valid {
		return nil
	}
	if err := t.recordKnown(ctx, drvPath, outputs); err != nil {
		return &outcome{err: err}
	}
	return &outcome{result: nix.BuildResult{Status: nix.StatusSubstituted, Outputs: outputs}}
}

// realisationWant is the want of an output whose path nobody here knows.
func (t task) realisationWant(id nix.DrvOutput) want {
	key := goalKey{kind: realisationGoal, path: id.Drv, outputs: string(id.Output), from: t.settings.Substituters}
	return t.goal(key, func(ctx context.Context, t task) outcome { return t.fetchRealisation(ctx, id) })
}

// fetchRealisation is the goal that finds out what an output is, and fetches it.
func (t task) fetchRealisation(ctx context.Context, id nix.DrvOutput) outcome {
	set := t.settings.Substituters
	all, err := set.Substituters(ctx, t.warn)
	if err != nil {
		return outcome{err: err}
	}
	legacy, err := t.store.LegacyRealisationID(ctx, id)
	if err != nil {
		return outcome{err: err}
	}
	none := failure(nix.BuildErrorf(nix.StatusNoSubstituters,
		"output '%s^%s' is required, but there is no substituter that can provide it", t.print(id.Drv), id.Output))
	for _, from := range all {
		r, err := set.Realisation(ctx, from, id, legacy)
		if cause := context.Cause(ctx); cause != nil {
			return outcome{err: cause}
		}
		if err != nil {
			if !errors.Is(err, store.ErrNotFound) {
				t.warn(err.Error())
			}
			none.fetchFailed = none.fetchFailed || !errors.Is(err, store.ErrNotFound) && !errors.Is(err, substitute.ErrNotSigned)
			continue
		}
		out := t.await(ctx, t.fetchWant(r.OutPath, nix.ContentAddress{}, nix.BuildNormal))
		if out.err != nil {
			return out
		}
		if !out.result.Status.Success() {
			none.fetchFailed = none.fetchFailed || out.fetchFailed
			continue
		}
		if err := t.store.RegisterRealisation(ctx, r); err != nil {
			return outcome{err: err}
		}
		return out
	}
	return none
}

// loadOrFetch is load, after the derivation was fetched if it is not there.
func (t task) loadOrFetch(ctx context.Context, drvPath nix.StorePath) (*nix.Derivation, error) {
	drv, err := t.load(ctx, drvPath)
	if err == nil || t.settings.Substituters == nil || !drvPath.IsDerivation() {
		return drv, err
	}
	valid, verr := t.store.ValidPaths(ctx, []nix.StorePath{drvPath})
	if verr != nil || len(valid) > 0 {
		return nil, err
	}
	out := t.await(ctx, t.fetchWant(drvPath, nix.ContentAddress{}, nix.BuildNormal))
	if out.err != nil {
		return nil, out.err
	}
	if !out.result.Status.Success() {
		return nil, &nix.BuildError{Status: nix.StatusMiscFailure, Message: out.result.Message}
	}
	return t.load(ctx, drvPath)
}

// warn tells of trouble with a substituter.
func (r *request) warn(text string) { r.event(nix.EventWarning, "", text) }
