package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/base32"
)

// tempRoom is a directory in the store directory that nobody else can look into.
// Everything that is to become an object, or was one, passes through it. It is
// made when it is first needed.
//
// Collectors have to leave it alone. Newer versions of Nix skip directories that
// are called "tmp-" and are locked; those up to 2.8 do not. So it is called like
// an object and is a temporary root, which every version respects.
type tempRoom struct {
	store *Store

	mu    sync.Mutex
	path  string   // the same each time; "" before the first one
	dir   *os.File // nil while there is none
	count int
	users int // what open was called for and leave was not
	ended bool
}

func (r *tempRoom) init(s *Store) { r.store = s }

// open gives the directory and a name in it that nobody uses. The descriptor is
// good until leave is called, when there is nothing of that name any more.
func (r *tempRoom) open(ctx context.Context) (dir int, name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return -1, "", errClosed
	}
	if r.dir == nil {
		if err := r.create(ctx); err != nil {
			return -1, "", fmt.Errorf("create temporary directory in the store: %w", explain(err))
		}
	}
	r.count++
	r.users++
	return int(r.dir.Fd()), strconv.Itoa(r.count), nil
}

// leave ends what open began.
func (r *tempRoom) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
}

// Vacate removes the store's temporary directory unless it is in use at the moment. It
// is made again when it is needed: whoever expects to see nothing but objects in the
// store directory need not see it for as long as this process lives.
func (s *Store) Vacate() error { return s.room.vacate() }

func (r *tempRoom) vacate() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users > 0 || r.ended {
		return nil
	}
	return r.remove()
}

func (r *tempRoom) create(ctx context.Context) error {
	path := r.path
	if path == "" {
		var hash [20]byte
		rand.Read(hash[:])
		p := nix.StorePath(base32.EncodeToString(hash[:]) + "-tmp-" + strconv.Itoa(os.Getpid()))
		if err := r.store.roots.add(ctx, []nix.StorePath{p}); err != nil {
			return err
		}
		path = r.store.RealPath(p)
	}
	if err := r.store.journal.note(transientOwned, path); err != nil {
		return err
	}
	dir, err := lockedDirectory(path)
	if err != nil {
		return errors.Join(err, r.store.journal.done(transientOwned, path))
	}
	r.path, r.dir = path, dir
	return nil
}

// lockedDirectory makes a directory and locks it, so that it is known to be in
// use.
func lockedDirectory(path string) (*os.File, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.OpenFile(path, os.O_RDONLY|openNoFollow, 0)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	if err := flock(dir, lockExclusive); err != nil {
		return nil, errors.Join(err, dir.Close(), os.Remove(path))
	}
	return dir, nil
}

// close removes the directory.
func (r *tempRoom) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.remove()
}

func (r *tempRoom) remove() error {
	if r.dir == nil {
		return nil
	}
	err := rmtree.RemoveTree(r.path)
	if err == nil {
		err = r.store.journal.done(transientOwned, r.path)
	}
	err = errors.Join(err, r.dir.Close())
	r.dir = nil
	return err
}

// TempDir is a directory on the file system of the store, for what is to be moved
// into the store. Nobody but the store's owner can look into it, and collectors
// leave it alone.
type TempDir struct {
	path string
	room *tempRoom
	dir  int
	name string
}

// TempDir makes a temporary directory, with mode 0700. The caller closes it
// before the store.
func (s *Store) TempDir(ctx context.Context) (*TempDir, error) {
	if err := s.changes(); err != nil {
		return nil, err
	}
	dir, name, err := s.room.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := dirfd.Mkdir(dir, name, 0o700); err != nil {
		s.room.leave()
		return nil, fmt.Errorf("create temporary directory in the store: %w", explain(err))
	}
	return &TempDir{path: filepath.Join(s.room.path, name), room: &s.room, dir: dir, name: name}, nil
}

// Path is the directory's absolute path.
func (d *TempDir) Path() string { return d.path }

// Close removes the directory with everything that is in it.
func (d *TempDir) Close() error {
	if d.room != nil {
		defer d.room.leave()
		d.room = nil
	}
	if err := rmtree.RemoveAt(d.dir, d.name); err != nil {
		return fmt.Errorf("remove temporary directory '%s': %w", d.path, err)
	}
	return nil
}
