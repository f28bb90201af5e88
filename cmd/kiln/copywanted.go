package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
)

// A wanted is what the words of a command line name in a store: objects, and which of
// them are known to be outputs of content-addressed derivations.
type wanted struct {
	paths        []nix.StorePath
	realisations []wantedRealisation
}

// A wantedRealisation is a realisation with what Nix before 2.35 calls the output.
type wantedRealisation struct {
	nix.Realisation
	legacy string
}

// want reads words for objects of the store, and for outputs of derivations in it
// (PATH.drv^OUTPUTS).
func (s openedStore) want(ctx context.Context, args []string) (*wanted, error) {
	w := &wanted{}
	for _, arg := range args {
		name, outputs, chosen := strings.Cut(arg, "^")
		paths, err := s.paths([]string{name})
		if err == nil && chosen {
			err = s.wantOutputs(ctx, w, paths[0], outputs)
		} else {
			w.paths = append(w.paths, paths...)
		}
		if err != nil {
			return nil, fmt.Errorf("'%s': %w", arg, err)
		}
	}
	return w, nil
}

func (s openedStore) wantOutputs(ctx context.Context, w *wanted, p nix.StorePath, outputs string) error {
	spec, err := nix.ParseOutputSpec(outputs)
	if err != nil {
		return err
	}
	if !p.IsDerivation() {
		return errors.New("it is not a derivation, so it has no outputs to choose from")
	}
	load := func(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
		return store.Derivation(ctx, s.Store, p)
	}
	drv, err := load(ctx, p)
	if err != nil {
		return err
	}
	for _, name := range spec.Names {
		if _, ok := drv.Outputs[name]; !ok {
			return fmt.Errorf("it has no output '%s'", name)
		}
	}
	hasher := aterm.NewHasher(s.Dir(), load, aterm.HasherOptions{})
	for _, name := range drv.OutputNames() {
		o := drv.Outputs[name]
		if !spec.Contains(name) {
			continue
		}
		if o.Kind.HasKnownOutputPaths() && o.Path != "" {
			w.paths = append(w.paths, o.Path)
			continue
		}
		source, ok := s.substituter().(substitute.RealisationSource)
		if !ok {
			return fmt.Errorf("%s does not know what its output '%s' is", s.name, name)
		}
		id := nix.DrvOutput{Drv: p, Output: name}
		legacy, err := hasher.LegacyRealisationID(ctx, drv, name)
		if err != nil {
			return err
		}
		r, err := source.Realisation(ctx, id, legacy)
		if err != nil {
			return err
		}
		w.paths = append(w.paths, r.OutPath)
		w.realisations = append(w.realisations, wantedRealisation{nix.Realisation{ID: id, OutPath: r.OutPath, Signatures: r.Signatures}, legacy})
	}
	return nil
}

// realise tells a store what outputs are whose objects it has by now. With keys that are
// not nil, one of them must have signed that.
func (w *wanted) realise(ctx context.Context, to openedStore, keys sign.Keys) error {
	if len(w.realisations) == 0 {
		return nil
	}
	sink, ok := to.Store.(store.RealisationSink)
	if !ok {
		fmt.Fprintf(os.Stderr, "warning: %s does not keep of which derivations its objects are outputs\n", to.name)
		return nil
	}
	for i := range w.realisations {
		r := &w.realisations[i]
		if keys != nil && !keys.Trusted(sign.LegacyRealisation(r.legacy, r.OutPath), r.Signatures) && !keys.Trusted(sign.Realisation(&r.Realisation), r.Signatures) {
			return fmt.Errorf("that '%s' is '%s^%s' has no signature by one of 'trusted-public-keys'; the object itself was copied",
				to.Dir().Join(r.OutPath), to.Dir().Join(r.ID.Drv), r.ID.Output)
		}
		if err := sink.AddRealisation(ctx, &r.Realisation, r.legacy); err != nil {
			return err
		}
	}
	return nil
}
