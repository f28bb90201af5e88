package worker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

// DerivedPath writes a derived path: "<path>!<outputs>", or the path alone for an
// object as it is. Before version 1.30 the path of a derivation alone stood for
// all its outputs, and the file itself could not be asked for.
func (e *Encoder) DerivedPath(p nix.DerivedPath) {
	if e.since(30) {
		e.Text(p.Format(e.Dir, "!"))
		return
	}
	switch {
	case len(p.Via) > 0:
		e.Fail(fmt.Errorf("ask for '%s': the daemon is too old for dynamic derivations", p.Format(e.Dir, "^")))
	case p.IsOpaque() && p.Path.IsDerivation():
		e.Fail(fmt.Errorf("ask for '%s': the daemon is too old to be asked for a derivation and not for its outputs", e.Dir.Join(p.Path)))
	case p.Outputs.All:
		e.StorePath(p.Path)
	default:
		e.Text(p.Format(e.Dir, "!"))
	}
}

// maxDerivedPath is the longest derived path that is read, in bytes: some hundred
// names of outputs of the greatest length.
const maxDerivedPath = 64 << 10

// DerivedPath reads what the Encoder's DerivedPath writes, and "^" for "!" too.
func (d *Decoder) DerivedPath() nix.DerivedPath {
	s := string(d.BytesUpTo(maxDerivedPath))
	if d.Err() != nil {
		return nix.DerivedPath{}
	}
	p, err := d.parseDerivedPath(s)
	if err != nil {
		d.Fail(err)
	}
	return p
}

func (d *Decoder) parseDerivedPath(s string) (nix.DerivedPath, error) {
	sep := "!"
	if !strings.Contains(s, sep) {
		sep = "^"
	}
	full, outputs, built := strings.Cut(s, sep)
	if !d.since(30) {
		p, err := d.Dir.Parse(canonical(full))
		if err != nil {
			return nix.DerivedPath{}, err
		}
		if outputs == "" && (built || p.IsDerivation()) {
			outputs, built = "*", true
		}
	}
	s = canonical(full)
	if built {
		s += sep + outputs
	}
	return nix.ParseDerivedPath(d.Dir, s, sep)
}

// DerivedPaths writes a list of derived paths.
func (e *Encoder) DerivedPaths(paths []nix.DerivedPath) {
	wire.WriteList(e.Writer, paths, e.DerivedPath)
}

// DerivedPaths reads a list of derived paths.
func (d *Decoder) DerivedPaths() []nix.DerivedPath { return wire.List(d.Reader, d.DerivedPath) }

// BuildMode writes a mode.
func (e *Encoder) BuildMode(m nix.BuildMode) { e.Uint64(uint64(m)) }

// BuildMode reads a mode.
func (d *Decoder) BuildMode() nix.BuildMode {
	return nix.BuildMode(d.Number(uint64(nix.BuildCheck)))
}

// BasicDerivation writes a derivation. Its name is not among it: it follows from
// the path of the derivation.
func (e *Encoder) BasicDerivation(b *nix.BasicDerivation) {
	wire.WriteMap(e.Writer, b.Outputs, e.outputName, e.derivationOutput)
	e.PathSet(b.InputSrcs)
	e.Text(b.System)
	e.Text(b.Builder)
	e.Texts(b.Args)
	wire.WriteMap(e.Writer, b.Env, e.Text, e.Text)
}

// BasicDerivation reads a derivation of that name.
func (d *Decoder) BasicDerivation(name string) *nix.BasicDerivation {
	return &nix.BasicDerivation{
		Name:      name,
		Outputs:   d.derivationOutputs(name),
		InputSrcs: d.PathSet(),
		System:    d.Text(),
		Builder:   d.Text(),
		Args:      d.Texts(),
		Env:       wire.Map(d.Reader, d.Text, d.Text),
	}
}

// derivationOutput writes the three fields that tell what kind of output it is.
func (e *Encoder) derivationOutput(o nix.DerivationOutput) {
	var path, algo, hash string
	switch o.Kind {
	case nix.InputAddressed:
		path = e.Dir.Join(o.Path)
	case nix.Fixed:
		path, algo, hash = e.Dir.Join(o.Path), o.Method.Prefix()+o.Hash.Algorithm().String(), o.Hash.Base16()
	case nix.Floating:
		algo = o.Method.Prefix() + o.Algorithm.String()
	case nix.Impure:
		algo, hash = o.Method.Prefix()+o.Algorithm.String(), "impure"
	}
	e.Text(path)
	e.Text(algo)
	e.Text(hash)
}

func (d *Decoder) derivationOutputs(drvName string) map[nix.OutputName]nix.DerivationOutput {
	outputs := make(map[nix.OutputName]nix.DerivationOutput)
	for range d.Count() {
		name := d.outputName()
		path, algo, hash := d.Text(), d.Text(), d.Text()
		if d.Err() != nil {
			return nil
		}
		o, err := d.parseOutput(drvName, name, path, algo, hash)
		if err != nil {
			d.Fail(fmt.Errorf("read derivation '%s': output '%s': %w", drvName, name, err))
			return nil
		}
		outputs[name] = o
	}
	return outputs
}

func (d *Decoder) parseOutput(drvName string, name nix.OutputName, path, algo, hash string) (o nix.DerivationOutput, err error) {
	if algo == "" {
		if path == "" {
			return nix.DerivationOutput{Kind: nix.Deferred}, nil
		}
		o.Kind = nix.InputAddressed
		o.Path, err = d.Dir.Parse(canonical(path))
		return o, err
	}
	method, rest := nix.CutMethodPrefix(algo)
	o.Method = method
	if o.Algorithm, err = nix.ParseHashAlgorithm(rest); err != nil {
		return o, err
	}
	switch hash {
	case "":
		o.Kind = nix.Floating
	case "impure":
		o.Kind = nix.Impure
	default:
		o.Kind = nix.Fixed
		if o.Hash, err = nix.ParseDigest(o.Algorithm, hash); err != nil {
			return o, err
		}
		o.Path, err = nix.MakeContentAddressedPath(d.Dir, nix.OutputPathName(drvName, name), o.ContentAddress(), nix.References{})
		if err != nil {
			return o, err
		}
		if path != "" && canonical(path) != d.Dir.Join(o.Path) {
			return o, fmt.Errorf("path '%s' does not match its content address, should be '%s'", path, d.Dir.Join(o.Path))
		}
		return o, nil
	}
	if path != "" {
		return o, fmt.Errorf("a %s output with a path", o.Kind)
	}
	return o, nil
}

// derivationName is the name of the derivation at p.
func derivationName(p nix.StorePath) string {
	if p == "" {
		return ""
	}
	return strings.TrimSuffix(p.Name(), nix.DrvExtension)
}

// sortedOutputs are the names of outputs in order.
func sortedOutputs[V any](m map[nix.OutputName]V) []nix.OutputName {
	names := make([]nix.OutputName, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
