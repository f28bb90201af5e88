package aterm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kilnbuild/kiln/nix"
)

// A Loader gives the derivation that a path names, whether or not it has been
// built. What it gives for a path must never change: that is so when the path
// is the hash of the file that was read.
type Loader func(ctx context.Context, drv nix.StorePath) (*nix.Derivation, error)

// HasherOptions has what NewHasher can do without. The zero value is usable.
type HasherOptions struct {
	// MemoEntries is about how many derivations a Hasher remembers, at some 200
	// bytes each; 262,144 when zero.
	MemoEntries int
}

const defaultMemoEntries = 1 << 18

// A Hasher computes hashes of derivations "modulo" fixed outputs (Nix manual,
// "Input-addressing derivation outputs"): every input derivation is replaced by
// its own such hash, or, when it has a fixed output, by a hash of that output's
// content address. So it does not matter how fixed outputs are fetched.
//
// There are two of them. A derivation's identity as an input covers its output
// paths. The masked hash, which those paths are made of, does not.
//
// A Hasher remembers what it computed. It is safe for concurrent use; goroutines
// that ask for the same at the same time compute it each for itself.
type Hasher struct {
	dir   nix.StoreDir
	load  Loader
	limit int

	mu         sync.Mutex
	young, old map[nix.StorePath]modulo
}

// modulo is the identity of a derivation as an input.
type modulo struct {
	sum      [sha256.Size]byte
	deferred bool // sum is of use for LegacyRealisationID only
	outputs  []nix.OutputName
}

// NewHasher makes a Hasher for derivations of the store dir. load may be nil if
// no derivation that is asked about has input derivations.
func NewHasher(dir nix.StoreDir, load Loader, options HasherOptions) *Hasher {
	return &Hasher{
		dir:   dir,
		load:  load,
		limit: max(1, cmp.Or(options.MemoEntries, defaultMemoEntries)/2),
		young: make(map[nix.StorePath]modulo),
	}
}

// InputHash is the identity of a derivation as an input of others. The zero Hash
// means that it has none yet: its outputs float, are impure or deferred, or
// depend on such.
func (h *Hasher) InputHash(ctx context.Context, drv nix.StorePath) (nix.Hash, error) {
	known, err := h.resolve(ctx, []nix.StorePath{drv})
	if err != nil {
		return nix.Hash{}, err
	}
	if m := known[drv]; !m.deferred {
		return nix.NewHash(nix.SHA256, m.sum[:]), nil
	}
	return nix.Hash{}, nil
}

// MaskedHash is the hash that the paths of input-addressed outputs are made of
// (nix.MakeOutputPath). d's outputs are input-addressed or deferred. The zero
// Hash means that there is none yet: an input floats, is impure, deferred or
// dynamic. Such a derivation has to be resolved first.
func (h *Hasher) MaskedHash(ctx context.Context, d *nix.Derivation) (nix.Hash, error) {
	kind, err := d.Kind()
	if err != nil {
		return nix.Hash{}, err
	}
	if kind != nix.InputAddressed && kind != nix.Deferred {
		return nix.Hash{}, fmt.Errorf("hash derivation '%s': outputs are %s, not input-addressed", d.Name, kind)
	}
	m, err := h.own(ctx, d)
	if err != nil || m.deferred {
		return nix.Hash{}, err
	}
	return nix.NewHash(nix.SHA256, m.sum[:]), nil
}

// LegacyRealisationID is the name that Nix 2.4 to 2.34 gave to an output of a
// content-addressing derivation in databases, binary caches and protocols:
// "sha256:<base16>!<output>". Other than the masked hash it exists for every
// derivation.
func (h *Hasher) LegacyRealisationID(ctx context.Context, d *nix.Derivation, output nix.OutputName) (string, error) {
	if _, ok := d.Outputs[output]; !ok {
		return "", fmt.Errorf("derivation '%s' has no output '%s'", d.Name, output)
	}
	m, err := h.own(ctx, d)
	if err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(m.sum[:]) + "!" + string(output), nil
}

// own computes the masked hash of a derivation that need not be in any store.
func (h *Hasher) own(ctx context.Context, d *nix.Derivation) (modulo, error) {
	known, err := h.resolve(ctx, slices.Sorted(maps.Keys(d.InputDrvs)))
	if err != nil {
		return modulo{}, fmt.Errorf("hash derivation '%s': %w", d.Name, err)
	}
	m, err := h.compute(d, known, true)
	if err != nil {
		return modulo{}, fmt.Errorf("hash derivation '%s': %w", d.Name, err)
	}
	return m, nil
}

// visit is a derivation that waits for its inputs.
type visit struct {
	path   nix.StorePath
	drv    *nix.Derivation
	inputs []nix.StorePath // those that are still to be looked at
}

