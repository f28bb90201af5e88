package executor

import (
	"context"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store/local"
)

// load gives a derivation: one that came with the request, or one of the store.
func (r *request) load(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
	if basic, ok := r.basic[p]; ok {
		return &nix.Derivation{BasicDerivation: *basic}, nil
	}
	return r.executor.drvs.load(ctx, p)
}

// derivations reads derivations from the store.
type derivations struct{ store *local.Store }

func newDerivations(st *local.Store) derivations { return derivations{st} }

// maxDrvFile bounds how much of a derivation file is read, in bytes.
const maxDrvFile = 64 << 20

func (d derivations) load(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
	full := d.store.Dir().Join(p)
	if !p.IsDerivation() {
		return nil, nix.BuildErrorf(nix.StatusInputRejected, "path '%s' is not a derivation", full)
	}
	valid, err := d.store.ValidPaths(ctx, []nix.StorePath{p})
	if err != nil {
		return nil, err
	}
	if len(valid) == 0 {
		return nil, nix.BuildErrorf(nix.StatusMiscFailure, "path '%s' is required, but there is no substituter that can build it", full)
	}
	text, err := d.store.ReadFile(ctx, p, maxDrvFile)
	if err != nil {
		return nil, nix.BuildErrorf(nix.StatusMiscFailure, "read derivation: %v", err)
	}
	drv, err := aterm.Parse(d.store.Dir(), strings.TrimSuffix(p.Name(), nix.DrvExtension), text, aterm.Limits{})
	if err != nil {
		return nil, nix.BuildErrorf(nix.StatusMiscFailure, "%v", err)
	}
	return drv, nil
}
