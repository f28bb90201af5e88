package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
)

// A Collection is the right to delete objects, which one process has at a time: Nix
// or kiln. While it is held, others tell of the temporary roots that they need, and
// are answered at once, or as soon as the few objects have gone that are being taken
// away at that moment.
//
// It does not know what is garbage. It only refuses to take away what somebody has
// as a temporary root, and what valid objects refer to. Its methods are for one
// goroutine.
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
	gone      sync.Cond            // when condemned becomes empty
	rooted    map[rootKey]struct{} // from temporary roots
	condemned map[rootKey]struct{} // is being taken away
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
	c.shelf.rooted, c.shelf.condemned = make(map[rootKey]struct{}), make(map[rootKey]struct{})
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
		c.store.layout.reserve()
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

// A Removal is what came of Remove.
type Removal struct {
	Removed []nix.StorePath
	// Spared are those that are needed after all: they became temporary roots, or
	// valid, or valid objects refer to them.
	Spared []nix.StorePath
	// Missing are those of Removed that were valid, and had no file.
	Missing []nix.StorePath
	// Failed says what could not be deleted. It is not valid any more.
	Failed []error
}

// Remove makes objects invalid, all at once, and takes them away. The space becomes
// free a little later; Settle waits for that. Objects that some valid object refers
// to have to come after that one. With strays, the paths are not those of valid
// objects, but of what lies beside them, and those that have become valid are
// spared.
//
// An error is one of the database. What is in the result has been done nevertheless.
func (c *Collection) Remove(ctx context.Context, paths []nix.StorePath, strays bool) (*Removal, error) {
	r := &Removal{}
	doomed := c.condemn(paths, r)
	defer c.reprieve()
	if strays {
		valid, err := c.store.ValidPaths(ctx, doomed)
		if err != nil {
			return r, err
		}
		doomed = without(doomed, valid)
		r.Spared = append(r.Spared, valid...)
	} else {
		var err error
		if doomed, err = c.invalidate(ctx, doomed, r); err != nil {
			return r, err
		}
	}
	for _, p := range doomed {
		err := c.take(ctx, string(p))
		if errors.Is(err, fs.ErrNotExist) {
			if !strays {
				r.Missing = append(r.Missing, p)
			}
			err = nil
		}
		if err != nil {
			r.Failed = append(r.Failed, fmt.Errorf("delete '%s': %w", c.store.RealPath(p), explain(err)))
			continue
		}
		r.Removed = append(r.Removed, p)
	}
	return r, nil
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

// condemn sets those paths apart that nobody has as a temporary root. Who makes
// them one from now on waits for reprieve.
func (c *Collection) condemn(paths []nix.StorePath, r *Removal) (doomed []nix.StorePath) {
	c.shelf.mu.Lock()
	defer c.shelf.mu.Unlock()
	for _, p := range paths {
		key, err := keyOf(p)
		if _, rooted := c.shelf.rooted[key]; rooted || err != nil {
			r.Spared = append(r.Spared, p)
			continue
		}
		c.shelf.condemned[key] = struct{}{}
		doomed = append(doomed, p)
	}
	return doomed
}

func (c *Collection) reprieve() {
	c.shelf.mu.Lock()
	defer c.shelf.mu.Unlock()
	clear(c.shelf.condemned)
	c.shelf.gone.Broadcast()
}

// invalidate makes objects invalid. It gives those for which that worked, and those
// that were not valid.
func (c *Collection) invalidate(ctx context.Context, paths []nix.StorePath, r *Removal) ([]nix.StorePath, error) {
	err := c.store.Invalidate(ctx, paths...)
	if err == nil || !isStillNeeded(err) {
		return paths, err
	}
	// Somebody registered a referrer without a temporary root, or the order is wrong.
	var doomed []nix.StorePath
	for _, p := range paths {
		err := c.store.Invalidate(ctx, p)
		switch {
		case err == nil:
			doomed = append(doomed, p)
		case isStillNeeded(err):
			c.store.opts.Warn(err)
			r.Spared = append(r.Spared, p)
		default:
			return doomed, err
		}
	}
	return doomed, nil
}

// take moves an entry of the store directory out of it, for burial, or deletes it
// where it is.
func (c *Collection) take(ctx context.Context, name string) error {
	if !c.bury.room {
		return rmtree.RemoveAtTelling(c.dir, name, c.bury.count.unlinked)
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
	return rmtree.RemoveAtTelling(c.dir, name, c.bury.count.unlinked)
}

func without(paths, those []nix.StorePath) []nix.StorePath {
	if len(those) == 0 {
		return paths
	}
	drop := make(map[nix.StorePath]bool, len(those))
	for _, p := range those {
		drop[p] = true
	}
	var rest []nix.StorePath
	for _, p := range paths {
		if !drop[p] {
			rest = append(rest, p)
		}
	}
	return rest
}
