package recursive

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/worker"
)

// restricted is the store as a builder sees it: what is not in its scope does not
// exist. Its sentences are those that people know from Nix.
type restricted struct{ *Server }

var (
	_ store.Store             = restricted{}
	_ store.BatchSource       = restricted{}
	_ store.ReferrerSource    = restricted{}
	_ store.RealisationStore  = restricted{}
	_ store.TempRooter        = restricted{}
	_ daemon.PathLister       = restricted{}
	_ daemon.HashPartFinder   = restricted{}
	_ daemon.DerivationSource = restricted{}
	_ daemon.ContentAdder     = restricted{}
	_ daemon.Ensurer          = restricted{}
	_ daemon.Rooter           = restricted{}
	_ daemon.Collector        = restricted{}

	_ daemon.LegacyRealisationStore = restricted{}
)

// Dir implements store.Store.
func (r restricted) Dir() nix.StoreDir { return r.cfg.Dir }

// notFound says of an object that does not exist for the builder that it is not
// valid.
func (r restricted) notFound(p nix.StorePath) error {
	return fmt.Errorf("path '%s' is not valid: %w", r.cfg.Dir.Join(p), store.ErrNotFound)
}

// PathInfo implements store.Source. What builders must not depend on is not in it.
func (r restricted) PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	if !r.scope.Has(p) {
		return nil, r.notFound(p)
	}
	info, err := r.cfg.Store.PathInfo(ctx, p)
	if err != nil {
		return nil, err
	}
	return censored(info), nil
}

// censored is what a builder may know of an object: what follows from the object.
func censored(info *nix.PathInfo) *nix.PathInfo {
	return &nix.PathInfo{Path: info.Path, NARHash: info.NARHash, NARSize: info.NARSize, References: info.References, CA: info.CA}
}

// NAR implements store.Source.
func (r restricted) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	if !r.scope.Has(p) {
		return fmt.Errorf("cannot dump unknown path '%s' in recursive Nix", r.cfg.Dir.Join(p))
	}
	return r.cfg.Store.NAR(ctx, p, w)
}

// EnsurePath implements daemon.Ensurer: what exists for the builder is there.
func (r restricted) EnsurePath(_ context.Context, p nix.StorePath) error {
	if !r.scope.Has(p) {
		return fmt.Errorf("cannot substitute unknown path '%s' in recursive Nix", r.cfg.Dir.Join(p))
	}
	return nil
}

// Add implements store.Sink.
func (r restricted) Add(ctx context.Context, info *nix.PathInfo, nar io.Reader, _ store.AddOptions) error {
	if err := r.known(info.References, info.Path); err != nil {
		return fmt.Errorf("add '%s': %w", r.cfg.Dir.Join(info.Path), err)
	}
	if err := r.cfg.Store.Add(ctx, censored(info), nar, store.AddOptions{CheckSignatures: true}); err != nil {
		return err
	}
	return r.scope.Admit(ctx, info.Path)
}

// AddContent implements daemon.ContentAdder.
func (r restricted) AddContent(ctx context.Context, o *worker.AddToStore, dump io.Reader) (*nix.PathInfo, error) {
	if err := r.known(o.References, ""); err != nil {
		return nil, fmt.Errorf("add '%s': %w", o.Name, err)
	}
	info, err := r.cfg.Store.AddContent(ctx, o.Name, o.Method, o.Algorithm, o.References, dump)
	if err != nil {
		return nil, err
	}
	return censored(info), r.scope.Admit(ctx, info.Path)
}

// known refuses references to what does not exist for the builder: it could find out
// by them what is in the store.
func (r restricted) known(references []nix.StorePath, self nix.StorePath) error {
	for _, ref := range references {
		if ref != self && !r.scope.Has(ref) {
			return fmt.Errorf("it refers to '%s', which is unknown in recursive Nix", r.cfg.Dir.Join(ref))
		}
	}
	return nil
}

// ValidPaths implements store.BatchSource.
func (r restricted) ValidPaths(_ context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	return slices.DeleteFunc(slices.Clone(paths), func(p nix.StorePath) bool { return !r.scope.Has(p) }), nil
}

