package aterm

import (
	"context"
	"fmt"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// OutputPaths computes the paths of d's outputs that can be known before it is
// built, whatever d says itself: those of input-addressed and of fixed outputs.
// The map is empty when they are not known yet (MaskedHash).
func (h *Hasher) OutputPaths(ctx context.Context, d *nix.Derivation) (map[nix.OutputName]nix.StorePath, error) {
	kind, err := d.Kind()
	if err != nil {
		return nil, err
	}
	paths := make(map[nix.OutputName]nix.StorePath, len(d.Outputs))
	switch kind {
	case nix.Fixed:
		path, err := fixedPath(h.dir, d.Name, "out", d.Outputs["out"])
		if err != nil {
			return nil, err
		}
		paths["out"] = path
	case nix.InputAddressed, nix.Deferred:
		hash, err := h.MaskedHash(ctx, d)
		if err != nil || hash.IsZero() {
			return paths, err
		}
		for name := range d.Outputs {
			if paths[name], err = nix.MakeOutputPath(h.dir, name, hash, d.Name); err != nil {
				return nil, err
			}
		}
	}
	return paths, nil
}

// CheckInvariants tells whether d may stand at the path drv: it must have that
// name, and the paths of its outputs must be those that follow from it, in its
// outputs and in the variables of their names. Without this a derivation could
// claim the output paths of another. The messages are Nix's.
//
// Whether drv is the hash of d's text is not looked at.
func (h *Hasher) CheckInvariants(ctx context.Context, drv nix.StorePath, d *nix.Derivation) error {
	if err := h.checkInvariants(ctx, drv, d); err != nil {
		return fmt.Errorf("check derivation '%s': %w", h.dir.Join(drv), err)
	}
	return nil
}

func (h *Hasher) checkInvariants(ctx context.Context, drv nix.StorePath, d *nix.Derivation) error {
	if name, ok := strings.CutSuffix(drv.Name(), nix.DrvExtension); !ok || name != d.Name {
		return fmt.Errorf("derivation '%s' has name '%s' which does not match its path", h.dir.Join(drv), d.Name)
	}
	paths, err := h.OutputPaths(ctx, d)
	if err != nil {
		return err
	}
	for _, name := range d.OutputNames() {
		o := d.Outputs[name]
		path, known := paths[name]
		switch {
		case o.Kind == nix.InputAddressed && !known:
			return fmt.Errorf("derivation has incorrect output '%s', should be deferred", h.dir.Join(o.Path))
		case o.Kind == nix.InputAddressed && o.Path != path, o.Kind == nix.Fixed && o.Path != path && o.Path != "":
			return fmt.Errorf("derivation has incorrect output '%s', should be '%s'", h.dir.Join(o.Path), h.dir.Join(path))
		case !o.Kind.HasKnownOutputPaths():
			// A deferred output whose path could be known is no lie; older versions of
			// Nix wrote such.
			continue
		}
		value, ok := d.Env[string(name)]
		if want := h.dir.Join(path); !ok {
			return fmt.Errorf("derivation has missing environment variable '%s', should be '%s' but is not present", name, want)
		} else if value != want {
			return fmt.Errorf("derivation has incorrect environment variable '%s', should be '%s' but is actually '%s'", name, want, clip(value))
		}
	}
	return nil
}

// FillOutputPaths makes deferred outputs of d whose paths can be known
// input-addressed, and sets the variables of the outputs' names, and the path
// of a fixed output, where they are missing or empty. It changes d. This is what
// is to be done with a derivation whose inputs have just become known, or that
// somebody wrote without paths.
func (h *Hasher) FillOutputPaths(ctx context.Context, d *nix.Derivation) error {
	paths, err := h.OutputPaths(ctx, d)
	if err != nil {
		return err
	}
	for name, path := range paths {
		o := d.Outputs[name]
		formerlyDeferred := o.Kind == nix.Deferred
		if formerlyDeferred {
			o.Kind = nix.InputAddressed
		}
		if o.Path == "" {
			o.Path = path
		}
		d.Outputs[name] = o
		if d.Env == nil {
			d.Env = make(map[string]string)
		}
		if d.Env[string(name)] == "" || formerlyDeferred {
			d.Env[string(name)] = h.dir.Join(path)
		}
	}
	return nil
}
