package outputs

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
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
	// Known is where the output belongs, or what it was when it was built before. It
	// is empty for an output whose path is still to follow from its content. The
	// caller holds its lock.
	Known nix.StorePath
	// Valid says that the store has this output already, as Known: what the builder
	// made is not looked at.
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
	// Replace exchanges outputs that are valid, because they are damaged.
	Replace bool
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
// The result has what is new: no output that was valid before the build, but one
// that turned out to be valid because something else has the same content.
//
// A *nix.BuildError says that an output is not acceptable: nothing of it is in the
// store then. Only for a fixed output with another hash than stated, the result
// has the object that was made nevertheless, under the path that follows from its
// content: it is true, only not what was asked for.
func Collect(ctx context.Context, st *local.Store, job *Job) (_ []Collected, err error) {
	c := newCollector(st, job)
	defer func() { err = errors.Join(err, c.clean()) }()
	all, mismatch, err := c.make(ctx)
	if err != nil {
		return nil, err
	}
	if mismatch == nil {
		if err := c.check(ctx, all); err != nil {
			return nil, err
		}
	}
	for _, m := range all {
		if err := c.checkDerivation(ctx, m); err != nil {
			return nil, err
		}
	}
	var result []Collected
	for _, m := range all {
		if err := c.place(ctx, m); err != nil {
			return nil, errors.Join(err, TakeBack(ctx, st, result))
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
	at      string // where its files are
	scanned scanned
	// hits are the objects whose hash parts occur in it, under the names that the
	// builder knew them by; refs are those that count as its references.
	hits, refs []nix.StorePath
}

type collector struct {
	store *local.Store
	job   *Job
	seen  map[nix.OutputName]*found
	temps []*local.TempDir
	// final has, for the outputs that are finished, the objects that they have
	// become, by the path that the builder knew them by.
	final map[nix.StorePath]nix.StorePath
}

func newCollector(st *local.Store, job *Job) *collector {
	return &collector{store: st, job: job, seen: make(map[nix.OutputName]*found), final: make(map[nix.StorePath]nix.StorePath)}
}

// make makes objects of all outputs that are to be looked at, each after those
// that it refers to.
func (c *collector) make(ctx context.Context) (all []*made, mismatch error, err error) {
	if err := c.examine(ctx); err != nil {
		return nil, nil, err
	}
	order, err := c.order()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range order {
		f := c.seen[name]
		if f.Valid {
			c.final[f.Scratch] = f.Known
			continue
		}
		m, err := c.finish(ctx, f)
		if err != nil {
			return nil, nil, err
		}
		c.final[f.Scratch] = m.Info.Path
		all = append(all, m)
		mismatch = errors.Join(mismatch, m.mismatch)
	}
	return all, mismatch, nil
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
		f := &found{Produced: o, at: o.Actual}
		c.seen[o.Name] = f
		if o.Valid {
			continue
		}
		var err error
		if f.shape, err = c.look(o); err != nil {
			return err
		}
		if err := c.scan(ctx, f, parts, canonical); err != nil {
			return err
		}
		for _, part := range f.scanned.refs {
			f.hits = append(f.hits, candidates[part])
		}
		slices.Sort(f.hits)
		if !c.job.DiscardReferences[o.Name] {
			f.refs = f.hits
		}
	}
	return nil
}

// scan walks an output once. If its builder had the network, it may have handed
// a descriptor of the files to somebody who is still there: they are copied on
// the way, and nobody has a descriptor of the copies.
func (c *collector) scan(ctx context.Context, f *found, parts []string, canonical *local.Canonicaliser) (err error) {
	s := scanOptions{search: parts, onInode: canonical.Inode}
	if f.Spec.Method == nix.Recursive && f.Spec.Algorithm != 0 && f.Spec.Algorithm != nix.SHA256 {
		s.alsoHash = f.Spec.Algorithm
	}
	if !f.Spec.Kind.IsPure() {
		if s.copyTo, err = c.temp(ctx); err != nil {
			return err
		}
		f.at = s.copyTo
	}
	f.scanned, err = scan(ctx, f.Actual, s)
	return rejected(err)
}

// temp gives a path for a tree that may be moved into the store.
func (c *collector) temp(ctx context.Context) (string, error) {
	t, err := c.store.TempDir(ctx)
	if err != nil {
		return "", err
	}
	c.temps = append(c.temps, t)
	return filepath.Join(t.Path(), "x"), nil
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

// finish says what object an output is, and puts the names of objects into it
// that its builder could not know.
func (c *collector) finish(ctx context.Context, f *found) (*made, error) {
	if f.Spec.Kind == nix.InputAddressed {
		return c.finishStated(ctx, f)
	}
	m, err := c.finishContent(ctx, f)
	if err != nil || f.Spec.Kind != nix.Fixed {
		return m, err
	}
	if got := m.Info.CA.Hash; got != f.Spec.Hash {
		m.mismatch = nix.BuildErrorf(nix.StatusHashMismatch, "hash mismatch in fixed-output derivation '%s':\n  specified: %s\n     got:    %s",
			c.store.Dir().Join(c.job.DrvPath), f.Spec.Hash.SRI(), got.SRI())
	}
	return m, nil
}

// finishStated makes an object of an output whose path the derivation states.
func (c *collector) finishStated(ctx context.Context, f *found) (*made, error) {
	rewrites := c.rewrites(f)
	if f.Scratch != f.Spec.Path && slices.Contains(f.hits, f.Scratch) {
		rewrites[f.Scratch.HashPart()] = f.Spec.Path.HashPart()
	}
	refs := c.references(f)
	m := c.begin(f, f.Spec.Path, refs)
	return m, c.rewrite(ctx, f, m, rewrites)
}

// begin describes the object that an output becomes.
func (c *collector) begin(f *found, path nix.StorePath, refs nix.References) *made {
	all := refs.Others
	if refs.Self {
		all = append(all, path)
	}
	slices.Sort(all)
	return &made{from: f.at, expected: f.Known, Collected: Collected{Output: f.Name, Info: nix.PathInfo{
		Path: path, NARHash: f.scanned.narHash, NARSize: f.scanned.narSize, References: slices.Compact(all),
		Deriver: c.job.DrvPath, Ultimate: true,
	}}}
}

// references gives what an output refers to, by final names.
func (c *collector) references(f *found) (refs nix.References) {
	for _, r := range f.refs {
		if r == f.Scratch {
			refs.Self = true
			continue
		}
		if final, ok := c.final[r]; ok {
			r = final
		}
		refs.Others = append(refs.Others, r)
	}
	return refs
}

// rewrites gives which hash parts in an output have to be replaced because other
// outputs have become something else than what the builder knew them by.
func (c *collector) rewrites(f *found) map[string]string {
	rewrites := make(map[string]string)
	for _, r := range f.hits {
		if final, ok := c.final[r]; ok && final != r {
			rewrites[r.HashPart()] = final.HashPart()
		}
	}
	return rewrites
}

// rewrite replaces hash parts in the files of an output.
func (c *collector) rewrite(ctx context.Context, f *found, m *made, rewrites map[string]string) error {
	if len(rewrites) == 0 {
		return nil
	}
	to, err := c.temp(ctx)
	if err != nil {
		return err
	}
	m.from = to
	m.Info.NARHash, m.Info.NARSize, err = copyRewritten(ctx, f.at, to, rewrites)
	return rejected(err)
}

// place moves an output to where it belongs. If that is another path than was
// expected, nobody holds its lock yet, and it may be valid already, which makes
// ours superfluous.
func (c *collector) place(ctx context.Context, m *made) error {
	// A builder without a sandbox wrote into the store itself.
	if m.from == c.store.RealPath(m.Info.Path) {
		return nil
	}
	if m.Info.Path != m.expected {
		lock, err := c.store.LockPaths(ctx, []nix.StorePath{m.Info.Path}, nil)
		if err != nil {
			return err
		}
		defer lock.Release()
	}
	valid, err := c.store.ValidPaths(ctx, []nix.StorePath{m.Info.Path})
	switch {
	case err != nil:
		return err
	case len(valid) == 0:
		return c.store.Place(ctx, m.from, m.Info.Path)
	case c.job.Replace:
		return c.store.Replace(ctx, m.from, m.Info.Path)
	}
	return nil
}
