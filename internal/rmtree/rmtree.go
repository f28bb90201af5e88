package rmtree

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"sync"
	"syscall"

	"github.com/kilnbuild/kiln/internal/dirfd"
)

const (
	maxOpen  = 32      // directories open at once; deeper ones are moved to the top
	listRoom = 8 << 10 // bytes of directory listing, for each open directory

	// A racing process can undo every step. This bounds the repetitions at one entry
	// that keeps changing its type or filling up, far above what any quiet tree needs.
	maxTries = 100
)

// RemoveTree deletes what path names, and all below it. The last element of
// path is not followed where it is a symbolic link, those before it are. It is
// no error if nothing is there. What cannot be deleted is left, in a very deep
// tree perhaps under another name; the rest is deleted nevertheless, and the
// first error is returned.
//
// Directories that keep their owner from changing them get u+rwx first, if the
// owner is the caller; the directory that holds the tree does not.
func RemoveTree(path string) error {
	dir, name, err := dirfd.OpenParent(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer dirfd.Close(dir)
	return remove(dir, name, path, nil)
}

// RemoveAt is RemoveTree for the entry name of the open directory dir, which
// stays open. Nothing but a single entry can be named.
func RemoveAt(dir int, name string) error { return remove(dir, name, name, nil) }

// RemoveAtTelling is RemoveAt that calls unlinked for each file that it deletes,
// with what the file was just before; not for directories. Deleting takes a system
// call more for each file then. That nothing is there is fs.ErrNotExist.
func RemoveAtTelling(dir int, name string, unlinked func(*dirfd.Stat)) error {
	return remove(dir, name, name, unlinked)
}

func remove(dir int, name, shown string, unlinked func(*dirfd.Stat)) error {
	if err := dirfd.CheckName(name); err != nil {
		return fmt.Errorf("remove %s: %w", shown, err)
	}
	r := remover{path: shown, top: -1, unlinked: unlinked}
	// Most trees are directories, and to ask first would take as long as to try.
	r.entry(dir, name, dirfd.Directory)
	if r.err == nil && r.absent && unlinked != nil {
		return fmt.Errorf("remove %s: %w", shown, fs.ErrNotExist)
	}
	return r.err
}

// remover is one deletion. The directories on the way to where it is are open,
// in the frames of entry and clear, each of which has room to list it.
type remover struct {
	path  string // of the entry it is at, for errors
	depth int    // number of directories open
	top   int    // the uppermost of them
	moved int    // how many directories have been moved to the top
	named int    // the last number used in a name for that
	// unlinked is told of each file, if it is not nil.
	unlinked func(*dirfd.Stat)
	stat     dirfd.Stat
	absent   bool // nothing was there to begin with
	err      error
}

// fail notes the first error.
func (r *remover) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("remove %s: %w", r.path, err)
	}
}

// entry deletes one entry of dir. It returns whether that is gone; if not, it has
// noted why.
func (r *remover) entry(dir int, name string, t dirfd.Type) bool {
	var err error
	for try := range maxTries {
		if t != dirfd.Directory {
			err = r.unlink(dir, name)
			if errors.Is(err, fs.ErrNotExist) {
				r.absent = r.depth == 0
				return true
			}
			if err == nil {
				return true
			}
			// What the call answers for a directory differs between systems.
			var s dirfd.Stat
			if dirfd.StatAt(dir, name, &s) == nil && s.Type() != dirfd.Directory {
				if errors.Is(err, fs.ErrPermission) && r.loosen(dir) {
					continue
				}
				break
			}
		}
		var gone bool
		gone, err = r.directory(dir, name, try == 0)
		switch {
		case err == nil:
			return gone
		case errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST):
			t = dirfd.Directory // it was filled again
		case errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) || errors.Is(err, fs.ErrNotExist):
			t = dirfd.Unknown // it was replaced
		case errors.Is(err, fs.ErrPermission) && r.loosen(dir):
			// Root without the rights that it nearly always has.
		default:
			r.fail(err)
			return false
		}
	}
	r.fail(err)
	return false
}

