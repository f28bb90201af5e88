package executor

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/drvopts"
	"github.com/kilnbuild/kiln/store"
)

var _ nix.Planner = (*View)(nil)

// Plan implements nix.Planner.
func (v *View) Plan(ctx context.Context, paths []nix.DerivedPath) (*nix.Plan, error) {
	p := &planner{View: v, offers: newOffers(v.settings.Substituters), visited: make(map[nix.StorePath]bool), plan: &nix.Plan{}}
	wanted := make([]step, len(paths))
	for i, path := range paths {
		if len(path.Via) > 0 {
			path.Outputs = nix.OutputSpec{Names: path.Via[:1]}
		}
		wanted[i] = step{path: path.Path, wanted: path.Outputs}
	}
	if p.offers.set != nil {
		if err := p.prepare(ctx, slices.Clone(wanted)); err != nil {
			return nil, err
		}
	}
	for _, s := range wanted {
		var err error
		if s.wanted.IsZero() {
			err = p.source(ctx, s.path)
		} else {
			err = p.derivation(ctx, s)
		}
		if err != nil {
			return nil, err
		}
	}
	p.plan.Warnings = p.offers.warnings
	return p.plan, nil
}

type planner struct {
	*View
	offers  *offers
	visited map[nix.StorePath]bool
	plan    *nix.Plan
}

// A step is a derivation whose outputs are wanted, or an object if none are.
type step struct {
	path   nix.StorePath
	wanted nix.OutputSpec
	done   bool // its inputs are planned
}

// prepare asks the substituters for everything that the plan will ask for, many at
// once.
func (p *planner) prepare(ctx context.Context, round []step) error {
	seen := make(map[nix.StorePath]bool)
	for len(round) > 0 {
		var mu sync.Mutex
		var next []step
		err := until.Each(ctx, len(round), lookups, func(ctx context.Context, i int) error {
			_, further, err := p.look(ctx, round[i])
			mu.Lock()
			defer mu.Unlock()
			next = append(next, further...)
			return err
		})
		if err != nil {
			return err
		}
		round = round[:0]
		for _, s := range next {
			// Other outputs of the same derivation are asked for later.
			if !seen[s.path] {
				seen[s.path] = true
				round = append(round, s)
			}
		}
	}
	return nil
}

// A finding says what is to be done about a step.
type finding struct {
	valid   bool                // nothing
	unknown bool                // nobody knows how to make it
	fetch   []*substitute.Offer // it is fetched; otherwise it is built
}

// look finds out what is to be done about one step, and which steps are needed for
// that, those that come last first.
func (p *planner) look(ctx context.Context, s step) (f finding, needs []step, err error) {
	valid, err := p.store.ValidPaths(ctx, []nix.StorePath{s.path})
	if err != nil {
		return f, nil, err
	}
	if s.wanted.IsZero() {
		if len(valid) > 0 {
			return finding{valid: true}, nil, nil
		}
		offer, err := p.offers.of(ctx, s.path, nix.ContentAddress{})
		if err != nil || offer == nil {
			return finding{unknown: true}, nil, err
		}
		f.fetch = []*substitute.Offer{offer}
		return f, references(f.fetch), nil
	}
	if len(valid) == 0 {
		return finding{unknown: true}, nil, nil
	}
	drv, err := p.executor.drvs.load(ctx, s.path)
	if err != nil {
		return finding{unknown: true}, nil, context.Cause(ctx)
	}
	missing, all, err := p.missing(ctx, s.path, drv, s.wanted)
	if err != nil || all && len(missing) == 0 {
		return finding{valid: true}, nil, err
	}
	if all {
		if f.fetch, err = p.fetchable(ctx, drv, missing); err != nil || f.fetch != nil {
			return f, references(f.fetch), err
		}
	}
	for _, src := range drv.InputSrcs {
		needs = append(needs, step{path: src})
	}
	for _, in := range slices.Sorted(maps.Keys(drv.InputDrvs)) {
		// Outputs that are derivations have to be there before more can be said.
		needed := append(slices.Clone(drv.InputDrvs[in].Outputs), slices.Collect(maps.Keys(drv.InputDrvs[in].Dynamic))...)
		needs = append(needs, step{path: in, wanted: nix.OutputSpec{Names: needed}})
	}
	return f, needs, nil
}

