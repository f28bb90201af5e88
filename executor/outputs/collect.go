package outputs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/drvopts"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// Produced is one output as the builder left it.
type Produced struct {
	Name nix.OutputName
	// Spec is what the derivation says of the output.
	Spec nix.DerivationOutput
	// Actual is where it is on this machine, if the builder made it.
	Actual string
	// Scratch is the path that the builder knew it by. For outputs with a known
	// path in a sandbox it is that path.
	Scratch nix.StorePath
	// Valid says that the store has this output already: what the builder made
	// is not looked at.
	Valid bool
}

// Job is what one build left behind, and what may be said about it.
type Job struct {
	DrvPath nix.StorePath
	DrvName string
	Outputs []Produced
	// Inputs are the store objects that outputs may refer to.
	Inputs []nix.StorePath
	// Owner is the user and group that everything must belong to, and that hard
	// links are judged by.
	Owner local.Owner
	// DiscardReferences names the outputs whose references are not looked for.
	DiscardReferences map[nix.OutputName]bool
	// Checks gives what an output has to comply with, nil for nothing.
	Checks func(nix.OutputName) *drvopts.OutputChecks
}

// Collected is an output that is in its final place, read-only and canonical,
// and waits for its registration.
type Collected struct {
	Output nix.OutputName
	Info   nix.PathInfo
}

// Collect makes store objects of what a build left. The builder must be gone,
// with every process that it started. The caller holds the locks of the final
// paths that are known.
//
// A *nix.BuildError says that an output is not acceptable: nothing of it is in the
// store then. Only for a fixed output with another hash than stated, the result
// has the object that was made nevertheless, under the path that follows from its
// content: it is true, only not what was asked for.
func Collect(ctx context.Context, st *local.Store, job *Job) (_ []Collected, err error) {
	c := &collector{store: st, job: job, seen: make(map[nix.OutputName]*found)}
	defer func() { err = errors.Join(err, c.clean()) }()
	if err := c.examine(ctx); err != nil {
		return nil, err
	}
	order, err := c.order()
	if err != nil {
		return nil, err
	}
	var all []*made
	var mismatch error
	for _, name := range order {
		m, err := c.finish(ctx, c.seen[name])
		if err != nil {
			return nil, err
		}
		if m != nil {
			all = append(all, m)
			mismatch = errors.Join(mismatch, m.mismatch)
		}
	}
	if mismatch == nil {
		if err := c.check(ctx, all); err != nil {
			return nil, err
		}
	}
	var result []Collected
	for _, m := range all {
		if err := c.place(ctx, m); err != nil {
			return nil, err
		}
		result = append(result, m.Collected)
	}
	return result, mismatch
}

// made is an output that is a store object but for its place.
type made struct {
	Collected
	from     string        // where it is
	expected nix.StorePath // whose lock the caller holds
	mismatch error         // it is not what was stated
}

// found is an output after the first look at it.
type found struct {
	*Produced
	shape   shape
	scanned scanned
	// refs are the objects that it refers to, under the names that the builder
	// knew them by.
	refs []nix.StorePath
}

type collector struct {
	store *local.Store
	job   *Job
	seen  map[nix.OutputName]*found
	temps []*local.TempDir
}

// clean removes the directories that were made on the way.
func (c *collector) clean() error {
	var errs []error
	for _, t := range c.temps {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// examine makes every output canonical, hashes it and finds its references.
func (c *collector) examine(ctx context.Context) error {
	candidates := make(map[string]nix.StorePath, len(c.job.Inputs)+len(c.job.Outputs))
	for _, p := range c.job.Inputs {
		candidates[p.HashPart()] = p
	}
	for _, o := range c.job.Outputs {
		candidates[o.Scratch.HashPart()] = o.Scratch
	}
	parts := slices.Collect(maps.Keys(candidates))

	// One canonicaliser for all outputs: hard links between them are judged by
	// what it has seen.
	canonical := c.store.Canonicaliser(c.job.Owner)
	for i := range c.job.Outputs {
		o := &c.job.Outputs[i]
		f := &found{Produced: o}
		c.seen[o.Name] = f
		if o.Valid {
			continue
		}
		var err error
		if f.shape, err = c.look(o); err != nil {
			return err
		}
		search := parts
		if c.job.DiscardReferences[o.Name] {
			search = nil
		}
		f.scanned, err = scan(ctx, o.Actual, search, canonical.Inode)
		if err != nil {
			return rejected(err)
		}
		for _, part := range f.scanned.refs {
			f.refs = append(f.refs, candidates[part])
		}
		slices.Sort(f.refs)
	}
	return nil
}

// rejected turns what a walk over a builder's files found wrong with them into
// a failure of the build; trouble of the machine stays an error.
func rejected(err error) error {
	var kind *nar.UnsupportedTypeError
	var format *nar.FormatError
	var content *local.ContentError
	if errors.As(err, &kind) || errors.As(err, &format) || errors.As(err, &content) {
		return nix.BuildErrorf(nix.StatusOutputRejected, "%v", err)
	}
	return err
}

// order gives the outputs so that each comes after those that it refers to.
func (c *collector) order() ([]nix.OutputName, error) {
	byScratch := make(map[nix.StorePath]nix.OutputName, len(c.seen))
	for name, f := range c.seen {
		byScratch[f.Scratch] = name
	}
	names := slices.Sorted(maps.Keys(c.seen))
	order, err := store.SortTopologically(names, func(name nix.OutputName) (to []nix.OutputName) {
		for _, r := range c.seen[name].refs {
			if other, ok := byScratch[r]; ok {
				to = append(to, other)
			}
		}
		return to
	})
	var cycle *store.CycleError[nix.OutputName]
	if errors.As(err, &cycle) {
		return nil, nix.BuildErrorf(nix.StatusOutputRejected,
			"cycle detected in build of '%s' in the references of output '%s' from output '%s'",
			c.store.Dir().Join(c.job.DrvPath), cycle.To, cycle.From)
	}
	return order, err
}

// finish says what object an output is.
func (c *collector) finish(ctx context.Context, f *found) (*made, error) {
	if f.Valid {
		return nil, nil
	}
	switch f.Spec.Kind {
	case nix.InputAddressed:
		return &made{from: f.Actual, expected: f.Spec.Path, Collected: Collected{Output: f.Name, Info: nix.PathInfo{
			Path: f.Spec.Path, NARHash: f.scanned.narHash, NARSize: f.scanned.narSize, References: f.refs,
			Deriver: c.job.DrvPath, Ultimate: true,
		}}}, nil
	case nix.Fixed:
		return c.finishFixed(ctx, f)
	}
	return nil, fmt.Errorf("collect output '%s' of '%s': outputs of the kind '%s' are not supported",
		f.Name, c.store.Dir().Join(c.job.DrvPath), f.Spec.Kind)
}

// place moves an output to where it belongs. If that is another path than was
// expected, nobody holds its lock yet, and it may be valid already, which makes
// ours superfluous.
func (c *collector) place(ctx context.Context, m *made) error {
	// A builder without a sandbox wrote into the store itself.
	if m.from == c.store.RealPath(m.Info.Path) {
		return nil
	}
	if m.Info.Path == m.expected {
		return c.store.Place(ctx, m.from, m.Info.Path)
	}
	lock, err := c.store.LockPaths(ctx, []nix.StorePath{m.Info.Path}, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	valid, err := c.store.ValidPaths(ctx, []nix.StorePath{m.Info.Path})
	if err != nil || len(valid) > 0 {
		return err
	}
	return c.store.Place(ctx, m.from, m.Info.Path)
}
