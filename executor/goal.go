package executor

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
)

// goalKey is the identity of a goal: two requests with the same key share one.
type goalKey struct {
	kind goalKind
	path nix.StorePath
	// outputs say which outputs a goal is about, in one text.
	outputs string
	// from are the substituters of goals that fetch: others may have what these lack.
	from    *substitute.Set
	mode    nix.BuildMode
	network nix.NetworkPolicy
	// Builders with other limits may end otherwise. The locks of the outputs see to it
	// that what one has built is not built again.
	limits       nix.Limits
	minIsolation string
}

type goalKind uint8

const (
	wantGoal        goalKind = iota + 1 // make some outputs of the derivation path valid
	buildGoal                           // make all outputs of the derivation path valid
	resolveGoal                         // find out what the inputs of the derivation path are
	fetchGoal                           // make the object path valid by fetching it
	realisationGoal                     // find out what an output of the derivation path is, and fetch it
)

// outcome is what a goal ended with. Exactly one of result and err has
// something to say: err means that the outcome is not known.
type outcome struct {
	result nix.BuildResult
	err    error
	// resolved is what a resolveGoal that succeeded has found.
	resolved nix.StorePath
	// fetchFailed says that an object was not fetched although a substituter may have it.
	fetchFailed bool
	// failedAt is, of a derivation that failed because an input did, the one that failed
	// by itself.
	failedAt nix.StorePath
	// realised says which objects the outputs of an input are, after a wantGoal
	// that succeeded.
	realised realised
}

// work is what a goal does. It has a place until it returns.
type work func(ctx context.Context, p *place) outcome

// goal is one piece of work that waits for its turn, is under way, or is done.
type goal struct {
	key     goalKey
	request *request                // that has begun it
	work    work                    // nil once it has begun, or is not wanted any more
	seen    uint64                  // the latest search that came here, guarded by goals.mu
	cancel  context.CancelCauseFunc // nil until it has begun
	waiters []waiter                // guarded by goals.mu
	outcome outcome                 // set before done is closed
	done    chan struct{}
}

// A waiter is told of the end of a goal by the number that it has given to it.
type waiter struct {
	ended chan<- int
	i     int
	by    *goal // that waits, or whose builder does; nil for somebody else
}

// errAbandoned is the cause that a goal's context ends with when nobody waits
// for it any more.
var errAbandoned = errors.New("nobody waits for this build any more")

// goals are the goals of one executor.
type goals struct {
	lifetime context.Context // ends when the executor is closed
	mu       sync.Mutex
	active   map[goalKey]*goal
	nested   int // requests that builders have made, at the moment
	searches uint64
	running  sync.WaitGroup
}

func newGoals(lifetime context.Context) *goals {
	return &goals{lifetime: lifetime, active: make(map[goalKey]*goal)}
}

// request is one call of Build. It remembers the goals that ended while it was
// under way, so that a derivation that failed is not tried again for another
// part of the same request.
type request struct {
	*View
	settings     *Settings
	hold         hold
	log          nix.LogSink
	mode         nix.BuildMode
	rounds       int
	basic        map[nix.StorePath]*nix.BasicDerivation
	network      nix.NetworkPolicy
	minIsolation string
	keepSandbox  bool
	limits       nix.Limits
	outer        *goal // whose builder has made the request, if any has

	closures *closures

	mu    sync.Mutex
	ended map[goalKey]*outcome
}

// A want is a goal that a request, or another goal, waits for.
type want struct {
	key  goalKey
	work work
}

// await waits for one goal; see awaitAll.
func (r *request) await(ctx context.Context, p *place, w want) (out outcome) {
	r.awaitAll(ctx, p, []want{w}, func(_ int, got *outcome) { out = *got })
	return out
}

// awaitAll waits for goals, and starts those that nobody else waits for. It calls
// each with every one of them as it ends, from its own goroutine. When ctx ends
// first the wait is over; goals that nobody waits for then are cancelled, and
// awaitAll returns only after they have cleaned up after themselves. The place of
// the caller, if it has one, is somebody else's meanwhile.
func (r *request) awaitAll(ctx context.Context, p *place, wants []want, each func(i int, out *outcome)) {
	gs, by := r.executor.goals, r.outer
	if p != nil {
		by = p.goal
	}
	ended := make(chan int, len(wants))
	waiting := make([]*goal, len(wants))
	left := 0
	fresh := make(map[*places][]start)
	for _, i := range inOrder(wants) {
		w := wants[i]
		if known := r.known(w.key); known != nil {
			each(i, known)
			continue
		}
		g, isNew := gs.attach(r, w.key, waiter{ended, i, by}, w.work)
		if g == nil {
			each(i, r.circular(w.key))
			continue
		}
		if isNew {
			where := r.placesOf(w.key)
			fresh[where] = append(fresh[where], start{g, func(p *place) { gs.carryOut(g, p) }})
		}
		waiting[i] = g
		left++
	}
	for where, starts := range fresh {
		where.begin(starts...)
	}
	if left == 0 {
		return
	}
	p.leave()
	defer p.comeBack(ctx)
	for ; left > 0; left-- {
		select {
		case i := <-ended:
			g := waiting[i]
			waiting[i] = nil
			r.remember(g)
			each(i, &g.outcome)
		case <-ctx.Done():
			r.leaveAll(ctx, waiting, waiter{ended: ended, by: by}, each)
			return
		}
	}
}

