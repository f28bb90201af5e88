package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/serve"
)

// Add implements store.Sink. The protocol has no way to repair an object, and servers
// check no signatures: both give an error that wraps errors.ErrUnsupported, the latter
// for objects that would need one.
func (s *Legacy) Add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	err := s.add(ctx, []*nix.PathInfo{info}, func(ctx context.Context, _ int, w io.Writer) error {
		_, err := nar.CopyArchive(w, until.Reader(ctx, archive), nar.Limits{})
		return err
	}, opts)
	if err != nil && context.Cause(ctx) == nil {
		err = s.missingReference(ctx, info, err)
	}
	if err != nil {
		return fmt.Errorf("add '%s' to %s: %w", s.opts.Dir.Join(info.Path), s.opts.Name, err)
	}
	return nil
}

// missingReference finds out whether what failed did so for want of a reference: the
// server has told nobody but people.
func (s *Legacy) missingReference(ctx context.Context, info *nix.PathInfo, failure error) error {
	refs := info.SelfReferences().Others
	valid, err := s.ValidPaths(ctx, refs)
	if err != nil || len(valid) == len(refs) {
		return failure
	}
	there := make(map[nix.StorePath]bool)
	for _, p := range valid {
		there[p] = true
	}
	for _, p := range refs {
		if !there[p] {
			return fmt.Errorf("%w; its reference: %w", failure, s.notFound(p))
		}
	}
	return failure
}

// AddMany implements store.BatchSink: an object is sent without waiting for what the
// server says of the one before.
func (s *Legacy) AddMany(ctx context.Context, infos []*nix.PathInfo, archive func(ctx context.Context, i int, w io.Writer) error, opts store.AddOptions) error {
	if err := s.add(ctx, infos, archive, opts); err != nil {
		return fmt.Errorf("add %d objects to %s: %w", len(infos), s.opts.Name, err)
	}
	return nil
}

func (s *Legacy) add(ctx context.Context, infos []*nix.PathInfo, archive func(ctx context.Context, i int, w io.Writer) error, opts store.AddOptions) error {
	if opts.Repair {
		return fmt.Errorf("the serve protocol has no way to repair an object: %w", errors.ErrUnsupported)
	}
	for _, info := range infos {
		switch {
		case info.NARHash.IsZero():
			return errors.New("the archive's SHA-256 hash is not given")
		case info.NARSize <= 0:
			return errors.New("the archive's size is not given")
		case opts.CheckSignatures && info.CA.IsZero():
			return fmt.Errorf("the server checks no signatures: %w", errors.ErrUnsupported)
		}
	}
	return s.with(ctx, func(c *conn) error {
		var gone atomic.Bool
		answer := make(chan error, 1)
		go func() {
			err := c.acknowledged(len(infos))
			gone.Store(err != nil)
			answer <- err
		}()
		sending := s.send(ctx, c, infos, archive, &gone)
		if sending != nil {
			// What was sent is not complete, and must not be taken for that.
			c.bad = true
			if !gone.Load() && !c.gone() {
				c.raw.Close()
			}
		}
		answered := <-answer
		if sending != nil && !errors.Is(sending, errRefused) && !c.gone() {
			return sending
		}
		return answered
	})
}

// acknowledged reads that objects were added.
func (c *conn) acknowledged(n int) error {
	for range n {
		c.in.Begin()
		if word := c.in.Uint64(); c.in.Err() == nil && word != 1 {
			c.in.Fail(fmt.Errorf("the server answers with %d, not with 1", word))
		}
		if err := c.in.Err(); err != nil {
			return err
		}
	}
	return nil
}

// send sends objects. gone tells that the server has ended.
func (s *Legacy) send(ctx context.Context, c *conn, infos []*nix.PathInfo, archive func(ctx context.Context, i int, w io.Writer) error, gone *atomic.Bool) error {
	for i, info := range infos {
		serve.WriteRequest(c.out, &serve.AddToStoreNar{Info: info})
		exact := &exactly{w: &refusable{c.out, gone}, left: info.NARSize}
		err := store.WriteContent(exact, s.opts.Dir, info, func(w io.Writer) error { return archive(ctx, i, w) })
		if err == nil && exact.left > 0 {
			err = fmt.Errorf("size mismatch: the archive is %d bytes shorter than %d", exact.left, info.NARSize)
		}
		if err != nil {
			return err
		}
	}
	return c.out.Flush()
}

// exactly fails when more is written to it than left.
type exactly struct {
	w    io.Writer
	left int64
}

func (e *exactly) Write(p []byte) (int, error) {
	if int64(len(p)) > e.left {
		return 0, errors.New("size mismatch: the archive is longer than it should be")
	}
	n, err := e.w.Write(p)
	e.left -= int64(n)
	return n, err
}
