package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/kilnbuild/kiln/internal/spool"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// aboutPath carries out the requests that have one path and nothing else.
func (s *session) aboutPath(ctx context.Context, r *worker.PathRequest) (reply, error) {
	switch r.Operation {
	case worker.OpIsValidPath, worker.OpQueryPathInfo:
		return s.queryPathInfo(ctx, r)
	case worker.OpQueryPathHash, worker.OpQueryReferences, worker.OpQueryDeriver:
		info, err := s.store.PathInfo(ctx, r.Path)
		return func(e *worker.Encoder) error {
			switch r.Operation {
			case worker.OpQueryPathHash:
				e.Text(info.NARHash.Base16())
			case worker.OpQueryReferences:
				e.PathSet(info.References)
			default:
				e.OptionalPath(info.Deriver)
			}
			return nil
		}, err
	case worker.OpQueryReferrers:
		st, ok := s.store.(store.ReferrerSource)
		if !ok {
			return nil, lacks(r.Operation)
		}
		return paths(st.Referrers(ctx, r.Path))
	case worker.OpQueryValidDerivers:
		st, ok := s.store.(DeriverSource)
		if !ok {
			return nil, lacks(r.Operation)
		}
		return paths(st.ValidDerivers(ctx, r.Path))
	case worker.OpAddTempRoot:
		st, ok := s.store.(store.TempRooter)
		if !ok {
			return nil, lacks(r.Operation)
		}
		return done, st.AddTempRoot(ctx, r.Path)
	case worker.OpEnsurePath:
		return done, s.ensure(ctx, r.Path)
	case worker.OpNarFromPath:
		return s.narFromPath(ctx, r.Path)
	case worker.OpHasSubstitutes, worker.OpQuerySubstitutablePathInfo:
		return s.querySubstitutable(ctx, r)
	}
	return s.queryOutputs(ctx, r)
}

// paths replies with a set of paths.
func paths(list []nix.StorePath, err error) (reply, error) {
	return func(e *worker.Encoder) error {
		e.PathSet(list)
		return nil
	}, err
}

func (s *session) queryPathInfo(ctx context.Context, r *worker.PathRequest) (reply, error) {
	info, err := s.store.PathInfo(ctx, r.Path)
	if errors.Is(err, store.ErrNotFound) {
		info, err = nil, nil
	}
	return func(e *worker.Encoder) error {
		e.Bool(info != nil)
		if r.Operation == worker.OpQueryPathInfo && info != nil {
			e.UnkeyedPathInfo(info)
		}
		return nil
	}, err
}

// narFromPath replies with an archive, which says itself where it ends. If it fails
// half-way, that cannot be told any more.
func (s *session) narFromPath(ctx context.Context, p nix.StorePath) (reply, error) {
	_, err := s.store.PathInfo(ctx, p)
	if errors.Is(err, store.ErrNotFound) {
		err = s.store.NAR(ctx, p, io.Discard) // it says what was asked for
	}
	return func(e *worker.Encoder) error { return s.store.NAR(ctx, p, e) }, err
}

func (s *session) queryValidPaths(ctx context.Context, r *worker.QueryValidPaths) (reply, error) {
	valid, err := s.validPaths(ctx, r.Paths)
	if err != nil || !r.Substitute || len(valid) == len(r.Paths) {
		return paths(valid, err)
	}
	there := withoutAddresses(valid)
	s.substitute(ctx, slices.DeleteFunc(slices.Clone(r.Paths), func(p nix.StorePath) bool {
		_, ok := there[p]
		return ok || p.IsDerivation()
	}))
	return paths(s.validPaths(ctx, r.Paths))
}

