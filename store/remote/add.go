package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/worker"
)

// Add implements store.Sink.
func (s *Store) Add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	err := s.add(ctx, info, archive, opts)
	if err != nil {
		return fmt.Errorf("add '%s' to %s: %w", s.opts.Dir.Join(info.Path), s.opts.Name, err)
	}
	return nil
}

func (s *Store) add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	if info.NARHash.IsZero() {
		return errors.New("the archive's SHA-256 hash is not given")
	}
	r := &worker.AddToStoreNar{Info: info, Repair: opts.Repair, DontCheckSigs: !opts.CheckSignatures}
	body := func(w io.Writer) error {
		// The end is sent after the content was found to be right, or never.
		return store.WriteContent(w, s.opts.Dir, info, func(w io.Writer) error {
			_, err := nar.CopyArchive(w, until.Reader(ctx, archive), nar.Limits{})
			return err
		})
	}
	return s.with(ctx, func(c *conn) error {
		if c.e.Framed(r) {
			return c.framed(r, s.listener(), body)
		}
		return c.asked(r, s.listener(), body)
	})
}

// asked sends a request whose body the daemon asks for piece by piece (before Nix
// 2.4), and reads what comes before the reply.
func (c *conn) asked(r worker.Request, l worker.Listener, body func(io.Writer) error) error {
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		buffered := bufio.NewWriterSize(pw, 64<<10)
		err := body(buffered)
		if err == nil {
			err = buffered.Flush()
		}
		written <- err
		pw.CloseWithError(err)
	}()
	l.Data = func(n int) ([]byte, error) {
		const piece = 64 << 10
		p := make([]byte, min(n, piece))
		n, err := pr.Read(p)
		if err == io.EOF {
			err = nil // which the daemon is told by nothing
		}
		return p[:n], err
	}
	err := c.ask(r, l)
	if err == nil {
		// The daemon need not have wanted it.
		_, err = io.Copy(io.Discard, pr)
		return errors.Join(err, <-written)
	}
	pr.CloseWithError(errRefused)
	if failed := <-written; failed != nil && !errors.Is(failed, errRefused) {
		c.bad = true // it waits for more
		return failed
	}
	return err
}

// AddMany implements store.BatchSink. Daemons before Nix 2.4 do not.
func (s *Store) AddMany(ctx context.Context, infos []*nix.PathInfo, archive func(ctx context.Context, i int, w io.Writer) error, opts store.AddOptions) error {
	const firstWith = 32 // the minor version
	old := false
	err := s.with(ctx, func(c *conn) error {
		if old = c.e.Version.Minor() < firstWith; old {
			return nil
		}
		r := &worker.AddMultipleToStore{Repair: opts.Repair, DontCheckSigs: !opts.CheckSignatures}
		return c.framed(r, s.listener(), func(w io.Writer) error {
			objects := worker.NewObjectWriter(w, s.opts.Dir, len(infos))
			for i, info := range infos {
				err := store.WriteContent(objects.Next(info), s.opts.Dir, info, func(w io.Writer) error { return archive(ctx, i, w) })
				if err != nil {
					return err
				}
			}
			return objects.Close()
		})
	})
	if old {
		err = fmt.Errorf("the daemon is too old to take many at a time: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("add %d objects to %s: %w", len(infos), s.opts.Name, err)
	}
	return nil
}

// AddContent adds an object whose path follows from its content: an archive, or with
// the methods Flat and Text the bytes of a file. It gives what the daemon knows of
// it. dump is read to its end.
func (s *Store) AddContent(ctx context.Context, o *worker.AddToStore, dump io.Reader) (*nix.PathInfo, error) {
	var info *nix.PathInfo
	old := false
	err := s.with(ctx, func(c *conn) error {
		if old = !c.e.Framed(o); old {
			return nil
		}
		err := c.framed(o, s.listener(), func(w io.Writer) error {
			_, err := io.Copy(w, until.Reader(ctx, dump))
			return err
		})
		if err == nil {
			info = c.d.PathInfo()
			err = c.d.Err()
		}
		return err
	})
	if err == nil && old {
		info, err = s.addOld(ctx, o, dump)
	}
	if err != nil {
		return nil, fmt.Errorf("add '%s' to %s: %w", o.Name, s.opts.Name, err)
	}
	return info, nil
}

// maxOldText bounds what is kept in memory for daemons before Nix 2.4, in bytes.
const maxOldText = 64 << 20

// addOld adds a text to daemons that know no other way to add one with references.
func (s *Store) addOld(ctx context.Context, o *worker.AddToStore, dump io.Reader) (*nix.PathInfo, error) {
	if o.Method != nix.Text {
		return nil, fmt.Errorf("the daemon is too old to add objects by the method '%s'", o.Method)
	}
	text, err := io.ReadAll(io.LimitReader(dump, maxOldText+1))
	if err == nil && len(text) > maxOldText {
		err = fmt.Errorf("it has more than %d bytes", maxOldText)
	}
	if err != nil {
		return nil, err
	}
	var p nix.StorePath
	r := &worker.AddTextToStore{Name: o.Name, Content: text, References: o.References}
	if err := s.call(ctx, r, func(d *worker.Decoder) { p = d.StorePath() }); err != nil {
		return nil, err
	}
	return s.PathInfo(ctx, p)
}
