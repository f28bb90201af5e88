package aterm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// Limits bounds what Parse reads. A field that is zero means its default.
type Limits struct {
	Bytes int // length of the text; 64 MiB
	// Entries is the number of outputs, inputs, names of outputs, arguments and
	// variables, all together; 1,048,576.
	Entries int
	Depth   int // dynamic outputs inside one another; 64
}

// Defaults of Limits.
const (
	DefaultMaxBytes   = 64 << 20
	DefaultMaxEntries = 1 << 20
	DefaultMaxDepth   = 64
)

// Parse reads the text of a derivation file. name is the derivation's: that of
// the file's store object without ".drv". Errors give the byte offset.
//
// It accepts what Nix 2.34 accepts and understands it the same way: lists in any
// order; of two outputs of the same name the first, of two variables or input
// derivations of the same name the last; commas between the elements of a list
// left out; anything at all after the term. It refuses what Nix reads but cannot
// build or cannot print again without harm: names of outputs that are no
// names, input derivations without ".drv", a system with a quote or a backslash
// (Nix prints it without escapes), store paths that are not in canonical form,
// and, as the newest versions do, a fixed output whose path does not follow
// from its hash.
//
// Structured attributes stay as they are in the text; nothing looks into them.
// Strings of the derivation share memory with one copy of text.
func Parse(dir nix.StoreDir, name string, text []byte, limits Limits) (*nix.Derivation, error) {
	if most := cmp.Or(limits.Bytes, DefaultMaxBytes); len(text) > most {
		return nil, fmt.Errorf("parse derivation '%s': text of %d bytes is longer than the limit of %d", name, len(text), most)
	}
	p := parser{
		dir:     dir,
		text:    string(text),
		entries: cmp.Or(limits.Entries, DefaultMaxEntries),
		depth:   cmp.Or(limits.Depth, DefaultMaxDepth),
		drv: &nix.Derivation{
			BasicDerivation: nix.BasicDerivation{
				Name:    name,
				Outputs: make(map[nix.OutputName]nix.DerivationOutput),
				Env:     make(map[string]string),
			},
			InputDrvs: make(map[nix.StorePath]nix.InputOutputs),
		},
	}
	if err := p.derivation(); err != nil {
		return nil, fmt.Errorf("parse derivation '%s': byte %d: %w", name, p.pos, err)
	}
	return p.drv, nil
}

// dynamicVersion is the version that derivations with dynamic inputs state.
const dynamicVersion = "xp-dyn-drv"

type parser struct {
	dir     nix.StoreDir
	text    string
	pos     int // where the error is, once there is one
	entries int // how many more there may be
	depth   int // how much deeper it may go
	dynamic bool
	drv     *nix.Derivation
}

