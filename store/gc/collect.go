package gc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// Options say what is to be deleted. The zero value deletes everything that no root
// leads to by references.
type Options struct {
	Keep Keep
	// Only, if not nil, are the only objects that may be deleted. One that is alive is
	// an error, after the others have been deleted, unless SkipLive.
	Only     []nix.StorePath
	SkipLive bool
	// WithReferrers also deletes what refers to those of Only.
	WithReferrers bool
	// IgnoreLiveness deletes objects of Only to which links lead. What a process uses
	// or has as a temporary root stays all the same, and what refers to it.
	IgnoreLiveness bool
	// MaxFreed ends the collection when more bytes than this have become free; nil
	// stands for no limit.
	MaxFreed *uint64
	// Waiting, if not nil, is called when somebody else is collecting.
	Waiting func()
	// Deleted, if not nil, is called with paths, as they are called in the store, after
	// they have been taken away: many at once.
	Deleted func(paths []string)
	// Report, if not nil, is told of what is strange or could not be done, and stopped
	// nothing else.
	Report func(Problem)

	batch int // instead of the usual one
}

// A Result says what a collection did.
type Result struct {
	// Paths are what was deleted: objects, and other entries of the store directory.
	Paths []string
	// Freed is how many bytes of files have gone, each file counted once.
	Freed int64
	Links local.Links
}

// LiveError says that an object was to be deleted that somebody needs.
type LiveError struct {
	Path string
	Why  string
}

func (e *LiveError) Error() string {
	return fmt.Sprintf("cannot delete path '%s' since it is still alive: %s", e.Path, e.Why)
}

const (
	// batch is how many objects are taken away at once, in one transaction. Who needs
	// one of them waits for that long.
	batch = 1000
	// assumed is the size of an object, in bytes, that is not known.
	assumed = 1 << 20
)

// Collect deletes what nobody needs. One process does that at a time; others may use
// the store meanwhile, and what they come to need stays. Whenever it is killed, the
// store is in order, and the next collection deletes the rest.
//
// The result is that of what was done, even with an error. Trouble with single
// objects is told to Report and does not end the collection.
func Collect(ctx context.Context, st *local.Store, opts Options) (*Result, error) {
	c := &collector{store: st, opts: opts, result: &Result{}}
	if c.opts.Report == nil {
		c.opts.Report = func(Problem) {}
	}
	if opts.batch == 0 {
		c.opts.batch = batch
	}
	if opts.Only != nil && len(opts.Only) == 0 {
		return c.result, nil
	}
	if opts.IgnoreLiveness && opts.Only == nil {
		return c.result, errors.New("collect garbage: to ignore whether objects are alive, name those that are to be deleted")
	}
	right, err := st.Collect(ctx, opts.Waiting)
	if err != nil {
		return c.result, err
	}
	c.right = right
	err = c.run(ctx)
	return c.result, errors.Join(err, right.Close())
}

type collector struct {
	store  *local.Store
	opts   Options
	right  *local.Collection
	graph  *store.Graph
	marks  *Marks
	roots  Roots
	result *Result
}

func (c *collector) run(ctx context.Context) error {
	if err := c.mark(ctx); err != nil {
		return err
	}
	var err error
	if c.opts.Only != nil {
		err = c.only(ctx)
	} else {
		err = c.everything(ctx)
	}
	c.settle(ctx)
	return err
}

// mark finds out what is alive.
func (c *collector) mark(ctx context.Context) error {
	f := newFinder(c.store, c.opts.Report)
	f.removeStale = true
	temp, err := c.right.ReadTempRoots()
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	if c.opts.IgnoreLiveness {
		err = f.runtime(ctx)
	} else {
		err = f.permanent(ctx)
	}
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	if c.roots, err = f.done(ctx); err != nil {
		return err
	}
	keep := c.opts.Keep
	if c.opts.Only != nil {
		// As in Nix: who names a path means it.
		keep = Keep{}
	}
	if c.graph, err = c.store.Graph(ctx, local.GraphOptions{Outputs: keep.Outputs, Derivers: keep.Derivations}); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	c.marks = Mark(c.graph, keep, c.roots.numbers(c.graph)...)
	for _, paths := range temp {
		for _, p := range paths {
			c.marks.Add(c.graph.WithHashPart(p.HashPart())...)
		}
	}
	return nil
}

