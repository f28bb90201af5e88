package nix

import (
	"fmt"
	"maps"
	"slices"
)

// DrvExtension ends the name of every derivation file.
const DrvExtension = ".drv"

// OutputName names an output of a derivation: "out", "dev", …
type OutputName string

// OutputKind says how the path of an output is determined.
type OutputKind uint8

// The kinds of outputs. See "Derivation Outputs and Types of Derivations" in
// the Nix manual.
const (
	InputAddressed OutputKind = iota + 1 // the path follows from the derivation
	Fixed                                // the path follows from a hash that the derivation states
	Floating                             // the path follows from the content, once it is built
	Deferred                             // as InputAddressed, but an input's path is not known yet
	Impure                               // as Floating, and never the same twice
)

func (k OutputKind) String() string {
	switch k {
	case InputAddressed:
		return "input-addressed"
	case Fixed:
		return "fixed"
	case Floating:
		return "floating content-addressed"
	case Deferred:
		return "deferred"
	case Impure:
		return "impure"
	}
	return "unknown"
}

// DerivationOutput is what a derivation says of one of its outputs.
type DerivationOutput struct {
	Kind OutputKind
	Path StorePath // InputAddressed and Fixed
	// CA has the method and algorithm of Fixed, Floating and Impure outputs, and
	// for Fixed ones the whole hash.
	Method    ContentAddressMethod
	Algorithm HashAlgorithm
	Hash      Hash // Fixed only
}

// ContentAddress is the address that a fixed output must have.
func (o DerivationOutput) ContentAddress() ContentAddress {
	return ContentAddress{Method: o.Method, Hash: o.Hash}
}

// InputOutputs says which outputs of an input derivation are needed. Dynamic
// has, for outputs that are themselves derivations, what is needed of those.
type InputOutputs struct {
	Outputs []OutputName // sorted, no duplicates
	Dynamic map[OutputName]InputOutputs
}

// BasicDerivation is a derivation whose inputs are all store objects: nothing
// else has to be built before it.
type BasicDerivation struct {
	Name      string // of the store object without the extension
	Outputs   map[OutputName]DerivationOutput
	InputSrcs []StorePath // sorted, no duplicates
	System    string
	Builder   string
	Args      []string
	// Env has every variable as it stands in the file, "__json" with the
	// structured attributes included: changing its text would change the
	// derivation's hash.
	Env map[string]string
}

// Derivation is a BasicDerivation with inputs that are outputs of other
// derivations.
type Derivation struct {
	BasicDerivation
	InputDrvs map[StorePath]InputOutputs
}

// StructuredAttrsKey is the variable that holds structured attributes as JSON.
const StructuredAttrsKey = "__json"

// StructuredAttrs is the JSON text of the structured attributes, if the
// derivation has them.
func (d *BasicDerivation) StructuredAttrs() (json string, ok bool) {
	json, ok = d.Env[StructuredAttrsKey]
	return json, ok
}

// OutputNames are the names of the outputs, sorted.
func (d *BasicDerivation) OutputNames() []OutputName {
	return slices.Sorted(maps.Keys(d.Outputs))
}

// Kind is the common kind of the outputs. It is an error when they are mixed,
// when there are none, when a fixed derivation has any but the one output
// "out", or when floating outputs differ in their algorithm.
func (d *BasicDerivation) Kind() (OutputKind, error) {
	if len(d.Outputs) == 0 {
		return 0, fmt.Errorf("derivation '%s' must have at least one output", d.Name)
	}
	var first DerivationOutput
	for _, name := range d.OutputNames() {
		o := d.Outputs[name]
		if first.Kind == 0 {
			first = o
			continue
		}
		if o.Kind != first.Kind {
			return 0, fmt.Errorf("derivation '%s' can't mix %s and %s outputs", d.Name, first.Kind, o.Kind)
		}
		if o.Kind == Floating && o.Algorithm != first.Algorithm {
			return 0, fmt.Errorf("derivation '%s': all floating outputs must use the same hash algorithm", d.Name)
		}
	}
	if first.Kind == Fixed {
		if len(d.Outputs) != 1 {
			return 0, fmt.Errorf("derivation '%s': only one fixed output is allowed for now", d.Name)
		}
		if _, ok := d.Outputs["out"]; !ok {
			return 0, fmt.Errorf("derivation '%s': single fixed output must be named 'out'", d.Name)
		}
	}
	return first.Kind, nil
}

// HasKnownOutputPaths tells whether derivations of this kind say where their
// outputs will be.
func (k OutputKind) HasKnownOutputPaths() bool { return k == InputAddressed || k == Fixed }

// IsPure tells whether builders of this kind are cut off from the network: what
// they make may depend on nothing but their inputs.
func (k OutputKind) IsPure() bool { return k != Fixed && k != Impure }

// IsBuiltin tells whether the builder is a part of the executor and not a
// program.
func (d *BasicDerivation) IsBuiltin() bool {
	return len(d.Builder) > len("builtin:") && d.Builder[:len("builtin:")] == "builtin:"
}