// resolve computes the identities of wanted and of whatever they depend on. It
// keeps its own stack: graphs can be deeper than Go's.
func (h *Hasher) resolve(ctx context.Context, wanted []nix.StorePath) (map[nix.StorePath]modulo, error) {
	known := make(map[nix.StorePath]modulo, len(wanted))
	waiting := make(map[nix.StorePath]bool)
	var stack []visit
	push := func(path nix.StorePath) error {
		if _, ok := known[path]; ok {
			return nil
		}
		// A path shares memory with the derivation that it was found in.
		path = nix.StorePath(strings.Clone(string(path)))
		if m, ok := h.recall(path); ok {
			known[path] = m
			return nil
		}
		if waiting[path] {
			return fmt.Errorf("derivation '%s' depends on itself", h.dir.Join(path))
		}
		if h.load == nil {
			return fmt.Errorf("derivation '%s' cannot be loaded here", h.dir.Join(path))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := h.load(ctx, path)
		if err != nil {
			return fmt.Errorf("load derivation '%s': %w", h.dir.Join(path), err)
		}
		waiting[path] = true
		stack = append(stack, visit{path, d, slices.Sorted(maps.Keys(d.InputDrvs))})
		return nil
	}
	for _, path := range wanted {
		if err := push(path); err != nil {
			return nil, err
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.inputs) > 0 {
				next := top.inputs[0]
				top.inputs = top.inputs[1:]
				if err := push(next); err != nil {
					return nil, err
				}
				continue
			}
			m, err := h.compute(top.drv, known, false)
			if err != nil {
				return nil, fmt.Errorf("hash derivation '%s': %w", h.dir.Join(top.path), err)
			}
			known[top.path] = m
			h.remember(top.path, m)
			delete(waiting, top.path)
			*top = visit{}
			stack = stack[:len(stack)-1]
		}
	}
	return known, nil
}

// compute hashes one derivation whose inputs are known.
func (h *Hasher) compute(d *nix.Derivation, known map[nix.StorePath]modulo, masked bool) (m modulo, err error) {
	kind, err := d.Kind()
	if err != nil {
		return m, err
	}
	if err := check(d); err != nil {
		return m, err
	}
	m.outputs = ownedNames(d)
	if kind == nix.Fixed {
		o := d.Outputs["out"]
		path, err := fixedPath(h.dir, d.Name, "out", o)
		if err != nil {
			return m, err
		}
		m.sum = sha256.Sum256([]byte("fixed:out:" + o.Method.Prefix() + o.Hash.Base16Prefixed() + ":" + h.dir.Join(path)))
		return m, nil
	}
	// A deferred derivation may turn out to have paths after all, but until those
	// are written into it nobody else can rely on them.
	m.deferred = kind != nix.InputAddressed && !(masked && kind == nix.Deferred)

	inputs := make(map[string][]nix.OutputName, len(d.InputDrvs))
	for path, in := range d.InputDrvs {
		input := known[path]
		if input.deferred || len(in.Dynamic) > 0 {
			m.deferred = true
		}
		key := hex.EncodeToString(input.sum[:])
		for _, name := range in.Outputs {
			if !slices.Contains(input.outputs, name) {
				return m, fmt.Errorf("derivation '%s' has no output '%s'", h.dir.Join(path), name)
			}
			inputs[key] = append(inputs[key], name)
		}
	}
	w := writer{dir: h.dir, masked: masked, inputs: inputs}
	if err := w.derivation(d); err != nil {
		return m, err
	}
	m.sum = sha256.Sum256(w.buf)
	return m, nil
}

var onlyOut = []nix.OutputName{"out"}

// ownedNames are the names of d's outputs, without the text that d was read
// from.
func ownedNames(d *nix.Derivation) []nix.OutputName {
	names := d.OutputNames()
	if slices.Equal(names, onlyOut) {
		return onlyOut
	}
	for i, name := range names {
		names[i] = nix.OutputName(strings.Clone(string(name)))
	}
	return names
}

// recall looks a derivation up in the memo.
func (h *Hasher) recall(path nix.StorePath) (modulo, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.young[path]
	if !ok {
		if m, ok = h.old[path]; ok {
			h.store(path, m)
		}
	}
	return m, ok
}

func (h *Hasher) remember(path nix.StorePath, m modulo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.store(path, m)
}

// store puts an entry into the younger half of the memo. When that is full it
// becomes the older half, and what was there is forgotten. h.mu is held.
func (h *Hasher) store(path nix.StorePath, m modulo) {
	if len(h.young) >= h.limit {
		h.old = h.young
		h.young = make(map[nix.StorePath]modulo)
	}
	h.young[path] = m
}
