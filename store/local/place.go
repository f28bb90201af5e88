package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
)

// Place moves a tree from a directory on the store's file system into the place
// of object p. The tree must be canonical, and the caller must hold the lock of
// p. What is in the place without being valid is removed; that something valid
// is there is an error. The object is visible from then on, and becomes valid by
// Register.
func (s *Store) Place(ctx context.Context, from string, p nix.StorePath) error {
	if err := s.changes(); err != nil {
		return err
	}
	valid, err := s.isValid(ctx, p)
	if err != nil {
		return err
	}
	if valid {
		return fmt.Errorf("move '%s' to '%s': the latter is valid already", from, s.opts.StoreDir.Join(p))
	}
	return s.placePath(ctx, from, p)
}

// Replace is Place for an object that may be valid: its content is exchanged.
func (s *Store) Replace(ctx context.Context, from string, p nix.StorePath) error {
	if err := s.changes(); err != nil {
		return err
	}
	return s.placePath(ctx, from, p)
}

func (s *Store) placePath(ctx context.Context, from string, p nix.StorePath) error {
	dir, name, err := dirfd.OpenParent(from)
	if err != nil {
		return fmt.Errorf("move '%s' to '%s': %w", from, s.opts.StoreDir.Join(p), err)
	}
	defer dirfd.Close(dir)
	return s.place(ctx, dir, name, p)
}

// place moves the entry name of dir into the place of p.
func (s *Store) place(ctx context.Context, dir int, name string, p nix.StorePath) error {
	into, _, err := dirfd.OpenParent(s.RealPath(p))
	if err != nil {
		return fmt.Errorf("move '%s' into the store: %w", s.opts.StoreDir.Join(p), explain(err))
	}
	defer dirfd.Close(into)
	return s.placeIn(ctx, dir, name, into, p)
}

// placeIn is place with the store directory, which is open as into.
func (s *Store) placeIn(ctx context.Context, dir int, name string, into int, p nix.StorePath) error {
	err := s.move(ctx, dir, name, into, string(p))
	if isCrossDevice(err) {
		err = fmt.Errorf("%w: it has to be on the file system of the store", err)
	}
	if err != nil {
		return fmt.Errorf("move '%s' into the store: %w", s.opts.StoreDir.Join(p), explain(err))
	}
	return nil
}

// placeReceived is placeIn for a tree that was made here, where nobody else could look:
// nothing about it has to be looked at again.
func (s *Store) placeReceived(ctx context.Context, t *received, into int, p nix.StorePath) error {
	if dirfd.RenameNew(t.dir, t.name, into, string(p)) == nil {
		return nil
	}
	return s.placeIn(ctx, t.dir, t.name, into, p)
}

func (s *Store) move(ctx context.Context, dir int, name string, into int, final string) error {
	var before, after dirfd.Stat
	if err := dirfd.StatAt(dir, name, &before); err != nil {
		return err
	}
	if err := s.clear(ctx, into, final); err != nil {
		return err
	}
	if err := rename(dir, name, into, final, before.Type() == dirfd.Directory); err != nil {
		return err
	}
	// Nothing under a final path may be writable or setuid, not for a moment more.
	if err := dirfd.StatAt(into, final, &after); err != nil {
		return err
	}
	if !after.Same(&before) || !isCanonical(&after) {
		return errors.Join(fmt.Errorf("its mode is %#o, which no object has", after.Mode), rmtree.RemoveAt(into, final))
	}
	return nil
}

// clear makes room in the store directory. It moves away what is there, so that
// nobody sees half of it.
func (s *Store) clear(ctx context.Context, into int, final string) error {
	var there dirfd.Stat
	err := dirfd.StatAt(into, final, &there)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	room, name, err := s.room.open(ctx)
	if err != nil {
		return err
	}
	defer s.room.leave()
	if err := rename(into, final, room, name, there.Type() == dirfd.Directory); err != nil {
		return rmtree.RemoveAt(into, final)
	}
	return rmtree.RemoveAt(room, name)
}

// rename moves an entry to another directory. A directory that is moved gets a
// new "..", for which its owner needs the permission to write to it if he is not
// privileged. He gets it for the moment of the move, and in no other case.
func rename(fromDir int, from string, toDir int, to string, directory bool) error {
	err := dirfd.Rename(fromDir, from, toDir, to)
	if err == nil || !directory || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	fd, openErr := dirfd.OpenDir(fromDir, from)
	if openErr != nil {
		return err
	}
	defer dirfd.Close(fd)
	var st dirfd.Stat
	if dirfd.Fstat(fd, &st) != nil || dirfd.Fchmod(fd, st.Mode&0o7777|0o200) != nil {
		return err
	}
	err = dirfd.Rename(fromDir, from, toDir, to)
	return errors.Join(err, dirfd.Fchmod(fd, st.Mode&0o7777))
}

// isCanonical tells whether a file has a mode and time that objects have.
func isCanonical(st *dirfd.Stat) bool {
	mode := st.Mode & 0o7777
	switch st.Type() {
	case dirfd.Symlink:
		return true
	case dirfd.Directory:
		return mode == storeExecutable
	case dirfd.Regular:
		return mode == storeMode || mode == storeExecutable
	}
	return false
}
