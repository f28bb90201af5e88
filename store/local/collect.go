package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix"
)

// A Collection is the right to delete objects, which one process has at a time: Nix
// or kiln. While it is held, others tell of the temporary roots that they need, and
// are answered at once, or as soon as the few objects have gone that are being taken
// away at that moment.
//
// It does not know what is garbage. It only refuses to take away what somebody has
// as a temporary root, and what valid objects refer to. Its methods are for one
// goroutine, but Batch.Take may go on in another.
type Collection struct {
	store  *Store
	lock   *os.File
	server *rootServer
	shelf  shelf
	bury   burial
	dir    int // the store directory
}

// shelf is what the collector and those who tell it of roots share.
type shelf struct {
	mu        sync.Mutex
	gone      sync.Cond            // when condemned becomes less
	rooted    map[rootKey]struct{} // from temporary roots
	condemned map[rootKey]int      // is being taken away, in how many places
	arrivals  []string             // hash parts that were told since Arrivals was called
}

// Collect waits until nobody else collects, and takes the right to. waiting, if not
// nil, is called once if there is somebody to wait for. The caller closes the
// collection before the store.
func (s *Store) Collect(ctx context.Context, waiting func()) (_ *Collection, err error) {
	if err := s.changes(); err != nil {
		return nil, fmt.Errorf("collect garbage: %w", err)
	}
	c := &Collection{store: s, dir: -1}
	c.shelf.gone.L = &c.shelf.mu
	c.shelf.rooted, c.shelf.condemned = make(map[rootKey]struct{}), make(map[rootKey]int)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("collect garbage: %w", explain(err)), c.Close())
		}
	}()
	s.layout.unreserve()
	// What is taken away is put there first. It is a temporary root, so it is made
	// before we are the one who has to be told. On a full disk we do without.
	if _, _, err := s.room.open(ctx); err != nil {
		s.opts.Warn(fmt.Errorf("objects are deleted where they are: %w", err))
	} else {
		c.bury.room = true
	}
	if c.lock, err = openLock(s.layout.gcLock()); err != nil {
		return nil, err
	}
	free, err := tryFlock(c.lock, lockExclusive)
	if err == nil && !free {
		if waiting != nil {
			waiting()
		}
		err = pollFlock(ctx, c.lock, lockExclusive)
	}
	if err != nil {
		return nil, err
	}
	if c.server, err = c.serve(); err != nil {
		return nil, err
	}
	dir, _, err := dirfd.OpenParent(s.layout.store + "/.-")
	if err != nil {
		return nil, err
	}
	c.dir = dir
	c.bury.start(s)
	return c, nil
}

// Close ends the collection. It waits until what was taken away is deleted. Those
// who tell of roots turn to the lock then.
func (c *Collection) Close() error {
	var errs []error
	c.bury.stop()
	if c.bury.room {
		c.store.room.leave()
		c.bury.room = false
	}
	if c.server != nil {
		errs = append(errs, c.server.close())
	}
	if c.dir >= 0 {
		errs = append(errs, dirfd.Close(c.dir))
		c.dir = -1
	}
	if c.lock != nil {
		c.store.layout.reserve(c.store.opts.ReservedSpace)
		errs = append(errs, c.lock.Close())
		c.lock = nil
	}
	return errors.Join(errs...)
}

// ReadTempRoots gives the temporary roots of all processes, by the names of the
// files that they are in. From then on they cannot be removed, as those that the
// collection is told of. It is to be called before permanent roots are looked for:
// who makes a permanent root has a temporary one until then, so one of both is seen.
func (c *Collection) ReadTempRoots() (map[string][]nix.StorePath, error) {
	roots, err := c.store.readTempRoots()
	if err != nil {
		return nil, err
	}
	c.shelf.mu.Lock()
	defer c.shelf.mu.Unlock()
	for _, paths := range roots {
		for _, p := range paths {
			if key, err := keyOf(p); err == nil {
				c.shelf.rooted[key] = struct{}{}
			}
		}
	}
	return roots, nil
}

