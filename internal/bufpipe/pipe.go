// Package bufpipe has pipes like those of io.Pipe, with room between the ends. What
// writes goes on while what was written is being read, so that the two ends of a long
// stream take two processors; with io.Pipe, each waits for the other at every piece.
package bufpipe

import (
	"io"
	"sync"
)

// room is how much a pipe holds, in bytes: what is between half of it and all takes longer
// to work off than to wake up a thread. piece is how much is copied while the other end
// waits.
const (
	room  = 512 << 10
	piece = 64 << 10
)

var rings = sync.Pool{New: func() any { return new([room]byte) }}

// pipe is a ring of bytes, of which held from start on have been written and not read.
type pipe struct {
	mu       sync.Mutex
	readable sync.Cond // there is something to read, or the writer has closed
	writable sync.Cond // half of the ring is free, or the reader has closed
	ring     *[room]byte
	start    int
	held     int
	written  error // not nil: the writer has closed
	stopped  error // not nil: the reader has closed
}

// A Reader is the end of a pipe to read from. One goroutine reads at a time; any may close
// it.
type Reader struct{ p *pipe }

// A Writer is the end of a pipe to write to. One goroutine writes at a time; any may close
// it.
type Writer struct{ p *pipe }

// New makes a pipe. Both ends are to be closed, the writer by who writes and the reader by who
// reads: the other would wait for ever.
func New() (*Reader, *Writer) {
	p := &pipe{}
	p.readable.L, p.writable.L = &p.mu, &p.mu
	return &Reader{p}, &Writer{p}
}

// Write implements io.Writer. It returns when everything is in the pipe, which does not
// mean that it is read. After the reader has closed, it gives the error of that.
func (w *Writer) Write(b []byte) (n int, err error) {
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		if p.held == room && p.stopped == nil && p.written == nil {
			// Not for every little that is read: to wake up takes longer than to copy.
			for p.held > room/2 && p.stopped == nil && p.written == nil {
				p.writable.Wait()
			}
		}
		if p.stopped != nil {
			return n, p.stopped
		}
		if p.written != nil {
			return n, io.ErrClosedPipe
		}
		if p.ring == nil {
			p.ring = rings.Get().(*[room]byte)
		}
		end := (p.start + p.held) % room
		part := p.ring[end:min(end+piece, end+room-p.held, room)]
		took := copy(part, b)
		p.held, b, n = p.held+took, b[took:], n+took
		p.readable.Signal()
		if len(b) > 0 {
			p.mu.Unlock() // for the reader
			p.mu.Lock()
		}
	}
	return n, nil
}

// Close implements io.Closer: the reader gets io.EOF after all that was written.
func (w *Writer) Close() error { return w.CloseWithError(nil) }

// CloseWithError has the reader get err after all that was written; nil stands for io.EOF.
// Only the first call has an effect. The result is nil.
func (w *Writer) CloseWithError(err error) error {
	if err == nil {
		err = io.EOF
	}
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written == nil {
		p.written = err
		p.readable.Signal()
		p.writable.Signal()
		p.letGo()
	}
	return nil
}

// Read implements io.Reader.
func (r *Reader) Read(b []byte) (int, error) {
	p := r.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.held == 0 && p.written == nil && p.stopped == nil && len(b) > 0 {
		p.readable.Wait()
	}
	switch {
	case p.stopped != nil:
		return 0, io.ErrClosedPipe
	case p.held == 0 && len(b) > 0:
		return 0, p.written
	case len(b) == 0:
		return 0, nil
	}
	n := copy(b, p.ring[p.start:min(p.start+piece, p.start+p.held, room)])
	p.start, p.held = (p.start+n)%room, p.held-n
	if p.held <= room/2 {
		p.writable.Signal()
	}
	p.letGo()
	return n, nil
}

// Close implements io.Closer: whoever writes gets io.ErrClosedPipe.
func (r *Reader) Close() error { return r.CloseWithError(nil) }

// CloseWithError has whoever writes get err, for which nil stands for io.ErrClosedPipe. What
// was not read is gone. Only the first call has an effect. The result is nil.
func (r *Reader) CloseWithError(err error) error {
	if err == nil {
		err = io.ErrClosedPipe
	}
	p := r.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped == nil {
		p.stopped, p.held = err, 0
		p.readable.Signal()
		p.writable.Signal()
		p.letGo()
	}
	return nil
}

// letGo gives the memory back if nothing more comes into it.
func (p *pipe) letGo() {
	if p.ring != nil && p.held == 0 && (p.written != nil || p.stopped != nil) {
		rings.Put(p.ring)
		p.ring = nil
	}
}
