package drvjson

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

// Unmarshal reads one derivation in any of the forms that the package knows. The
// form without a name cannot be read alone (UnmarshalShow). Keys that are
// unknown or occur twice are errors.
//
// Nothing is filled in but the path of a fixed output, and nothing says that the
// paths of outputs are right: see aterm.Hasher.
func Unmarshal(dir nix.StoreDir, text []byte, limits jsonvalue.Limits) (*nix.Derivation, error) {
	v, err := jsonvalue.ParseUnique(string(text), limits)
	if err != nil {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	d, err := derivation(dir, v, "")
	if err != nil {
		return nil, fmt.Errorf("read derivation from JSON: %w", err)
	}
	return d, nil
}

// UnmarshalShow reads what `nix derivation show` (before 2.15 `nix
// show-derivation`) prints: derivations by their paths. A derivation has to
// have the name of its path; whether the path is its hash is not checked.
func UnmarshalShow(dir nix.StoreDir, text []byte, limits jsonvalue.Limits) (map[nix.StorePath]*nix.Derivation, error) {
	v, err := jsonvalue.ParseUnique(string(text), limits)
	if err != nil {
		return nil, fmt.Errorf("read derivations: %w", err)
	}
	if err := v.Expect(jsonvalue.Object); err != nil {
		return nil, fmt.Errorf("read derivations from JSON: %w", err)
	}
	// Before version 4 the document was nothing but the map. No path is called
	// "derivations".
	list := v
	if inner, ok := v.Get("derivations"); ok {
		r := reader{dir: dir, object: v, known: []string{"derivations", "version"}}
		if list, err = inner, inner.Expect(jsonvalue.Object); err == nil {
			if err = r.readVersion(); err == nil {
				err = r.unknown()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read derivations from JSON: %w", err)
		}
	}
	drvs := make(map[nix.StorePath]*nix.Derivation, list.Len())
	for key, v := range list.Members() {
		path, err := nix.ParseStorePath(strings.TrimPrefix(key, string(dir)+"/"))
		if err == nil && !path.IsDerivation() {
			err = fmt.Errorf("path '%s' is not a derivation", key)
		}
		if err != nil {
			return nil, fmt.Errorf("read derivations from JSON: %w", err)
		}
		d, err := derivation(dir, v, strings.TrimSuffix(path.Name(), nix.DrvExtension))
		if err != nil {
			return nil, fmt.Errorf("read derivation '%s' from JSON: %w", key, err)
		}
		drvs[path] = d
	}
	return drvs, nil
}

// reader reads one derivation, or the document around several.
type reader struct {
	dir     nix.StoreDir
	object  jsonvalue.Value
	version uint64 // 0 for the forms that have none
	known   []string
}

func derivation(dir nix.StoreDir, v jsonvalue.Value, name string) (*nix.Derivation, error) {
	if err := v.Expect(jsonvalue.Object); err != nil {
		return nil, err
	}
	r := reader{dir: dir, object: v, known: []string{"name", "version", "structuredAttrs"}}
	if _, ok := v.Get("version"); ok {
		if err := r.readVersion(); err != nil {
			return nil, err
		}
	}
	d := &nix.Derivation{
		BasicDerivation: nix.BasicDerivation{Outputs: make(map[nix.OutputName]nix.DerivationOutput), Env: make(map[string]string)},
		InputDrvs:       make(map[nix.StorePath]nix.InputOutputs),
	}
	if err := r.name(d, name); err != nil {
		return nil, err
	}
	inputs, srcs, drvs := &r, "inputSrcs", "inputDrvs"
	if r.version >= 4 {
		v, err := r.get("inputs", jsonvalue.Object)
		if err != nil {
			return nil, err
		}
		inputs, srcs, drvs = &reader{dir: dir, object: v, version: r.version}, "srcs", "drvs"
	}
	for _, step := range []struct {
		reader *reader
		key    string
		kind   jsonvalue.Kind
		read   func(*nix.Derivation, jsonvalue.Value) error
	}{
		{&r, "outputs", jsonvalue.Object, r.outputs},
		{inputs, srcs, jsonvalue.Array, r.inputSrcs},
		{inputs, drvs, jsonvalue.Object, r.inputDrvs},
		{&r, "system", jsonvalue.String, func(d *nix.Derivation, v jsonvalue.Value) error { d.System = v.Str(); return nil }},
		{&r, "builder", jsonvalue.String, func(d *nix.Derivation, v jsonvalue.Value) error { d.Builder = v.Str(); return nil }},
		{&r, "args", jsonvalue.Array, func(d *nix.Derivation, v jsonvalue.Value) (err error) { d.Args, err = v.AsStrings(); return err }},
		{&r, "env", jsonvalue.Object, r.env},
	} {
		v, err := step.reader.get(step.key, step.kind)
		if err != nil {
			return nil, err
		}
		if err := step.read(d, v); err != nil {
			return nil, fmt.Errorf("key '%s': %w", step.key, err)
		}
	}
	if err := r.structuredAttrs(d); err != nil {
		return nil, err
	}
	if err := inputs.unknown(); err != nil {
		return nil, err
	}
	return d, r.unknown()
}

// get takes a member that has to be there.
func (r *reader) get(key string, kind jsonvalue.Kind) (jsonvalue.Value, error) {
	r.known = append(r.known, key)
	v, ok := r.object.Get(key)
	if !ok {
		return v, fmt.Errorf("key '%s' is missing", key)
	}
	if err := v.Expect(kind); err != nil {
		return v, fmt.Errorf("key '%s': %w", key, err)
	}
	return v, nil
}

// unknown refuses members that were not read: they could mean something.
func (r *reader) unknown() error {
	for key := range r.object.Members() {
		if !slices.Contains(r.known, key) {
			return fmt.Errorf("key '%s' is not known", key)
		}
	}
	return nil
}

func (r *reader) readVersion() error {
	v, err := r.get("version", jsonvalue.Unsigned)
	if err != nil {
		return err
	}
	if n := v.Uint64(); v.Kind() != jsonvalue.Unsigned || n != 3 && n != 4 {
		text, _ := v.Text()
		return fmt.Errorf("unsupported derivation JSON format version %s, want 3, 4 or none", text)
	}
	r.version = v.Uint64()
	return nil
}

// name reads the name, which must be the given one unless that is empty.
func (r *reader) name(d *nix.Derivation, given string) error {
	d.Name = given
	v, ok := r.object.Get("name")
	if ok {
		stated, err := v.AsString()
		if err != nil {
			return fmt.Errorf("key 'name': %w", err)
		}
		if given != "" && stated != given {
			return fmt.Errorf("derivation has name '%s' which does not match its path", stated)
		}
		d.Name = stated
	} else if given == "" || r.version != 0 {
		return fmt.Errorf("key 'name' is missing")
	}
	return nix.CheckName(d.Name)
}

// path reads a store path in the manner of the version.
func (r *reader) path(s string) (nix.StorePath, error) {
	if r.version >= 3 {
		return nix.ParseStorePath(s)
	}
	return r.dir.Parse(s)
}

func (r *reader) outputs(d *nix.Derivation, v jsonvalue.Value) error {
	for name, v := range v.Members() {
		if err := nix.CheckName(name); err != nil {
			return err
		}
		o, err := r.output(d.Name, nix.OutputName(name), v)
		if err != nil {
			return fmt.Errorf("output '%s': %w", name, err)
		}
		d.Outputs[nix.OutputName(name)] = o
	}
	return nil
}

// output tells by its keys what kind of output is meant.
func (r *reader) output(drvName string, name nix.OutputName, v jsonvalue.Value) (o nix.DerivationOutput, err error) {
	if err := v.Expect(jsonvalue.Object); err != nil {
		return o, err
	}
	fields := make(map[string]string)
	for key, v := range v.Members() {
		if key == "impure" {
			if yes, err := v.AsBool(); err != nil || !yes {
				return o, fmt.Errorf("'impure' must be true if it is there")
			}
			fields[key] = ""
		} else if fields[key], err = v.AsString(); err != nil {
			return o, fmt.Errorf("key '%s': %w", key, err)
		}
	}
	form := strings.Join(slices.Sorted(maps.Keys(fields)), " ")
	if form == "" {
		o.Kind = nix.Deferred
		return o, nil
	}
	if form == "path" {
		o.Kind = nix.InputAddressed
		o.Path, err = r.path(fields["path"])
		return o, err
	}
	switch {
	case r.version == 0 && (form == "hash hashAlgo path" || form == "hash hashAlgo method path"),
		r.version == 3 && form == "hash hashAlgo method",
		r.version >= 4 && form == "hash method":
		o.Kind = nix.Fixed
	case r.version == 0 && form == "hashAlgo", form == "hashAlgo method":
		o.Kind = nix.Floating
	case r.version == 0 && form == "hashAlgo impure", form == "hashAlgo impure method":
		o.Kind = nix.Impure
	default:
		return o, fmt.Errorf("invalid JSON for derivation output: no kind of output has the keys %q", form)
	}
	algorithm := fields["hashAlgo"]
	if method, ok := fields["method"]; ok {
		o.Method, err = parseMethod(method)
	} else {
		o.Method, algorithm = nix.CutMethodPrefix(algorithm)
	}
	if err != nil {
		return o, err
	}
	if r.version >= 4 && o.Kind == nix.Fixed {
		if hash := fields["hash"]; strings.Contains(hash, ":") {
			return o, fmt.Errorf("hash '%s' is not SRI", hash)
		} else if o.Hash, err = nix.ParseHash(hash); err != nil {
			return o, err
		}
		o.Algorithm = o.Hash.Algorithm()
	} else if o.Algorithm, err = nix.ParseHashAlgorithm(algorithm); err != nil {
		return o, err
	} else if o.Kind == nix.Fixed {
		if o.Hash, err = nix.ParseDigest(o.Algorithm, fields["hash"]); err != nil {
			return o, err
		}
	}
	if o.Kind == nix.Fixed {
		o.Path, err = nix.MakeContentAddressedPath(r.dir, nix.OutputPathName(drvName, name), o.ContentAddress(), nix.References{})
		if err != nil {
			return o, err
		}
		if stated, ok := fields["path"]; ok && stated != r.dir.Join(o.Path) {
			return o, fmt.Errorf("path '%s' does not match its content address, should be '%s'", stated, r.dir.Join(o.Path))
		}
	}
	return o, nil
}

func parseMethod(s string) (nix.ContentAddressMethod, error) {
	for _, m := range []nix.ContentAddressMethod{nix.Flat, nix.Recursive, nix.Text, nix.Git} {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("unknown content address method '%s', expect 'flat', 'nar', 'text', or 'git'", s)
}

func (r *reader) inputSrcs(d *nix.Derivation, v jsonvalue.Value) error {
	list, err := v.AsStrings()
	if err != nil {
		return err
	}
	for _, s := range list {
		p, err := r.path(s)
		if err != nil {
			return err
		}
		d.InputSrcs = append(d.InputSrcs, p)
	}
	d.InputSrcs = sortedSet(d.InputSrcs)
	return nil
}

func (r *reader) inputDrvs(d *nix.Derivation, v jsonvalue.Value) error {
	for key, v := range v.Members() {
		p, err := r.path(key)
		if err != nil {
			return err
		}
		if !p.IsDerivation() {
			return fmt.Errorf("input '%s' is not a derivation", key)
		}
		in, err := r.inputOutputs(v)
		if err != nil {
			return fmt.Errorf("input '%s': %w", key, err)
		}
		d.InputDrvs[p] = in
	}
	return nil
}

// inputOutputs reads a list of names, or, since 2.18, an object that has the
// list and what is wanted of outputs that are derivations.
func (r *reader) inputOutputs(v jsonvalue.Value) (in nix.InputOutputs, err error) {
	list := v
	if v.Kind() == jsonvalue.Object {
		inner := reader{object: v}
		if list, err = inner.get("outputs", jsonvalue.Array); err != nil {
			return in, err
		}
		dynamic, err := inner.get("dynamicOutputs", jsonvalue.Object)
		if err != nil {
			return in, err
		}
		if err := inner.unknown(); err != nil {
			return in, err
		}
		for name, v := range dynamic.Members() {
			if err := nix.CheckName(name); err != nil {
				return in, err
			}
			child, err := r.inputOutputs(v)
			if err != nil {
				return in, err
			}
			if in.Dynamic == nil {
				in.Dynamic = make(map[nix.OutputName]nix.InputOutputs)
			}
			in.Dynamic[nix.OutputName(name)] = child
		}
	}
	names, err := list.AsStrings()
	if err != nil {
		return in, err
	}
	for _, name := range names {
		if err := nix.CheckName(name); err != nil {
			return in, err
		}
		in.Outputs = append(in.Outputs, nix.OutputName(name))
	}
	in.Outputs = sortedSet(in.Outputs)
	return in, nil
}

func (r *reader) env(d *nix.Derivation, v jsonvalue.Value) error {
	for name, v := range v.Members() {
		value, err := v.AsString()
		if err != nil {
			return err
		}
		d.Env[name] = value
	}
	return nil
}

// structuredAttrs puts structured attributes back into the environment, where
// derivation files have them.
func (r *reader) structuredAttrs(d *nix.Derivation) error {
	attrs, ok := r.object.Get("structuredAttrs")
	if _, inEnv := d.Env[nix.StructuredAttrsKey]; inEnv && (ok || r.version > 0) {
		return fmt.Errorf("Cannot have an environment variable named '%s'. This key is reserved for encoding structured attrs", nix.StructuredAttrsKey)
	}
	if !ok {
		return nil
	}
	if err := attrs.Expect(jsonvalue.Object); err != nil {
		return fmt.Errorf("key 'structuredAttrs': %w", err)
	}
	text, err := attrs.Text()
	d.Env[nix.StructuredAttrsKey] = text
	return err
}
