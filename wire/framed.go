package wire

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// A FramedReader reads one framed stream, and not a byte behind it. It is not safe
// for concurrent use.
type FramedReader struct {
	r    *Reader
	left uint64 // of the chunk
	done bool
}

// NewFramedReader makes a FramedReader of what comes next from r, which nobody else
// may use until the stream ended.
func NewFramedReader(r *Reader) *FramedReader { return &FramedReader{r: r} }

// Read reads content. At the end of the stream it returns io.EOF; where r ended
// before, the error wraps io.ErrUnexpectedEOF. An error is r's error too.
func (f *FramedReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.begin(); err != nil {
		return 0, err
	}
	n, err := f.r.br.Read(p[:min(uint64(len(p)), f.left)])
	return n, f.took(n, err)
}

// begin sees that there is something left of a chunk, which at the end of the stream
// there is not.
func (f *FramedReader) begin() error {
	if f.left == 0 && !f.done {
		f.left = f.r.Number(math.MaxUint32)
		f.done = f.left == 0 && f.r.err == nil
	}
	switch {
	case f.r.err != nil:
		return fmt.Errorf("read framed stream: %w", f.r.err)
	case f.done:
		return io.EOF
	}
	return nil
}

// took counts what was taken from a chunk.
func (f *FramedReader) took(n int, err error) error {
	f.left -= uint64(n)
	if err != nil {
		f.r.Fail(fmt.Errorf("read framed stream: %w", unexpected(err)))
		return f.r.err
	}
	return nil
}

// Drain reads what is left of the stream and throws it away.
func (f *FramedReader) Drain() error {
	for {
		if err := f.begin(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := f.took(f.r.br.Discard(int(min(f.left, bufferSize)))); err != nil {
			return err
		}
	}
}

// A FramedWriter writes one framed stream. It is not safe for concurrent use.
type FramedWriter struct {
	w      *Writer
	buf    []byte
	closed bool
}

// NewFramedWriter makes a FramedWriter to w, which nobody else may use until it is
// closed.
func NewFramedWriter(w *Writer) *FramedWriter { return &FramedWriter{w: w} }

// Write writes content. It goes on in chunks of bufferSize.
func (f *FramedWriter) Write(p []byte) (int, error) {
	if f.closed {
		return 0, errors.New("write to framed stream: it is closed")
	}
	written := 0
	for len(p) > 0 {
		if f.buf == nil {
			f.buf = make([]byte, 0, bufferSize)
		}
		n := min(len(p), cap(f.buf)-len(f.buf))
		f.buf = append(f.buf, p[:n]...)
		p, written = p[n:], written+n
		if len(f.buf) == cap(f.buf) {
			f.chunk()
		}
	}
	return written, f.w.Err()
}

func (f *FramedWriter) chunk() {
	if len(f.buf) > 0 {
		f.w.Uint64(uint64(len(f.buf)))
		f.w.Write(f.buf)
		f.buf = f.buf[:0]
	}
}

// Close ends the stream. It does not flush the Writer below.
func (f *FramedWriter) Close() error {
	if !f.closed {
		f.chunk()
		f.w.Uint64(0)
		f.closed = true
	}
	return f.w.Err()
}
