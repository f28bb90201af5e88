package wire

import (
	"errors"
	"sync/atomic"
)

// ErrBudget is wrapped by the error of a message for which there is no room at present.
var ErrBudget = errors.New("too much is being received from all clients together: try again later")

const (
	// budgetFree is what a message may take without asking the budget, in bytes: most are
	// far smaller, and connections are counted anyway.
	budgetFree = 64 << 10
	// budgetStep is what is taken from it at a time.
	budgetStep = 64 << 10
)

// A Budget bounds the memory that the messages of many Readers take together: what each may
// take is much more than its share. It is safe for concurrent use.
type Budget struct{ left atomic.Int64 }

// NewBudget makes a Budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := new(Budget)
	b.left.Store(bytes)
	return b
}

func (b *Budget) take(n int64) bool {
	if b.left.Add(-n) < 0 {
		b.left.Add(n)
		return false
	}
	return true
}

func (b *Budget) give(n int64) { b.left.Add(n) }

// charge counts n bytes of memory that the message takes, and takes from the budget what is
// above its free part.
func (r *Reader) charge(n int) bool {
	if r.limits.Budget == nil {
		return true
	}
	r.used += int64(n)
	if over := r.used - budgetFree - r.held; over > 0 {
		steps := (over + budgetStep - 1) / budgetStep * budgetStep
		if !r.limits.Budget.take(steps) {
			r.Fail(ErrBudget)
			return false
		}
		r.held += steps
	}
	return true
}

// Begin says that a new message begins, and that nobody needs the one before any more:
// Limits.Message counts from here, and what was taken from Limits.Budget is given back.
func (r *Reader) Begin() {
	r.left, r.used = r.limits.Message, 0
	if r.held > 0 {
		r.limits.Budget.give(r.held)
		r.held = 0
	}
}
