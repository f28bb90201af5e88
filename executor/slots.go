package executor

import (
	"context"
	"sync"
)

// slots bounds how many builders run at once.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

// free tells whether there is one at the moment.
func (s slots) free() bool { return len(s) < cap(s) }

// acquire takes a slot.
func (s slots) acquire(ctx context.Context) (*slot, error) {
	select {
	case s <- struct{}{}:
		return &slot{of: s, held: true, returning: make(chan struct{}, 1)}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A slot is the right to run a builder. It is safe for concurrent use.
type slot struct {
	of        slots
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
		<-s.of
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
	select {
	case s.of <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
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
