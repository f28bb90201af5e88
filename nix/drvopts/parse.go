package drvopts

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

// Parse reads the options of a derivation. Whether that has been resolved or
// not makes no difference but in References. Attributes of the wrong type, and
// an exportReferencesGraph that cannot be meant, are errors, with the texts of
// Nix 2.34.
func Parse(dir nix.StoreDir, d *nix.Derivation) (*Options, error) {
	p := parser{dir: dir, drv: d, o: &Options{AllowSubstitutes: true}}
	read := p.fromEnv
	if text, ok := d.StructuredAttrs(); ok {
		attrs, err := parseStructured(text)
		if err != nil {
			return nil, fmt.Errorf("parse options of derivation '%s': %w", d.Name, err)
		}
		p.attrs, p.structured = attrs, true
		read = p.fromStructured
	}
	for _, step := range []func() error{read, p.common} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("parse options of derivation '%s': %w", d.Name, err)
		}
	}
	return p.o, nil
}

// parseStructured reads the JSON of structured attributes.
func parseStructured(text string) (jsonvalue.Value, error) {
	attrs, err := jsonvalue.Parse(text, jsonvalue.Limits{})
	if err != nil {
		return attrs, fmt.Errorf("cannot process %s attribute: %w", nix.StructuredAttrsKey, err)
	}
	if attrs.Kind() != jsonvalue.Object {
		return attrs, fmt.Errorf("cannot process %s attribute: type must be object, but is %s", nix.StructuredAttrsKey, attrs.Kind())
	}
	return attrs, nil
}

type parser struct {
	dir        nix.StoreDir
	drv        *nix.Derivation
	attrs      jsonvalue.Value // structured attributes
	structured bool
	o          *Options
	// placeholders stand for outputs of input derivations. They are made when the
	// first is met.
	placeholders map[string]nix.DerivedPath
}

// common reads what is called the same and means the same either way.
func (p *parser) common() (err error) {
	o := p.o
	if o.SandboxProfile, err = p.text("__sandboxProfile"); err != nil {
		return err
	}
	for _, a := range []struct {
		name  string
		value *bool
	}{
		{"__noChroot", &o.NoChroot},
		{"__darwinAllowLocalNetworking", &o.AllowLocalNetworking},
		{"preferLocalBuild", &o.PreferLocalBuild},
		{"allowSubstitutes", &o.AllowSubstitutes},
	} {
		if *a.value, err = p.bool(a.name, *a.value); err != nil {
			return err
		}
	}
	for _, a := range []struct {
		name  string
		value *[]string
	}{
		{"__impureHostDeps", &o.ImpureHostDeps},
		{"impureEnvVars", &o.ImpureEnvVars},
		{"requiredSystemFeatures", &o.RequiredSystemFeatures},
	} {
		if *a.value, _, err = p.set(a.name); err != nil {
			return err
		}
	}
	limits, err := p.text(attrLimits)
	if err != nil {
		return err
	}
	if o.Limits, err = nix.ParseLimits(limits); err != nil {
		return inAttribute(attrLimits, err)
	}
	return nil
}

// attrLimits is kiln's own.
const attrLimits = "kilnLimits"

func inAttribute(name string, err error) error {
	return fmt.Errorf("while parsing attribute \"%s\": %w", name, err)
}

func (p *parser) text(name string) (string, error) {
	if !p.structured {
		return p.drv.Env[name], nil
	}
	v, ok := p.attrs.Get(name)
	if !ok {
		return "", nil
	}
	s, err := v.AsString()
	if err != nil {
		return "", inAttribute(name, err)
	}
	return s, nil
}

func (p *parser) bool(name string, absent bool) (bool, error) {
	if !p.structured {
		if s, ok := p.drv.Env[name]; ok {
			return s == "1", nil
		}
		return absent, nil
	}
	v, ok := p.attrs.Get(name)
	if !ok {
		return absent, nil
	}
	b, err := v.AsBool()
	if err != nil {
		return false, inAttribute(name, err)
	}
	return b, nil
}

// set reads words in a variable, or a list of strings. ok is false when it is
// absent.
func (p *parser) set(name string) (list []string, ok bool, err error) {
	if !p.structured {
		s, ok := p.drv.Env[name]
		return sortedSet(words(s)), ok, nil
	}
	v, ok := p.attrs.Get(name)
	if !ok {
		return nil, false, nil
	}
	if list, err = v.AsStrings(); err != nil {
		return nil, false, inAttribute(name, err)
	}
	return sortedSet(list), true, nil
}

// words splits a list in a variable. It is nil when there are none.
func words(s string) (list []string) {
	for w := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(" \t\n\r", r) }) {
		list = append(list, w)
	}
	return list
}

