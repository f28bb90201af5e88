package aterm

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kilnbuild/kiln/nix"
)

// Marshal gives the text of the derivation's file, byte for byte as Nix writes
// it. It is an error when d has something that the text cannot hold: an output
// without its hash or path, the name of an output that is no name, a quote in
// the system, or a fixed output with another path than its hash gives (an empty
// path is filled in).
func Marshal(dir nix.StoreDir, d *nix.Derivation) ([]byte, error) {
	return Append(make([]byte, 0, 4096), dir, d)
}

// Append appends what Marshal gives to dst.
func Append(dst []byte, dir nix.StoreDir, d *nix.Derivation) ([]byte, error) {
	if err := check(d); err != nil {
		return dst, fmt.Errorf("print derivation '%s': %w", d.Name, err)
	}
	w := writer{dir: dir, buf: dst}
	if err := w.derivation(d); err != nil {
		return dst, fmt.Errorf("print derivation '%s': %w", d.Name, err)
	}
	return w.buf, nil
}

// DerivationPath gives the store object that a derivation is: its path, what it
// refers to (its inputs, sorted; its outputs are not among them), and its
// content.
func DerivationPath(dir nix.StoreDir, d *nix.Derivation) (path nix.StorePath, refs []nix.StorePath, text []byte, err error) {
	if text, err = Marshal(dir, d); err != nil {
		return "", nil, nil, err
	}
	refs = make([]nix.StorePath, 0, len(d.InputSrcs)+len(d.InputDrvs))
	refs = append(refs, d.InputSrcs...)
	for input := range d.InputDrvs {
		refs = append(refs, input)
	}
	refs = sortedSet(refs)
	ca := nix.ContentAddress{Method: nix.Text, Hash: nix.HashBytes(nix.SHA256, text)}
	path, err = nix.MakeContentAddressedPath(dir, d.Name+nix.DrvExtension, ca, nix.References{Others: refs})
	if err != nil {
		return "", nil, nil, fmt.Errorf("compute path of derivation '%s': %w", d.Name, err)
	}
	return path, refs, text, nil
}

// check refuses what cannot be printed so that it reads back the same.
func check(d *nix.Derivation) error {
	if err := checkSystem(d.System); err != nil {
		return err
	}
	for name, o := range d.Outputs {
		if err := nix.CheckName(string(name)); err != nil {
			return fmt.Errorf("output %w", err)
		}
		ok := true
		switch o.Kind {
		case nix.InputAddressed:
			ok = o.Path != ""
		case nix.Fixed:
			ok = !o.Hash.IsZero()
		case nix.Floating, nix.Impure:
			ok = o.Algorithm != 0
		case nix.Deferred:
		default:
			ok = false
		}
		if !ok {
			return fmt.Errorf("output '%s' (%s) is not complete", name, o.Kind)
		}
	}
	for _, in := range d.InputDrvs {
		if err := checkInput(in); err != nil {
			return err
		}
	}
	return nil
}

func checkInput(in nix.InputOutputs) error {
	for _, name := range in.Outputs {
		if err := nix.CheckName(string(name)); err != nil {
			return fmt.Errorf("output %w", err)
		}
	}
	for name, child := range in.Dynamic {
		if err := nix.CheckName(string(name)); err != nil {
			return fmt.Errorf("output %w", err)
		}
		if err := checkInput(child); err != nil {
			return err
		}
	}
	return nil
}

// writer prints one derivation.
type writer struct {
	dir nix.StoreDir
	buf []byte
	// masked leaves out the paths of outputs, and the values of the variables that
	// have an output's name.
	masked bool
	// inputs, when it is not nil, is printed in place of the derivation's input
	// derivations: names of outputs by what stands for the input.
	inputs map[string][]nix.OutputName
}

func (w *writer) derivation(d *nix.Derivation) error {
	if hasDynamicInputs(d) {
		w.buf = append(w.buf, `DrvWithVersion("`+dynamicVersion+`",[`...)
	} else {
		w.buf = append(w.buf, "Derive(["...)
	}
	for i, name := range d.OutputNames() {
		w.comma(i)
		if err := w.output(d.Name, name, d.Outputs[name]); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, "],["...)
	if w.inputs != nil {
		for i, input := range slices.Sorted(maps.Keys(w.inputs)) {
			w.comma(i)
			w.buf = append(w.buf, '(')
			w.plain(input)
			w.buf = append(w.buf, ',')
			w.names(w.inputs[input])
			w.buf = append(w.buf, ')')
		}
	} else {
		for i, input := range slices.Sorted(maps.Keys(d.InputDrvs)) {
			w.comma(i)
			w.buf = append(w.buf, '(')
			w.path(input)
			w.buf = append(w.buf, ',')
			w.inputOutputs(d.InputDrvs[input])
			w.buf = append(w.buf, ')')
		}
	}
	w.buf = append(w.buf, "],["...)
	for i, src := range ascending(d.InputSrcs) {
		w.comma(i)
		w.path(src)
	}
	w.buf = append(w.buf, "],"...)
	w.plain(d.System)
	w.buf = append(w.buf, ',')
	w.string(d.Builder)
	w.buf = append(w.buf, ",["...)
	for i, arg := range d.Args {
		w.comma(i)
		w.string(arg)
	}
	w.buf = append(w.buf, "],["...)
	for i, name := range slices.Sorted(maps.Keys(d.Env)) {
		w.comma(i)
		w.buf = append(w.buf, '(')
		w.string(name)
		w.buf = append(w.buf, ',')
		if _, isOutput := d.Outputs[nix.OutputName(name)]; isOutput && w.masked {
			w.string("")
		} else {
			w.string(d.Env[name])
		}
		w.buf = append(w.buf, ')')
	}
	w.buf = append(w.buf, "])"...)
	return nil
}

