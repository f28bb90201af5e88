package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// Plan is what a request would do.
type Plan struct {
	// Build has the derivations that would be built, each after those that it
	// needs.
	Build []nix.StorePath
	// Unknown has what is missing and cannot be made.
	Unknown []nix.StorePath
}

// Plan says what Build would do for paths, without doing it.
func (v *View) Plan(ctx context.Context, paths []nix.DerivedPath) (*Plan, error) {
	p := &planner{x: v.executor, visited: make(map[nix.StorePath]bool), plan: &Plan{}}
	for _, path := range paths {
		if len(path.Via) > 0 {
			path.Outputs = nix.OutputSpec{Names: path.Via[:1]}
		}
		if path.IsOpaque() {
			if err := p.source(ctx, path.Path); err != nil {
				return nil, err
			}
			continue
		}
		if err := p.derivation(ctx, path.Path, path.Outputs); err != nil {
			return nil, err
		}
	}
	return p.plan, nil
}

type planner struct {
	x       *Executor
	visited map[nix.StorePath]bool
	plan    *Plan
}

func (p *planner) source(ctx context.Context, path nix.StorePath) error {
	if p.visited[path] {
		return nil
	}
	p.visited[path] = true
	valid, err := p.x.store.ValidPaths(ctx, []nix.StorePath{path})
	if err == nil && len(valid) == 0 {
		p.plan.Unknown = append(p.plan.Unknown, path)
	}
	return err
}

// derivation plans for outputs of a derivation. It walks with a stack of its own:
// graphs may be deeper than is good for a goroutine's.
func (p *planner) derivation(ctx context.Context, root nix.StorePath, wanted nix.OutputSpec) error {
	type step struct {
		drv    nix.StorePath
		wanted nix.OutputSpec
		done   bool // its inputs are planned
	}
	stack := []step{{root, wanted, false}}
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if s.done {
			p.plan.Build = append(p.plan.Build, s.drv)
			continue
		}
		if p.visited[s.drv] {
			continue
		}
		valid, err := p.x.store.ValidPaths(ctx, []nix.StorePath{s.drv})
		if err != nil {
			return err
		}
		if len(valid) == 0 {
			p.visited[s.drv] = true
			p.plan.Unknown = append(p.plan.Unknown, s.drv)
			continue
		}
		drv, err := p.x.drvs.load(ctx, s.drv)
		if err != nil {
			return fmt.Errorf("plan: %w", err)
		}
		needed, err := p.needed(ctx, s.drv, drv, s.wanted)
		if err != nil {
			return err
		}
		if !needed {
			continue
		}
		p.visited[s.drv] = true
		for _, src := range drv.InputSrcs {
			if err := p.source(ctx, src); err != nil {
				return err
			}
		}
		stack = append(stack, step{drv: s.drv, done: true})
		for _, in := range slices.Sorted(maps.Keys(drv.InputDrvs)) {
			// Outputs that are derivations have to be there before more can be said.
			needed := append(slices.Clone(drv.InputDrvs[in].Outputs), slices.Collect(maps.Keys(drv.InputDrvs[in].Dynamic))...)
			stack = append(stack, step{drv: in, wanted: nix.OutputSpec{Names: needed}})
		}
	}
	return nil
}

// needed tells whether any wanted output is missing.
func (p *planner) needed(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, wanted nix.OutputSpec) (bool, error) {
	var paths []nix.StorePath
	for name, o := range drv.Outputs {
		if !wanted.Contains(name) {
			continue
		}
		path := o.Path
		if path == "" && o.Kind != nix.Impure {
			known, err := p.x.store.Realisation(ctx, nix.DrvOutput{Drv: drvPath, Output: name})
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return false, err
			}
			if err == nil {
				path = known.OutPath
			}
		}
		if path == "" {
			return true, nil
		}
		paths = append(paths, path)
	}
	valid, err := p.x.store.ValidPaths(ctx, paths)
	return len(valid) < len(paths), err
}
