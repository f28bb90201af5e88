package drvjson

import (
	"fmt"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

// Version is the version that is written.
const Version = 4

// Marshal gives the JSON of a derivation, compact and with sorted keys. It is an
// error when d has text that is not UTF-8, or structured attributes that are no
// JSON object.
func Marshal(d *nix.Derivation) ([]byte, error) {
	v, err := derivationValue(d)
	if err != nil {
		return nil, fmt.Errorf("print derivation '%s' as JSON: %w", d.Name, err)
	}
	text, err := v.AppendText(nil)
	if err != nil {
		return nil, fmt.Errorf("print derivation '%s' as JSON: %w", d.Name, err)
	}
	return text, nil
}

// MarshalShow gives the document that `nix derivation show` prints for a set of
// derivations.
func MarshalShow(drvs map[nix.StorePath]*nix.Derivation) ([]byte, error) {
	members := make(map[string]jsonvalue.Value, len(drvs))
	for path, d := range drvs {
		v, err := derivationValue(d)
		if err != nil {
			return nil, fmt.Errorf("print derivation '%s' as JSON: %w", path, err)
		}
		members[string(path)] = v
	}
	return jsonvalue.NewObject(map[string]jsonvalue.Value{
		"derivations": jsonvalue.NewObject(members),
		"version":     jsonvalue.NewUnsigned(Version),
	}).AppendText(nil)
}

func derivationValue(d *nix.Derivation) (jsonvalue.Value, error) {
	outputs := make(map[string]jsonvalue.Value, len(d.Outputs))
	for name, o := range d.Outputs {
		v, err := outputValue(o)
		if err != nil {
			return v, fmt.Errorf("output '%s': %w", name, err)
		}
		outputs[string(name)] = v
	}
	drvs := make(map[string]jsonvalue.Value, len(d.InputDrvs))
	for path, in := range d.InputDrvs {
		drvs[string(path)] = inputValue(in)
	}
	env := make(map[string]jsonvalue.Value, len(d.Env))
	for name, value := range d.Env {
		if name != nix.StructuredAttrsKey {
			env[name] = jsonvalue.NewString(value)
		}
	}
	members := map[string]jsonvalue.Value{
		"name":    jsonvalue.NewString(d.Name),
		"version": jsonvalue.NewUnsigned(Version),
		"outputs": jsonvalue.NewObject(outputs),
		"inputs": jsonvalue.NewObject(map[string]jsonvalue.Value{
			"srcs": jsonvalue.NewStrings(sortedSet(d.InputSrcs)),
			"drvs": jsonvalue.NewObject(drvs),
		}),
		"system":  jsonvalue.NewString(d.System),
		"builder": jsonvalue.NewString(d.Builder),
		"args":    jsonvalue.NewStrings(d.Args),
		"env":     jsonvalue.NewObject(env),
	}
	if text, ok := d.StructuredAttrs(); ok {
		attrs, err := jsonvalue.Parse(text, jsonvalue.Limits{})
		if err == nil {
			err = attrs.Expect(jsonvalue.Object)
		}
		if err != nil {
			return attrs, fmt.Errorf("structured attributes: %w", err)
		}
		members["structuredAttrs"] = attrs
	}
	return jsonvalue.NewObject(members), nil
}

func outputValue(o nix.DerivationOutput) (jsonvalue.Value, error) {
	members := make(map[string]jsonvalue.Value)
	switch o.Kind {
	case nix.InputAddressed:
		members["path"] = jsonvalue.NewString(string(o.Path))
	case nix.Fixed:
		members["method"] = jsonvalue.NewString(o.Method.String())
		members["hash"] = jsonvalue.NewString(o.Hash.SRI())
	case nix.Impure, nix.Floating:
		members["method"] = jsonvalue.NewString(o.Method.String())
		members["hashAlgo"] = jsonvalue.NewString(o.Algorithm.String())
		if o.Kind == nix.Impure {
			members["impure"] = jsonvalue.NewBool(true)
		}
	case nix.Deferred:
	default:
		return jsonvalue.Value{}, fmt.Errorf("kind is not known")
	}
	return jsonvalue.NewObject(members), nil
}

func inputValue(in nix.InputOutputs) jsonvalue.Value {
	dynamic := make(map[string]jsonvalue.Value, len(in.Dynamic))
	for name, child := range in.Dynamic {
		dynamic[string(name)] = inputValue(child)
	}
	return jsonvalue.NewObject(map[string]jsonvalue.Value{
		"outputs":        jsonvalue.NewStrings(sortedSet(in.Outputs)),
		"dynamicOutputs": jsonvalue.NewObject(dynamic),
	})
}

// sortedSet is a sorted copy of list without duplicates.
func sortedSet[S ~string](list []S) []S {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}
