package binarycache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/nix/narinfo"
	"github.com/kilnbuild/kiln/store"
)

// Add implements store.Sink. The object is signed with the cache's keys.
func (c *Cache) Add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	err := c.add(ctx, info, archive, opts)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("add '%s' to '%s': %w", c.opts.Dir.Join(info.Path), c.name, err)
	}
	return nil
}

func (c *Cache) add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	if err := c.pack.check(); err != nil {
		return err
	}
	if _, err := nix.ParseStorePath(string(info.Path)); err != nil {
		return err
	}
	if info.NARHash.IsZero() || info.NARHash.Algorithm() != nix.SHA256 {
		return errors.New("the archive's SHA-256 hash is not given")
	}
	if opts.CheckSignatures && info.CA.IsZero() && !c.opts.Trusted.TrustedObject(c.opts.Dir, info) {
		return errors.New("it lacks a signature by a trusted key")
	}
	refs := info.SelfReferences().Others
	there, err := c.ValidPaths(ctx, append(slices.Clone(refs), info.Path))
	if err != nil {
		return err
	}
	for _, r := range refs {
		if !slices.Contains(there, r) {
			return fmt.Errorf("reference '%s': %w", c.opts.Dir.Join(r), store.ErrNotFound)
		}
	}
	archive = until.Reader(ctx, archive)
	if slices.Contains(there, info.Path) && !opts.Repair {
		_, err := nar.Skip(archive, limits)
		return err
	}
	spool, err := c.files.spool()
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	list, err := c.newLister()
	if err != nil {
		return errors.Join(fmt.Errorf("make a temporary file: %w", err), discard(spool))
	}
	i, err := c.describe(ctx, info, archive, spool, list)
	if list != nil {
		err = errors.Join(err, list.end(err))
	}
	if err == nil {
		err = c.files.put(ctx, i.URL, "application/x-nix-nar", spool, i.FileSize)
	} else {
		err = errors.Join(err, discard(spool))
	}
	if err != nil {
		if list != nil {
			err = errors.Join(err, discard(list.spool))
		}
		return err
	}
	if list != nil {
		if err := c.putListing(ctx, list, i); err != nil {
			return err
		}
	}
	if err := c.write(ctx, narinfoName(i.Path), "text/x-nix-narinfo", i.Append(nil, c.opts.Dir)); err != nil {
		return err
	}
	c.written(i)
	return nil
}

// describe checks an archive and writes it compressed to spool, and plain to list if that
// is not nil, and gives what is to be said of it.
func (c *Cache) describe(ctx context.Context, info *nix.PathInfo, archive io.Reader, spool io.Writer, list *lister) (*narinfo.Info, error) {
	ctx, cancel := context.WithCancel(ctx) // ends what compresses
	defer cancel()
	packed := &summed{w: spool, sum: nix.SHA256.New()}
	z, err := c.pack.writer(ctx, packed)
	if err != nil {
		return nil, err
	}
	plain := &summed{w: z, sum: nix.SHA256.New()}
	if list != nil {
		plain.w = io.MultiWriter(z, list)
	}
	err = store.WriteContent(plain, c.opts.Dir, info, func(w io.Writer) error {
		_, err := nar.CopyArchive(w, archive, limits)
		return err
	})
	if err != nil {
		cancel()
		z.Close()
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	switch got := nix.SumHash(nix.SHA256, plain.sum); {
	case got != info.NARHash:
		return nil, fmt.Errorf("the archive has the hash %s, not %s", got, info.NARHash)
	case info.NARSize != 0 && info.NARSize != plain.n:
		return nil, fmt.Errorf("the archive has %d bytes, not %d", plain.n, info.NARSize)
	}
	i := &narinfo.Info{PathInfo: *info, Compression: c.pack.method, FileHash: nix.SumHash(nix.SHA256, packed.sum), FileSize: packed.n}
	i.NARSize = plain.n
	i.References, i.Signatures = slices.Clone(info.References), slices.Clone(info.Signatures)
	for _, k := range c.opts.Keys {
		s, err := k.SignObject(c.opts.Dir, &i.PathInfo)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(i.Signatures, s) {
			i.Signatures = append(i.Signatures, s)
		}
	}
	i.Ultimate, i.RegistrationTime = false, time.Time{}
	i.URL = "nar/" + i.FileHash.Nix32() + ".nar" + extensions[i.Compression]
	return i, nil
}

// summed hashes and counts what is written through it.
type summed struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	return n, err
}

// discard removes a spool.
func discard(spool *os.File) error { return errors.Join(spool.Close(), os.Remove(spool.Name())) }

// AddSignatures adds to the signatures of an object.
func (c *Cache) AddSignatures(ctx context.Context, p nix.StorePath, signatures []string) error {
	known, err := c.info(ctx, p)
	if err != nil {
		return err
	}
	i := *known
	i.Signatures = slices.Clone(known.Signatures)
	for _, s := range signatures {
		if !slices.Contains(i.Signatures, s) {
			i.Signatures = append(i.Signatures, s)
		}
	}
	if err := c.write(ctx, narinfoName(p), "text/x-nix-narinfo", i.Append(nil, c.opts.Dir)); err != nil {
		return fmt.Errorf("add signatures of '%s' to '%s': %w", c.opts.Dir.Join(p), c.name, err)
	}
	c.written(&i)
	return nil
}