// Arrivals gives the hash parts of the temporary roots that came since it was last
// called.
func (c *Collection) Arrivals() []string {
	c.shelf.mu.Lock()
	defer c.shelf.mu.Unlock()
	arrivals := c.shelf.arrivals
	c.shelf.arrivals = nil
	return arrivals
}

// Rooted tells whether something in the store directory has the hash part of a
// temporary root.
func (c *Collection) Rooted(p nix.StorePath) bool {
	key, err := keyOf(p)
	c.shelf.mu.Lock()
	defer c.shelf.mu.Unlock()
	_, rooted := c.shelf.rooted[key]
	return err == nil && rooted
}

// Doomed is what is to be taken away: an object, or what lies beside objects and is
// called like one.
type Doomed struct {
	Path nix.StorePath
	// Size is that of its archive in bytes, 0 if it is not known.
	Size int64
}

// A Batch is what has been condemned, and is to be taken away. Who needs one of its
// objects waits until that has been done.
type Batch struct {
	// Spared are those that are needed after all: they became temporary roots, or valid,
	// or valid objects refer to them.
	Spared []nix.StorePath

	collection *Collection
	doomed     []Doomed
	held       []rootKey
	strays     bool
}

// Condemn makes objects invalid, all at once. Take takes them away, and has to be called
// for every batch. Objects that some valid object refers to have to come after that one.
// With strays, they are not valid objects, but what lies beside them, and those that
// have become valid are spared.
//
// An error is one of the database. What is in the batch is invalid nevertheless.
func (c *Collection) Condemn(ctx context.Context, doomed []Doomed, strays bool) (*Batch, error) {
	b := &Batch{collection: c, strays: strays}
	b.hold(doomed)
	var err error
	if strays {
		err = b.spareValid(ctx)
	} else {
		err = b.invalidate(ctx)
	}
	return b, err
}

// hold sets those apart that nobody has as a temporary root. Who makes them one from now
// on waits for release.
func (b *Batch) hold(doomed []Doomed) {
	s := &b.collection.shelf
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range doomed {
		key, err := keyOf(d.Path)
		if _, rooted := s.rooted[key]; rooted || err != nil {
			b.Spared = append(b.Spared, d.Path)
			continue
		}
		s.condemned[key]++
		b.held = append(b.held, key)
		b.doomed = append(b.doomed, d)
	}
}

func (b *Batch) release() {
	s := &b.collection.shelf
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range b.held {
		if s.condemned[key]--; s.condemned[key] == 0 {
			delete(s.condemned, key)
		}
	}
	b.held = nil
	s.gone.Broadcast()
}

// spareValid spares what is a valid object.
func (b *Batch) spareValid(ctx context.Context) error {
	valid, err := b.collection.store.ValidPaths(ctx, b.paths())
	if err != nil {
		b.doomed = nil
		return err
	}
	b.Spared = append(b.Spared, valid...)
	b.doomed = slices.DeleteFunc(b.doomed, func(d Doomed) bool { return slices.Contains(valid, d.Path) })
	return nil
}

func (b *Batch) paths() []nix.StorePath {
	paths := make([]nix.StorePath, len(b.doomed))
	for i, d := range b.doomed {
		paths[i] = d.Path
	}
	return paths
}

// invalidate makes objects invalid, and leaves those for which that worked, and those
// that were not valid.
func (b *Batch) invalidate(ctx context.Context) error {
	st := b.collection.store
	err := st.Invalidate(ctx, b.paths()...)
	if err == nil {
		return nil
	}
	all := b.doomed
	b.doomed = nil
	if !isStillNeeded(err) {
		return err
	}
	// Somebody registered a referrer without a temporary root, or the order is wrong.
	for _, d := range all {
		err := st.Invalidate(ctx, d.Path)
		switch {
		case err == nil:
			b.doomed = append(b.doomed, d)
		case isStillNeeded(err):
			st.opts.Warn(err)
			b.Spared = append(b.Spared, d.Path)
		default:
			return err
		}
	}
	return nil
}

