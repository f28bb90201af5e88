package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kilnbuild/kiln/nix"
)

// AddRoot keeps a valid object, and all that it needs, from being collected as
// long as a link to it is where AddRoot makes one: at a path of the caller's
// choice, absolute and outside of the store. A link to a store object that is
// there already is replaced, anything else is not. (Nix: `nix-store --add-root`,
// "indirect" roots in gcroots/auto.)
func (s *Store) AddRoot(ctx context.Context, link string, p nix.StorePath) error {
	if err := s.addRoot(ctx, link, p); err != nil {
		return fmt.Errorf("make '%s' a root for '%s': %w", link, p, explain(err))
	}
	return nil
}

func (s *Store) addRoot(ctx context.Context, link string, p nix.StorePath) error {
	if err := s.changes(); err != nil {
		return err
	}
	if !filepath.IsAbs(link) {
		return errors.New("it must be an absolute path")
	}
	link = filepath.Clean(link)
	for _, dir := range []string{string(s.Dir()), s.RealDir()} {
		if rel, err := filepath.Rel(dir, link); err == nil && filepath.IsLocal(rel) {
			return errors.New("creating a garbage collector root in the Nix store is forbidden (are you running kiln inside the store?)")
		}
	}
	switch target, err := os.Readlink(link); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return errors.New("cannot create symlink: something else is there already; remove it, or choose another name")
	default:
		if _, _, err := s.Dir().Split(target); err != nil {
			return fmt.Errorf("cannot create symlink: there is one already, and it leads to '%s', not into the store", target)
		}
	}
	if err := s.AddTempRoot(ctx, p); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o777); err != nil {
		return err
	}
	if err := replaceLink(s.Dir().Join(p), link); err != nil {
		return err
	}
	if err := s.registerLink(link); err != nil {
		return err
	}
	return s.roots.insist(ctx, p)
}

// replaceLink makes a symlink, or makes the one that is there lead elsewhere, in
// one step.
func replaceLink(target, name string) error {
	temp := name + ".tmp-" + rand.Text()
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// AddIndirectRoot makes whatever a symbolic link leads to a root, for as long as it
// does. link is an absolute path of somebody who need not be trusted: nothing there is
// touched, nor need there be anything. (Nix: gcroots/auto.)
func (s *Store) AddIndirectRoot(ctx context.Context, link string) error {
	if err := s.addIndirectRoot(ctx, link); err != nil {
		return fmt.Errorf("make '%s' a root: %w", link, explain(err))
	}
	return nil
}

func (s *Store) addIndirectRoot(ctx context.Context, link string) error {
	if err := s.changes(); err != nil {
		return err
	}
	if !filepath.IsAbs(link) {
		return errors.New("it must be an absolute path")
	}
	if err := s.registerLink(filepath.Clean(link)); err != nil {
		return err
	}
	target, err := os.Readlink(link)
	if err != nil {
		return nil // it need not be there
	}
	p, _, err := s.Dir().Split(target)
	if err != nil {
		return nil // nor lead here
	}
	return s.roots.insist(ctx, p)
}

// registerLink lets collectors know of a link. The name is that which Nix gives to it,
// so that nobody makes a second one.
func (s *Store) registerLink(link string) error {
	name := nix.HashBytes(nix.SHA1, []byte(link)).Nix32()
	auto := s.layout.autoRoots()
	if err := makeDirs(auto, 0o755); err != nil {
		return err
	}
	return replaceLink(link, filepath.Join(auto, name))
}

// AddPermRoot makes a link to a valid object that keeps it for good. The link is below
// the directory of roots: anywhere else nobody would look for it.
func (s *Store) AddPermRoot(ctx context.Context, link string, p nix.StorePath) error {
	if err := s.addPermRoot(ctx, filepath.Clean(link), p); err != nil {
		return fmt.Errorf("make '%s' a root for '%s': %w", link, s.opts.StoreDir.Join(p), explain(err))
	}
	return nil
}

func (s *Store) addPermRoot(ctx context.Context, link string, p nix.StorePath) error {
	if err := s.changes(); err != nil {
		return err
	}
	if rel, err := filepath.Rel(s.layout.roots(), link); err != nil || !filepath.IsLocal(rel) || rel == "." {
		return fmt.Errorf("path '%s' is not a valid garbage collector root; it's not in the directory '%s'", link, s.layout.roots())
	}
	if err := s.AddTempRoot(ctx, p); err != nil {
		return err
	}
	if err := s.mustBeValid(ctx, p); err != nil {
		return err
	}
	if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return errors.New("something else is there already; remove it, or choose another name")
	}
	if err := makeDirs(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	if err := replaceLink(s.Dir().Join(p), link); err != nil {
		return err
	}
	return s.roots.insist(ctx, p)
}
