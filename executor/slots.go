package executor

import "context"

// slots bounds how many builders run at once.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

// free tells whether there is one at the moment.
func (s slots) free() bool { return len(s) < cap(s) }

// acquire takes a slot. The release function may be called more than once.
func (s slots) acquire(ctx context.Context) (release func(), err error) {
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	released := false
	return func() {
		if !released {
			released = true
			<-s
		}
	}, nil
}