func (s *session) validPaths(ctx context.Context, all []nix.StorePath) ([]nix.StorePath, error) {
	if st, ok := s.store.(store.BatchSource); ok {
		return st.ValidPaths(ctx, all)
	}
	var valid []nix.StorePath
	for _, p := range all {
		if _, err := s.store.PathInfo(ctx, p); err == nil {
			valid = append(valid, p)
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	return valid, nil
}

// aboutStore carries out the requests that have nothing but their operation.
func (s *session) aboutStore(ctx context.Context, r *worker.EmptyRequest) (reply, error) {
	switch r.Operation {
	case worker.OpSyncWithGC:
		return done, nil
	case worker.OpQueryFailedPaths:
		return paths(nil, nil)
	case worker.OpQueryAllValidPaths:
		st, ok := s.store.(PathLister)
		if !ok {
			return nil, lacks(r.Operation)
		}
		return s.allValidPaths(ctx, st)
	case worker.OpOptimiseStore:
		st, ok := s.store.(Optimiser)
		if !ok {
			return nil, lacks(r.Operation)
		}
		return done, st.OptimiseStore(ctx)
	case worker.OpFindRoots:
		return s.findRoots(ctx, r)
	}
	return s.importPaths(ctx) // it is the only one that is left
}

// allValidPaths replies with all valid paths, which may be millions: their number goes first,
// so that they have to be kept somewhere.
func (s *session) allValidPaths(ctx context.Context, st PathLister) (reply, error) {
	kept := &spool.Spool{Dir: s.cfg.TempDir}
	e := &worker.Encoder{Writer: wire.NewWriter(kept), Protocol: s.d.Protocol}
	n := uint64(0)
	for p, err := range st.AllValidPaths(ctx) {
		if err != nil {
			kept.Close()
			return nil, err
		}
		e.StorePath(p)
		n++
	}
	if err := e.Flush(); err != nil {
		kept.Close()
		return nil, err
	}
	return func(e *worker.Encoder) error {
		defer kept.Close()
		e.Uint64(n)
		_, err := io.Copy(e, kept.Reader())
		return err
	}, nil
}

func (s *session) queryPathFromHashPart(ctx context.Context, r *worker.QueryPathFromHashPart) (reply, error) {
	if len(r.HashPart) != nix.HashPartLen {
		return nil, errors.New("invalid hash part")
	}
	st, ok := s.store.(HashPartFinder)
	if !ok {
		return nil, lacks(r.Op())
	}
	p, err := st.PathFromHashPart(ctx, r.HashPart)
	if errors.Is(err, store.ErrNotFound) {
		p, err = "", nil
	}
	return func(e *worker.Encoder) error {
		e.OptionalPath(p)
		return nil
	}, err
}

// queryOutputs tells of the outputs of a derivation.
func (s *session) queryOutputs(ctx context.Context, r *worker.PathRequest) (reply, error) {
	drv, err := s.derivation(ctx, r.Path)
	if err != nil {
		return nil, err
	}
	outputs, err := s.outputs(ctx, r.Path, drv)
	if err != nil {
		return nil, err
	}
	return func(e *worker.Encoder) error {
		switch r.Operation {
		case worker.OpQueryDerivationOutputNames:
			names := make([]string, 0, len(outputs))
			for name := range outputs {
				names = append(names, string(name))
			}
			e.TextSet(names)
		case worker.OpQueryDerivationOutputs:
			var known []nix.StorePath
			for _, p := range outputs {
				if p != "" {
					known = append(known, p)
				}
			}
			e.PathSet(known)
		default:
			e.OutputMap(outputs)
		}
		return nil
	}, nil
}

// outputs gives the outputs of a derivation, with "" for those that are not known.
func (s *session) outputs(ctx context.Context, p nix.StorePath, drv *nix.Derivation) (map[nix.OutputName]nix.StorePath, error) {
	known := make(map[nix.OutputName]nix.StorePath)
	for name, o := range drv.Outputs {
		known[name] = o.Path
		st, ok := s.store.(store.RealisationStore)
		if o.Path != "" || !ok {
			continue
		}
		r, err := st.Realisation(ctx, nix.DrvOutput{Drv: p, Output: name})
		if err == nil {
			known[name] = r.OutPath
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	return known, nil
}

func (s *session) queryRealisation(ctx context.Context, r *worker.QueryRealisation) (reply, error) {
	if r.LegacyID != "" {
		var found *worker.LegacyRealisation
		var err error
		if st, ok := s.store.(LegacyRealisationStore); ok {
			if found, err = st.LegacyRealisation(ctx, r.LegacyID); errors.Is(err, store.ErrNotFound) {
				found, err = nil, nil
			}
		}
		return func(e *worker.Encoder) error {
			e.LegacyRealisations(found)
			return nil
		}, err
	}
	var found *nix.Realisation
	var err error
	if st, ok := s.store.(store.RealisationStore); ok {
		if found, err = st.Realisation(ctx, r.ID); errors.Is(err, store.ErrNotFound) {
			found, err = nil, nil
		}
	}
	return func(e *worker.Encoder) error {
		e.OptionalRealisation(found)
		return nil
	}, err
}

// registerDrvOutput believes those who may be believed, and others as far as somebody
// who may be has signed what they say: a store checks no signatures of realisations.
func (s *session) registerDrvOutput(ctx context.Context, r *worker.RegisterDrvOutput) (reply, error) {
	if !s.trusted() {
		if err := s.verifyRealisation(r); err != nil {
			return nil, err
		}
	}
	if r.Legacy != nil {
		st, ok := s.store.(LegacyRealisationStore)
		if !ok {
			return nil, lacks(r.Op())
		}
		return nothing, st.RegisterLegacyRealisation(ctx, r.Legacy)
	}
	st, ok := s.store.(store.RealisationStore)
	if !ok {
		return nil, lacks(r.Op())
	}
	return nothing, st.RegisterRealisation(ctx, r.Realisation)
}

func (s *session) verifyRealisation(r *worker.RegisterDrvOutput) error {
	v, ok := s.store.(RealisationVerifier)
	if !ok {
		return errors.New("you are not privileged to register realisations")
	}
	var id string
	var err error
	if r.Legacy != nil {
		id, err = r.Legacy.ID, v.VerifyRealisation(sign.LegacyRealisation(r.Legacy.ID, r.Legacy.OutPath), r.Legacy.Signatures)
	} else {
		id = s.dir.Join(r.Realisation.ID.Drv) + "^" + string(r.Realisation.ID.Output)
		err = v.VerifyRealisation(sign.Realisation(r.Realisation), r.Realisation.Signatures)
	}
	if err != nil {
		return fmt.Errorf("cannot register realisation '%s' because it lacks a signature by a trusted key: %w", id, err)
	}
	return nil
}

// querySubstitutable carries out requests about one path that could be fetched.
func (s *session) querySubstitutable(ctx context.Context, r *worker.PathRequest) (reply, error) {
	all, err := s.substitutable(ctx, map[nix.StorePath]nix.ContentAddress{r.Path: {}})
	return func(e *worker.Encoder) error {
		switch {
		case r.Operation == worker.OpHasSubstitutes:
			e.Bool(len(all) > 0)
		case len(all) == 0:
			e.OptionalSubstitutable(nil)
		default:
			e.OptionalSubstitutable(&all[0])
		}
		return nil
	}, err
}

func (s *session) querySubstitutablePaths(ctx context.Context, r *worker.QuerySubstitutablePaths) (reply, error) {
	st, ok := s.store.(Substituter)
	if !ok || len(r.Paths) == 0 {
		return paths(nil, nil)
	}
	return paths(st.SubstitutablePaths(ctx, r.Paths))
}

func (s *session) querySubstitutablePathInfos(ctx context.Context, r *worker.QuerySubstitutablePathInfos) (reply, error) {
	all, err := s.substitutable(ctx, r.Paths)
	return func(e *worker.Encoder) error {
		e.Substitutables(all)
		return nil
	}, err
}

func (s *session) substitutable(ctx context.Context, wanted map[nix.StorePath]nix.ContentAddress) ([]worker.Substitutable, error) {
	st, ok := s.store.(Substituter)
	if !ok || len(wanted) == 0 {
		return nil, nil
	}
	return st.Substitutable(ctx, wanted)
}

func withoutAddresses(list []nix.StorePath) map[nix.StorePath]nix.ContentAddress {
	m := make(map[nix.StorePath]nix.ContentAddress, len(list))
	for _, p := range list {
		m[p] = nix.ContentAddress{}
	}
	return m
}

func pathsOf(all []worker.Substitutable) []nix.StorePath {
	list := make([]nix.StorePath, len(all))
	for i := range all {
		list[i] = all[i].Path
	}
	return list
}

// notDerivation is the error for a path that should have been one.
func (s *session) notDerivation(p nix.StorePath) error {
	return fmt.Errorf("path '%s' is not a derivation", s.dir.Join(p))
}
