package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/internal/dirfd"
)

// isLockedWhileUsed tells whether something of this name is locked as long as
// somebody uses it: temporary directories of Nix since 2.15, and lock files.
func isLockedWhileUsed(name string) bool {
	return strings.HasPrefix(name, "tmp-") || strings.HasSuffix(name, lockSuffix)
}

// Links is what the directory of links has and saves.
type Links struct {
	Removed int
	Left    int
	// Saved is how many bytes more the store would take without links.
	Saved int64
}

// Entries calls yield for each name in the store directory but the directory of
// links, in any order. The first error of yield ends it and is returned.
func (s *Store) Entries(yield func(name string) error) error {
	return listDir(s.layout.store, func(name string) error {
		if name == filepath.Base(s.layout.links()) {
			return nil
		}
		return yield(name)
	})
}

func listDir(path string, yield func(name string) error) error {
	parent, name, err := dirfd.OpenParent(path)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer dirfd.Close(parent)
	fd, err := dirfd.OpenDir(parent, name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer dirfd.Close(fd)
	return dirfd.List(fd, make([]byte, 64<<10), func(name []byte, _ dirfd.Type) error { return yield(string(name)) })
}

// CleanLinks removes the files of the directory of links that no object has any
// more.
func (c *Collection) CleanLinks(ctx context.Context) (*Links, error) {
	var l Links
	links, err := dirfd.OpenDir(c.dir, filepath.Base(c.store.layout.links()))
	if errors.Is(err, fs.ErrNotExist) {
		return &l, nil
	}
	if err != nil {
		return &l, fmt.Errorf("clean '%s': %w", c.store.layout.links(), explain(err))
	}
	defer dirfd.Close(links)
	var errs []error
	n := 0
	err = dirfd.List(links, make([]byte, 64<<10), func(entry []byte, _ dirfd.Type) error {
		n++
		if err := interrupted(ctx, n); err != nil {
			return err
		}
		name := string(entry)
		var st dirfd.Stat
		err := dirfd.StatAt(links, name, &st)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil && st.Nlink != 1:
			l.Left++
			// Of n names one is this one, and one would be there anyway.
			l.Saved += st.Size * int64(st.Nlink-2)
			return nil
		case err == nil:
			err = dirfd.Unlink(links, name)
		}
		if err != nil {
			if len(errs) < maxFails {
				errs = append(errs, fmt.Errorf("clean '%s/%s': %w", c.store.layout.links(), name, explain(err)))
			}
			return nil
		}
		l.Removed++
		c.bury.count.unlinked(&st)
		return nil
	})
	return &l, errors.Join(append(errs, err)...)
}

// Settle waits until what Remove took away is deleted, and gives the bytes that
// became free. A file with several names counts when the last one goes, or when all
// that is left is its entry in the directory of links. An error says what could not
// be deleted since it was last called.
func (c *Collection) Settle() (bytes int64, err error) {
	err = errors.Join(c.bury.settle()...)
	return c.bury.count.sum(), err
}

// Freed is how many bytes have become free so far.
func (c *Collection) Freed() int64 { return c.bury.count.sum() }

// Finish is Settle at the end, after CleanLinks: it takes off files that still have
// another name elsewhere.
func (c *Collection) Finish() (bytes int64, err error) {
	err = errors.Join(c.bury.settle()...)
	c.bury.count.settle()
	return c.bury.count.sum(), err
}

// RemoveLogs removes build logs that were last written to before a time. Those of
// builds that run stay. It gives how many it removed, and their bytes.
func (s *Store) RemoveLogs(ctx context.Context, before time.Time) (removed int, bytes int64, err error) {
	if err := s.changes(); err != nil {
		return 0, 0, fmt.Errorf("remove old logs: %w", err)
	}
	root := filepath.Join(s.layout.log, "drvs")
	var errs []error
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			var size int64
			if size, err = removeLog(path, before); err == nil && size >= 0 {
				removed++
				bytes += size
			}
		}
		if err != nil && len(errs) < maxFails {
			errs = append(errs, fmt.Errorf("remove old logs: %w", explain(err)))
		}
		return nil
	})
	return removed, bytes, errors.Join(append(errs, err)...)
}

// removeLog removes a log that is old and complete, and gives its size, -1 if it
// stays.
func removeLog(path string, before time.Time) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNoFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.ModTime().Before(before) {
		return -1, err
	}
	// Kiln keeps the log of a running build locked. Nix does not, but writes to it.
	if free, err := tryFlock(f, lockShared); err != nil || !free {
		return -1, err
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return -1, nil
		}
		return -1, err
	}
	return info.Size(), nil
}

// StateDir has what the store remembers besides objects: roots, locks, the database.
func (s *Store) StateDir() string { return s.layout.state }

// ReadOnly tells whether the store was opened for reading only.
func (s *Store) ReadOnly() bool { return s.opts.ReadOnly }

// LockFile locks a file that names nothing else, as the lock of a profile, and waits
// for others who have it locked. The file is there while somebody holds or wants it.
// The caller calls release. (Nix: PathLocks.)
func (s *Store) LockFile(ctx context.Context, name string) (release func() error, err error) {
	if err := s.changes(); err != nil {
		return nil, err
	}
	for {
		f, err := openLock(name)
		if err != nil {
			return nil, explain(err)
		}
		linked := false
		if err = pollFlock(ctx, f, lockExclusive); err == nil {
			linked, err = isLinked(f)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if linked {
			return func() error {
				err := os.Remove(name)
				// A sign for those who opened it before.
				_, werr := f.WriteString("d")
				return errors.Join(err, werr, f.Close())
			}, nil
		}
		f.Close()
	}
}
