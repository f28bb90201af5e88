package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/kilnbuild/kiln/internal/bufpipe"
	"github.com/kilnbuild/kiln/internal/spool"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/githash"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// addToStore adds an object whose path is known when its content is.
func (s *session) addToStore(ctx context.Context, r *worker.AddToStore, b *body) (reply, error) {
	if err := s.mayAdd(r); err != nil {
		return nil, err
	}
	framed := s.d.Framed(r)
	st, ok := s.store.(ContentAdder)
	if ok && framed {
		info, err := st.AddContent(ctx, r, b)
		return s.added(info), err
	}
	keep := &spool.Spool{Dir: s.cfg.TempDir, Limit: s.cfg.Limits.Dump}
	defer keep.Close()
	var err error
	switch isFile := r.Method == nix.Flat || r.Method == nix.Text; {
	case framed && isFile:
		_, err = io.Copy(keep, b)
	case isFile:
		err = copyFile(keep, b)
	default:
		// Behind a framed archive nothing is lost: what is left is drained.
		archive := io.Reader(b)
		if framed {
			archive = wire.NewReader(b, wire.Limits{})
		}
		_, err = nar.CopyArchive(keep, archive, nar.Limits{})
	}
	if err != nil {
		return nil, fmt.Errorf("add '%s': %w", r.Name, err)
	}
	if a, ok := b.Reader.(*inlineArchive); ok {
		a.whole = true
	}
	if ok {
		info, err := st.AddContent(ctx, r, keep.Reader())
		return s.added(info), err
	}
	return s.addSpooled(ctx, r, keep)
}

func (s *session) addTextToStore(ctx context.Context, r *worker.AddTextToStore) (reply, error) {
	add := textObject(r)
	if err := s.mayAdd(add); err != nil {
		return nil, err
	}
	keep := &spool.Spool{Dir: s.cfg.TempDir, Limit: s.cfg.Limits.Dump}
	defer keep.Close()
	if _, err := keep.Write(r.Content); err != nil {
		return nil, fmt.Errorf("add '%s': %w", r.Name, err)
	}
	if st, ok := s.store.(ContentAdder); ok {
		info, err := st.AddContent(ctx, add, keep.Reader())
		return s.added(info), err
	}
	return s.addSpooled(ctx, add, keep)
}

// mayAdd refuses what cannot be added before it is read.
func (s *session) mayAdd(r *worker.AddToStore) error {
	if r.Repair && !s.trusted() {
		return errors.New("repairing is not allowed because you are not in 'trusted-users'")
	}
	any := nix.NewHash(r.Algorithm, make([]byte, r.Algorithm.Size()))
	_, err := nix.MakeContentAddressedPath(s.dir, r.Name, nix.ContentAddress{Method: r.Method, Hash: any}, nix.References{Others: r.References})
	return err
}

// added replies with what is known of an object, or with its path to old clients.
func (s *session) added(info *nix.PathInfo) reply {
	return func(e *worker.Encoder) error {
		if e.Version.Minor() >= 25 {
			e.PathInfo(info)
		} else {
			e.StorePath(info.Path)
		}
		return nil
	}
}

// copyFile takes the content of a file from its archive.
func copyFile(w io.Writer, archive io.Reader) error {
	r := nar.NewReader(archive, nar.Limits{})
	h, err := r.Next()
	if err != nil {
		return err
	}
	if h.Type != nar.Regular {
		return errors.New("it is not a file, and shall be added as one")
	}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	if _, err := r.Next(); err != io.EOF {
		return err
	}
	return nil
}

// writeFile makes the archive of a file.
func writeFile(w io.Writer, content io.Reader, size int64) error {
	out := nar.NewWriter(w, nar.Limits{})
	if err := out.WriteHeader(nar.Header{Type: nar.Regular, Size: size}); err != nil {
		return err
	}
	if _, err := io.Copy(out, content); err != nil {
		return err
	}
	return out.Close()
}

// addSpooled adds what is kept: a file for the methods Flat and Text, else an
// archive.
func (s *session) addSpooled(ctx context.Context, r *worker.AddToStore, keep *spool.Spool) (reply, error) {
	archive := func(w io.Writer) error {
		_, err := io.Copy(w, keep.Reader())
		return err
	}
	if r.Method == nix.Flat || r.Method == nix.Text {
		archive = func(w io.Writer) error { return writeFile(w, keep.Reader(), keep.Size()) }
	}
	info, err := s.describe(r, keep, archive)
	if err != nil {
		return nil, fmt.Errorf("add '%s': %w", r.Name, err)
	}
	pr, pw := bufpipe.New()
	written := make(chan struct{})
	go func() {
		defer close(written)
		pw.CloseWithError(archive(pw))
	}()
	err = s.store.Add(ctx, info, bufio.NewReader(pr), store.AddOptions{Repair: r.Repair})
	pr.Close()
	<-written
	if err != nil {
		return nil, err
	}
	if info, err = s.store.PathInfo(ctx, info.Path); err != nil {
		return nil, err
	}
	return s.added(info), nil
}

// describe computes what there is to know of an object from its content.
func (s *session) describe(r *worker.AddToStore, keep *spool.Spool, archive func(io.Writer) error) (*nix.PathInfo, error) {
	running, counted := nix.SHA256.New(), &counter{}
	if err := archive(io.MultiWriter(running, counted)); err != nil {
		return nil, err
	}
	info := &nix.PathInfo{NARHash: nix.SumHash(nix.SHA256, running), NARSize: counted.n, References: r.References}
	info.CA.Method = r.Method
	switch {
	case r.Method == nix.Git:
		var err error
		if info.CA.Hash, err = githash.Sum(bufio.NewReader(keep.Reader()), r.Algorithm, nar.Limits{}); err != nil {
			return nil, err
		}
	case r.Method == nix.Recursive && r.Algorithm == nix.SHA256:
		info.CA.Hash = info.NARHash
	default:
		running := r.Algorithm.New()
		if _, err := io.Copy(running, keep.Reader()); err != nil {
			return nil, err
		}
		info.CA.Hash = nix.SumHash(r.Algorithm, running)
	}
	var err error
	info.Path, err = nix.MakeContentAddressedPath(s.dir, r.Name, info.CA, nix.References{Others: slices.Clone(r.References)})
	return info, err
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
