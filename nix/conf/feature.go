package conf

import (
	"fmt"
	"slices"
	"strings"
)

// A Feature is the name of an experimental feature of Nix.
type Feature string

// The features that Nix 2.34 knows (Nix manual, "Experimental Features"). Those
// about the language and the commands of Nix are known here so that a
// configuration may name them.
const (
	AutoAllocateUIDs    Feature = "auto-allocate-uids"
	BLAKE3Hashes        Feature = "blake3-hashes"
	CADerivations       Feature = "ca-derivations"
	Cgroups             Feature = "cgroups"
	ConfigurableImpure  Feature = "configurable-impure-env"
	DaemonTrustOverride Feature = "daemon-trust-override"
	DynamicDerivations  Feature = "dynamic-derivations"
	ExternalBuilders    Feature = "external-builders"
	FetchClosure        Feature = "fetch-closure"
	FetchTree           Feature = "fetch-tree"
	Flakes              Feature = "flakes"
	GitHashing          Feature = "git-hashing"
	ImpureDerivations   Feature = "impure-derivations"
	LocalOverlayStore   Feature = "local-overlay-store"
	MountedSSHStore     Feature = "mounted-ssh-store"
	NixCommand          Feature = "nix-command"
	ParseTOMLTimestamps Feature = "parse-toml-timestamps"
	PipeOperators       Feature = "pipe-operators"
	ReadOnlyLocalStore  Feature = "read-only-local-store"
	RecursiveNix        Feature = "recursive-nix"
	VerifiedFetches     Feature = "verified-fetches"
)

// noURLLiterals was a feature of Nix 2.8 and became a setting.
const noURLLiterals = "no-url-literals"

var knownFeatures = []Feature{
	AutoAllocateUIDs, BLAKE3Hashes, CADerivations, Cgroups, ConfigurableImpure, DaemonTrustOverride,
	DynamicDerivations, ExternalBuilders, FetchClosure, FetchTree, Flakes, GitHashing, ImpureDerivations,
	LocalOverlayStore, MountedSSHStore, NixCommand, ParseTOMLTimestamps, PipeOperators, ReadOnlyLocalStore,
	RecursiveNix, VerifiedFetches,
}

// Features is a set of experimental features: sorted, each once.
type Features []Feature

// Has tells whether f is enabled.
func (fs Features) Has(f Feature) bool {
	_, ok := slices.BinarySearch(fs, f)
	return ok
}

// String gives the names with spaces between them.
func (fs Features) String() string { return features{&fs}.text() }

type features struct{ p *Features }

// set drops unknown names; unknownFeatures tells about them.
func (v features) set(_ *Definition, text string, add bool) error {
	var fs Features
	if add {
		fs = slices.Clone(*v.p)
	}
	for _, w := range words(text) {
		f := Feature(w)
		if !slices.Contains(knownFeatures, f) {
			continue
		}
		fs = append(fs, f)
		if f == Flakes {
			fs = append(fs, FetchTree)
		}
	}
	slices.Sort(fs)
	*v.p = slices.Compact(fs)
	return nil
}

func (v features) text() string {
	w := make([]string, len(*v.p))
	for i, f := range *v.p {
		w[i] = string(f)
	}
	return strings.Join(w, " ")
}
func (v features) detach() { *v.p = slices.Clone(*v.p) }

// unknownFeatures gives one sentence for each name that set drops.
func unknownFeatures(text string) []string {
	var out []string
	for _, w := range newStringSet(words(text)) {
		switch {
		case w == noURLLiterals:
			out = append(out, fmt.Sprintf("experimental feature '%s' has been stabilized and renamed; use 'lint-url-literals = fatal' setting instead", w))
		case !slices.Contains(knownFeatures, Feature(w)):
			out = append(out, fmt.Sprintf("unknown experimental feature '%s'", w))
		}
	}
	return out
}