// placesOf are the places in which a goal is worked on.
func (r *request) placesOf(key goalKey) *places {
	if key.kind == fetchGoal || key.kind == realisationGoal {
		return r.fetchPlaces
	}
	return r.places
}

// inOrder gives the numbers of wants in the order in which they are to be worked on.
func inOrder(wants []want) []int {
	order := make([]int, len(wants))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return comesBefore(wants[a].key, wants[b].key) })
	return order
}

// leaveAll gives up the waits for goals.
func (r *request) leaveAll(ctx context.Context, waiting []*goal, as waiter, each func(i int, out *outcome)) {
	cause := context.Cause(ctx)
	var last []*goal
	for i, g := range waiting {
		if g == nil {
			continue
		}
		as.i = i
		if r.executor.goals.detach(g, as, cause) {
			last = append(last, g)
		}
		each(i, &outcome{err: cause})
	}
	for _, g := range last {
		<-g.done
	}
}

// known is the outcome of a goal that has ended for this request before.
func (r *request) known(key goalKey) *outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended[key]
}

func (r *request) remember(g *goal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[g.key] = &g.outcome
}

// circular is the outcome of a wait that would never end.
func (r *request) circular(key goalKey) *outcome {
	out := failure(nix.BuildErrorf(nix.StatusMiscFailure,
		"'%s' cannot be built for a builder that it waits for itself", r.print(key.path)))
	if key.kind == fetchGoal {
		out = failure(nix.BuildErrorf(nix.StatusMiscFailure, "substituters say that '%s' refers to what refers to it", r.print(key.path)))
		out.fetchFailed = true
	}
	return &out
}

// needs tells whether a goal, or what waits for it, is what another one waits for.
// The caller holds gs.mu.
func (gs *goals) needs(other, g *goal) bool {
	gs.searches++
	g.seen = gs.searches
	for todo := []*goal{g}; len(todo) > 0; {
		g := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if g == other {
			return true
		}
		for _, w := range g.waiters {
			if w.by != nil && w.by.seen != gs.searches {
				w.by.seen = gs.searches
				todo = append(todo, w.by)
			}
		}
	}
	return false
}

// attach adds a wait for the goal of key. If that is a new one, the caller has it carried
// out when there is a place. It gives nil where that goal waits for the waiter: builders
// can ask for what needs them, and caches can say that objects refer to each other.
func (gs *goals) attach(r *request, key goalKey, w waiter, work work) (_ *goal, isNew bool) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if g, ok := gs.active[key]; ok {
		if w.by != nil && (gs.nested > 0 || key.kind == fetchGoal) && gs.needs(g, w.by) {
			return nil, false
		}
		g.waiters = append(g.waiters, w)
		r.hold.depend(&g.request.hold)
		return g, false
	}
	g := &goal{key: key, request: r, work: work, waiters: []waiter{w}, done: make(chan struct{})}
	gs.active[key] = g
	gs.running.Add(1)
	r.hold.begin()
	return g, true
}

// carryOut works on a goal, if somebody still waits for it.
func (gs *goals) carryOut(g *goal, p *place) {
	defer gs.running.Done()
	defer g.request.hold.end()
	defer p.leave()
	gs.mu.Lock()
	work := g.work
	g.work = nil
	if work == nil {
		gs.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancelCause(gs.lifetime)
	defer cancel(nil)
	g.cancel = cancel
	gs.mu.Unlock()

	g.outcome = work(ctx, p)

	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.end(g)
}

// end takes a goal off the list and tells its waiters. The caller holds gs.mu.
func (gs *goals) end(g *goal) {
	if gs.active[g.key] == g {
		delete(gs.active, g.key)
	}
	g.cancel = nil
	for _, w := range g.waiters {
		w.ended <- w.i // has room for all
	}
	g.waiters = nil
	close(g.done)
}

// detach gives up a wait for g. It tells whether that was the last one: the goal is
// then cancelled, and no longer found by others.
func (gs *goals) detach(g *goal, w waiter, cause error) bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g.waiters = slices.DeleteFunc(g.waiters, func(other waiter) bool { return other == w })
	select {
	case <-g.done:
		return false
	default:
	}
	if len(g.waiters) > 0 {
		return false
	}
	if gs.active[g.key] == g {
		delete(gs.active, g.key)
	}
	if cause == nil {
		cause = errAbandoned
	}
	if g.cancel != nil {
		g.cancel(cause)
		return true
	}
	// It has not begun, and will find that it need not.
	g.work, g.outcome = nil, outcome{err: cause}
	close(g.done)
	return true
}
