package build

import (
	"context"
	"maps"
	"path"
	"slices"

	"github.com/kilnbuild/kiln/nix"
)

// SandboxPath is a file or directory of the machine that builders see.
type SandboxPath struct {
	Target   string // where, in the sandbox
	Source   string // what
	Optional bool   // that it is missing is no error
}

// withPaths gives the settings with all that this derivation's sandbox shows of
// the machine: what is configured, what the derivation asks for and may have, and
// what the pre-build-hook adds.
func (r *run) withPaths(ctx context.Context) (*Settings, error) {
	added, err := r.impureHostDeps()
	if err != nil {
		return nil, err
	}
	more, err := r.preBuildHook(ctx)
	if err != nil {
		return nil, err
	}
	if added = append(added, more...); len(added) == 0 {
		return r.settings, nil
	}
	paths := make(map[string]SandboxPath)
	for _, p := range slices.Concat(r.settings.SandboxPaths, added) {
		paths[p.Target] = p
	}
	with := *r.settings
	with.SandboxPaths = slices.Collect(maps.Values(paths))
	return &with, nil
}

// impureHostDeps gives the files of the machine that the derivation asks for by
// __impureHostDeps. Links are not followed to find out whether it may: that would
// tell who asks what there is.
func (r *run) impureHostDeps() (paths []SandboxPath, err error) {
	for _, wanted := range r.attempt.Options.ImpureHostDeps {
		clean := path.Clean(wanted)
		if !path.IsAbs(clean) || !slices.ContainsFunc(r.settings.AllowedImpureHostDeps, func(allowed string) bool {
			allowed = path.Clean(allowed)
			return clean == allowed || allowed == "/" || within(clean, allowed)
		}) {
			return nil, nix.BuildErrorf(nix.StatusMiscFailure,
				"derivation '%s' requested impure path '%s', but it was not in allowed-impure-host-deps",
				r.machine.Store.Dir().Join(r.attempt.DrvPath), wanted)
		}
		paths = append(paths, SandboxPath{Target: clean, Source: clean, Optional: true})
	}
	return paths, nil
}
