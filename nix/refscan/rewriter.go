package refscan

import (
	"errors"
	"fmt"
	"io"
)

const rewriteRoom = 64 << 10

// Rewriter is an io.WriteCloser that passes a stream on with hash parts replaced.
// It looks for them in what is written, from left to right: occurrences that
// overlap an earlier one, and those that a replacement makes, stay. Close must be
// called at the end. It is not safe for concurrent use.
type Rewriter struct {
	w     io.Writer
	index *index
	to    []string // by number
	self  int
	match func(offset int64)

	buf  []byte
	base int64 // offset in the stream of the start of buf
	pos  int   // nothing that begins before it is open any more
	err  error
}

// RewriterOptions says what a Rewriter reports. The zero value is nothing.
type RewriterOptions struct {
	// Self is a hash part whose occurrences are reported. It need not be one that
	// is replaced.
	Self string

	// Match is called for every occurrence of Self with its offset in the stream,
	// in ascending order, at the latest from within Close.
	Match func(offset int64)
}

// NewRewriter makes a Rewriter that writes to w. The keys of rewrites are the hash
// parts to replace; the values, of the same length but of any bytes, are what
// takes their place. w stays open.
func NewRewriter(w io.Writer, rewrites map[string]string, opts RewriterOptions) (*Rewriter, error) {
	hashes := make([]string, 0, len(rewrites)+1)
	for from, to := range rewrites {
		if len(to) != len(from) {
			return nil, fmt.Errorf("rewrite hash %s: the replacement %q has another length", from, to)
		}
		hashes = append(hashes, from)
	}
	if opts.Self != "" {
		hashes = append(hashes, opts.Self)
	}
	x, err := newIndex(hashes)
	if err != nil {
		return nil, err
	}
	r := &Rewriter{w: w, index: x, self: -1, match: opts.Match, buf: make([]byte, 0, rewriteRoom)}
	for number, from := range x.hashes {
		to, ok := rewrites[from]
		if !ok {
			to = from
		}
		r.to = append(r.to, to)
		if from == opts.Self && opts.Match != nil {
			r.self = number
		}
	}
	return r, nil
}

// Write takes p. What is ready is passed on in pieces of about 64 KiB. After an
// error of the underlying writer it only returns that error.
func (r *Rewriter) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) && r.err == nil {
		size := copy(r.buf[len(r.buf):cap(r.buf)], p[n:])
		r.buf = r.buf[:len(r.buf)+size]
		n += size
		if len(r.buf) == cap(r.buf) {
			r.replace()
			r.emit(r.pos)
		}
	}
	return n, r.err
}

var errClosed = errors.New("rewrite: already closed")

// Close passes on what is left. It does not close the underlying writer.
func (r *Rewriter) Close() error {
	if r.err == errClosed {
		return nil
	}
	if r.err != nil {
		return r.err
	}
	r.replace()
	r.emit(len(r.buf))
	if r.err != nil {
		return r.err
	}
	r.buf, r.err = nil, errClosed
	return nil
}

// replace works on what buf holds and no occurrence can reach beyond.
func (r *Rewriter) replace() {
	for {
		var number int
		r.pos, number = r.index.next(r.buf, r.pos)
		if number < 0 {
			return
		}
		if number == r.self {
			r.match(r.base + int64(r.pos))
		}
		r.pos += copy(r.buf[r.pos:], r.to[number])
	}
}

// emit passes on the first n bytes of buf.
func (r *Rewriter) emit(n int) {
	if n == 0 {
		return
	}
	if _, err := r.w.Write(r.buf[:n]); err != nil {
		r.err = err
		return
	}
	r.buf = r.buf[:copy(r.buf, r.buf[n:])]
	r.base += int64(n)
	r.pos = max(r.pos-n, 0)
}
