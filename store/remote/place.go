package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/wire/worker"
)

// AddDerivation adds a derivation as a file and gives its path.
func (s *Store) AddDerivation(ctx context.Context, drv *nix.Derivation) (nix.StorePath, error) {
	p, references, text, err := aterm.DerivationPath(s.opts.Dir, drv)
	if err != nil {
		return "", fmt.Errorf("add derivation '%s': %w", drv.Name, err)
	}
	o := &worker.AddToStore{Name: p.Name(), Method: nix.Text, Algorithm: nix.SHA256, References: references}
	info, err := s.AddContent(ctx, o, bytes.NewReader(text))
	if err != nil {
		return "", err
	}
	if info.Path != p {
		return "", fmt.Errorf("add derivation '%s' to %s: it got the path '%s', not '%s'", drv.Name, s.opts.Name, info.Path, p)
	}
	return p, nil
}

// AddRoot makes a symbolic link to a valid object, at an absolute path, which keeps
// it from being collected as long as it is there. What is there already is replaced
// if it is a symbolic link. The daemon has to be on this machine.
func (s *Store) AddRoot(ctx context.Context, link string, p nix.StorePath) error {
	err := s.addRoot(ctx, link, p)
	if err != nil {
		return fmt.Errorf("make '%s' a root: %w", link, err)
	}
	return nil
}

// AddPermRoot is AddRoot, for a client for whom links are made here (mounted-ssh-ng).
func (s *Store) AddPermRoot(ctx context.Context, link string, p nix.StorePath) error {
	return s.AddRoot(ctx, link, p)
}

func (s *Store) addRoot(ctx context.Context, link string, p nix.StorePath) error {
	if !s.opts.SameMachine {
		return elsewhere(s.opts.Name)
	}
	if err := s.AddTempRoot(ctx, p); err != nil {
		return err
	}
	switch old, err := os.Lstat(link); {
	case err == nil && old.Mode().Type() != os.ModeSymlink:
		return errors.New("there is something that is no symbolic link")
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(link), ".kiln-link-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fresh := filepath.Join(dir, "link")
	if err := os.Symlink(s.opts.Dir.Join(p), fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, link); err != nil {
		return err
	}
	return s.AddIndirectRoot(ctx, link)
}
