package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Limits that a zero field of Limits stands for.
const (
	DefaultString  = 64 << 20
	DefaultCount   = 1 << 20
	DefaultMessage = 128 << 20
)

// Limits bound what a Reader accepts. A field that is zero stands for the
// default of its name.
type Limits struct {
	String  int   // bytes of one string
	Count   int   // elements of one list, set or map
	Message int64 // bytes of memory for all strings and elements of one message
	// Budget bounds the messages of several Readers together, if it is not nil. Whoever
	// stops reading from one of them calls Begin for the last time.
	Budget *Budget
}

// ErrLimit is wrapped by the errors that say that something is beyond the limits.
var ErrLimit = errors.New("over the limit")

// elementSize is what each element of a list counts for besides its bytes.
const elementSize = 16

// bufferSize is that of Readers and Writers, in bytes.
const bufferSize = 32 << 10

// A Reader reads the parts of messages. After an error every method returns a zero
// value, so that a message can be read without looking at each part: whoever uses
// what was read asks Err first.
//
// It takes from the stream more than it was asked for, so nobody else may read
// from it. It is not safe for concurrent use.
type Reader struct {
	br     *bufio.Reader
	limits Limits
	left   int64 // of Limits.Message
	used   int64 // bytes of strings of the message
	held   int64 // bytes taken from Limits.Budget
	err    error
}

// NewReader makes a Reader of r.
func NewReader(r io.Reader, limits Limits) *Reader {
	if limits.String == 0 {
		limits.String = DefaultString
	}
	if limits.Count == 0 {
		limits.Count = DefaultCount
	}
	if limits.Message == 0 {
		limits.Message = DefaultMessage
	}
	return &Reader{br: bufio.NewReaderSize(r, bufferSize), limits: limits, left: limits.Message}
}

// Err is the first error, nil if there was none. Where the stream ended, it wraps
// io.ErrUnexpectedEOF.
func (r *Reader) Err() error { return r.err }

// Fail makes err the error of the Reader, unless it has one: for what was read
// well and means nothing.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Wait blocks until there is something to read, and takes nothing. It returns
// io.EOF when the stream ended where it stands.
func (r *Reader) Wait() error {
	if r.err != nil {
		return r.err
	}
	_, err := r.br.Peek(1)
	return err
}

// WaitEnd blocks until the stream ends, and takes nothing. It returns io.EOF then, or nil when
// so much has come before that that no more can be kept.
func (r *Reader) WaitEnd() error {
	for r.err == nil && r.br.Buffered() < r.br.Size() {
		if _, err := r.br.Peek(r.br.Buffered() + 1); err != nil {
			return err
		}
	}
	return r.err
}

// Read reads bytes that are no part of a message of this package, as archives.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.br.Read(p)
}

func (r *Reader) fill(p []byte, what string) bool {
	if r.err != nil {
		return false
	}
	if _, err := io.ReadFull(r.br, p); err != nil {
		r.err = fmt.Errorf("read %s: %w", what, unexpected(err))
		return false
	}
	return true
}

// Uint64 reads a number.
func (r *Reader) Uint64() uint64 {
	if r.err != nil {
		return 0
	}
	word, err := r.br.Peek(8)
	if err != nil {
		r.err = fmt.Errorf("read number: %w", unexpected(err))
		return 0
	}
	n := binary.LittleEndian.Uint64(word)
	r.br.Discard(len(word))
	return n
}

// unexpected is the error for a stream that ends within something.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Int64 reads a number that may be negative.
func (r *Reader) Int64() int64 { return int64(r.Uint64()) }

// Number reads a number that is at most limit.
func (r *Reader) Number(limit uint64) uint64 {
	n := r.Uint64()
	if n > limit {
		r.Fail(fmt.Errorf("read number: %d is too large, %d is the most: %w", n, limit, ErrLimit))
		return 0
	}
	return n
}

// Size reads a number of bytes, or of seconds, that an int64 can hold.
func (r *Reader) Size() int64 { return int64(r.Number(math.MaxInt64)) }

// Bool reads a truth value: anything but 0 is true.
func (r *Reader) Bool() bool { return r.Uint64() != 0 }

// spend takes memory from what the message may use.
func (r *Reader) spend(n int64) bool {
	if r.err != nil {
		return false
	}
	if n > r.left {
		r.err = fmt.Errorf("read message: more than %d bytes: %w", r.limits.Message, ErrLimit)
		return false
	}
	r.left -= n
	return true
}

// Bytes reads a string of any bytes. It is the caller's.
func (r *Reader) Bytes() []byte { return r.BytesUpTo(r.limits.String) }

// BytesUpTo is Bytes with a limit of its own, which may be lower or higher than
// that of the Reader.
func (r *Reader) BytesUpTo(limit int) []byte {
	n := r.Uint64()
	if r.err == nil && n > uint64(limit) {
		r.err = fmt.Errorf("read string: a length of %d bytes, %d is the most: %w", n, limit, ErrLimit)
	}
	if r.err != nil || !r.spend(int64(n)) {
		return nil
	}
	b := r.take(int(n))
	var padding [7]byte
	pad := padding[:-n&7]
	if !r.fill(pad, "padding") {
		return nil
	}
	for _, c := range pad {
		if c != 0 {
			r.err = errors.New("read string: non-zero padding")
			return nil
		}
	}
	return b
}

// take reads n bytes into memory that grows as they arrive.
func (r *Reader) take(n int) []byte {
	b := make([]byte, min(n, bufferSize))
	if !r.charge(len(b)) || !r.fill(b, "string") {
		return nil
	}
	for len(b) < n {
		have := len(b)
		more := min(n-have, have)
		if !r.charge(more) {
			return nil
		}
		b = append(b, make([]byte, more)...)
		if !r.fill(b[have:], "string") {
			return nil
		}
	}
	return b
}

// Text reads a string.
func (r *Reader) Text() string { return string(r.Bytes()) }

// Count reads the number of elements that follow. Each of them counts a little
// towards the memory of the message.
func (r *Reader) Count() int {
	n := r.Uint64()
	if r.err == nil && n > uint64(r.limits.Count) {
		r.err = fmt.Errorf("read list: %d elements, %d is the most: %w", n, r.limits.Count, ErrLimit)
	}
	if r.err != nil || !r.spend(int64(n)*elementSize) {
		return 0
	}
	return int(n)
}

// Texts reads a list or a set of strings, as it comes.
func (r *Reader) Texts() []string { return List(r, r.Text) }

// List reads a list whose elements the function reads.
func List[T any](r *Reader, element func() T) []T {
	n := r.Count()
	var list []T
	for range n {
		e := element()
		if r.err != nil {
			return nil
		}
		list = append(list, e)
	}
	return list
}

// Map reads a map. Of two values for a key the later one counts.
func Map[K comparable, V any](r *Reader, key func() K, value func() V) map[K]V {
	n := r.Count()
	m := make(map[K]V)
	for range n {
		k := key()
		v := value()
		if r.err != nil {
			return nil
		}
		m[k] = v
	}
	return m
}