// numbers are the objects that are roots.
func (r Roots) numbers(g *store.Graph) []uint32 {
	var numbers []uint32
	for p := range r {
		if number, ok := g.Find(p); ok {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// everything deletes all that is not alive.
func (c *collector) everything(ctx context.Context) error {
	if c.full() {
		return nil
	}
	// What is no object goes first: that needs no room in the database.
	if err := c.strays(ctx); err != nil {
		return err
	}
	// The latest first: that is nearly the order that is needed, and neighbours in the
	// database go together.
	var dead []uint32
	for _, object := range slices.Backward(c.graph.Registered) {
		if !c.marks.Live(object) {
			dead = append(dead, object)
		}
	}
	return c.sweep(ctx, dead)
}

// strays deletes the entries of the store directory that are not valid objects.
func (c *collector) strays(ctx context.Context) error {
	var strays []local.Doomed
	var junk []string
	err := c.store.Entries(func(name string) error {
		p, err := nix.ParseStorePath(name)
		switch {
		case err != nil:
			junk = append(junk, name)
		case c.right.Rooted(p):
		default:
			if _, valid := c.graph.Find(p); !valid {
				strays = append(strays, local.Doomed{Path: p})
			}
		}
		return context.Cause(ctx)
	})
	if err != nil {
		c.opts.Report(Problem{Name: c.store.RealDir(), Err: err})
	}
	for _, name := range junk {
		if c.full() {
			return nil
		}
		removed, err := c.right.RemoveJunk(ctx, name)
		if err != nil {
			c.trouble(err)
		}
		if removed {
			c.deleted([]string{string(c.store.Dir()) + "/" + name})
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(strays, c.opts.batch) {
		if c.full() {
			return nil
		}
		if err := c.removeNow(ctx, part, true); err != nil {
			return err
		}
	}
	return nil
}

// sweep deletes dead objects, referrers first. While the files of one batch are taken
// away, the next one is made invalid.
func (c *collector) sweep(ctx context.Context, dead []uint32) error {
	dead = ReferrersFirst(c.graph, dead)
	finish := func() {}
	defer func() { finish() }()
	for len(dead) > 0 {
		if c.opts.MaxFreed != nil {
			// What the last batch has freed decides whether there is another one.
			finish()
			finish = func() {}
			if c.full() {
				return nil
			}
		}
		// What somebody has come to need meanwhile needs others.
		for _, hash := range c.right.Arrivals() {
			c.marks.Add(c.graph.WithHashPart(hash)...)
		}
		var part []local.Doomed
		room := c.left()
		for len(dead) > 0 && len(part) < c.opts.batch && room >= 0 {
			object := dead[0]
			dead = dead[1:]
			if c.marks.Live(object) {
				continue
			}
			part = append(part, local.Doomed{Path: c.graph.Paths[object], Size: c.graph.Sizes[object]})
			room -= max(c.graph.Sizes[object], 1)
			if c.graph.Sizes[object] == 0 {
				room -= assumed
			}
		}
		next, err := c.remove(ctx, part, false)
		finish()
		finish = next
		if err != nil {
			return err
		}
	}
	return nil
}

// remove deletes a batch. finish waits for that, and is to be called in any case. An
// error ends the collection.
func (c *collector) remove(ctx context.Context, doomed []local.Doomed, strays bool) (finish func(), err error) {
	if err := context.Cause(ctx); err != nil {
		return func() {}, err
	}
	b, err := c.right.Condemn(ctx, doomed, strays)
	for _, p := range b.Spared {
		c.marks.Add(c.graph.WithHashPart(p.HashPart())...)
	}
	if err != nil {
		err = fmt.Errorf("collect garbage: %w", err)
	}
	taken := make(chan *local.Removal, 1)
	go func() { taken <- b.Take(ctx) }()
	return func() { c.account(<-taken) }, err
}

// removeNow is remove that waits.
func (c *collector) removeNow(ctx context.Context, doomed []local.Doomed, strays bool) error {
	finish, err := c.remove(ctx, doomed, strays)
	finish()
	return err
}

// account tells of what was removed.
func (c *collector) account(r *local.Removal) {
	for _, p := range r.Missing {
		c.opts.Report(Problem{Name: c.store.RealPath(p), Err: errors.New("the object was valid and not there: it is not valid any more")})
	}
	removed := make([]string, len(r.Removed))
	for i, p := range r.Removed {
		removed[i] = c.store.Dir().Join(p)
	}
	c.deleted(removed)
	for _, err := range r.Failed {
		c.trouble(err)
	}
}

func (c *collector) deleted(paths []string) {
	c.result.Paths = append(c.result.Paths, paths...)
	if c.opts.Deleted != nil && len(paths) > 0 {
		c.opts.Deleted(paths)
	}
}

// trouble tells of an error that names its object.
func (c *collector) trouble(err error) { c.opts.Report(Problem{Err: err}) }

// left is how many bytes may yet become free.
func (c *collector) left() int64 {
	if c.opts.MaxFreed == nil || *c.opts.MaxFreed > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(*c.opts.MaxFreed) - c.right.Freed()
}

// full tells whether as much has become free as was wanted.
func (c *collector) full() bool {
	if c.opts.MaxFreed == nil {
		return false
	}
	if *c.opts.MaxFreed == 0 {
		return true
	}
	c.settleBatch()
	return c.left() < 0
}

func (c *collector) settleBatch() {
	if _, err := c.right.Settle(); err != nil {
		c.trouble(err)
	}
}

// settle waits for what is being deleted, and cleans up.
func (c *collector) settle(ctx context.Context) {
	c.settleBatch()
	if context.Cause(ctx) == nil {
		links, err := c.right.CleanLinks(ctx)
		if links != nil {
			c.result.Links = *links
		}
		if err != nil {
			c.trouble(err)
		}
	}
	freed, err := c.right.Finish()
	c.result.Freed = freed
	if err != nil {
		c.trouble(err)
	}
}
