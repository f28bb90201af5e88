package drvopts

import (
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/base32"
)

// references reads what an output may or may not refer to. It is not nil.
func (p *parser) references(list []string) []Reference {
	refs := make([]Reference, 0, len(list))
	for _, s := range list {
		if in, ok := p.placeholder(s); ok {
			refs = append(refs, Reference{Input: &in})
		} else if path, err := p.dir.Parse(s); err == nil {
			refs = append(refs, Reference{Path: path})
		} else {
			refs = append(refs, Reference{Output: nix.OutputName(s)})
		}
	}
	return refs
}

// object reads the path of a store object, or of something inside one.
func (p *parser) object(s string) (Reference, error) {
	if in, ok := p.placeholder(s); ok {
		return Reference{Input: &in}, nil
	}
	path, _, err := p.dir.Split(s)
	return Reference{Path: path}, err
}

// placeholder tells what a placeholder, or a path below one, stands for.
func (p *parser) placeholder(s string) (nix.DerivedPath, bool) {
	if len(s) < placeholderLen || s[0] != '/' || len(p.drv.InputDrvs) == 0 {
		return nix.DerivedPath{}, false
	}
	if len(s) > placeholderLen && s[placeholderLen] != '/' {
		return nix.DerivedPath{}, false
	}
	if p.placeholders == nil {
		p.placeholders = make(map[string]nix.DerivedPath)
		for path, in := range p.drv.InputDrvs {
			p.addPlaceholders(nix.DerivedPath{Path: path}, in, func(output nix.OutputName) string {
				return nix.DownstreamPlaceholder(path, output)
			})
		}
	}
	in, ok := p.placeholders[s[:placeholderLen]]
	return in, ok
}

// placeholderLen is the length of every placeholder: a slash and a SHA-256 in
// base32.
var placeholderLen = 1 + base32.EncodedLen(nix.SHA256.Size())

// addPlaceholders adds those for outputs of a derivation, and for outputs of
// derivations that are such outputs.
func (p *parser) addPlaceholders(drv nix.DerivedPath, in nix.InputOutputs, name func(nix.OutputName) string) {
	for _, output := range in.Outputs {
		built := drv
		built.Outputs = nix.OutputSpec{Names: []nix.OutputName{output}}
		p.placeholders[name(output)] = built
	}
	for output, child := range in.Dynamic {
		inner := drv
		inner.Via = append(drv.Via[:len(drv.Via):len(drv.Via)], output)
		parent := name(output)
		p.addPlaceholders(inner, child, func(output nix.OutputName) string {
			return nix.ComputedPlaceholder(parent, output)
		})
	}
}
