package daemon

import (
	"errors"
	"io"
	"sync"
	"time"
)

// errStalled says that a client was given up.
var errStalled = errors.New("the client does not read what it has asked for")

// A pacer is the way out to a client. It closes the connection when a client has taken
// nothing for too long of what it waits for itself. Messages while a request is carried out
// are not that: who has stopped a build's output for a while gets its end all the same.
type pacer struct {
	conn  io.WriteCloser
	limit time.Duration
	timer *time.Timer

	mu      sync.Mutex
	owed    int // parts of a reply that are being sent
	writing bool
	since   time.Time // when something of what is owed went out last
	stopped bool
	stalled bool
}

func newPacer(conn io.WriteCloser, limit time.Duration) *pacer {
	p := &pacer{conn: conn, limit: limit}
	p.mu.Lock() // until the timer is there
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(p.interval(), p.check)
	return p
}

func (p *pacer) interval() time.Duration { return max(p.limit/8, time.Millisecond) }

// pace is how much is written at once, in bytes: that all of it went out is what counts as
// progress.
const pace = 64 << 10

// Write implements io.Writer.
func (p *pacer) Write(b []byte) (int, error) {
	defer p.mark(false)
	written := 0
	for {
		p.mark(true)
		n, err := p.conn.Write(b[written:min(written+pace, len(b))])
		if written += n; err != nil || written == len(b) {
			return written, err
		}
	}
}

func (p *pacer) mark(writing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = writing
	if p.owed > 0 {
		p.since = time.Now()
	}
}

// owe says that what is written belongs to what the client waits for, until the function
// that it gives is called.
func (p *pacer) owe() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owed++; p.writing {
		p.since = time.Now()
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.owed--
	}
}

func (p *pacer) check() {
	p.mu.Lock()
	late := p.owed > 0 && p.writing && time.Since(p.since) > p.limit
	p.stalled = p.stalled || late
	if !p.stopped {
		p.timer.Reset(p.interval())
	}
	p.mu.Unlock()
	if late {
		p.conn.Close()
	}
}

// stop ends the pacer, and tells whether it has given the client up.
func (p *pacer) stop() (stalled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.timer.Stop()
	return p.stalled
}