// loosen lets the owner of an open directory of the tree change it. It tells whether
// he could not before.
func (r *remover) loosen(dir int) bool {
	var s dirfd.Stat
	if r.depth == 0 || dirfd.Fstat(dir, &s) != nil || s.Mode&0o700 == 0o700 {
		return false
	}
	return dirfd.Fchmod(dir, s.Mode&0o777|0o700) == nil
}

// unlink deletes what is not a directory.
func (r *remover) unlink(dir int, name string) error {
	if r.unlinked == nil {
		return dirfd.Unlink(dir, name)
	}
	if err := dirfd.StatAt(dir, name, &r.stat); err != nil {
		return err
	}
	err := dirfd.Unlink(dir, name)
	if err == nil {
		r.unlinked(&r.stat)
	}
	return err
}

// directory deletes the directory name of dir and what it holds. An error is
// that of the directory itself. If something in it stays, that has been noted,
// and the result is false without an error. If quick is set, some may have been
// overlooked, and the error is syscall.ENOTEMPTY.
func (r *remover) directory(dir int, name string, quick bool) (gone bool, err error) {
	fd, err := openDir(dir, name, r.depth == maxOpen || !root)
	if err != nil {
		return false, err
	}
	defer dirfd.Close(fd)
	if r.depth == maxOpen {
		err := r.hoist(dir, name)
		return err == nil, err
	}
	if r.depth == 0 {
		r.top = fd
	}
	r.depth++
	empty, err := r.clear(fd, quick)
	r.depth--
	if err != nil || !empty {
		return false, err
	}
	err = dirfd.Rmdir(dir, name)
	return err == nil, err
}

// clear deletes all entries of the open directory fd. It returns false if
// something stays, for which an error has been noted.
func (r *remover) clear(fd int, quick bool) (empty bool, err error) {
	list := dirfd.List
	if quick {
		list = dirfd.ListQuickly
	}
	room := rooms.Get().(*[listRoom]byte)
	defer rooms.Put(room)
	up := r.path
	defer func() { r.path = up }()
	stuck := false
	for {
		moved := r.moved
		err := list(fd, room[:], func(entry []byte, t dirfd.Type) error {
			name := string(entry)
			r.path = path.Join(up, name)
			if !r.entry(fd, name, t) {
				stuck = true
			}
			return nil
		})
		r.path = up
		switch {
		case err != nil:
			return false, err
		case stuck:
			return false, nil
		case fd != r.top || r.moved == moved:
			// What appeared behind our back keeps the directory from being removed, and
			// brings us here again.
			return true, nil
		}
		// There are more entries because they were moved here.
		if err := dirfd.Rewind(fd); err != nil {
			return false, err
		}
	}
}

// hoist moves the directory name of dir to the top of the tree, where a later
// pass finds it.
func (r *remover) hoist(dir int, name string) error {
	var err error
	for range maxTries {
		r.named++
		err = dirfd.Rename(dir, name, r.top, ".deleting-"+strconv.Itoa(r.named))
		switch {
		case err == nil:
			r.moved++
			return nil
		case errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR):
			// The name is taken, by whatever.
		default:
			return err
		}
	}
	return err
}

// root may nearly always change directories, whatever their permissions say.
var root = dirfd.IsRoot()

// rooms are to read directories into.
var rooms = sync.Pool{New: func() any { return new([listRoom]byte) }}

// openDir opens a directory and, with loosen, sees to it that its owner may change
// it. That the latter fails, because the caller is not the owner, does not matter:
// then the calls that need it fail.
func openDir(dir int, name string, loosen bool) (int, error) {
	fd, err := dirfd.OpenDirHere(dir, name)
	if errors.Is(err, fs.ErrPermission) {
		if dirfd.Chmod(dir, name, 0o700) != nil {
			return -1, err
		}
		fd, err = dirfd.OpenDirHere(dir, name)
	}
	if err != nil {
		return -1, err
	}
	if !loosen {
		return fd, nil
	}
	var s dirfd.Stat
	if err := dirfd.Fstat(fd, &s); err == nil && s.Mode&0o700 != 0o700 {
		_ = dirfd.Fchmod(fd, s.Mode&0o777|0o700)
	}
	return fd, nil
}
