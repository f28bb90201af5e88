package nix

import (
	"fmt"
	"slices"
	"strings"
)

// OutputSpec says which outputs of a derivation are wanted. The zero value is
// no outputs at all: the object itself is wanted.
type OutputSpec struct {
	All   bool
	Names []OutputName // sorted, no duplicates, when All is false
}

// AllOutputs wants every output.
var AllOutputs = OutputSpec{All: true}

// IsZero tells whether no output is wanted.
func (s OutputSpec) IsZero() bool { return !s.All && len(s.Names) == 0 }

// Contains tells whether the output is wanted.
func (s OutputSpec) Contains(name OutputName) bool {
	return s.All || slices.Contains(s.Names, name)
}

// String is "*" or the names with commas between.
func (s OutputSpec) String() string {
	if s.All {
		return "*"
	}
	names := make([]string, len(s.Names))
	for i, n := range s.Names {
		names[i] = string(n)
	}
	return strings.Join(names, ",")
}

// ParseOutputSpec reads what String writes.
func ParseOutputSpec(s string) (OutputSpec, error) {
	if s == "*" {
		return AllOutputs, nil
	}
	var spec OutputSpec
	for _, n := range strings.Split(s, ",") {
		if err := CheckName(n); err != nil {
			return OutputSpec{}, fmt.Errorf("parse output names '%s': %w", clip(s), err)
		}
		spec.Names = append(spec.Names, OutputName(n))
	}
	slices.Sort(spec.Names)
	spec.Names = slices.Compact(spec.Names)
	return spec, nil
}

// DerivedPath names something that can be made valid: a store object as it is
// (Outputs is zero), or outputs of a derivation, which may itself be an output
// of a derivation (Via).
type DerivedPath struct {
	// Path is a store object; a derivation file when Via or Outputs is set.
	Path StorePath
	// Via leads from Path to the derivation whose outputs are wanted: each step
	// takes an output of the derivation so far, which is a derivation again.
	Via     []OutputName
	Outputs OutputSpec
}

// Opaque wants a store object as it is.
func Opaque(p StorePath) DerivedPath { return DerivedPath{Path: p} }

// Built wants outputs of a derivation.
func Built(drv StorePath, outputs OutputSpec) DerivedPath {
	return DerivedPath{Path: drv, Outputs: outputs}
}

// IsOpaque tells whether the object itself is wanted, and not its outputs.
func (p DerivedPath) IsOpaque() bool { return p.Outputs.IsZero() }

// Format prints the full path with sep ("^" for people, "!" in protocols)
// before each output.
func (p DerivedPath) Format(dir StoreDir, sep string) string {
	s := dir.Join(p.Path)
	for _, v := range p.Via {
		s += sep + string(v)
	}
	if !p.Outputs.IsZero() {
		s += sep + p.Outputs.String()
	}
	return s
}

// ParseDerivedPath reads what Format writes, with the given separator.
func ParseDerivedPath(dir StoreDir, s, sep string) (DerivedPath, error) {
	full, rest, found := strings.Cut(s, sep)
	p, err := dir.Parse(full)
	if err != nil {
		return DerivedPath{}, err
	}
	d := DerivedPath{Path: p}
	if !found {
		return d, nil
	}
	if !p.IsDerivation() {
		return DerivedPath{}, fmt.Errorf("path '%s' is not a derivation, so it has no outputs to choose from", full)
	}
	steps := strings.Split(rest, sep)
	for _, v := range steps[:len(steps)-1] {
		if err := CheckName(v); err != nil {
			return DerivedPath{}, fmt.Errorf("parse '%s': %w", clip(s), err)
		}
		d.Via = append(d.Via, OutputName(v))
	}
	d.Outputs, err = ParseOutputSpec(steps[len(steps)-1])
	return d, err
}
