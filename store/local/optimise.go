package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
)

// optimiseDepth is how deep in an object files are looked at. What lies deeper
// is left as it is.
const optimiseDepth = 100

// linksSymlinks tells whether symlinks are linked as files are: Nix does so where the
// system can.
const linksSymlinks = runtime.GOOS == "linux"

// OptimisePath replaces the files of an object that is in its place by hard links
// to files with the same content, of other objects, and lets later objects do the
// same with its own. It gives the number of bytes that this saves. (Nix manual,
// "auto-optimise-store".) Files that differ in being executable are not the same.
// The caller keeps the object from being removed meanwhile, by its lock or by a
// temporary root.
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
	if err := o.entry(&objectDir{fd: dir, path: s.layout.store, free: true}, name, 0); err != nil {
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

// objectDir is a directory in which files are replaced.
type objectDir struct {
	fd   int
	path string
	free bool // that may be written to, and whose time does not matter
}

func (o *optimiser) entry(dir *objectDir, name string, depth int) error {
	if err := context.Cause(o.ctx); err != nil {
		return err
	}
	var st dirfd.Stat
	if err := dirfd.StatAt(dir.fd, name, &st); err != nil {
		return err
	}
	switch {
	case st.Type() == dirfd.Regular && st.Mode&0o200 != 0:
		// Whoever can write to it would write to all that are linked with it.
		o.store.opts.Warn(fmt.Errorf("skipping suspicious writable file '%s/%s'", dir.path, name))
		return nil
	case st.Type() == dirfd.Regular, st.Type() == dirfd.Symlink && linksSymlinks:
		return o.file(dir, name, &st)
	case st.Type() == dirfd.Directory && depth < optimiseDepth:
		return o.directory(dir, name, depth)
	}
	return nil
}

func (o *optimiser) directory(parent *objectDir, name string, depth int) (err error) {
	fd, err := dirfd.OpenDir(parent.fd, name)
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
	dir := &objectDir{fd: fd, path: parent.path + "/" + name}
	defer func() { err = errors.Join(err, o.close(dir)) }()
	for _, name := range names {
		if err := o.entry(dir, name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// open allows files of a directory to be replaced. It has been noted by then that
// this must not last.
func (o *optimiser) open(dir *objectDir) error {
	if dir.free {
		return nil
	}
	if err := o.store.journal.note(transientDir, dir.path); err != nil {
		return err
	}
	dir.free = true
	return dirfd.Fchmod(dir.fd, storeExecutable|0o200)
}

// close makes a directory canonical again.
func (o *optimiser) close(dir *objectDir) error {
	if !dir.free {
		return nil
	}
	if err := errors.Join(dirfd.Fchmod(dir.fd, storeExecutable), dirfd.SetMtime(dir.fd, storeMtime)); err != nil {
		return err
	}
	return o.store.journal.done(transientDir, dir.path)
}

func (o *optimiser) file(dir *objectDir, name string, st *dirfd.Stat) error {
	digest := nix.SHA256.New()
	if _, err := nar.DumpAt(digest, dir.fd, name, nar.DumpOptions{Name: dir.path + "/" + name}); err != nil {
		return err
	}
	key := nix.SumHash(nix.SHA256, digest).Nix32()
	for {
		var known dirfd.Stat
		err := dirfd.StatAt(o.links, key, &known)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// The first of its kind.
			err := link(dir.fd, name, o.links, key)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			return tolerable(err)
		case err != nil:
			return err
		case known.Same(st):
			return nil
		case known.Size != st.Size || known.Type() != st.Type():
			o.store.opts.Warn(fmt.Errorf("removing corrupted link '%s/%s'", o.store.layout.links(), key))
			if err := dirfd.Unlink(o.links, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		replaced, err := o.replace(dir, name, key)
		if errors.Is(err, errLinkGone) {
			continue
		}
		if replaced && st.Nlink == 1 {
			o.saved += st.Size
		}
		return err
	}
}

// errLinkGone says that a collector has removed a link that nobody used.
var errLinkGone = errors.New("the link has gone")

// replace puts a link to a known file into the place of an entry.
func (o *optimiser) replace(dir *objectDir, name, key string) (replaced bool, err error) {
	room, temp, err := o.store.room.open(o.ctx)
	if err != nil {
		return false, err
	}
	defer o.store.room.leave()
	err = link(o.links, key, room, temp)
	if errors.Is(err, fs.ErrNotExist) {
		return false, errLinkGone
	}
	if err != nil {
		return false, tolerable(err)
	}
	if err = o.open(dir); err == nil {
		err = dirfd.Rename(room, temp, dir.fd, name)
	}
	if err != nil {
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
