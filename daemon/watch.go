package daemon

import (
	"errors"
	"os"
	"sync"
	"time"
)

// watchAfter is how long a request is carried out before anybody looks whether the client is
// still there. Most requests are over by then, and looking takes as long as they do.
const watchAfter = 50 * time.Millisecond

// A watcher notices that the client has left while its request is carried out.
type watcher struct {
	// wait blocks until the client has left, for which it gives an error, or until there
	// is no more to be known.
	wait func() error
	// interrupt has wait return an error that wraps os.ErrDeadlineExceeded, from now on or,
	// with false, not any more. nil if that cannot be done.
	interrupt func(bool)

	mu       sync.Mutex
	timer    *time.Timer
	armed    bool
	stopped  bool
	request  uint64
	seen     uint64 // the request that was carried out when the timer was set
	gone     func() // ends the request; nil for none
	watching chan struct{}
}

func newWatcher(wait func() error, interrupt func(bool)) *watcher {
	w := &watcher{wait: wait, interrupt: interrupt}
	w.timer = time.AfterFunc(time.Hour, w.fire)
	w.timer.Stop()
	return w
}

// begin says that a request is carried out, during which the client has nothing to say.
func (w *watcher) begin(gone func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.request++
	w.gone = gone
	if !w.armed && !w.stopped {
		// Once for many requests: setting a timer wakes threads.
		w.armed, w.seen = true, w.request
		w.timer.Reset(watchAfter)
	}
}

func (w *watcher) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	switch {
	case w.stopped || w.gone == nil && w.request == w.seen: // nothing goes on
	case w.gone == nil || w.request != w.seen:
		w.armed, w.seen = true, w.request
		w.timer.Reset(watchAfter)
	case w.watching == nil:
		gone, watching := w.gone, make(chan struct{})
		w.watching = watching
		go func() {
			defer close(watching)
			if err := w.wait(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				gone()
			}
		}()
	}
}

// end says that the request was carried out, and waits until nobody looks any more.
func (w *watcher) end() {
	w.mu.Lock()
	watching := w.watching
	w.gone, w.watching = nil, nil
	w.mu.Unlock()
	if watching == nil {
		return
	}
	if w.interrupt != nil {
		w.interrupt(true)
		defer w.interrupt(false)
	}
	<-watching
}

// leave says that the client has left, as who writes to it knows.
func (w *watcher) leave() {
	w.mu.Lock()
	gone := w.gone
	w.mu.Unlock()
	if gone != nil {
		gone()
	}
}

// stop ends everything. The connection is closed, which ends wait.
func (w *watcher) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.timer.Stop()
	w.end()
}

// A timed connection can end reading and writing that take too long.
type timed interface {
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
}

// interruption gives what interrupts reading from a connection, nil if that has no deadlines.
func interruption(conn any) func(bool) {
	t, ok := conn.(timed)
	if !ok || t.SetReadDeadline(time.Time{}) != nil {
		return nil
	}
	return func(now bool) {
		if now {
			t.SetReadDeadline(time.Unix(1, 0))
		} else {
			t.SetReadDeadline(time.Time{})
		}
	}
}
