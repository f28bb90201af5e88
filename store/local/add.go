package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
)

// Add implements store.Sink. It blocks as long as archive does, which should be
// buffered. The object is a temporary root of this process from then on.
func (s *Store) Add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	err := s.add(ctx, info, archive, opts)
	if err != nil {
		return fmt.Errorf("add '%s': %w", s.opts.StoreDir.Join(info.Path), err)
	}
	return nil
}

func (s *Store) add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	if err := s.changes(); err != nil {
		return err
	}
	if err := s.checkClaims(info, opts); err != nil {
		return err
	}
	if err := s.roots.add(ctx, []nix.StorePath{info.Path}); err != nil {
		return err
	}
	valid, err := s.isValid(ctx, info.Path)
	if err != nil {
		return err
	}
	if valid && !opts.Repair {
		_, err := nar.Skip(until.Reader(ctx, archive), nar.Limits{})
		return err
	}
	t, err := s.receive(ctx, archive)
	if err != nil {
		return err
	}
	if err := t.check(info); err != nil {
		return errors.Join(err, t.discard())
	}
	_, err = s.settle(ctx, t, Registration{Info: *info}, opts.Repair)
	return err
}

// AddLate implements store.LateSink. The object becomes a temporary root when it is known
// which one it is.
func (s *Store) AddLate(ctx context.Context, archive io.Reader, describe func(nix.Hash, int64) (*nix.PathInfo, error), opts store.AddOptions) error {
	if err := s.changes(); err != nil {
		return err
	}
	t, err := s.receive(ctx, archive)
	if err != nil {
		return fmt.Errorf("add object: %w", err)
	}
	info, err := describe(t.narHash, t.narSize)
	if err != nil {
		return errors.Join(err, t.discard())
	}
	if err := s.addReceived(ctx, t, info, opts); err != nil {
		return fmt.Errorf("add '%s': %w", s.opts.StoreDir.Join(info.Path), err)
	}
	return nil
}

// addReceived adds what was received as the object of info.
func (s *Store) addReceived(ctx context.Context, t *received, info *nix.PathInfo, opts store.AddOptions) error {
	err := s.checkClaims(info, opts)
	if err == nil {
		err = t.check(info)
	}
	if err != nil {
		return errors.Join(err, t.discard())
	}
	_, err = s.settle(ctx, t, Registration{Info: *info}, opts.Repair)
	return err
}

// checkClaims refuses an object for what is said of it, before its content is
// looked at.
func (s *Store) checkClaims(info *nix.PathInfo, opts store.AddOptions) error {
	if _, err := nix.ParseStorePath(string(info.Path)); err != nil {
		return err
	}
	if info.NARHash.IsZero() || info.NARHash.Algorithm() != nix.SHA256 {
		return errors.New("the archive's SHA-256 hash is not given")
	}
	if !info.CA.IsZero() {
		p, err := nix.MakeContentAddressedPath(s.opts.StoreDir, info.Path.Name(), info.CA, info.SelfReferences())
		if err != nil {
			return err
		}
		if p != info.Path {
			return fmt.Errorf("path '%s' claims to be content-addressed but isn't", s.opts.StoreDir.Join(info.Path))
		}
		return nil
	}
	if !opts.CheckSignatures {
		return nil
	}
	err := errors.New("no keys are trusted")
	if s.verify != nil {
		err = s.verify(info)
	}
	if err != nil {
		return fmt.Errorf("cannot add path '%s' because it lacks a signature by a trusted key: %w", s.opts.StoreDir.Join(info.Path), err)
	}
	return nil
}

// check compares what was received with what was said.
func (t *received) check(info *nix.PathInfo) error {
	if t.narHash != info.NARHash {
		return fmt.Errorf("hash mismatch importing path;\n  specified: %s\n  got:       %s", info.NARHash, t.narHash)
	}
	if t.narSize != info.NARSize && info.NARSize != 0 {
		return fmt.Errorf("size mismatch importing path;\n  specified: %d\n  got:       %d", info.NARSize, t.narSize)
	}
	if info.CA.IsZero() {
		return nil
	}
	ok, err := t.matches(info.CA, info.SelfReferences(), info.Path.HashPart())
	if err == nil && !ok {
		err = fmt.Errorf("the content does not have the content address %s", info.CA)
	}
	return err
}

// settle makes a received tree a valid object, unless somebody else was faster. It gives
// what is known of an object that was not valid before.
func (s *Store) settle(ctx context.Context, t *received, object Registration, replace bool) (fresh *nix.PathInfo, err error) {
	moved := false
	defer func() {
		if !moved {
			err = errors.Join(err, t.discard())
		}
	}()
	locks, err := s.LockPaths(ctx, []nix.StorePath{object.Info.Path}, nil)
	if err != nil {
		return nil, err
	}
	defer locks.Release()
	valid, err := s.isValid(ctx, object.Info.Path)
	if err != nil || valid && !replace {
		return nil, err
	}
	if err := s.place(ctx, t.dir, t.name, object.Info.Path); err != nil {
		return nil, err
	}
	moved = true
	t.room.leave()
	object.Info.NARSize = t.narSize
	if object.Info.RegistrationTime.IsZero() {
		object.Info.RegistrationTime = time.Unix(time.Now().Unix(), 0) // as the database keeps it
	}
	err = s.Register(ctx, []Registration{object})
	switch {
	case valid:
		return nil, err
	case err != nil:
		// What is not valid is not to be seen.
		return nil, errors.Join(err, s.removeBelow(s.RealPath(object.Info.Path), rmtree.RemoveAt))
	}
	return &object.Info, nil
}