func (p *parser) derivation() error {
	d := p.drv
	switch {
	case p.skip("Derive("):
	case p.skip("DrvWithVersion("):
		at := p.pos
		version, err := p.string()
		if err != nil {
			return err
		}
		if version != dynamicVersion {
			return p.fail(at, "unknown derivation ATerm format version '%s'", clip(version))
		}
		p.dynamic = true
		if err := p.expect(","); err != nil {
			return err
		}
	default:
		return fmt.Errorf("derivation does not start with 'Derive(' or 'DrvWithVersion('")
	}
	if err := p.list(p.output); err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.list(p.inputDrv); err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.list(p.inputSrc); err != nil {
		return err
	}
	d.InputSrcs = sortedSet(d.InputSrcs)
	if err := p.expect(","); err != nil {
		return err
	}
	at := p.pos
	var err error
	if d.System, err = p.string(); err != nil {
		return err
	}
	if err := checkSystem(d.System); err != nil {
		return p.fail(at, "%w", err)
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if d.Builder, err = p.string(); err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.list(p.arg); err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.list(p.variable); err != nil {
		return err
	}
	return p.expect(")")
}

// output reads ("name","path","hash algorithm","hash").
func (p *parser) output() error {
	if err := p.expect("("); err != nil {
		return err
	}
	at := p.pos
	name, err := p.outputName()
	if err != nil {
		return err
	}
	var fields [3]string
	for i := range fields {
		if err := p.expect(","); err != nil {
			return err
		}
		if fields[i], err = p.string(); err != nil {
			return err
		}
	}
	if err := p.expect(")"); err != nil {
		return err
	}
	o, err := parseOutput(p.dir, p.drv.Name, name, fields[0], fields[1], fields[2])
	if err != nil {
		return p.fail(at, "output '%s': %w", name, err)
	}
	if _, ok := p.drv.Outputs[name]; !ok {
		p.drv.Outputs[name] = o
	}
	return nil
}

// parseOutput tells what kind of output is meant by its three fields.
func parseOutput(dir nix.StoreDir, drvName string, name nix.OutputName, path, algo, digest string) (o nix.DerivationOutput, err error) {
	if algo == "" {
		if path == "" {
			return nix.DerivationOutput{Kind: nix.Deferred}, nil
		}
		o.Kind = nix.InputAddressed
		o.Path, err = dir.Parse(path)
		return o, err
	}
	var rest string
	o.Method, rest = nix.CutMethodPrefix(algo)
	if o.Algorithm, err = nix.ParseHashAlgorithm(rest); err != nil {
		return o, err
	}
	switch digest {
	case "":
		o.Kind = nix.Floating
	case "impure":
		o.Kind = nix.Impure
	default:
		o.Kind = nix.Fixed
		if o.Hash, err = nix.ParseDigest(o.Algorithm, digest); err != nil {
			return o, err
		}
		if o.Path, err = fixedPath(dir, drvName, name, o); err != nil {
			return o, err
		}
		if stated, err := dir.Parse(path); err != nil {
			return o, err
		} else if stated != o.Path {
			return o, fmt.Errorf("path '%s' does not match its content address, should be '%s'", path, dir.Join(o.Path))
		}
		return o, nil
	}
	if path != "" {
		return o, fmt.Errorf("%s output should not specify output path", o.Kind)
	}
	return o, nil
}

// fixedPath computes the path of a fixed output.
func fixedPath(dir nix.StoreDir, drvName string, name nix.OutputName, o nix.DerivationOutput) (nix.StorePath, error) {
	return nix.MakeContentAddressedPath(dir, nix.OutputPathName(drvName, name), o.ContentAddress(), nix.References{})
}

// inputDrv reads ("path",outputs).
func (p *parser) inputDrv() error {
	if err := p.expect("("); err != nil {
		return err
	}
	at := p.pos
	path, err := p.storePath()
	if err != nil {
		return err
	}
	if !path.IsDerivation() {
		return p.fail(at, "input '%s' is not a derivation", path)
	}
	if err := p.expect(","); err != nil {
		return err
	}
	outputs, err := p.inputOutputs()
	if err != nil {
		return err
	}
	p.drv.InputDrvs[path] = outputs
	return p.expect(")")
}

// inputOutputs reads a list of names, or (names,[("name",outputs),…]).
func (p *parser) inputOutputs() (in nix.InputOutputs, err error) {
	names := func() error {
		name, err := p.outputName()
		in.Outputs = append(in.Outputs, name)
		return err
	}
	if !p.dynamic || !p.skip("(") {
		err = p.list(names)
		in.Outputs = sortedSet(in.Outputs)
		return in, err
	}
	if p.depth--; p.depth < 0 {
		return in, fmt.Errorf("dynamic outputs are nested deeper than the limit allows")
	}
	if err := p.list(names); err != nil {
		return in, err
	}
	in.Outputs = sortedSet(in.Outputs)
	if err := p.expect(","); err != nil {
		return in, err
	}
	err = p.list(func() error {
		if err := p.expect("("); err != nil {
			return err
		}
		name, err := p.outputName()
		if err != nil {
			return err
		}
		if err := p.expect(","); err != nil {
			return err
		}
		child, err := p.inputOutputs()
		if err != nil {
			return err
		}
		if in.Dynamic == nil {
			in.Dynamic = make(map[nix.OutputName]nix.InputOutputs)
		}
		in.Dynamic[name] = child
		return p.expect(")")
	})
	if err != nil {
		return in, err
	}
	p.depth++
	return in, p.expect(")")
}

func (p *parser) inputSrc() error {
	path, err := p.storePath()
	p.drv.InputSrcs = append(p.drv.InputSrcs, path)
	return err
}

func (p *parser) arg() error {
	arg, err := p.string()
	p.drv.Args = append(p.drv.Args, arg)
	return err
}

// variable reads ("name","value").
func (p *parser) variable() error {
	if err := p.expect("("); err != nil {
		return err
	}
	name, err := p.string()
	if err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	value, err := p.string()
	if err != nil {
		return err
	}
	p.drv.Env[name] = value
	return p.expect(")")
}

func (p *parser) outputName() (nix.OutputName, error) {
	at := p.pos
	name, err := p.string()
	if err != nil {
		return "", err
	}
	if err := nix.CheckName(name); err != nil {
		return "", p.fail(at, "output %w", err)
	}
	return nix.OutputName(name), nil
}

func (p *parser) storePath() (nix.StorePath, error) {
	at := p.pos
	full, err := p.string()
	if err != nil {
		return "", err
	}
	path, err := p.dir.Parse(full)
	if err != nil {
		return "", p.fail(at, "%w", err)
	}
	return path, nil
}

// list reads elements between brackets. A comma before an element is not
// missed.
func (p *parser) list(element func() error) error {
	if err := p.expect("["); err != nil {
		return err
	}
	for !p.skip("]") {
		p.skip(",")
		if p.entries--; p.entries < 0 {
			return fmt.Errorf("more entries than the limit allows")
		}
		if err := element(); err != nil {
			return err
		}
	}
	return nil
}

// string reads a string in quotes. A backslash escapes any character; those of
// n, r and t stand for control characters.
func (p *parser) string() (string, error) {
	start := p.pos
	if err := p.expect(`"`); err != nil {
		return "", err
	}
	rest := p.text[p.pos:]
	end := strings.IndexByte(rest, '"')
	if end < 0 {
		return "", p.fail(start, "unterminated string")
	}
	if strings.IndexByte(rest[:end], '\\') < 0 {
		p.pos += end + 1
		return rest[:end], nil
	}
	var b strings.Builder
	b.Grow(end)
	for i := 0; ; {
		// end is the first quote at or after i.
		n := strings.IndexByte(rest[i:end], '\\')
		if n < 0 {
			b.WriteString(rest[i:end])
			p.pos += end + 1
			return b.String(), nil
		}
		b.WriteString(rest[i : i+n])
		i += n + 1 // the escaped character; it may be the quote, but is in rest
		switch c := rest[i]; c {
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		default:
			b.WriteByte(c)
		}
		if i++; i > end {
			n := strings.IndexByte(rest[i:], '"')
			if n < 0 {
				return "", p.fail(start, "unterminated string")
			}
			end = i + n
		}
	}
}

// skip moves past token if it is next.
func (p *parser) skip(token string) bool {
	ok := strings.HasPrefix(p.text[p.pos:], token)
	if ok {
		p.pos += len(token)
	}
	return ok
}

func (p *parser) expect(token string) error {
	switch {
	case p.skip(token):
		return nil
	case p.pos == len(p.text):
		return fmt.Errorf("expected '%s', but the text ends", token)
	}
	return fmt.Errorf("expected '%s', not %q", token, p.text[p.pos])
}

// fail is an error at another place than where the parser is.
func (p *parser) fail(at int, format string, args ...any) error {
	p.pos = at
	return fmt.Errorf(format, args...)
}

// sortedSet sorts list and drops duplicates, in place.
func sortedSet[S ~string](list []S) []S {
	slices.Sort(list)
	return slices.Compact(list)
}

// checkSystem refuses what would be printed as something else than it is:
// systems are printed without escapes.
func checkSystem(system string) error {
	if strings.ContainsAny(system, `"\`) {
		return fmt.Errorf("system '%s' contains a quote or a backslash", clip(system))
	}
	return nil
}

// clip keeps messages readable when what is complained about has no bounds.
func clip(s string) string {
	if len(s) <= 256 {
		return s
	}
	return s[:256] + "…"
}
