package service

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A connection is what a client has of the daemon while it is connected.
type connection struct {
	client     Client
	generation *generation
	letGo      func()       // of the generation
	store      *local.Store // its lease
	keys       *trustedKeys
	settings   atomic.Pointer[conf.Settings]
	builder    nix.Builder
	done       func() // of the builder
	build      func(context.Context, Client, nix.Builder, *nix.BuildRequest) ([]nix.BuildResult, error)
}

// use gives the client a builder by other settings.
func (c *connection) use(s *conf.Settings, showsLogs bool) error {
	b, done, err := c.generation.Builder(c.store, s, showsLogs)
	if err != nil {
		return err
	}
	if c.done != nil {
		c.done()
	}
	c.settings.Store(s)
	c.builder, c.done = b, done
	return nil
}

func (c *connection) current() nix.Builder { return c.builder }

// serve speaks to a client until it leaves.
func (s *Server) serve(ctx context.Context, conn stream, client Client) (err error) {
	c, err := s.attach(ctx, client, false)
	if err != nil {
		// The client is told why, and the next one may have more luck.
		return daemon.Serve(ctx, conn, daemon.Config{Store: nowhere{s.cfg.StoreDir}, Refusal: err, NixVersion: s.cfg.NixVersion})
	}
	defer func() { err = c.leave(err) }()
	return daemon.Serve(ctx, conn, daemon.Config{
		Store: c.view(), Builder: c.serving(), Trust: client.Trust, SetOptions: c.setOptions,
		NixVersion: s.cfg.NixVersion, Drain: s.drain, TempDir: s.cfg.TempDir, Limits: s.cfg.Limits,
	})
}

// attach gives a client what it has of the daemon, until leave is called. showsLogs says
// that it shows logs while they are written.
func (s *Server) attach(ctx context.Context, client Client, showsLogs bool) (_ *connection, err error) {
	g, err := s.generations.use(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.Store().Prepare(client.User, int(client.UID)); err != nil {
		s.log("warning: %v", err)
	}
	c := &connection{client: client, generation: g, letGo: func() { s.generations.letGo(g) }, build: s.cfg.Build}
	c.keys = &trustedKeys{dir: g.Store().Dir(), current: c.settings.Load, readFile: os.ReadFile}
	c.store = g.Store().Lease(c.keys.object)
	if err := c.use(g.settings, showsLogs); err != nil {
		return nil, c.leave(err)
	}
	return c, nil
}

// leave gives back what a client had. Its error is err, unless that is nil.
func (c *connection) leave(err error) error {
	defer c.letGo()
	if c.done != nil {
		c.done()
	}
	if cerr := c.store.Close(); cerr != nil && err == nil && !c.generation.Store().Replaced() {
		err = fmt.Errorf("release what a client had: %w", cerr)
	}
	return err
}

// view is the store as the client sees it.
func (c *connection) view() viewed {
	st := clientStore{Store: c.store, keys: c.keys, builder: c.current, self: int(c.client.UID) == os.Geteuid()}
	if collector := c.generation.Collector(c.store, c.generation.settings); collector != nil {
		return collectedStore{st, collector}
	}
	return st
}

// refuse tells a client why it is not served.
func (s *Server) refuse(ctx context.Context, conn net.Conn, why error) {
	limits := s.cfg.Limits
	limits.Handshake = refusalTime
	_ = daemon.Serve(ctx, conn, daemon.Config{
		Store: nowhere{s.cfg.StoreDir}, Refusal: why, Trust: worker.NotTrusted, NixVersion: s.cfg.NixVersion, Limits: limits,
	})
}
