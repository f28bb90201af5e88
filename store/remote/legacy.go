package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/serve"
)

// LegacyOptions say which server is meant, and how it is spoken to. Dial is required.
type LegacyOptions struct {
	// Dial opens a connection. Closing it must unblock its Read and Write.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
	// Name is what errors call the server, as "ssh://host".
	Name string
	// Dir is the store directory; "" stands for nix.DefaultStoreDir. The server does
	// not say which it has.
	Dir nix.StoreDir
	// MaxConnections is how many there are at most at a time; 0 stands for one.
	MaxConnections int
	// Version is the newest version of the protocol to speak; 0 stands for
	// serve.Newest.
	Version serve.Version
	// Limits bound the server's replies.
	Limits wire.Limits
}

// A Legacy is a store behind nix-store --serve, and a nix.Builder. The server believes
// its clients: signatures are not checked there. It is safe for concurrent use.
type Legacy struct {
	connections
	opts LegacyOptions
}

var (
	_ store.Store              = (*Legacy)(nil)
	_ store.BatchSource        = (*Legacy)(nil)
	_ store.InfoSource         = (*Legacy)(nil)
	_ store.BatchSink          = (*Legacy)(nil)
	_ store.SubstitutingSource = (*Legacy)(nil)
	_ nix.Builder              = (*Legacy)(nil)
)

// OpenLegacy makes a Legacy. Connections are opened when they are needed; the caller
// closes it.
func OpenLegacy(opts LegacyOptions) (*Legacy, error) {
	if opts.Dial == nil {
		return nil, errors.New("open store: nobody says how to connect to the server")
	}
	opts.Dir = cmp.Or(opts.Dir, nix.DefaultStoreDir)
	opts.Name = cmp.Or(opts.Name, "the server")
	opts.Version = cmp.Or(opts.Version, serve.Newest)
	opts.MaxConnections = max(opts.MaxConnections, 1)
	s := &Legacy{opts: opts}
	s.connections = connections{name: opts.Name, pool: newPool(opts.MaxConnections), greet: s.greetServer}
	return s, nil
}

// Close closes the connections. Requests under way are not waited for.
func (s *Legacy) Close() error { return s.pool.close() }

// Dir implements store.Store.
func (s *Legacy) Dir() nix.StoreDir { return s.opts.Dir }

// Name is what the server is called.
func (s *Legacy) Name() string { return s.opts.Name }

// Ping connects to the server, and gives the version of the protocol that is spoken.
func (s *Legacy) Ping(ctx context.Context) (v serve.Version, err error) {
	err = s.with(ctx, func(c *conn) error {
		v = c.in.Version
		return nil
	})
	return v, err
}

func (s *Legacy) greetServer(ctx context.Context) (*conn, error) {
	raw, err := s.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	c := &conn{raw: raw, opened: time.Now(), in: serve.NewDecoder(raw, s.opts.Dir, s.opts.Limits), out: serve.NewEncoder(raw, s.opts.Dir)}
	c.d, c.e = c.in.Decoder, c.out.Encoder
	err = serve.Handshake(c.in, c.out, s.opts.Version)
	if err == nil && c.in.Version < serve.WithNarSize {
		err = fmt.Errorf("it speaks version %v of the protocol, and at least %v is needed: update Nix there", c.in.Version, serve.WithNarSize)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		return nil, c.explain(err)
	}
	return c, nil
}

// command sends a request without a body, and has read read the reply.
func (s *Legacy) command(ctx context.Context, r serve.Request, read func(*serve.Decoder) error) error {
	err := s.with(ctx, func(c *conn) error {
		serve.WriteRequest(c.out, r)
		if err := c.out.Flush(); err != nil {
			return err
		}
		c.in.Begin()
		if err := read(c.in); err != nil {
			return err
		}
		return c.in.Err()
	})
	if err != nil {
		return fmt.Errorf("%v in %s: %w", r.Command(), s.opts.Name, err)
	}
	return nil
}

// notFound is the error for an object that the store does not have.
func (s *Legacy) notFound(p nix.StorePath) error {
	return fmt.Errorf("path '%s' in %s: %w", s.opts.Dir.Join(p), s.opts.Name, store.ErrNotFound)
}

// PathInfo implements store.Source.
func (s *Legacy) PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	infos, err := s.PathInfos(ctx, []nix.StorePath{p})
	if err != nil {
		return nil, err
	}
	return infos[0], nil
}

// PathInfos implements store.InfoSource.
func (s *Legacy) PathInfos(ctx context.Context, paths []nix.StorePath) ([]*nix.PathInfo, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	found := make(map[nix.StorePath]*nix.PathInfo, len(paths))
	err := s.command(ctx, &serve.QueryPathInfos{Paths: paths}, func(d *serve.Decoder) error {
		for i := d.Info(); i != nil; i = d.Info() {
			if len(found) >= len(paths) {
				return errors.New("it tells of more objects than it was asked for")
			}
			found[i.Path] = i
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	infos := make([]*nix.PathInfo, len(paths))
	for i, p := range paths {
		if infos[i] = found[p]; infos[i] == nil {
			return nil, s.notFound(p)
		}
	}
	return infos, nil
}

// ValidPaths implements store.BatchSource.
func (s *Legacy) ValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	return s.validPaths(ctx, &serve.QueryValidPaths{Paths: paths})
}

// SubstituteValidPaths implements store.SubstitutingSource.
func (s *Legacy) SubstituteValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	return s.validPaths(ctx, &serve.QueryValidPaths{Paths: paths, Lock: true, Substitute: true})
}

func (s *Legacy) validPaths(ctx context.Context, r *serve.QueryValidPaths) (valid []nix.StorePath, err error) {
	if len(r.Paths) == 0 {
		return nil, nil
	}
	var found []nix.StorePath // sorted
	err = s.command(ctx, r, func(d *serve.Decoder) error {
		found = d.PathSet()
		return nil
	})
	for _, p := range r.Paths {
		if _, ok := slices.BinarySearch(found, p); ok {
			valid = append(valid, p)
		}
	}
	return valid, err
}

// NAR implements store.Source.
func (s *Legacy) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	begun := false
	err := s.command(ctx, &serve.DumpStorePath{Path: p}, func(d *serve.Decoder) error {
		if err := d.Wait(); err != nil {
			return err
		}
		begun = true
		_, err := nar.CopyArchive(w, d, nar.Limits{})
		return err
	})
	if err != nil && !begun && context.Cause(ctx) == nil {
		// The server has ended with no more than a sentence on its standard error.
		if valid, verr := s.ValidPaths(ctx, []nix.StorePath{p}); verr == nil && len(valid) == 0 {
			return s.notFound(p)
		}
	}
	if err != nil {
		return fmt.Errorf("read '%s': %w", s.opts.Dir.Join(p), err)
	}
	return nil
}
