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
	store      *local.Store // its lease
	settings   atomic.Pointer[conf.Settings]
	builder    nix.Builder
	done       func() // of the builder
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
	g, err := s.generations.use(ctx)
	if err != nil {
		// The client is told why, and the next one may have more luck.
		return daemon.Serve(ctx, conn, daemon.Config{Store: nowhere{s.cfg.StoreDir}, Refusal: err, NixVersion: s.cfg.NixVersion})
	}
	defer s.generations.letGo(g)
	if err := g.Store().Prepare(client.User, int(client.UID)); err != nil {
		s.log("warning: %v", err)
	}
	c := &connection{client: client, generation: g}
	keys := &trustedKeys{dir: g.Store().Dir(), current: c.settings.Load, readFile: os.ReadFile}
	c.store = g.Store().Lease(keys.object)
	defer func() {
		if cerr := c.store.Close(); cerr != nil && err == nil && !g.Store().Replaced() {
			err = fmt.Errorf("release what a client had: %w", cerr)
		}
	}()
	if err := c.use(g.settings, false); err != nil {
		return daemon.Serve(ctx, conn, daemon.Config{Store: nowhere{s.cfg.StoreDir}, Refusal: err, NixVersion: s.cfg.NixVersion})
	}
	defer func() { c.done() }()
	return daemon.Serve(ctx, conn, daemon.Config{
		Store: c.view(keys), Builder: c.builder, Trust: client.Trust, SetOptions: c.setOptions,
		NixVersion: s.cfg.NixVersion, Drain: s.drain, TempDir: s.cfg.TempDir, Limits: s.cfg.Limits,
	})
}

// view is the store as the client sees it.
func (c *connection) view(keys *trustedKeys) viewed {
	st := clientStore{Store: c.store, keys: keys, builder: c.current}
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
