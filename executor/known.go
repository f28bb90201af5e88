package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store"
)

// knownOutputs is what is known of a derivation's outputs: where they belong, or
// what they have been, and whether that is valid.
type knownOutputs map[nix.OutputName]build.KnownOutput

// knownOutputs looks up what is known of the outputs of a derivation.
func (r *request) knownOutputs(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, mode nix.BuildMode) (knownOutputs, error) {
	known := make(knownOutputs, len(drv.Outputs))
	var paths []nix.StorePath
	for name, o := range drv.Outputs {
		p := o.Path
		if o.Kind == nix.Floating || o.Kind == nix.Deferred {
			realisation, err := r.store.Realisation(ctx, nix.DrvOutput{Drv: drvPath, Output: name})
			if err == nil {
				p = realisation.OutPath
			} else if !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
		}
		known[name] = build.KnownOutput{Path: p}
		if p != "" {
			paths = append(paths, p)
		}
	}
	if err := r.store.AddTempRoot(ctx, paths...); err != nil {
		return nil, err
	}
	valid, err := r.store.ValidPaths(ctx, paths)
	if err != nil {
		return nil, err
	}
	for name, k := range known {
		k.Valid = slices.Contains(valid, k.Path)
		if k.Valid && mode == nix.BuildRepair {
			if k.Valid, err = r.intact(ctx, k.Path); err != nil {
				return nil, err
			}
			k.Damaged = !k.Valid
		}
		known[name] = k
	}
	return known, nil
}

// wanted gives the wanted outputs, and tells whether all of them are valid.
func (known knownOutputs) wanted(drvPath nix.StorePath, wanted nix.OutputSpec) (outputs map[nix.OutputName]nix.Realisation, valid bool) {
	outputs, valid = make(map[nix.OutputName]nix.Realisation), true
	for name, k := range known {
		if wanted.Contains(name) {
			outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: drvPath, Output: name}, OutPath: k.Path}
			valid = valid && k.Valid
		}
	}
	return outputs, valid
}

// lockNames gives what is to be locked while the derivation is built. For outputs
// whose path is not known that is a name made of the derivation's and theirs, as
// Nix has it.
func (known knownOutputs) lockNames(drvPath nix.StorePath) (names []nix.StorePath) {
	for name, k := range known {
		if k.Path == "" {
			names = append(names, drvPath+nix.StorePath("."+string(name)))
		} else {
			names = append(names, k.Path)
		}
	}
	return names
}

// recordsRealisations tells whether the store keeps which objects the outputs of
// a derivation are. It knows only derivations that it has.
func (r *request) recordsRealisations(drvPath nix.StorePath) bool {
	_, brought := r.basic[drvPath]
	return !brought && r.hasFeature(conf.CADerivations)
}

// recordKnown keeps which objects valid outputs are. Those whose path the
// derivation states have been built without the feature if that is news.
func (r *request) recordKnown(ctx context.Context, drvPath nix.StorePath, outputs map[nix.OutputName]nix.Realisation) error {
	if !r.recordsRealisations(drvPath) {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		o := outputs[name]
		_, err := r.store.Realisation(ctx, o.ID)
		if errors.Is(err, store.ErrNotFound) {
			if err = r.settings.Attempt.SignRealisation(ctx, r.store, &o); err == nil {
				err = r.store.RegisterRealisation(ctx, &o)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// intact tells whether a valid object still has the content that it should have.
func (r *request) intact(ctx context.Context, p nix.StorePath) (bool, error) {
	st := r.store
	info, err := st.PathInfo(ctx, p)
	if err != nil {
		return false, err
	}
	sum := info.NARHash.Algorithm().New()
	if err := st.NAR(ctx, p, sum); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return false, cause
		}
		// Whatever keeps the object from being read keeps it from being used.
		return false, nil
	}
	return nix.SumHash(info.NARHash.Algorithm(), sum) == info.NARHash, nil
}

// repairClosure repairs what the outputs of a derivation need, since they are
// intact themselves. The outcome is set when that did not succeed.
func (t task) repairClosure(ctx context.Context, drvPath nix.StorePath, known knownOutputs) *outcome {
	st := t.store
	own := make(map[nix.StorePath]bool, len(known))
	for _, k := range known {
		if k.Path != "" {
			own[k.Path] = true
		}
	}
	closure, err := store.Closure(ctx, st, slices.Collect(maps.Keys(own))...)
	if err != nil {
		return &outcome{err: err}
	}
	var damaged []nix.StorePath
	for _, p := range closure {
		if own[p] {
			continue
		}
		good, err := t.intact(ctx, p)
		if err != nil {
			return &outcome{err: err}
		}
		if !good {
			damaged = append(damaged, p)
		}
	}
	if len(damaged) == 0 {
		return nil
	}
	makers, err := t.makers(ctx, drvPath)
	if err != nil {
		return &outcome{err: err}
	}
	for _, p := range damaged {
		t.event(nix.EventWarning, drvPath, fmt.Sprintf("found corrupted or missing path '%s' in the output closure of '%s'", t.print(p), t.print(drvPath)))
		maker, ok := makers[p]
		if !ok && t.settings.Substituters != nil {
			if out := t.await(ctx, t.fetchWant(p, nix.ContentAddress{}, nix.BuildRepair)); out.err != nil || !out.result.Status.Success() {
				return &out
			}
			continue
		}
		if !ok {
			out := failure(nix.BuildErrorf(nix.StatusMiscFailure,
				"cannot repair '%s': no derivation makes it, and there is no substituter that has it", t.print(p)))
			return &out
		}
		if out := t.wantOutputs(ctx, maker, nix.AllOutputs, nix.BuildRepair); out.err != nil || !out.result.Status.Success() {
			return &out
		}
	}
	return nil
}

// makers gives the derivations, among those that a derivation needs, by what they
// make.
func (r *request) makers(ctx context.Context, drvPath nix.StorePath) (map[nix.StorePath]nix.StorePath, error) {
	st := r.store
	inputs, err := store.Closure(ctx, st, drvPath)
	if err != nil {
		return nil, err
	}
	makers := make(map[nix.StorePath]nix.StorePath)
	for _, p := range inputs {
		if !p.IsDerivation() {
			continue
		}
		drv, err := r.load(ctx, p)
		if err != nil {
			return nil, err
		}
		outputs, err := r.knownOutputs(ctx, p, drv, nix.BuildNormal)
		if err != nil {
			return nil, err
		}
		for _, o := range outputs {
			makers[o.Path] = p
		}
	}
	return makers, nil
}