func (w *writer) output(drvName string, name nix.OutputName, o nix.DerivationOutput) error {
	w.buf = append(w.buf, '(')
	w.plain(string(name))
	w.buf = append(w.buf, ',')
	path := o.Path
	if o.Kind == nix.Fixed {
		computed, err := fixedPath(w.dir, drvName, name, o)
		if err != nil {
			return err
		}
		if path != "" && path != computed {
			return fmt.Errorf("output '%s' has path '%s', which does not match its content address, should be '%s'",
				name, w.dir.Join(path), w.dir.Join(computed))
		}
		path = computed
	}
	if !o.Kind.HasKnownOutputPaths() || w.masked {
		w.plain("")
	} else {
		w.path(path)
	}
	w.buf = append(w.buf, ',')
	switch o.Kind {
	case nix.InputAddressed, nix.Deferred:
		w.buf = append(w.buf, `"",""`...)
	case nix.Fixed:
		w.plain(o.Method.Prefix() + o.Hash.Algorithm().String())
		w.buf = append(w.buf, ',')
		w.plain(o.Hash.Base16())
	case nix.Floating:
		w.plain(o.Method.Prefix() + o.Algorithm.String())
		w.buf = append(w.buf, `,""`...)
	case nix.Impure:
		w.plain(o.Method.Prefix() + o.Algorithm.String())
		w.buf = append(w.buf, `,"impure"`...)
	}
	w.buf = append(w.buf, ')')
	return nil
}

func (w *writer) inputOutputs(in nix.InputOutputs) {
	if len(in.Dynamic) == 0 {
		w.names(in.Outputs)
		return
	}
	w.buf = append(w.buf, '(')
	w.names(in.Outputs)
	w.buf = append(w.buf, ",["...)
	for i, name := range slices.Sorted(maps.Keys(in.Dynamic)) {
		w.comma(i)
		w.buf = append(w.buf, '(')
		w.plain(string(name))
		w.buf = append(w.buf, ',')
		w.inputOutputs(in.Dynamic[name])
		w.buf = append(w.buf, ')')
	}
	w.buf = append(w.buf, "])"...)
}

func (w *writer) names(names []nix.OutputName) {
	w.buf = append(w.buf, '[')
	for i, name := range ascending(names) {
		w.comma(i)
		w.plain(string(name))
	}
	w.buf = append(w.buf, ']')
}

func (w *writer) comma(i int) {
	if i > 0 {
		w.buf = append(w.buf, ',')
	}
}

// plain prints a string that needs no escapes.
func (w *writer) plain(s string) {
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, s...)
	w.buf = append(w.buf, '"')
}

func (w *writer) path(p nix.StorePath) {
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, w.dir...)
	w.buf = append(w.buf, '/')
	w.buf = append(w.buf, p...)
	w.buf = append(w.buf, '"')
}

// string prints a string with the five escapes of the format; all other bytes
// stand for themselves.
func (w *writer) string(s string) {
	w.buf = append(w.buf, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		switch c {
		case '"', '\\':
		case '\n':
			c = 'n'
		case '\r':
			c = 'r'
		case '\t':
			c = 't'
		default:
			continue
		}
		w.buf = append(w.buf, s[start:i]...)
		w.buf = append(w.buf, '\\', c)
		start = i + 1
	}
	w.buf = append(w.buf, s[start:]...)
	w.buf = append(w.buf, '"')
}

// hasDynamicInputs tells whether d needs the form of the text that has a
// version.
func hasDynamicInputs(d *nix.Derivation) bool {
	for _, in := range d.InputDrvs {
		if len(in.Dynamic) > 0 {
			return true
		}
	}
	return false
}

// ascending is list, or a sorted copy without duplicates when it is not sorted.
func ascending[S ~string](list []S) []S {
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return sortedSet(slices.Clone(list))
		}
	}
	return list
}
