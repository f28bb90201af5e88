package service

import (
	"context"
	"sync"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store/local"
)

// A Workshop is an open store with what builds into it. It is safe for concurrent use.
type Workshop interface {
	// Store is closed by Close.
	Store() *local.Store
	// Builder gives what builds by the settings of one client, with its lease of the
	// store. showsLogs says that the client shows logs while they are written. done is
	// called when the client has left.
	Builder(st *local.Store, s *conf.Settings, showsLogs bool) (b nix.Builder, done func(), err error)
	// Collector deletes garbage for a client, by the settings that it began with; nil if
	// nobody does.
	Collector(st *local.Store, s *conf.Settings) daemon.Collector
	Close() error
}

// A generation is a Workshop with the settings that it was opened by.
type generation struct {
	Workshop
	settings *conf.Settings
	users    int // guarded by generations.mu
}

// generations are the latest one, and those before it that still have users.
type generations struct {
	load func() (*conf.Settings, error)
	open func(context.Context, *conf.Settings) (Workshop, error)
	warn func(error)

	opening  sync.Mutex // one at a time
	mu       sync.Mutex
	settings *conf.Settings // of new connections
	latest   *generation
	closing  sync.WaitGroup
}

// present are the settings of new connections.
func (gs *generations) present() *conf.Settings {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.settings
}

// use gives the generation of a new connection, which has to let go of it.
func (gs *generations) use(ctx context.Context) (*generation, error) {
	gs.opening.Lock()
	defer gs.opening.Unlock()
	if g := gs.current(); g != nil {
		return g, nil
	}
	settings := gs.present()
	w, err := gs.open(ctx, settings)
	if err != nil {
		return nil, err
	}
	g := &generation{Workshop: w, settings: settings, users: 2} // its being the latest is a use
	gs.mu.Lock()
	old := gs.latest
	gs.latest = g
	gs.mu.Unlock()
	if old != nil {
		gs.letGo(old)
	}
	return g, nil
}

// current gives the latest generation if it is still right.
func (gs *generations) current() *generation {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.latest
	if g == nil || g.settings != gs.settings || g.Store().Replaced() {
		return nil
	}
	g.users++
	return g
}

// isCurrent tells whether new connections would use a generation.
func (gs *generations) isCurrent(g *generation) bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return g == gs.latest && g.settings == gs.settings && !g.Store().Replaced()
}

// reload reads nix.conf again, and has new connections begin another generation. When
// it cannot be read, everything stays as it was.
func (gs *generations) reload() error {
	settings, err := gs.load()
	if err != nil {
		return err
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.settings = settings
	return nil
}

// letGo ends a use. The last one closes the generation.
func (gs *generations) letGo(g *generation) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g.users--
	gone := g.Store().Replaced()
	if g.users == 1 && g == gs.latest && !gone { // nobody is connected
		if err := g.Store().Vacate(); err != nil {
			gs.warn(err)
		}
	}
	if g.users > 0 {
		return
	}
	gs.closing.Go(func() {
		// Of a store that was deleted there is nothing left to clean up.
		if err := g.Close(); err != nil && !gone {
			gs.warn(err)
		}
	})
}

// close lets go of the latest generation, and waits until all are closed. Nobody may
// use one any more.
func (gs *generations) close() {
	gs.mu.Lock()
	latest := gs.latest
	gs.latest = nil
	gs.mu.Unlock()
	if latest != nil {
		gs.letGo(latest)
	}
	gs.closing.Wait()
}
