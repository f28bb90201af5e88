package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
)

// AddContent adds an object whose path follows from what content gives: the bytes of
// a file for the methods Flat and Text, otherwise an archive. It reads to the end of
// the file, or of the archive and no further. The references must be valid, and the
// object is none of them. Memory does not grow with the content, but for texts, which
// are bounded as derivations are. Adding the same again does nothing.
func (s *Store) AddContent(ctx context.Context, name string, method nix.ContentAddressMethod, algo nix.HashAlgorithm, references []nix.StorePath, content io.Reader) (*nix.PathInfo, error) {
	info, err := s.addContent(ctx, name, method, algo, references, content)
	if err != nil {
		return nil, fmt.Errorf("add '%s': %w", name, err)
	}
	return info, nil
}

func (s *Store) addContent(ctx context.Context, name string, method nix.ContentAddressMethod, algo nix.HashAlgorithm, references []nix.StorePath, content io.Reader) (*nix.PathInfo, error) {
	if err := s.changes(); err != nil {
		return nil, err
	}
	if err := nix.CheckName(name); err != nil {
		return nil, err
	}
	references = slices.Compact(slices.Sorted(slices.Values(references)))
	switch method {
	case nix.Text:
		if algo != nix.SHA256 {
			return nil, errors.New("text is hashed with sha256 only")
		}
		text, err := io.ReadAll(io.LimitReader(until.Reader(ctx, content), maxDerivation+1))
		if err != nil {
			return nil, err
		}
		if len(text) > maxDerivation {
			return nil, fmt.Errorf("text of more than %d bytes", maxDerivation)
		}
		p, err := s.addText(ctx, name, text, references, nil)
		if err != nil {
			return nil, err
		}
		return s.PathInfo(ctx, p)
	case nix.Flat:
		return s.addFlat(ctx, name, algo, references, content)
	case nix.Recursive:
		sum := algo.New()
		t, err := s.receive(ctx, content, sum)
		if err != nil {
			return nil, err
		}
		return s.settleContent(ctx, t, name, nix.ContentAddress{Method: method, Hash: nix.SumHash(algo, sum)}, references)
	}
	if method == nix.Git {
		t, err := s.receive(ctx, content)
		if err != nil {
			return nil, err
		}
		hash, err := t.gitHash(algo)
		if err != nil {
			return nil, errors.Join(err, t.discard())
		}
		return s.settleContent(ctx, t, name, nix.ContentAddress{Method: method, Hash: hash}, references)
	}
	return nil, fmt.Errorf("hashing by the method '%s' is not supported", method)
}

// addFlat adds a file. An archive begins with a file's size, which is known only when
// all of it has come.
func (s *Store) addFlat(ctx context.Context, name string, algo nix.HashAlgorithm, references []nix.StorePath, content io.Reader) (_ *nix.PathInfo, err error) {
	dir, err := s.TempDir(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	path := filepath.Join(dir.Path(), "file")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, until.Reader(ctx, content))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, explain(err)
	}
	sum := algo.New()
	t, err := s.produce(ctx, func(w io.Writer) error { return writeFile(w, path, sum) })
	if err != nil {
		return nil, err
	}
	return s.settleContent(ctx, t, name, nix.ContentAddress{Method: nix.Flat, Hash: nix.SumHash(algo, sum)}, references)
}

// settleContent makes what was received an object by its content address, and gives what
// is known of it.
func (s *Store) settleContent(ctx context.Context, t *received, name string, ca nix.ContentAddress, references []nix.StorePath) (*nix.PathInfo, error) {
	info := nix.PathInfo{NARHash: t.narHash, References: references, CA: ca}
	var err error
	info.Path, err = nix.MakeContentAddressedPath(s.opts.StoreDir, name, info.CA, nix.References{Others: references})
	if err == nil {
		err = s.roots.add(ctx, []nix.StorePath{info.Path})
	}
	if err != nil {
		return nil, errors.Join(err, t.discard())
	}
	fresh, err := s.settle(ctx, t, Registration{Info: info}, false)
	if err != nil || fresh != nil {
		return fresh, err
	}
	return s.PathInfo(ctx, info.Path)
}

// Derivation reads a valid derivation.
func (s *Store) Derivation(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
	if err := s.mustBeValid(ctx, p); err != nil {
		return nil, err
	}
	drv, err := s.loadDerivation(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("read derivation '%s': %w", s.opts.StoreDir.Join(p), err)
	}
	return drv, nil
}
