package executor

import (
	"maps"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// inputOutput names an output of an input of a derivation.
type inputOutput struct {
	drv    nix.StorePath
	via    string // the outputs that lead from drv to the derivation meant, with ^ after each
	output nix.OutputName
}

// realised says which objects outputs of inputs are.
type realised map[inputOutput]nix.StorePath

// inputOutputs gives every output of other derivations that a derivation needs,
// and the text that stands for it as long as its path is not known. It is called
// with an output before those of the derivation that the output is.
func inputOutputs(drv *nix.Derivation, f func(in inputOutput, placeholder string)) {
	var walk func(drv nix.StorePath, via string, in nix.InputOutputs, placeholder func(nix.OutputName) string)
	walk = func(drv nix.StorePath, via string, in nix.InputOutputs, placeholder func(nix.OutputName) string) {
		for _, o := range in.Outputs {
			f(inputOutput{drv, via, o}, placeholder(o))
		}
		for _, o := range slices.Sorted(maps.Keys(in.Dynamic)) {
			parent := placeholder(o)
			walk(drv, via+string(o)+"^", in.Dynamic[o], func(inner nix.OutputName) string { return nix.ComputedPlaceholder(parent, inner) })
		}
	}
	for _, p := range slices.Sorted(maps.Keys(drv.InputDrvs)) {
		walk(p, "", drv.InputDrvs[p], func(o nix.OutputName) string { return nix.DownstreamPlaceholder(p, o) })
	}
}

// mustResolve tells whether a derivation cannot be built as it is, since what it
// says depends on what its inputs turn out to be. contentAddressed says that the
// feature is on: fixed outputs then profit from resolving too, because what is
// the same after it is built once.
func mustResolve(drv *nix.Derivation, kind nix.OutputKind, contentAddressed bool) bool {
	if len(drv.InputDrvs) == 0 {
		return false
	}
	for _, in := range drv.InputDrvs {
		if len(in.Dynamic) > 0 {
			return true
		}
	}
	switch kind {
	case nix.InputAddressed:
		return false
	case nix.Fixed:
		return contentAddressed
	}
	return true
}

// resolve makes of a derivation one that has the objects themselves where drv
// has outputs of derivations. Deferred outputs are still to be given their paths.
// It changes nothing of drv. (Nix: tryResolve.)
func resolve(dir nix.StoreDir, drv *nix.Derivation, inputs realised) *nix.Derivation {
	var pairs []string
	sources := slices.Clone(drv.InputSrcs)
	inputOutputs(drv, func(in inputOutput, placeholder string) {
		path := inputs[in]
		sources = append(sources, path)
		pairs = append(pairs, placeholder, dir.Join(path))
	})
	slices.Sort(sources)
	names := strings.NewReplacer(pairs...)

	basic := drv.BasicDerivation
	basic.Outputs = maps.Clone(drv.Outputs)
	basic.InputSrcs = slices.Compact(sources)
	basic.Builder = names.Replace(drv.Builder)
	basic.Args = make([]string, len(drv.Args))
	for i, arg := range drv.Args {
		basic.Args[i] = names.Replace(arg)
	}
	basic.Env = make(map[string]string, len(drv.Env))
	for name, value := range drv.Env {
		basic.Env[names.Replace(name)] = names.Replace(value)
	}
	return &nix.Derivation{BasicDerivation: basic}
}
