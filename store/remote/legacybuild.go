package remote

import (
	"context"
	"fmt"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/serve"
)

// Build implements nix.Builder: the server builds, each path by itself, since for several
// it would say no more than that one of them has failed. What builders print comes by the
// server's standard error, and not to the request's log. No settings are sent, and
// nothing but the normal mode can be asked for.
func (s *Legacy) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	if req.Mode != nix.BuildNormal {
		return nil, fmt.Errorf("build in %s: the serve protocol has no way to check or repair what is there", s.opts.Name)
	}
	if req.Network != nix.NetworkAllowed {
		return nil, fmt.Errorf("build in %s: servers cannot be told to keep builders from the network", s.opts.Name)
	}
	results := make([]nix.BuildResult, len(req.Paths))
	for i, p := range req.Paths {
		r, err := s.buildOne(ctx, p, req.Basic[p.Path])
		if err != nil {
			return nil, err
		}
		results[i] = *r
	}
	return results, nil
}

func (s *Legacy) buildOne(ctx context.Context, p nix.DerivedPath, basic *nix.BasicDerivation) (*nix.BuildResult, error) {
	if basic == nil || p.IsOpaque() || len(p.Via) > 0 {
		return s.buildPath(ctx, p)
	}
	var r nix.BuildResult
	err := s.command(ctx, &serve.BuildDerivation{Drv: p.Path, Basic: basic}, func(d *serve.Decoder) error {
		r = d.BuildResult(p.Path)
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.Path, r.Message = p, plain(r.Message)
	if r.Status.Success() {
		complete(&r, statedPaths(basic))
	}
	return &r, nil
}

// buildPath builds what is in the store.
func (s *Legacy) buildPath(ctx context.Context, p nix.DerivedPath) (*nix.BuildResult, error) {
	if len(p.Via) > 0 {
		return nil, fmt.Errorf("build in %s: the serve protocol has no dynamic derivations", s.opts.Name)
	}
	var status serve.BuildStatus
	err := s.command(ctx, &serve.BuildPaths{Paths: []nix.DerivedPath{p}}, func(d *serve.Decoder) error {
		status = d.BuildStatus()
		return nil
	})
	if err != nil {
		return nil, err
	}
	if status.Exit != 0 {
		return &nix.BuildResult{Path: p, Status: statusOf(status.Exit), Message: plain(status.Message)}, nil
	}
	r := &nix.BuildResult{Path: p, Status: nix.StatusBuilt}
	if p.IsOpaque() {
		return r, nil
	}
	drv, err := store.Derivation(ctx, s, p.Path)
	if err != nil {
		return nil, err
	}
	complete(r, statedPaths(&drv.BasicDerivation))
	return r, nil
}

// statedPaths are the paths that a derivation says its outputs have.
func statedPaths(basic *nix.BasicDerivation) map[nix.OutputName]nix.StorePath {
	known := make(map[nix.OutputName]nix.StorePath)
	for name, o := range basic.Outputs {
		known[name] = o.Path
	}
	return known
}
