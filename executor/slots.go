package executor

import (
	"context"
	"slices"
	"sync"
)

// slots bound how many builders run at once. Who waits longest is first; of a request that
// has several goals waiting it is the one that comes before the others, and one that is
// prepared faster than those before it waits for them: which builders run, when the first
// failure ends a request, does not depend on how fast anything was. It is safe for
// concurrent use.
type slots struct {
	size int

	mu      sync.Mutex
	taken   int
	waiting []*turn // the longest first
}

// newRoom is room for n builders of goals that are worked on in so many places.
func newRoom(n, worked int) (*slots, *places) {
	s, ps := newSlots(n), newPlaces(worked)
	ps.left = s.next
	return s, ps
}

// A turn is somebody's who waits for a slot.
type turn struct {
	place *place // nil if it is no goal
	come  chan struct{}
}

func newSlots(n int) *slots { return &slots{size: n} }

// free tells whether there is one at the moment.
func (s *slots) free() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken < s.size
}

// acquire takes a slot for the goal of a place, if that is not nil.
func (s *slots) acquire(ctx context.Context, p *place) (*slot, error) {
	if err := s.take(ctx, p); err != nil {
		return nil, err
	}
	return &slot{of: s, held: true, returning: make(chan struct{}, 1)}, nil
}

func (s *slots) take(ctx context.Context, p *place) error {
	t := &turn{place: p, come: make(chan struct{})}
	p.prepared()
	s.mu.Lock()
	s.waiting = append(s.waiting, t)
	s.mu.Unlock()
	s.next()
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	if i := slices.Index(s.waiting, t); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else { // it has come just now
		s.taken--
	}
	s.mu.Unlock()
	s.next()
	return context.Cause(ctx)
}

// put gives a slot back.
func (s *slots) put() {
	s.mu.Lock()
	s.taken--
	s.mu.Unlock()
	s.next()
}

// next gives the slots that are free to those whose turn it is.
func (s *slots) next() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.taken < s.size && len(s.waiting) > 0 {
		i := s.first()
		if i < 0 {
			return
		}
		close(s.waiting[i].come)
		s.waiting = slices.Delete(s.waiting, i, i+1)
		s.taken++
	}
}

// first is whose turn it is, -1 if that is not prepared yet. Somebody waits; the caller
// holds s.mu.
func (s *slots) first() int {
	p := s.waiting[0].place
	if p == nil {
		return 0
	}
	best := 0
	for i, t := range s.waiting {
		if t.place != nil && t.place.goal.request == p.goal.request && comesBefore(t.place.goal.key, s.waiting[best].place.goal.key) < 0 {
			best = i
		}
	}
	if next := s.waiting[best].place; next.of.awaits(next.goal) {
		return -1
	}
	return best
}

// A slot is the right to run a builder. It is safe for concurrent use.
type slot struct {
	of        *slots
	returning chan struct{} // has room for the one that waits for the slot to be back

	mu       sync.Mutex
	held     bool
	released bool
	lent     int // how often, at the moment
}

// release gives the slot back for good. It may be called more than once.
func (s *slot) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = true
	s.put()
}

// put gives the slot back, if it is here.
func (s *slot) put() {
	if s.held {
		s.held = false
		s.of.put()
	}
}

// lend lets other builders have the slot, since its own waits for one of them. Each
// call is to be followed by one of takeBack.
func (s *slot) lend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent++
	s.put()
}

// takeBack ends what lend began: the last one waits until there is a slot again, so
// that no more builders go on than there are slots.
func (s *slot) takeBack(ctx context.Context) error {
	s.mu.Lock()
	s.lent--
	s.mu.Unlock()
	select {
	case s.returning <- struct{}{}:
		defer func() { <-s.returning }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !s.missing() {
		return nil
	}
	if err := s.of.take(ctx, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
	if s.released || s.lent > 0 {
		s.put()
	}
	return nil
}

// missing tells whether the slot has to be here, and is not.
func (s *slot) missing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lent == 0 && !s.held && !s.released
}
