package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
)

// maxSession bounds how much of a session file is read, in bytes. Sessions
// replace their file long before.
const maxSession = 64 << 20

// Recover removes what dead processes have left: what their sessions noted and
// did not take back. It leaves alone what somebody else uses by now, who will
// remove it. Several processes may do it at the same time, and die doing it.
// Open calls it; a process that keeps a store open for long may call it again.
//
// An error says what could not be removed. It is tried again the next time.
func (s *Store) Recover(ctx context.Context) error {
	if err := s.changes(); err != nil {
		return err
	}
	dir, err := os.Open(s.layout.sessions())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for sessions of dead processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return fmt.Errorf("look for sessions of dead processes: %w", err)
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, ".") || s.journal.is(name) {
			continue
		}
		if err := s.recoverSession(ctx, filepath.Join(s.layout.sessions(), name)); err != nil {
			errs = append(errs, fmt.Errorf("remove what a dead process left (session '%s'): %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// is tells whether a file is this session's.
func (j *journal) is(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file != nil && filepath.Base(j.file.Name()) == name
}

func (s *Store) recoverSession(ctx context.Context, name string) error {
	f, err := openExisting(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// What a session says is believed only from somebody who could do it himself.
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || user(info) != os.Geteuid() {
		return err
	}
	if dead, err := tryFlock(f, lockExclusive); err != nil || !dead {
		return err
	}
	if !exists(name) {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSession))
	if err != nil {
		return err
	}
	left, err := parseSession(data)
	if err != nil {
		return err
	}
	if done, err := s.removeTransients(ctx, left); err != nil || !done {
		return err
	}
	return os.Remove(name)
}

// removeTransients removes what a dead session noted. It tells whether all of
// that is settled.
func (s *Store) removeTransients(ctx context.Context, left []transient) (done bool, err error) {
	var errs []error
	// The locks first: while we have all of them, nobody uses what they protect.
	contended := false
	for _, t := range left {
		if t.kind != transientLock {
			continue
		}
		l, ok, err := s.seize(t.path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !ok {
			contended = true
			continue
		}
		defer l.release()
		errs = append(errs, s.removeInvalid(ctx, strings.TrimSuffix(t.path, lockSuffix)))
	}
	// The last that was made is the first to go.
	slices.Reverse(left)
	settled := true
	for _, t := range left {
		if contended && s.isShared(t) {
			settled = false
			continue
		}
		errs = append(errs, s.removeTransient(t))
	}
	err = errors.Join(errs...)
	return settled && err == nil, err
}

// isShared tells whether t has a name that others use as well, under locks.
func (s *Store) isShared(t transient) bool {
	return t.kind == TransientTree && filepath.Dir(t.path) == s.layout.store
}

// removeInvalid removes an object that a dead process put into its place and did
// not register. We hold its lock.
func (s *Store) removeInvalid(ctx context.Context, path string) error {
	if !exists(path) {
		return nil
	}
	p, err := nix.ParseStorePath(filepath.Base(path))
	if err != nil {
		return nil
	}
	if valid, err := s.isValid(ctx, p); err != nil || valid {
		return err
	}
	return s.removeBelow(path, rmtree.RemoveAt)
}

func (s *Store) removeTransient(t transient) error {
	switch t.kind {
	case transientLock:
		return nil // done with the others
	case TransientTree:
		return s.removeBelow(t.path, rmtree.RemoveAt)
	case TransientFile:
		return s.removeBelow(t.path, dirfd.Unlink)
	case transientOwned:
		return s.removeBelow(t.path, removeOwned)
	case transientLog:
		return s.removeBelow(t.path, tidyLog)
	case transientDir:
		return s.removeBelow(t.path, closeDir)
	}
	if remove, ok := s.opts.RecoverTransient[t.kind]; ok {
		return remove(t.path)
	}
	return fmt.Errorf("'%s' is a '%s', and this program does not know what that is", t.path, t.kind)
}

// removeOwned removes a file or directory unless somebody has it locked: its
// maker's process id may be somebody else's by now, and with it its name.
func removeOwned(dir int, name string) error {
	fd, err := dirfd.OpenFile(dir, name)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if ours, err := tryFlock(f, lockExclusive); err != nil || !ours {
		return err
	}
	return rmtree.RemoveAt(dir, name)
}

// below splits a path into one of the directories that the store may change and
// the rest.
func (s *Store) below(path string) (root, rest string, err error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return "", "", errors.New("not a clean absolute path")
	}
	for _, root := range append([]string{s.layout.store, s.layout.state, s.layout.log}, s.opts.ScratchDirs...) {
		if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(filepath.Clean(root), "/")+"/"); ok {
			return root, rest, nil
		}
	}
	return "", "", errors.New("not below the store's directories or a scratch directory")
}

// removeBelow calls remove for the last element of a path, in the directory that
// has it. Between the root and there, no symbolic link is followed. It is no
// error if nothing is there.
func (s *Store) removeBelow(path string, remove func(dir int, name string) error) error {
	root, rest, err := s.below(path)
	if err == nil {
		err = inDirectory(root, rest, remove)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove '%s': %w", path, err)
	}
	return nil
}

// inDirectory opens the directory that holds root/rest, following no symbolic
// link after root, and calls f with it and the last element.
func inDirectory(root, rest string, f func(dir int, name string) error) error {
	// A name is only a pretext: the directory is what is wanted.
	dir, _, err := dirfd.OpenParent(root + "/.-")
	if err != nil {
		return err
	}
	defer func() { dirfd.Close(dir) }()
	for {
		name, further, more := strings.Cut(rest, "/")
		if !more {
			return f(dir, name)
		}
		next, err := dirfd.OpenDir(dir, name)
		if err != nil {
			return err
		}
		dirfd.Close(dir)
		dir, rest = next, further
	}
}
