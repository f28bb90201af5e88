package executor

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// places bound how many goals are worked on at once, and so the memory that goals
// take: one that waits for its turn is little more than its name. A goal leaves its
// place while it waits for other goals, so one that waits never keeps another from
// being worked on. Of those that have not begun the latest is first: it is what
// one that has begun waits for, so that what is begun is finished before more is.
type places struct {
	mu        sync.Mutex
	free      int
	returning []chan struct{}
	waiting   []start
	// preparing are the places of goals that are worked on and may yet come to run a
	// builder. One that had a slot once is not among them.
	preparing map[*place]bool
	// left is called after a place was left, if it is not nil.
	left func()
}

// A start is what is called when there is a place for a goal.
type start struct {
	goal *goal
	work func(*place)
}

func newPlaces(n int) *places { return &places{free: n, preparing: make(map[*place]bool)} }

// begin calls each work in a goroutine of its own when there is a place for it, the first
// ones first. The place is to be left when it has ended.
func (ps *places) begin(starts ...start) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, s := range slices.Backward(starts) {
		ps.waiting = append(ps.waiting, s)
	}
	for ps.free > 0 && len(ps.waiting) > 0 {
		ps.free--
		ps.hand()
	}
}

// hand gives a place to who is next. The caller holds ps.mu.
func (ps *places) hand() {
	switch {
	case len(ps.returning) > 0:
		close(ps.returning[0])
		ps.returning = ps.returning[1:]
	case len(ps.waiting) > 0:
		last := len(ps.waiting) - 1
		next := ps.waiting[last]
		ps.waiting[last] = start{}
		ps.waiting = ps.waiting[:last]
		p := &place{of: ps, held: true, goal: next.goal}
		ps.preparing[p] = true
		go next.work(p)
	default:
		ps.free++
	}
}

// A place is what a goal needs to be worked on. A nil place is that of a request,
// which needs none. It belongs to one goroutine.
type place struct {
	of   *places
	held bool
	ran  bool  // a builder, or waits for its turn to run it
	goal *goal // that is worked on in it
}

// leave gives the place to somebody else.
func (p *place) leave() {
	if p == nil || !p.held {
		return
	}
	p.held = false
	p.of.mu.Lock()
	delete(p.of.preparing, p)
	p.of.hand()
	p.of.mu.Unlock()
	if p.of.left != nil {
		p.of.left()
	}
}

// took says that the place is held.
func (p *place) took() {
	p.held = true
	if !p.ran {
		p.of.preparing[p] = true
	}
}

// prepared says that the goal of the place has come to run a builder.
func (p *place) prepared() {
	if p == nil || p.ran {
		return
	}
	p.ran = true
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	delete(p.of.preparing, p)
}

// awaits tells whether a goal of the same request that comes before g may yet come to run
// a builder.
func (ps *places) awaits(g *goal) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for p := range ps.preparing {
		if p.goal.request == g.request && comesBefore(p.goal.key, g.key) < 0 {
			return true
		}
	}
	return false
}

// comesBefore compares goals of a request that could both be worked on. As with Nix, what
// is not built comes before what is, and that is in the order of names.
// (Nix: CompareGoalPtrs, Goal::key.)
func comesBefore(a, b goalKey) int {
	built := func(k goalKey) int {
		if k.path.IsDerivation() {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(built(a), built(b)), cmp.Compare(a.path.Name(), b.path.Name()), cmp.Compare(a.path, b.path))
}

// comeBack waits for a place again. What is cancelled needs none, as it only cleans
// up.
func (p *place) comeBack(ctx context.Context) {
	if p == nil || p.held {
		return
	}
	p.of.mu.Lock()
	if p.of.free > 0 {
		p.of.free--
		p.took()
		p.of.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	p.of.returning = append(p.of.returning, turn)
	p.of.mu.Unlock()
	select {
	case <-turn:
		p.of.mu.Lock()
		defer p.of.mu.Unlock()
		p.took()
	case <-ctx.Done():
		p.of.mu.Lock()
		defer p.of.mu.Unlock()
		if i := slices.Index(p.of.returning, turn); i >= 0 {
			p.of.returning = slices.Delete(p.of.returning, i, i+1)
			return
		}
		p.took() // it was given just now
	}
}

// task is a request being worked on in a place: by itself, which needs none, or by a
// goal of it.
type task struct {
	*request
	place *place
}

func (t task) await(ctx context.Context, w want) outcome { return t.request.await(ctx, t.place, w) }

// goal is the want of a goal of the same request.
func (t task) goal(key goalKey, work func(ctx context.Context, t task) outcome) want {
	r := t.request
	return want{key, func(ctx context.Context, p *place) outcome { return work(ctx, task{r, p}) }}
}
