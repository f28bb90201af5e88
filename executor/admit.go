package executor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/drvopts"
)

func (r *request) hasFeature(f conf.Feature) bool { return r.settings.ExperimentalFeatures.Has(f) }

// require refuses what needs an experimental feature that is off.
func (r *request) require(f conf.Feature) *nix.BuildError {
	if r.hasFeature(f) {
		return nil
	}
	return nix.BuildErrorf(nix.StatusMiscFailure,
		"experimental Nix feature '%[1]s' is disabled; add '--extra-experimental-features %[1]s' to enable it", f)
}

// enabled tells whether the experimental features are on that a derivation needs.
func (r *request) enabled(drv *nix.Derivation, kind nix.OutputKind) *nix.BuildError {
	var needed []conf.Feature
	switch kind {
	case nix.Floating, nix.Deferred:
		needed = append(needed, conf.CADerivations)
	case nix.Impure:
		needed = append(needed, conf.CADerivations, conf.ImpureDerivations)
	}
	for _, o := range drv.Outputs {
		switch o.Method {
		case nix.Text:
			needed = append(needed, conf.DynamicDerivations)
		case nix.Git:
			needed = append(needed, conf.GitHashing)
		}
	}
	for _, in := range drv.InputDrvs {
		if len(in.Dynamic) > 0 {
			needed = append(needed, conf.DynamicDerivations)
		}
	}
	for _, feature := range needed {
		if rejection := r.require(feature); rejection != nil {
			return rejection
		}
	}
	return nil
}

// admissible tells whether this machine may build the derivation.
func (r *request) admissible(drvPath nix.StorePath, drv *nix.Derivation, options *drvopts.Options) *nix.BuildError {
	s := r.settings
	var reasons strings.Builder
	if s.MaxJobs == 0 {
		reasons.WriteString("\nReason: local builds are disabled (max-jobs = 0)\nHint: set 'max-jobs' to a non-zero value to enable local builds, or configure remote builders via 'builders'")
	}
	builtin := drv.IsBuiltin() && drv.System == "builtin"
	if !builtin && drv.System != s.System && !slices.Contains(s.ExtraPlatforms, drv.System) {
		fmt.Fprintf(&reasons, "\nReason: platform mismatch\nRequired system: '%s'\nCurrent system: '%s'", drv.System, s.System)
	}
	kind, _ := drv.Kind() // it was looked at before
	required := options.Features(kind)
	for _, f := range required {
		if !slices.Contains(s.SystemFeatures, f) {
			fmt.Fprintf(&reasons, "\nReason: missing system features\nRequired features: {%s}\nAvailable features: {%s}",
				strings.Join(required, ", "), strings.Join(slices.Sorted(slices.Values(s.SystemFeatures)), ", "))
			break
		}
	}
	if reasons.Len() == 0 {
		return nil
	}
	return nix.BuildErrorf(nix.StatusInputRejected, "Cannot build '%s'.%s", r.print(drvPath), reasons.String()).Because(nix.Failure{Kind: nix.FailureNotHere})
}

func joinNames(names []nix.OutputName) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = "'" + string(n) + "'"
	}
	return strings.Join(quoted, ", ")
}
