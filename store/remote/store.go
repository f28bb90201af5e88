package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A Store is a store behind a daemon, and a nix.Builder. It is safe for concurrent
// use.
type Store struct {
	connections
	opts   Options
	hasher *aterm.Hasher

	rootsMu sync.Mutex
	roots   *conn // keeps temporary roots, nil if there are none
	rooted  map[nix.StorePath]bool
}

// Open makes a Store. Connections are opened when they are needed; the caller closes
// the Store.
func Open(opts Options) (*Store, error) {
	if opts.Dial == nil {
		return nil, errors.New("open store: nobody says how to connect to the daemon")
	}
	opts.Dir = cmp.Or(opts.Dir, nix.DefaultStoreDir)
	opts.Name = cmp.Or(opts.Name, "the daemon")
	opts.Version = cmp.Or(opts.Version, worker.Newest)
	if opts.MaxConnections <= 0 {
		opts.MaxConnections = DefaultConnections
	}
	if opts.Settings == nil {
		opts.Settings = DefaultSettings()
	}
	s := &Store{opts: opts}
	s.connections = connections{name: opts.Name, age: opts.MaxConnectionAge, pool: newPool(opts.MaxConnections), greet: s.greetDaemon}
	s.hasher = aterm.NewHasher(opts.Dir, s.derivation, aterm.HasherOptions{})
	return s, nil
}

// Close closes the connections. Requests under way are not waited for.
func (s *Store) Close() error {
	s.rootsMu.Lock()
	defer s.rootsMu.Unlock()
	err := s.pool.close()
	if s.roots != nil {
		err = errors.Join(err, s.roots.raw.Close())
		s.roots = nil
	}
	return err
}

// Dir implements store.Store.
func (s *Store) Dir() nix.StoreDir { return s.opts.Dir }

// Name is what the daemon is called.
func (s *Store) Name() string { return s.opts.Name }

// Ping connects to the daemon, and gives what it says of itself.
func (s *Store) Ping(ctx context.Context) (worker.Server, error) {
	var server worker.Server
	err := s.with(ctx, func(c *conn) error {
		server = c.server
		return nil
	})
	return server, err
}

// call sends a request without a body, and has read read the reply.
func (s *Store) call(ctx context.Context, r worker.Request, read func(*worker.Decoder)) error {
	err := s.with(ctx, func(c *conn) error {
		if err := c.ask(r, s.listener()); err != nil {
			return err
		}
		read(c.d)
		return c.d.Err()
	})
	if err != nil {
		return fmt.Errorf("%v in %s: %w", r.Op(), s.opts.Name, err)
	}
	return nil
}

// done reads the reply of requests that have nothing to tell.
func done(d *worker.Decoder) { d.Uint64() }

// PathInfo implements store.Source.
func (s *Store) PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	infos, err := s.PathInfos(ctx, []nix.StorePath{p})
	if err != nil {
		return nil, err
	}
	return infos[0], nil
}

