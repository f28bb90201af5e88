package executor

import (
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
	waiting   []func(*place)
}

func newPlaces(n int) *places { return &places{free: n} }

// begin calls work in a goroutine of its own when there is a place for it. The
// place is to be left when it has ended.
func (ps *places) begin(work func(*place)) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.waiting = append(ps.waiting, work)
	if ps.free > 0 {
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
		work := ps.waiting[last]
		ps.waiting[last] = nil
		ps.waiting = ps.waiting[:last]
		go work(&place{of: ps, held: true})
	default:
		ps.free++
	}
}

// A place is what a goal needs to be worked on. A nil place is that of a request,
// which needs none. It belongs to one goroutine.
type place struct {
	of   *places
	held bool
	goal *goal // that is worked on in it
}

// leave gives the place to somebody else.
func (p *place) leave() {
	if p == nil || !p.held {
		return
	}
	p.held = false
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.hand()
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
		p.held = true
		p.of.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	p.of.returning = append(p.of.returning, turn)
	p.of.mu.Unlock()
	select {
	case <-turn:
		p.held = true
	case <-ctx.Done():
		p.of.mu.Lock()
		defer p.of.mu.Unlock()
		if i := slices.Index(p.of.returning, turn); i >= 0 {
			p.of.returning = slices.Delete(p.of.returning, i, i+1)
			return
		}
		p.held = true // it was given just now
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