// AllValidPaths gives everything that exists for the builder.
func (r restricted) AllValidPaths(context.Context) iter.Seq2[nix.StorePath, error] {
	return func(yield func(nix.StorePath, error) bool) {
		for _, p := range r.scope.All() {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// Referrers implements store.ReferrerSource: builders are told of none.
func (r restricted) Referrers(context.Context, nix.StorePath) ([]nix.StorePath, error) {
	return nil, nil
}

// PathFromHashPart implements daemon.HashPartFinder: builders may not search.
func (r restricted) PathFromHashPart(context.Context, string) (nix.StorePath, error) {
	return "", fmt.Errorf("operation 'queryPathFromHashPart' is not allowed in recursive Nix")
}

// Derivation implements daemon.DerivationSource.
func (r restricted) Derivation(ctx context.Context, drv nix.StorePath) (*nix.Derivation, error) {
	if !r.scope.Has(drv) {
		return nil, fmt.Errorf("cannot query output map for unknown path '%s' in recursive Nix: %w", r.cfg.Dir.Join(drv), store.ErrNotFound)
	}
	return r.cfg.Store.Derivation(ctx, drv)
}

// DerivationOutputs gives the known outputs of a derivation.
func (r restricted) DerivationOutputs(ctx context.Context, drv nix.StorePath) (map[nix.OutputName]nix.StorePath, error) {
	if !r.scope.Has(drv) {
		return nil, fmt.Errorf("cannot query output map for unknown path '%s' in recursive Nix", r.cfg.Dir.Join(drv))
	}
	return r.cfg.Store.DerivationOutputs(ctx, drv)
}

// Realisation implements store.RealisationStore: of what was built for the builder.
func (r restricted) Realisation(_ context.Context, id nix.DrvOutput) (*nix.Realisation, error) {
	p, ok := r.scope.Realised(id)
	if !ok {
		return nil, fmt.Errorf("output '%s' of '%s' is not known in recursive Nix: %w", id.Output, r.cfg.Dir.Join(id.Drv), store.ErrNotFound)
	}
	return &nix.Realisation{ID: id, OutPath: p}, nil
}

// LegacyRealisation implements daemon.LegacyRealisationStore: of what was built for the
// builder, by the name that older clients have for it.
func (r restricted) LegacyRealisation(ctx context.Context, id string) (*worker.LegacyRealisation, error) {
	for output, p := range r.scope.AllRealised() {
		legacy, err := r.cfg.Store.LegacyRealisationID(ctx, output)
		if err != nil {
			return nil, err
		}
		if legacy == id {
			return &worker.LegacyRealisation{ID: id, OutPath: p}, nil
		}
	}
	return nil, fmt.Errorf("output '%s' is not known in recursive Nix: %w", id, store.ErrNotFound)
}

// RegisterLegacyRealisation implements daemon.LegacyRealisationStore.
func (r restricted) RegisterLegacyRealisation(ctx context.Context, _ *worker.LegacyRealisation) error {
	return r.RegisterRealisation(ctx, nil)
}

// RegisterRealisation implements store.RealisationStore.
func (r restricted) RegisterRealisation(context.Context, *nix.Realisation) error {
	return fmt.Errorf("operation 'registerDrvOutput' is not allowed in recursive Nix")
}

// AddTempRoot implements store.TempRooter. What a builder sees is rooted by its
// build.
func (r restricted) AddTempRoot(context.Context, ...nix.StorePath) error { return nil }

// AddIndirectRoot implements daemon.Rooter. Commands that leave a link to what they
// built ask for it; nothing is kept for longer than the build.
func (r restricted) AddIndirectRoot(context.Context, string) error { return nil }

// AddPermRoot implements daemon.Rooter.
func (r restricted) AddPermRoot(context.Context, string, nix.StorePath) error {
	return fmt.Errorf("operation 'addPermRoot' is not allowed in recursive Nix")
}

// Roots implements daemon.Collector: builders are told of none.
func (r restricted) Roots(context.Context) ([]daemon.Root, error) { return nil, nil }

// CollectGarbage implements daemon.Collector: everything that exists for the builder
// is in use.
func (r restricted) CollectGarbage(context.Context, *worker.CollectGarbage) (*worker.Collected, error) {
	return &worker.Collected{}, nil
}
