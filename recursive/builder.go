package recursive

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// builder builds what a builder asks for, and brings it into the scope.
type builder struct{ *Server }

var _ nix.Builder = builder{}

// Build implements nix.Builder. What goes on in the builds, and what the builders
// print, is for Config.Log and not for the client.
func (b builder) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	if req.Mode != nix.BuildNormal {
		return nil, fmt.Errorf("unsupported build mode")
	}
	if len(req.Basic) > 0 {
		return nil, fmt.Errorf("operation 'buildDerivation' is not supported by recursive Nix: add the derivation and build that")
	}
	for _, p := range req.Paths {
		if !b.scope.Has(p.Path) {
			return nil, fmt.Errorf("cannot build '%s' in recursive Nix because path is unknown", p.Format(b.cfg.Dir, "!"))
		}
	}
	results, err := b.cfg.Builder.Build(ctx, &nix.BuildRequest{Paths: req.Paths, Log: b.record, Network: b.cfg.Network})
	if err != nil {
		return nil, err
	}
	var built []nix.StorePath
	for i := range results {
		r := &results[i]
		if !r.Path.IsOpaque() {
			b.record.result(r.Path.Path, r)
		}
		if !r.Status.Success() {
			b.censor(ctx, r)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(r.Outputs)) {
			built = append(built, r.Outputs[name].OutPath)
		}
	}
	if err := b.admitClosure(ctx, built); err != nil {
		return nil, err
	}
	for _, r := range results {
		for _, o := range r.Outputs {
			b.scope.Realise(o)
		}
	}
	return results, nil
}

// admitClosure brings objects into the scope with everything that they need.
func (b builder) admitClosure(ctx context.Context, roots []nix.StorePath) error {
	roots = slices.DeleteFunc(roots, b.scope.Has)
	if len(roots) == 0 {
		return nil
	}
	closure, err := store.Closure(ctx, b.cfg.Store, roots...)
	if err != nil {
		return err
	}
	return b.scope.Admit(ctx, closure...)
}

// censor takes out of a failure what a builder that reaches the network may have
// said: who asked for it must not learn anything of the network by it. The outer
// build's log has it. Where such builders had the network, even that they fail says
// something, and the outer build fails too.
func (b builder) censor(ctx context.Context, r *nix.BuildResult) {
	reaches, err := b.reachesNetwork(ctx, r.Path.Path)
	if err == nil && !reaches {
		return
	}
	b.record.LogSink.Event(nix.Event{Kind: nix.EventNotice, Path: b.cfg.Drv, Message: r.Message})
	r.CauseMessages = nil
	r.Message = fmt.Sprintf("build of '%s' failed; the log of the build that asked for it says why", b.cfg.Dir.Join(r.Path.Path))
	r.Resources, r.Isolation = nil, nil
	if b.cfg.Network == nix.NetworkAllowed {
		b.fail(fmt.Errorf("the build of '%s', which may reach the network, failed", b.cfg.Dir.Join(r.Path.Path)))
	}
}

// reachesNetwork tells whether a derivation is, or needs, one whose builder may reach
// the network.
func (b builder) reachesNetwork(ctx context.Context, drv nix.StorePath) (bool, error) {
	if !drv.IsDerivation() {
		return false, nil
	}
	closure, err := store.Closure(ctx, b.cfg.Store, drv)
	if err != nil {
		return false, err
	}
	for _, p := range closure {
		if !p.IsDerivation() {
			continue
		}
		d, err := b.cfg.Store.Derivation(ctx, p)
		if err != nil {
			return false, err
		}
		if kind, err := d.Kind(); err != nil || !kind.IsPure() {
			return true, err
		}
	}
	return false, nil
}