// A Removal is what came of Take.
type Removal struct {
	Removed []nix.StorePath
	// Missing are those of Removed that were valid, and had no file.
	Missing []nix.StorePath
	// Failed says what could not be deleted. It is not valid any more.
	Failed []error
}

const (
	// smallSize is the size of objects, in bytes of their archives, that are deleted where
	// they are. An archive has some hundred bytes for each file, so those are few.
	smallSize = 16 << 10
	// smallTogether bounds them in one batch, in bytes, since somebody may wait for it.
	smallTogether = 1 << 20
)

// Take takes a batch away: it deletes what is small, and moves the rest aside, to be
// deleted a little later. Settle waits for that.
func (b *Batch) Take(ctx context.Context) *Removal {
	c := b.collection
	errs := make([]error, len(b.doomed))
	var here []int // those that are deleted where they are
	together := int64(0)
	for i, d := range b.doomed {
		if d.Size > 0 && d.Size <= smallSize && together+d.Size <= smallTogether {
			here = append(here, i)
			together += d.Size
		}
	}
	var work sync.WaitGroup
	for part := range slices.Chunk(here, len(here)/diggers+1) {
		work.Go(func() {
			for _, i := range part {
				name := string(b.doomed[i].Path)
				if errs[i] = c.bury.delete(c.dir, name); errs[i] != nil && !errors.Is(errs[i], fs.ErrNotExist) {
					errs[i] = c.take(ctx, name) // so that it is in nobody's way
				}
			}
		})
	}
	for i, d := range b.doomed {
		if len(here) > 0 && here[0] == i {
			here = here[1:]
			continue
		}
		errs[i] = c.take(ctx, string(d.Path))
	}
	work.Wait()
	b.release()
	r := &Removal{}
	for i, d := range b.doomed {
		if err := errs[i]; err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.Failed = append(r.Failed, fmt.Errorf("delete '%s': %w", c.store.RealPath(d.Path), explain(err)))
			continue
		}
		r.Removed = append(r.Removed, d.Path)
		if errs[i] != nil && !b.strays {
			r.Missing = append(r.Missing, d.Path)
		}
	}
	return r
}

// RemoveJunk takes away an entry of the store directory that has not the name of an
// object. It tells whether it did: the temporary directories of others, which have
// them locked, stay.
func (c *Collection) RemoveJunk(ctx context.Context, name string) (removed bool, err error) {
	used, err := c.locked(name)
	if err == nil && !used {
		err = c.take(ctx, name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("delete '%s/%s': %w", c.store.layout.store, name, explain(err))
	}
	return err == nil && !used, nil
}

// locked tells whether somebody has a file or directory locked that is locked as
// long as it is used, going by its name.
func (c *Collection) locked(name string) (bool, error) {
	if !isLockedWhileUsed(name) {
		return false, nil
	}
	fd, err := dirfd.OpenFile(c.dir, name)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	free, err := tryFlock(f, lockExclusive)
	return !free, err
}

// take moves an entry of the store directory out of it, for burial, or deletes it
// where it is.
func (c *Collection) take(ctx context.Context, name string) error {
	if !c.bury.room {
		return c.bury.delete(c.dir, name)
	}
	room, temp, err := c.store.room.open(ctx)
	if err != nil {
		return err
	}
	defer c.store.room.leave() // the collection itself stays in it
	err = dirfd.Rename(c.dir, name, room, temp)
	if errors.Is(err, fs.ErrPermission) {
		// Only root moves a directory that its owner may not write to.
		if dirfd.Chmod(c.dir, name, 0o700) == nil {
			err = dirfd.Rename(c.dir, name, room, temp)
		}
	}
	switch {
	case err == nil:
		c.bury.add(corpse{room, temp, name})
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return err
	}
	// No room for another entry, a mount point, another file system.
	return c.bury.delete(c.dir, name)
}
