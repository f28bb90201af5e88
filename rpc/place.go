package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"google.golang.org/grpc/stats"
)

// A Place is where requests are carried out: a lease of a store, and what builds with it.
// Implementations are safe for concurrent use.
type Place interface {
	// Store keeps what is added and built in this place until it is left.
	Store() Store
	Builder() nix.Builder
	// Current tells whether what begins now is still to be done here. If not, another
	// place is entered for it.
	Current() bool
	Leave() error
}

// A stay is a place with those who are in it. The last one leaves the place.
type stay struct {
	Place
	warn func(error)

	mu    sync.Mutex
	users int
}

// enter enters a place for one user.
func (s *Server) enter(ctx context.Context) (*stay, error) {
	p, err := s.cfg.Enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return &stay{Place: p, warn: s.cfg.Warn, users: 1}, nil
}

// join adds a user. The caller is one.
func (s *stay) join() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

func (s *stay) leave() {
	s.mu.Lock()
	s.users--
	last := s.users == 0
	s.mu.Unlock()
	if last {
		if err := s.Leave(); err != nil {
			s.warn(err)
		}
	}
}

// A guest is a connection with its place, which has what the client has brought and is
// about to use.
type guest struct {
	mu   sync.Mutex
	gone bool
	stay *stay // nil until something is asked of the store
}

type guestKey struct{}

// at gives the place of the connection that ctx belongs to. The caller leaves it.
func (s *Server) at(ctx context.Context) (*stay, error) {
	g, ok := ctx.Value(guestKey{}).(*guest)
	if !ok {
		return nil, errors.New("the request belongs to no connection")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stay == nil || !g.stay.Current() {
		fresh, err := s.enter(ctx)
		if err != nil || g.gone {
			return fresh, err
		}
		if g.stay != nil {
			g.stay.leave()
		}
		g.stay = fresh
	}
	g.stay.join()
	return g.stay, nil
}

func (g *guest) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	if g.stay != nil {
		g.stay.leave()
		g.stay = nil
	}
}

// guests see connections come and go.
type guests struct{}

var _ stats.Handler = guests{}

// TagConn implements stats.Handler.
func (guests) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, guestKey{}, &guest{})
}

// HandleConn implements stats.Handler.
func (guests) HandleConn(ctx context.Context, s stats.ConnStats) {
	if g, ok := ctx.Value(guestKey{}).(*guest); ok {
		if _, ok := s.(*stats.ConnEnd); ok {
			g.leave()
		}
	}
}

// TagRPC implements stats.Handler.
func (guests) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (guests) HandleRPC(context.Context, stats.RPCStats) {}
