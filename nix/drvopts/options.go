package drvopts

import (
	"slices"

	"github.com/kilnbuild/kiln/nix"
)

// Options is what a derivation asks for besides its program and environment.
// Lists of strings are sorted and have no duplicates. The names of attributes
// are given where they are not those of the fields.
type Options struct {
	// ChecksForAll applies to every output. It is nil for derivations with
	// structured attributes: those have ChecksFor, by output (outputChecks).
	ChecksForAll *OutputChecks
	ChecksFor    map[nix.OutputName]OutputChecks

	// UnsafeDiscardReferences has the outputs that are registered without
	// references. Only structured attributes can say so.
	UnsafeDiscardReferences map[nix.OutputName]bool
	// PassAsFile has the variables that the builder gets as files: see
	// AttrFileName. There are none with structured attributes.
	PassAsFile []string
	// ExportReferencesGraph has, by file name (without structured attributes) or
	// key of the JSON (with them), objects whose closures the builder is told.
	ExportReferencesGraph map[string][]Reference

	SandboxProfile       string   // __sandboxProfile; macOS
	NoChroot             bool     // __noChroot
	ImpureHostDeps       []string // __impureHostDeps
	ImpureEnvVars        []string
	AllowLocalNetworking bool // __darwinAllowLocalNetworking; macOS
	// RequiredSystemFeatures is what the derivation says itself: see Features.
	RequiredSystemFeatures []string
	PreferLocalBuild       bool
	AllowSubstitutes       bool // true unless the derivation says otherwise
	// Limits is kilnLimits, which Nix does not know: see nix.ParseLimits.
	Limits nix.Limits

	// Warnings are for who asked for the build: attributes that have no effect.
	Warnings []string
}

// OutputChecks is what an output has to comply with.
type OutputChecks struct {
	// IgnoreSelfReferences says that the output itself does not count among its
	// requisites.
	IgnoreSelfReferences bool
	// MaxSize and MaxClosureSize are bytes of archives; nil is no limit.
	MaxSize, MaxClosureSize *uint64
	// AllowedReferences and AllowedRequisites are nil if anything is allowed. If
	// they are empty, nothing is.
	AllowedReferences, AllowedRequisites       []Reference
	DisallowedReferences, DisallowedRequisites []Reference
}

// A Reference names a store object in one of three ways. Exactly one field is
// set.
type Reference struct {
	Path nix.StorePath
	// Output is meant to be an output of the derivation itself. It is whatever
	// text is no store path: nobody checked that there is such an output.
	Output nix.OutputName
	// Input is an output of an input derivation, whose path is not known yet. There
	// are none of these once the derivation is resolved.
	Input *nix.DerivedPath
}

// Checks are the checks of an output. They are nil if there are none.
func (o *Options) Checks(output nix.OutputName) *OutputChecks {
	if o.ChecksForAll != nil {
		return o.ChecksForAll
	}
	if c, ok := o.ChecksFor[output]; ok {
		return &c
	}
	return nil
}

// FeatureContentAddressed is the system feature that derivations of unknown
// output paths need.
const FeatureContentAddressed = "ca-derivations"

// FeatureRecursive is the system feature that derivations require whose builders
// call Nix.
const FeatureRecursive = "recursive-nix"

// Features are the system features that a machine needs to build a derivation
// whose outputs are of the given kind: those that it states, and the one that
// follows from the kind.
func (o *Options) Features(kind nix.OutputKind) []string {
	features := slices.Clone(o.RequiredSystemFeatures)
	if !kind.HasKnownOutputPaths() {
		features = sortedSet(append(features, FeatureContentAddressed))
	}
	return features
}

// AttrFileName is the name, in the build directory, of the file that has the
// value of a variable of PassAsFile. The builder finds its path in the variable
// that is called like this one with "Path" at the end.
func AttrFileName(variable string) string {
	return ".attr-" + nix.HashBytes(nix.SHA256, []byte(variable)).Nix32()
}

func sortedSet[S ~string](list []S) []S {
	slices.Sort(list)
	return slices.Compact(list)
}
