package gc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/store/local"
)

// AutoOptions say when garbage is collected without anybody asking for it.
type AutoOptions struct {
	Keep Keep
	// MinFree is how many bytes are to be free on the disk of the store; when there are
	// fewer, garbage is collected. MaxFree is how many of them it is then to be. (Nix: the
	// settings min-free and max-free.)
	MinFree, MaxFree uint64
	// Interval is how long at least not to look again. (Nix: min-free-check-interval.)
	Interval time.Duration
	// Report is as that of Options.
	Report func(Problem)
	// Ended, if not nil, is told how each collection ended, from any goroutine.
	Ended func(*Result, error)
}

// Auto collects garbage in the background while a store is used and little space is
// left. Nobody waits for it but those who need what is being deleted at that moment, as
// with any collection. It is safe for concurrent use, and must be closed before the
// store. (Nix: LocalStore::autoGC.)
type Auto struct {
	store *local.Store
	opts  AutoOptions
	// available tells how many bytes are free.
	available func() (uint64, error)

	ctx  context.Context // of collections
	stop context.CancelCauseFunc
	work sync.WaitGroup

	mu      sync.Mutex
	users   int
	idle    chan struct{} // closed when there are no users any more
	running chan struct{} // closed when the collection has ended that is running, if any
	looked  time.Time     // zero: never
	left    uint64        // how much was free after the last collection, if there was one
	done    bool          // there was
	closed  bool
}

// leastTick is how often to look at most while nobody says that something happens.
const leastTick = time.Second

var (
	errAutoClosed = errors.New("the store is being closed")
	errCollecting = errors.New("somebody else collects")
)

// NewAuto makes an Auto, which does nothing until it is told that the store is used.
func NewAuto(st *local.Store, opts AutoOptions) *Auto {
	a := &Auto{store: st, opts: opts, available: st.Available}
	a.ctx, a.stop = context.WithCancelCause(context.Background())
	return a
}

// Use has it look at the space that is left now, and again and again until release is
// called, which is to be done once.
func (a *Auto) Use() (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users++; a.users == 1 && !a.closed {
		idle := make(chan struct{})
		a.idle = idle
		a.work.Go(func() { a.watch(idle) })
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.users--; a.users == 0 && a.idle != nil {
			close(a.idle)
			a.idle = nil
		}
	}
}

// watch looks now and then until idle is closed.
func (a *Auto) watch(idle <-chan struct{}) {
	tick := time.NewTicker(max(a.opts.Interval, leastTick))
	defer tick.Stop()
	for {
		a.Look()
		select {
		case <-tick.C:
		case <-idle:
			return
		case <-a.ctx.Done():
			return
		}
	}
}

// Look looks at the space that is left, unless that has just been done, and begins to
// collect if it is too little. It does not wait for that.
func (a *Auto) Look() {
	if err := a.look(); err != nil {
		a.ended(nil, fmt.Errorf("see how much space is left for objects: %w", err))
	}
}

func (a *Auto) look() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.closed || a.running != nil || !a.looked.IsZero() && now.Sub(a.looked) < a.opts.Interval {
		return nil
	}
	a.looked = now
	free, err := a.available()
	if err == nil && a.tooLittle(free) {
		a.running = make(chan struct{})
		a.work.Go(func() { a.collect(a.opts.MaxFree - free) })
	}
	return err
}

// tooLittle tells whether it is time to collect. After a collection that found little,
// the next one has to wait until more was used up than what the disk wavers by.
func (a *Auto) tooLittle(free uint64) bool {
	if free >= a.opts.MinFree || free >= a.opts.MaxFree {
		return false
	}
	return !a.done || free <= a.left-a.left/100*3
}

func (a *Auto) collect(wanted uint64) {
	ctx, cancel := context.WithCancelCause(a.ctx)
	defer cancel(nil)
	r, err := Collect(ctx, a.store, Options{
		Keep: a.opts.Keep, MaxFreed: &wanted, Report: a.opts.Report,
		// Who collects now makes room as well as we do.
		Waiting: func() { cancel(errCollecting) },
	})
	free, ferr := a.available()
	// Whoever sees to it now, or does not want it any more, knows.
	if !errors.Is(err, errCollecting) && !errors.Is(err, errAutoClosed) {
		a.ended(r, errors.Join(err, ferr))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil && ferr == nil {
		a.done, a.left = true, free
	}
	close(a.running)
	a.running = nil
}

func (a *Auto) ended(r *Result, err error) {
	if a.opts.Ended != nil {
		a.opts.Ended(r, err)
	}
}

// Wait waits for a collection that is running to end, or for ctx.
func (a *Auto) Wait(ctx context.Context) {
	a.mu.Lock()
	running := a.running
	a.mu.Unlock()
	if running == nil {
		return
	}
	select {
	case <-running:
	case <-ctx.Done():
	}
}

// Close ends what is running, and waits for that. What it was told of use has no effect
// any more.
func (a *Auto) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.stop(errAutoClosed)
	a.work.Wait()
}
