package refscan

import (
	"encoding/binary"
	"io"
	"strconv"
	"strings"
)

// Modulo is an io.WriteCloser that turns a stream into what is hashed for the
// content address of an object that refers to itself: the stream with each
// occurrence of the object's own hash part replaced by NULs, and after it, for
// each of them, "|" and the offset in decimal. Without the offsets a stream that
// had the NULs from the beginning would get the same hash. (Nix:
// HashModuloSink.)
//
// It keeps the offsets to the end: one byte each where they are dense, never
// more than a thirtieth of the stream. It is not safe for concurrent use.
type Modulo struct {
	rewriter *Rewriter
	w        io.Writer
	gaps     []byte // between the offsets, as varints
	last     int64
	closed   bool
}

// NewModulo makes a Modulo that writes to w, usually a hash, which stays open.
// self is the hash part of the object.
func NewModulo(w io.Writer, self string) (*Modulo, error) {
	m := &Modulo{w: w}
	var err error
	m.rewriter, err = NewRewriter(w, map[string]string{self: strings.Repeat("\x00", len(self))},
		RewriterOptions{Self: self, Match: func(offset int64) {
			m.gaps = binary.AppendUvarint(m.gaps, uint64(offset-m.last))
			m.last = offset
		}})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Write takes p as Rewriter.Write does.
func (m *Modulo) Write(p []byte) (int, error) { return m.rewriter.Write(p) }

// Close passes on what is left, and then the offsets. It does not close the
// underlying writer.
func (m *Modulo) Close() error {
	if m.closed {
		return nil
	}
	if err := m.rewriter.Close(); err != nil {
		return err
	}
	m.closed = true
	var offset int64
	text := make([]byte, 0, 1<<10)
	for gaps := m.gaps; len(gaps) > 0; {
		gap, size := binary.Uvarint(gaps)
		gaps = gaps[size:]
		offset += int64(gap)
		text = strconv.AppendInt(append(text, '|'), offset, 10)
		if cap(text)-len(text) < 32 || len(gaps) == 0 {
			if _, err := m.w.Write(text); err != nil {
				return err
			}
			text = text[:0]
		}
	}
	m.gaps = nil
	return nil
}
