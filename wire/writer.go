package wire

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"io"
	"maps"
	"slices"
)

// A Writer writes the parts of messages. After an error it writes nothing; Flush
// tells of it. It is not safe for concurrent use.
type Writer struct {
	bw  *bufio.Writer
	err error
}

// NewWriter makes a Writer to w. What it was given reaches w at the latest when
// Flush is called.
func NewWriter(w io.Writer) *Writer { return &Writer{bw: bufio.NewWriterSize(w, bufferSize)} }

// Err is the first error.
func (w *Writer) Err() error { return w.err }

// Fail makes err the error of the Writer, unless it has one: for what cannot be
// said in the protocol.
func (w *Writer) Fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// Flush passes on everything, and gives the first error.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.bw.Flush()
	}
	return w.err
}

// Write writes bytes as they are.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.bw.Write(p)
	w.err = err
	return n, err
}

// Uint64 writes a number.
func (w *Writer) Uint64(n uint64) {
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], n)
	w.Write(word[:])
}

// Int64 writes a number that may be negative.
func (w *Writer) Int64(n int64) { w.Uint64(uint64(n)) }

// Bool writes a truth value.
func (w *Writer) Bool(b bool) {
	n := uint64(0)
	if b {
		n = 1
	}
	w.Uint64(n)
}

// Bytes writes a string of any bytes.
func (w *Writer) Bytes(p []byte) {
	w.Uint64(uint64(len(p)))
	w.Write(p)
	w.pad(len(p))
}

// Text writes a string.
func (w *Writer) Text(s string) {
	w.Uint64(uint64(len(s)))
	if w.err == nil {
		_, w.err = w.bw.WriteString(s)
	}
	w.pad(len(s))
}

func (w *Writer) pad(n int) {
	var zeros [8]byte
	w.Write(zeros[:-n&7])
}

// Texts writes a list of strings.
func (w *Writer) Texts(list []string) {
	w.Uint64(uint64(len(list)))
	for _, s := range list {
		w.Text(s)
	}
}

// TextSet writes a set of strings: sorted, each of them once.
func (w *Writer) TextSet(set []string) {
	w.Texts(slices.Compact(slices.Sorted(slices.Values(set))))
}

// WriteList writes a list whose elements the function writes.
func WriteList[T any](w *Writer, list []T, element func(T)) {
	w.Uint64(uint64(len(list)))
	for _, e := range list {
		element(e)
	}
}

// WriteMap writes a map, sorted by its keys.
func WriteMap[K cmp.Ordered, V any](w *Writer, m map[K]V, key func(K), value func(V)) {
	w.Uint64(uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		key(k)
		value(m[k])
	}
}
