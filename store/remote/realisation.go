package remote

import (
	"context"
	"fmt"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/worker"
)

// derivation reads a derivation from the daemon.
func (s *Store) derivation(ctx context.Context, drv nix.StorePath) (*nix.Derivation, error) {
	return store.Derivation(ctx, s, drv)
}

// legacyID is what an output is called without worker.RealisationWithPath.
func (s *Store) legacyID(ctx context.Context, id nix.DrvOutput) (string, error) {
	drv, err := s.derivation(ctx, id.Drv)
	if err != nil {
		return "", err
	}
	return s.hasher.LegacyRealisationID(ctx, drv, id.Output)
}

// modern tells whether realisations are named by the path of their derivation.
func (s *Store) modern(ctx context.Context) (yes bool, err error) {
	err = s.with(ctx, func(c *conn) error {
		yes = c.e.Has(worker.RealisationWithPath)
		return nil
	})
	return yes, err
}

// Realisation implements store.RealisationStore. For daemons before Nix 2.35 the
// derivation has to be in the store.
func (s *Store) Realisation(ctx context.Context, id nix.DrvOutput) (*nix.Realisation, error) {
	r, err := s.realisation(ctx, id)
	if err == nil && r == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("query realisation of '%s^%s' in %s: %w", s.opts.Dir.Join(id.Drv), id.Output, s.opts.Name, err)
	}
	return r, nil
}

func (s *Store) realisation(ctx context.Context, id nix.DrvOutput) (r *nix.Realisation, err error) {
	modern, err := s.modern(ctx)
	if err != nil {
		return nil, err
	}
	if modern {
		err = s.call(ctx, &worker.QueryRealisation{ID: id}, func(d *worker.Decoder) { r = d.OptionalRealisation(id) })
		return r, err
	}
	legacy, err := s.legacyID(ctx, id)
	if err != nil {
		return nil, err
	}
	err = s.call(ctx, &worker.QueryRealisation{LegacyID: legacy}, func(d *worker.Decoder) {
		if l := d.LegacyRealisations(legacy); l != nil {
			r = &nix.Realisation{ID: id, OutPath: l.OutPath, Signatures: l.Signatures}
		}
	})
	return r, err
}

// RegisterRealisation implements store.RealisationStore.
func (s *Store) RegisterRealisation(ctx context.Context, r *nix.Realisation) error {
	return s.addRealisation(ctx, r, func() (string, error) { return s.legacyID(ctx, r.ID) })
}

// AddRealisation implements store.RealisationSink.
func (s *Store) AddRealisation(ctx context.Context, r *nix.Realisation, legacy string) error {
	return s.addRealisation(ctx, r, func() (string, error) { return legacy, nil })
}

func (s *Store) addRealisation(ctx context.Context, r *nix.Realisation, legacyID func() (string, error)) error {
	err := s.registerRealisation(ctx, r, legacyID)
	if err != nil {
		return fmt.Errorf("register realisation of '%s^%s': %w", s.opts.Dir.Join(r.ID.Drv), r.ID.Output, err)
	}
	return nil
}

func (s *Store) registerRealisation(ctx context.Context, r *nix.Realisation, legacyID func() (string, error)) error {
	// Daemons notice too that there is nothing, but say it in the words of a database.
	valid, err := s.ValidPaths(ctx, []nix.StorePath{r.OutPath})
	if err != nil {
		return err
	}
	if len(valid) == 0 {
		return s.notFound(r.OutPath)
	}
	modern, err := s.modern(ctx)
	if err != nil {
		return err
	}
	request := &worker.RegisterDrvOutput{Realisation: r}
	if !modern {
		legacy, err := legacyID()
		if err != nil {
			return err
		}
		request = &worker.RegisterDrvOutput{Legacy: &worker.LegacyRealisation{ID: legacy, OutPath: r.OutPath, Signatures: r.Signatures}}
	}
	return s.call(ctx, request, func(*worker.Decoder) {})
}
