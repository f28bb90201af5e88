package executor

import "context"

// slots bounds how many builders run at once.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

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
