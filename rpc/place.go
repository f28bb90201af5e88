package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"google.golang.org/grpc/stats"
)

// A Place is where requests are carried out: a lease of a store, and what builds with it.
// Implementations are safe for concurrent use.
type Place interface {
	// Store keeps what is added and built in this place until it is left.
	Store() Store
	// Builder builds. If it is a nix.Sandboxes as well, those can be entered.
	Builder() nix.Builder
	// Current tells whether what begins now is still to be done here. If not, another
	// place is entered for it.
	Current() bool
	Leave() error
}

// A stay is a place with those who are in it, connections and builds. The last one leaves
// the place. Many share one, since each has a file of temporary roots; but only for a time,
// since those go only together.
type stay struct {
	Place
	server  *Server
	entered time.Time
	users   int // guarded by server.staying
}

// stayTime is for how long a place is entered. What a client has brought is kept for as
// long, at least, while it is connected.
const stayTime = time.Hour

// enter gives a place to one user, who leaves it.
func (s *Server) enter(ctx context.Context) (*stay, error) {
	s.staying.Lock()
	defer s.staying.Unlock()
	if s.stay == nil || !s.stay.fresh() {
		p, err := s.cfg.Enter(ctx)
		if err != nil {
			return nil, fmt.Errorf("open the store: %w", err)
		}
		s.stay = &stay{Place: p, server: s, entered: time.Now()}
	}
	s.stay.users++
	return s.stay, nil
}

// fresh tells whether what begins now is to be done here.
func (s *stay) fresh() bool { return time.Since(s.entered) < stayTime && s.Current() }

// join adds a user. The caller is one.
func (s *stay) join() {
	s.server.staying.Lock()
	defer s.server.staying.Unlock()
	s.users++
}

func (s *stay) leave() {
	s.server.staying.Lock()
	defer s.server.staying.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	if s.server.stay == s {
		s.server.stay = nil
	}
	if err := s.Leave(); err != nil {
		s.server.cfg.Warn(err)
	}
}

// A guest is a connection with its place, which has what the client has brought and is
// about to use, and the one before.
type guest struct {
	mu           sync.Mutex
	gone         bool
	stay, before *stay // nil until something is asked of the store
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
	if g.stay == nil || !g.stay.fresh() {
		next, err := s.enter(ctx)
		if err != nil || g.gone {
			return next, err
		}
		if g.before != nil {
			g.before.leave()
		}
		g.before, g.stay = g.stay, next
	}
	g.stay.join()
	return g.stay, nil
}

func (g *guest) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	for _, s := range []*stay{g.stay, g.before} {
		if s != nil {
			s.leave()
		}
	}
	g.stay, g.before = nil, nil
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
