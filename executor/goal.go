package executor

import (
	"context"
	"errors"
	"sync"

	"github.com/kilnbuild/kiln/nix"
)

// goalKey is the identity of a goal: two requests with the same key share one.
type goalKey struct {
	kind goalKind
	path nix.StorePath
	mode nix.BuildMode
}

type goalKind uint8

const (
	buildGoal   goalKind = iota + 1 // make all outputs of the derivation path valid
	resolveGoal                     // find out what the inputs of the derivation path are
)

// outcome is what a goal ended with. Exactly one of result and err has
// something to say: err means that the outcome is not known.
type outcome struct {
	result nix.BuildResult
	err    error
	// resolved is what a resolveGoal that succeeded has found.
	resolved nix.StorePath
}

// goal is one piece of work under way, or done.
type goal struct {
	cancel  context.CancelCauseFunc
	waiters int           // guarded by goals.mu
	done    chan struct{} // closed when outcome is set
	outcome outcome
}

// errAbandoned is the cause that a goal's context ends with when nobody waits
// for it any more.
var errAbandoned = errors.New("nobody waits for this build any more")

// goals are the goals under way of one executor.
type goals struct {
	lifetime context.Context // ends when the executor is closed
	mu       sync.Mutex
	active   map[goalKey]*goal
	running  sync.WaitGroup
}

func newGoals(lifetime context.Context) *goals {
	return &goals{lifetime: lifetime, active: make(map[goalKey]*goal)}
}

// request is one call of Build. It remembers the goals that ended while it was
// under way, so that a derivation that failed is not tried again for another
// part of the same request.
type request struct {
	executor *Executor
	settings *Settings
	log      nix.LogSink
	mode     nix.BuildMode
	rounds   int
	basic    map[nix.StorePath]*nix.BasicDerivation

	closures *closures

	mu    sync.Mutex
	ended map[goalKey]outcome
}

// await waits for the goal of key, and starts it with start when there is none.
// When ctx ends first the wait is over; if it was the last one, the goal is
// cancelled and await returns only after it has cleaned up after itself.
func (r *request) await(ctx context.Context, key goalKey, start func(ctx context.Context) outcome) outcome {
	r.mu.Lock()
	known, ok := r.ended[key]
	r.mu.Unlock()
	if ok {
		return known
	}

	g := r.executor.goals.attach(key, start)
	select {
	case <-g.done:
	case <-ctx.Done():
		if r.executor.goals.detach(key, g, context.Cause(ctx)) {
			<-g.done
		}
		return outcome{err: context.Cause(ctx)}
	}
	r.mu.Lock()
	r.ended[key] = g.outcome
	r.mu.Unlock()
	return g.outcome
}

func (gs *goals) attach(key goalKey, start func(context.Context) outcome) *goal {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if g, ok := gs.active[key]; ok {
		g.waiters++
		return g
	}
	ctx, cancel := context.WithCancelCause(gs.lifetime)
	g := &goal{cancel: cancel, waiters: 1, done: make(chan struct{})}
	gs.active[key] = g
	gs.running.Add(1)
	go func() {
		defer gs.running.Done()
		defer cancel(nil)
		g.outcome = start(ctx)
		gs.mu.Lock()
		if gs.active[key] == g {
			delete(gs.active, key)
		}
		gs.mu.Unlock()
		close(g.done)
	}()
	return g
}

// detach gives up one wait for g. It tells whether that was the last one: the
// goal is then cancelled, and no longer found by others.
func (gs *goals) detach(key goalKey, g *goal, cause error) bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g.waiters--
	if g.waiters > 0 {
		return false
	}
	if gs.active[key] == g {
		delete(gs.active, key)
	}
	if cause == nil {
		cause = errAbandoned
	}
	g.cancel(cause)
	return true
}