func references(offers []*substitute.Offer) (needs []step) {
	for _, o := range offers {
		for _, r := range o.Info.SelfReferences().Others {
			needs = append(needs, step{path: r})
		}
	}
	return needs
}

// missing gives the wanted outputs that are not valid, and tells whether the paths of
// all of them are known.
func (p *planner) missing(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, wanted nix.OutputSpec) (map[nix.StorePath]nix.ContentAddress, bool, error) {
	missing := make(map[nix.StorePath]nix.ContentAddress)
	for name, o := range drv.Outputs {
		if !wanted.Contains(name) {
			continue
		}
		path := o.Path
		if path == "" && o.Kind != nix.Impure {
			known, err := p.store.Realisation(ctx, nix.DrvOutput{Drv: drvPath, Output: name})
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, false, err
			}
			if err == nil {
				path = known.OutPath
			} else if !p.settings.ExperimentalFeatures.Has(conf.CADerivations) {
				return nil, false, nil
			} else if path, err = p.offers.realisation(ctx, p.store, nix.DrvOutput{Drv: drvPath, Output: name}); err != nil {
				return nil, false, err
			}
		}
		if path == "" {
			return nil, false, nil
		}
		missing[path] = nix.ContentAddress{}
		if o.Kind == nix.Fixed {
			missing[path] = o.ContentAddress()
		}
	}
	valid, err := p.store.ValidPaths(ctx, slices.Collect(maps.Keys(missing)))
	for _, v := range valid {
		delete(missing, v)
	}
	return missing, true, err
}

// fetchable gives the offers of all missing outputs, nil if there is one that has none.
func (p *planner) fetchable(ctx context.Context, drv *nix.Derivation, missing map[nix.StorePath]nix.ContentAddress) ([]*substitute.Offer, error) {
	if p.offers.set == nil {
		return nil, nil
	}
	if !p.settings.AlwaysAllowSubstitutes {
		if options, err := drvopts.Parse(p.store.Dir(), drv); err != nil || !options.AllowSubstitutes {
			return nil, nil
		}
	}
	var all []*substitute.Offer
	for _, path := range slices.Sorted(maps.Keys(missing)) {
		offer, err := p.offers.of(ctx, path, missing[path])
		if err != nil || offer == nil {
			return nil, err
		}
		all = append(all, offer)
	}
	return all, nil
}

// source plans for an object, and what it refers to.
func (p *planner) source(ctx context.Context, path nix.StorePath) error {
	for todo := []step{{path: path}}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if p.visited[s.path] {
			continue
		}
		p.visited[s.path] = true
		f, needs, err := p.look(ctx, s)
		if err != nil {
			return err
		}
		if f.unknown {
			p.plan.Unknown = append(p.plan.Unknown, s.path)
		}
		p.add(f.fetch)
		todo = append(todo, needs...)
	}
	return nil
}

func (p *planner) add(offers []*substitute.Offer) {
	for _, o := range offers {
		p.plan.Fetch = append(p.plan.Fetch, o.Info.Path)
		p.plan.DownloadSize += o.DownloadSize
		p.plan.NARSize += o.Info.NARSize
	}
}

// derivation plans for outputs of a derivation. It walks with a stack of its own:
// graphs may be deeper than is good for a goroutine's.
func (p *planner) derivation(ctx context.Context, root step) error {
	stack := []step{root}
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if s.done {
			p.plan.Build = append(p.plan.Build, s.path)
			continue
		}
		if p.visited[s.path] {
			continue
		}
		f, needs, err := p.look(ctx, s)
		if err != nil {
			return err
		}
		switch {
		case f.valid:
			continue
		case f.unknown:
			p.visited[s.path] = true
			p.plan.Unknown = append(p.plan.Unknown, s.path)
			continue
		case f.fetch != nil:
			// Other outputs of the same derivation may have to be fetched, too.
			for _, o := range f.fetch {
				if err := p.source(ctx, o.Info.Path); err != nil {
					return err
				}
			}
			continue
		}
		p.visited[s.path] = true
		stack = append(stack, step{path: s.path, done: true})
		for _, n := range needs {
			if !n.wanted.IsZero() {
				stack = append(stack, n)
			} else if err := p.source(ctx, n.path); err != nil {
				return err
			}
		}
	}
	return nil
}
