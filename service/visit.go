package service

import (
	"context"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// A Visit is what somebody has of the daemon who speaks another protocol than Nix's: a
// lease of the store and a builder, by the daemon's own settings. It is safe for
// concurrent use, and is to be left.
type Visit struct {
	server *Server
	c      *connection
}

// Visit begins a visit to the latest generation.
func (s *Server) Visit(ctx context.Context) (*Visit, error) {
	c, err := s.attach(ctx, Client{}, true)
	if err != nil {
		return nil, err
	}
	return &Visit{s, c}, nil
}

// Store is the lease: what is added and built by it stays until the visit is over.
func (v *Visit) Store() *local.Store { return v.c.store }

// Builder builds for those who see logs while they are written.
func (v *Visit) Builder() nix.Builder { return v.c.builder }

// Current tells whether another visit would be to the same generation.
func (v *Visit) Current() bool { return v.server.generations.isCurrent(v.c.generation) }

// Leave ends the visit. What the builder still does goes on with what it has.
func (v *Visit) Leave() error { return v.c.leave(nil) }
