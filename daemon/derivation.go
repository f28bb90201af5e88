package daemon

import (
	"context"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/worker"
)

// derivation reads a derivation of the store.
func (s *session) derivation(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
	if !p.IsDerivation() {
		return nil, s.notDerivation(p)
	}
	if st, ok := s.store.(DerivationSource); ok {
		return st.Derivation(ctx, p)
	}
	return store.Derivation(ctx, s.store, p)
}

// legacyIDs names the outputs of results for clients that do not know
// worker.RealisationWithPath. Where the paths of outputs follow from the
// derivation, nobody looks at the names, and none are computed.
func (s *session) legacyIDs(ctx context.Context, results []nix.BuildResult, basic *nix.BasicDerivation) map[nix.DrvOutput]string {
	ids := make(map[nix.DrvOutput]string)
	if s.d.Has(worker.RealisationWithPath) {
		return ids
	}
	for i := range results {
		for name, o := range results[i].Outputs {
			drv := &nix.Derivation{}
			if basic != nil {
				drv.BasicDerivation = *basic
			} else if o.ID.Drv == "" {
				continue
			} else if loaded, err := s.derivation(ctx, o.ID.Drv); err == nil {
				drv = loaded
			}
			if drv.Outputs[name].Kind.HasKnownOutputPaths() || drv.Outputs[name].Kind == 0 {
				continue
			}
			// A name that cannot be had is made up: results were had all the same.
			if id, err := s.hasher.LegacyRealisationID(ctx, drv, name); err == nil {
				ids[nix.DrvOutput{Drv: o.ID.Drv, Output: name}] = id
			}
		}
	}
	return ids
}

func (s *session) queryMissing(ctx context.Context, r *worker.QueryMissing) (reply, error) {
	m, err := s.missing(ctx, r.Paths)
	return func(e *worker.Encoder) error {
		e.Missing(m)
		return nil
	}, err
}

func (s *session) missing(ctx context.Context, wanted []nix.DerivedPath) (*worker.Missing, error) {
	if p, ok := s.builder.(nix.Planner); ok {
		return s.planned(p.Plan(ctx, wanted))
	}
	p := planner{s: s, m: &worker.Missing{}, seen: make(map[nix.StorePath]bool), opaque: make(map[nix.StorePath]bool)}
	for _, w := range wanted {
		if err := p.want(ctx, w); err != nil {
			return nil, err
		}
	}
	for len(p.pending) > 0 {
		next := p.pending[len(p.pending)-1]
		p.pending = p.pending[:len(p.pending)-1]
		if err := p.want(ctx, next); err != nil {
			return nil, err
		}
	}
	return p.m, nil
}

// planned tells of a plan. What is known to be uncertain about it is a warning for the
// client.
func (s *session) planned(plan *nix.Plan, err error) (*worker.Missing, error) {
	if err != nil {
		return nil, err
	}
	log := s.newSink()
	defer log.close()
	for _, w := range plan.Warnings {
		log.Event(nix.Event{Kind: nix.EventWarning, Message: w})
	}
	return &worker.Missing{
		WillBuild: plan.Build, WillSubstitute: plan.Fetch, Unknown: plan.Unknown, DownloadSize: plan.DownloadSize, NARSize: plan.NARSize,
	}, nil
}

// A planner finds out what would be done, without a stack that strangers could make
// deep.
type planner struct {
	s       *session
	m       *worker.Missing
	seen    map[nix.StorePath]bool // derivations
	opaque  map[nix.StorePath]bool
	pending []nix.DerivedPath
}

func (p *planner) want(ctx context.Context, w nix.DerivedPath) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if w.IsOpaque() {
		return p.object(ctx, w.Path)
	}
	if p.seen[w.Path] && len(w.Via) == 0 {
		return nil
	}
	drv, err := p.s.derivation(ctx, w.Path)
	if err != nil {
		// It must not fail for what is not there, or cannot be read.
		p.unknown(w.Path)
		return nil
	}
	missing, err := p.missingOutputs(ctx, w, drv)
	if err != nil || !missing {
		return err
	}
	if found, err := p.fetch(ctx, w, drv); err != nil || found {
		return err
	}
	p.seen[w.Path] = true
	p.m.WillBuild = append(p.m.WillBuild, w.Path)
	for in, outputs := range drv.InputDrvs {
		p.pending = append(p.pending, nix.Built(in, nix.OutputSpec{Names: outputs.Outputs, All: len(outputs.Outputs) == 0}))
	}
	for _, in := range drv.InputSrcs {
		p.pending = append(p.pending, nix.Opaque(in))
	}
	return nil
}

// missingOutputs tells whether a wanted output is not valid.
func (p *planner) missingOutputs(ctx context.Context, w nix.DerivedPath, drv *nix.Derivation) (bool, error) {
	if len(w.Via) > 0 {
		w.Outputs = nix.OutputSpec{Names: w.Via[:1]}
	}
	outputs, err := p.s.outputs(ctx, w.Path, drv)
	if err != nil {
		return false, err
	}
	var known []nix.StorePath
	for name, path := range outputs {
		if !w.Outputs.Contains(name) {
			continue
		}
		if path == "" {
			return true, nil
		}
		known = append(known, path)
	}
	valid, err := p.s.validPaths(ctx, known)
	return len(valid) < len(known), err
}

// fetch tells whether all wanted outputs can be fetched instead of being built.
func (p *planner) fetch(ctx context.Context, w nix.DerivedPath, drv *nix.Derivation) (bool, error) {
	var known []nix.StorePath
	for name, o := range drv.Outputs {
		if !w.Outputs.Contains(name) || len(w.Via) > 0 {
			continue
		}
		if o.Path == "" {
			return false, nil
		}
		known = append(known, o.Path)
	}
	valid, err := p.s.validPaths(ctx, known)
	if err != nil {
		return false, err
	}
	absent := withoutAddresses(known)
	for _, v := range valid {
		delete(absent, v)
	}
	all, err := p.s.substitutable(ctx, absent)
	if err != nil || len(all) == 0 || len(all) < len(absent) {
		return false, err
	}
	for _, found := range all {
		p.add(found)
	}
	return true, nil
}

func (p *planner) object(ctx context.Context, path nix.StorePath) error {
	if p.opaque[path] {
		return nil
	}
	valid, err := p.s.validPaths(ctx, []nix.StorePath{path})
	if err != nil || len(valid) > 0 {
		return err
	}
	all, err := p.s.substitutable(ctx, withoutAddresses([]nix.StorePath{path}))
	if err != nil {
		return err
	}
	if len(all) == 0 {
		p.unknown(path)
		return nil
	}
	p.add(all[0])
	return nil
}

func (p *planner) unknown(path nix.StorePath) {
	if !p.opaque[path] {
		p.opaque[path] = true
		p.m.Unknown = append(p.m.Unknown, path)
	}
}

// add counts an object that can be fetched, and what it refers to.
func (p *planner) add(found worker.Substitutable) {
	if p.opaque[found.Path] {
		return
	}
	p.opaque[found.Path] = true
	p.m.WillSubstitute = append(p.m.WillSubstitute, found.Path)
	p.m.DownloadSize += found.DownloadSize
	p.m.NARSize += found.NARSize
	for _, r := range found.References {
		p.pending = append(p.pending, nix.Opaque(r))
	}
}