// AddText adds a file with the given content, whose path follows from the
// content, the name and the references. The references must be valid. Adding the
// same again does nothing. A file that is named like a derivation must be one, and
// state the output paths that it has.
func (s *Store) AddText(ctx context.Context, name string, content []byte, references []nix.StorePath) (nix.StorePath, error) {
	p, err := s.addText(ctx, name, content, references, nil)
	if err != nil {
		return "", fmt.Errorf("add '%s': %w", name, err)
	}
	return p, nil
}

// AddDerivation adds a derivation as a file and gives its path. Its output paths
// must be the right ones (Hasher), and its inputs must be valid.
func (s *Store) AddDerivation(ctx context.Context, drv *nix.Derivation) (nix.StorePath, error) {
	p, err := s.addDerivation(ctx, drv)
	if err != nil {
		return "", fmt.Errorf("add derivation '%s': %w", drv.Name, err)
	}
	return p, nil
}

func (s *Store) addDerivation(ctx context.Context, drv *nix.Derivation) (nix.StorePath, error) {
	p, references, text, err := aterm.DerivationPath(s.opts.StoreDir, drv)
	if err != nil {
		return "", err
	}
	if err := s.hasher.CheckInvariants(ctx, p, drv); err != nil {
		return "", err
	}
	return s.addText(ctx, p.Name(), text, references, outputPaths(drv))
}

func (s *Store) addText(ctx context.Context, name string, content []byte, references []nix.StorePath,
	outputs map[nix.OutputName]nix.StorePath) (nix.StorePath, error) {
	if err := s.changes(); err != nil {
		return "", err
	}
	info := nix.PathInfo{
		References: slices.Compact(slices.Sorted(slices.Values(references))),
		CA:         nix.ContentAddress{Method: nix.Text, Hash: nix.HashBytes(nix.SHA256, content)},
	}
	var err error
	info.Path, err = nix.MakeContentAddressedPath(s.opts.StoreDir, name, info.CA, nix.References{Others: info.References})
	if err != nil {
		return "", err
	}
	if err := s.roots.add(ctx, []nix.StorePath{info.Path}); err != nil {
		return "", err
	}
	if valid, err := s.isValid(ctx, info.Path); err != nil || valid {
		return info.Path, err
	}
	archive, err := archiveOf(content)
	if err != nil {
		return "", err
	}
	t, err := s.receive(ctx, bytes.NewReader(archive))
	if err != nil {
		return "", err
	}
	info.NARHash = t.narHash
	_, err = s.settle(ctx, t, Registration{Info: info, Outputs: outputs}, false)
	return info.Path, err
}

// AddTree copies a file tree of this machine into the store, as an object whose
// path follows from its content, and gives that path. By the methods Flat and
// Text, path must be or lead to a regular file. The object has no references.
func (s *Store) AddTree(ctx context.Context, name, path string, method nix.ContentAddressMethod, algo nix.HashAlgorithm) (nix.StorePath, error) {
	p, err := s.addTree(ctx, name, path, method, algo)
	if err != nil {
		return "", fmt.Errorf("add '%s': %w", path, err)
	}
	return p, nil
}

func (s *Store) addTree(ctx context.Context, name, path string, method nix.ContentAddressMethod, algo nix.HashAlgorithm) (nix.StorePath, error) {
	if err := s.changes(); err != nil {
		return "", err
	}
	if err := nix.CheckName(name); err != nil {
		return "", err
	}
	if method == nix.Text && algo != nix.SHA256 {
		return "", errors.New("text is hashed with sha256 only")
	}
	sum := algo.New()
	var t *received
	var err error
	switch method {
	case nix.Recursive:
		t, err = s.produce(ctx, func(w io.Writer) error {
			_, err := nar.Dump(w, path, nar.DumpOptions{})
			return err
		}, sum)
	case nix.Flat, nix.Text:
		t, err = s.produce(ctx, func(w io.Writer) error { return writeFile(w, path, sum) })
	default:
		err = fmt.Errorf("hashing by the method '%s' is not supported", method)
	}
	if err != nil {
		return "", err
	}
	info, err := s.settleContent(ctx, t, name, nix.ContentAddress{Method: method, Hash: nix.SumHash(algo, sum)}, nil)
	if err != nil {
		return "", err
	}
	return info.Path, nil
}

// writeFile writes the archive of a file's content, and the content to sum.
func writeFile(w io.Writer, path string, sum io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("'%s' is not a regular file", path)
	}
	return writeArchive(w, io.TeeReader(f, sum), info.Size())
}