var graphFile = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// fromEnv reads what variables say.
func (p *parser) fromEnv() error {
	checks := &OutputChecks{IgnoreSelfReferences: true}
	for _, a := range []struct {
		name  string
		value *[]Reference
	}{
		{"allowedReferences", &checks.AllowedReferences},
		{"disallowedReferences", &checks.DisallowedReferences},
		{"allowedRequisites", &checks.AllowedRequisites},
		{"disallowedRequisites", &checks.DisallowedRequisites},
	} {
		list, ok, err := p.set(a.name)
		if err != nil {
			return err
		}
		if ok {
			*a.value = p.references(list)
		}
	}
	p.o.ChecksForAll = checks
	p.o.PassAsFile = sortedSet(words(p.drv.Env["passAsFile"]))

	graph := p.drv.Env["exportReferencesGraph"]
	tokens := words(graph)
	if len(tokens)%2 != 0 {
		return fmt.Errorf("odd number of tokens in 'exportReferencesGraph': '%s'", graph)
	}
	p.o.ExportReferencesGraph = make(map[string][]Reference)
	for pair := range slices.Chunk(tokens, 2) {
		if !graphFile.MatchString(pair[0]) {
			return fmt.Errorf("invalid file name '%s' in 'exportReferencesGraph'", pair[0])
		}
		ref, err := p.object(pair[1])
		if err != nil {
			return err
		}
		p.o.ExportReferencesGraph[pair[0]] = []Reference{ref}
	}
	return nil
}

// fromStructured reads what structured attributes say.
func (p *parser) fromStructured() error {
	p.o.ChecksFor = make(map[nix.OutputName]OutputChecks)
	p.o.UnsafeDiscardReferences = make(map[nix.OutputName]bool)
	p.o.ExportReferencesGraph = make(map[string][]Reference)
	for _, name := range []string{
		"allowedReferences", "allowedRequisites", "disallowedRequisites", "disallowedReferences", "maxSize", "maxClosureSize",
	} {
		if _, ok := p.attrs.Get(name); ok {
			p.warn("'structuredAttrs' disables the effect of the top-level attribute '%s'; use 'outputChecks' instead", name)
		}
	}
	if v, ok := p.attrs.Get("outputChecks"); ok {
		if err := v.Expect(jsonvalue.Object); err != nil {
			return err
		}
		for output, v := range v.Members() {
			checks, err := p.outputChecks(output, v)
			if err != nil {
				return err
			}
			p.o.ChecksFor[nix.OutputName(output)] = checks
		}
	}
	if v, ok := p.attrs.Get("unsafeDiscardReferences"); ok {
		err := v.Expect(jsonvalue.Object)
		for output, v := range v.Members() {
			if err == nil {
				p.o.UnsafeDiscardReferences[nix.OutputName(output)], err = v.AsBool()
			}
		}
		if err != nil {
			return fmt.Errorf("while parsing attribute 'unsafeDiscardReferences': %w", err)
		}
	}
	if _, ok := p.drv.Env["passAsFile"]; ok {
		p.warn("'structuredAttrs' disables the effect of the top-level attribute 'passAsFile'; because all JSON is always passed via file")
	}
	if v, ok := p.attrs.Get("exportReferencesGraph"); ok && v.Kind() != jsonvalue.Object {
		p.warn("'exportReferencesGraph' in structured attrs is not a JSON object, ignoring")
	} else if ok {
		for key, v := range v.Members() {
			paths, err := flatten(v, nil)
			if err != nil {
				return err
			}
			refs := []Reference{}
			for _, path := range sortedSet(paths) {
				ref, err := p.object(path)
				if err != nil {
					return err
				}
				refs = append(refs, ref)
			}
			p.o.ExportReferencesGraph[key] = refs
		}
	}
	return nil
}

// flatten collects the strings of nested lists.
func flatten(v jsonvalue.Value, list []string) ([]string, error) {
	switch v.Kind() {
	case jsonvalue.String:
		return append(list, v.Str()), nil
	case jsonvalue.Array:
		var err error
		for _, e := range v.Elements() {
			if list, err = flatten(e, list); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, errors.New("'exportReferencesGraph' value is not an array or a string")
}

func (p *parser) outputChecks(output string, v jsonvalue.Value) (c OutputChecks, err error) {
	if err := v.Expect(jsonvalue.Object); err != nil {
		return c, err
	}
	for _, a := range []struct {
		name  string
		value **uint64
	}{
		{"maxSize", &c.MaxSize},
		{"maxClosureSize", &c.MaxClosureSize},
	} {
		v, ok := v.Get(a.name)
		if !ok {
			continue
		}
		if !v.IsNumber() {
			return c, fmt.Errorf("while parsing attribute 'outputChecks.\"%s\".%s': type must be number, but is %s", output, a.name, v.Kind())
		}
		size := v.Uint64()
		*a.value = &size
	}
	for _, a := range []struct {
		name  string
		value *[]Reference
	}{
		{"allowedReferences", &c.AllowedReferences},
		{"disallowedReferences", &c.DisallowedReferences},
		{"allowedRequisites", &c.AllowedRequisites},
		{"disallowedRequisites", &c.DisallowedRequisites},
	} {
		v, ok := v.Get(a.name)
		if !ok {
			continue
		}
		list, err := v.AsStrings()
		if err != nil {
			return c, fmt.Errorf("while parsing attribute 'outputChecks.\"%s\".%s': %w", output, a.name, err)
		}
		*a.value = p.references(sortedSet(list))
	}
	return c, nil
}

func (p *parser) warn(format string, args ...any) {
	p.o.Warnings = append(p.o.Warnings, fmt.Sprintf(format, args...))
}
