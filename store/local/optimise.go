package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
)

// optimiseDepth is how deep in an object files are looked at. What lies deeper
// is left as it is.
const optimiseDepth = 100

// OptimisePath replaces the files of an object that is in its place by hard links
// to files with the same content, of other objects, and lets later objects do the
// same with its own. It gives the number of bytes that this saves. (Nix manual,
// "auto-optimise-store".) The caller keeps the object from being removed
// meanwhile, by its lock or by a temporary root.
func (s *Store) OptimisePath(ctx context.Context, p nix.StorePath) (saved int64, err error) {
	if err := s.changes(); err != nil {
		return 0, err
	}
	dir, name, err := dirfd.OpenParent(s.RealPath(p))
	if err != nil {
		return 0, fmt.Errorf("optimise '%s': %w", s.opts.StoreDir.Join(p), err)
	}
	defer dirfd.Close(dir)
	links, err := dirfd.OpenDir(dir, filepath.Base(s.layout.links()))
	if err != nil {
		return 0, fmt.Errorf("optimise '%s': %w", s.opts.StoreDir.Join(p), err)
	}
	defer dirfd.Close(links)
	o := &optimiser{store: s, ctx: ctx, links: links}
	if err := o.entry(dir, name, s.RealPath(p), 0); err != nil {
		return o.saved, fmt.Errorf("optimise '%s': %w", s.opts.StoreDir.Join(p), err)
	}
	return o.saved, nil
}

// optimiser goes through one object.
type optimiser struct {
	store *Store
	ctx   context.Context
	links int // the directory of links, by the hash of the archive of the file
	saved int64
}

func (o *optimiser) entry(dir int, name, path string, depth int) error {
	if err := context.Cause(o.ctx); err != nil {
		return err
	}
	var st dirfd.Stat
	if err := dirfd.StatAt(dir, name, &st); err != nil {
		return err
	}
	switch {
	case st.Type() == dirfd.Regular && st.Mode&0o200 != 0:
		// Whoever can write to it would write to all that are linked with it.
		o.store.opts.Warn(fmt.Errorf("skipping suspicious writable file '%s'", path))
		return nil
	case st.Type() == dirfd.Regular:
		return o.file(dir, name, path, &st, depth)
	case st.Type() == dirfd.Directory && depth < optimiseDepth:
		return o.directory(dir, name, path, depth)
	}
	return nil
}

func (o *optimiser) directory(dir int, name, path string, depth int) error {
	fd, err := dirfd.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer dirfd.Close(fd)
	var names []string
	err = dirfd.List(fd, make([]byte, 8<<10), func(name []byte, _ dirfd.Type) error {
		names = append(names, string(name))
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := o.entry(fd, name, path+"/"+name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (o *optimiser) file(dir int, name, path string, st *dirfd.Stat, depth int) error {
	digest := nix.SHA256.New()
	if _, err := nar.DumpAt(digest, dir, name, nar.DumpOptions{Name: path}); err != nil {
		return err
	}
	key := nix.SumHash(nix.SHA256, digest).Nix32()
	for {
		var known dirfd.Stat
		err := dirfd.StatAt(o.links, key, &known)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// The first of its kind.
			err := link(dir, name, o.links, key)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			return tolerable(err)
		case err != nil:
			return err
		case known.Same(st):
			return nil
		case known.Size != st.Size || known.Type() != dirfd.Regular:
			o.store.opts.Warn(fmt.Errorf("removing corrupted link '%s/%s'", o.store.layout.links(), key))
			if err := dirfd.Unlink(o.links, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		replaced, err := o.replace(dir, name, path, key, depth)
		if replaced && st.Nlink == 1 {
			o.saved += st.Size
		}
		return err
	}
}

// replace puts a link to a known file into the place of the entry name of dir.
func (o *optimiser) replace(dir int, name, path, key string, depth int) (replaced bool, err error) {
	room, temp, err := o.store.room.open(o.ctx)
	if err != nil {
		return false, err
	}
	if err := link(o.links, key, room, temp); err != nil {
		return false, tolerable(err)
	}
	if depth > 0 {
		// In an object directories are read-only, and have their time.
		parent := filepath.Dir(path)
		if err := o.store.journal.note(transientDir, parent); err != nil {
			return false, errors.Join(err, dirfd.Unlink(room, temp))
		}
		defer func() {
			ferr := errors.Join(dirfd.Fchmod(dir, storeExecutable), dirfd.SetMtime(dir, storeMtime))
			if ferr == nil {
				ferr = o.store.journal.done(transientDir, parent)
			}
			err = errors.Join(err, ferr)
		}()
		if err := dirfd.Fchmod(dir, storeExecutable|0o200); err != nil {
			return false, errors.Join(err, dirfd.Unlink(room, temp))
		}
	}
	if err := dirfd.Rename(room, temp, dir, name); err != nil {
		return false, errors.Join(tolerable(err), dirfd.Unlink(room, temp))
	}
	return true, nil
}

// tolerable drops errors that only mean that nothing is saved: a file with as many
// links as the file system allows, or a directory of links that cannot grow.
func tolerable(err error) error {
	if isTooManyLinks(err) || isFull(err) {
		return nil
	}
	return err
}