// PathInfos implements store.InfoSource.
func (s *Store) PathInfos(ctx context.Context, paths []nix.StorePath) ([]*nix.PathInfo, error) {
	infos := make([]*nix.PathInfo, len(paths))
	if len(paths) == 0 {
		return infos, nil
	}
	err := s.with(ctx, func(c *conn) error {
		request := func(i int) worker.Request {
			return &worker.PathRequest{Operation: worker.OpQueryPathInfo, Path: paths[i]}
		}
		return c.pipeline(len(paths), s.listener(), request, func(i int) error {
			if c.d.Bool() {
				infos[i] = c.d.UnkeyedPathInfo(paths[i])
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("query path info in %s: %w", s.opts.Name, err)
	}
	for i, info := range infos {
		if info == nil {
			return nil, s.notFound(paths[i])
		}
	}
	return infos, nil
}

// NAR implements store.Source.
func (s *Store) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	// What is not valid, is told where the archive should be: that is the end of a
	// connection.
	valid, err := s.ValidPaths(ctx, []nix.StorePath{p})
	switch {
	case err != nil:
		return fmt.Errorf("read '%s' from %s: %w", s.opts.Dir.Join(p), s.opts.Name, err)
	case len(valid) == 0:
		return s.notFound(p)
	}
	return s.KnownNAR(ctx, &nix.PathInfo{Path: p}, w)
}

// KnownNAR implements store.KnownSource.
func (s *Store) KnownNAR(ctx context.Context, info *nix.PathInfo, w io.Writer) error {
	err := s.with(ctx, func(c *conn) error {
		if err := c.ask(&worker.PathRequest{Operation: worker.OpNarFromPath, Path: info.Path}, s.listener()); err != nil {
			return err
		}
		_, err := nar.CopyArchive(w, c.d, nar.Limits{})
		return err
	})
	if err != nil {
		return fmt.Errorf("read '%s' from %s: %w", s.opts.Dir.Join(info.Path), s.opts.Name, err)
	}
	return nil
}

// ValidPaths implements store.BatchSource.
func (s *Store) ValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	return s.validPaths(ctx, paths, false)
}

// SubstituteValidPaths implements store.SubstitutingSource. Daemons before Nix 2.4
// fetch nothing.
func (s *Store) SubstituteValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	return s.validPaths(ctx, paths, true)
}

func (s *Store) validPaths(ctx context.Context, paths []nix.StorePath, substitute bool) ([]nix.StorePath, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	found := make(map[nix.StorePath]bool, len(paths))
	err := s.call(ctx, &worker.QueryValidPaths{Paths: paths, Substitute: substitute}, func(d *worker.Decoder) {
		for _, p := range d.PathSet() {
			found[p] = true
		}
	})
	var valid []nix.StorePath
	for _, p := range paths {
		if found[p] {
			valid = append(valid, p)
		}
	}
	return valid, err
}

// Referrers implements store.ReferrerSource.
func (s *Store) Referrers(ctx context.Context, p nix.StorePath) (paths []nix.StorePath, err error) {
	err = s.call(ctx, &worker.PathRequest{Operation: worker.OpQueryReferrers, Path: p}, func(d *worker.Decoder) { paths = d.PathSet() })
	return paths, err
}

// Missing tells what would be done for derived paths.
func (s *Store) Missing(ctx context.Context, paths []nix.DerivedPath) (m *worker.Missing, err error) {
	err = s.call(ctx, &worker.QueryMissing{Paths: paths}, func(d *worker.Decoder) { m = d.Missing() })
	return m, err
}

// AddSignatures adds to the signatures of a valid object.
func (s *Store) AddSignatures(ctx context.Context, p nix.StorePath, signatures []string) error {
	return s.call(ctx, &worker.AddSignatures{Path: p, Signatures: signatures}, done)
}

// AddIndirectRoot makes a symbolic link on the daemon's machine a root: what it
// points to is kept. link is an absolute path.
func (s *Store) AddIndirectRoot(ctx context.Context, link string) error {
	return s.call(ctx, &worker.AddIndirectRoot{Link: link}, done)
}

// AddTempRoot implements store.TempRooter. The roots live as long as a connection,
// which is kept for nothing else; if it breaks, another one takes them over the next
// time that there is something to add.
func (s *Store) AddTempRoot(ctx context.Context, paths ...nix.StorePath) error {
	if len(paths) == 0 {
		return nil
	}
	s.rootsMu.Lock()
	defer s.rootsMu.Unlock()
	fresh := paths
	if s.roots != nil && !alive(s.roots.raw) {
		s.roots.raw.Close()
		s.roots = nil
	}
	if s.roots == nil {
		c, err := s.dial(ctx)
		if err != nil {
			return err
		}
		s.roots = c
		for p := range s.rooted {
			fresh = append(fresh[:len(fresh):len(fresh)], p)
		}
	}
	err := s.use(ctx, s.roots, func(c *conn) error {
		request := func(i int) worker.Request {
			return &worker.PathRequest{Operation: worker.OpAddTempRoot, Path: fresh[i]}
		}
		return c.pipeline(len(fresh), s.listener(), request, func(int) error { done(c.d); return nil })
	}, func(c *conn) {
		if c.bad || c.d.Err() != nil || c.e.Err() != nil {
			c.raw.Close()
			s.roots = nil
		}
	})
	if err != nil {
		return fmt.Errorf("add temporary roots in %s: %w", s.opts.Name, err)
	}
	if s.rooted == nil {
		s.rooted = make(map[nix.StorePath]bool)
	}
	for _, p := range paths {
		s.rooted[p] = true
	}
	return nil
}
