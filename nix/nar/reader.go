package nar

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"
)

// Reader reads one archive from a stream. Next moves from node to node, Read
// reads the content of a regular file:
//
//	r := nar.NewReader(stream, nar.Limits{})
//	for {
//		h, err := r.Next()
//		if err == io.EOF {
//			break // the archive ended, and was right to the last byte
//		}
//		...
//	}
//
// It takes no byte of the stream that follows the archive. It reads a few dozen
// bytes at a time, so the stream should be buffered; content is read straight
// into the caller's memory.
//
// Errors are a *FormatError where the archive is wrong, wrap
// io.ErrUnexpectedEOF where it ends too early, and else what the stream
// returned. After an error every call returns it again. What was read before
// is not to be trusted then.
//
// A Reader holds nothing that must be closed. It is not safe for concurrent use.
type Reader struct {
	r     io.Reader
	pos   position
	state state
	err   error

	offset  int64 // bytes taken from r
	content int64 // bytes of content that are still to come
	pad     int   // NULs after them
	more    bool  // in a directory: a further entry is next, not the end

	buf [bufSize]byte
}

// state is where in the archive a Reader or a Writer is.
type state uint8

const (
	stateStart     state = iota
	stateLeaf            // in a regular file or a symbolic link
	stateDirectory       // at a directory
	stateInside          // between the entries of a directory
	stateDone
)

// The longest piece that is read at once is the target of a symbolic link.
const bufSize = MaxTarget + 1

// NewReader returns a Reader of the archive that begins with the next byte of r.
func NewReader(r io.Reader, limits Limits) *Reader {
	return &Reader{r: r, pos: newPosition(limits)}
}

// readers are those of restored trees: most are small, and a Reader is not.
var readers = sync.Pool{New: func() any { return new(Reader) }}

// takeReader is NewReader, of memory that giveReader takes back.
func takeReader(r io.Reader, limits Limits) *Reader {
	in := readers.Get().(*Reader)
	in.r, in.pos, in.state, in.err = r, newPosition(limits), stateStart, nil
	in.offset, in.content, in.pad, in.more = 0, 0, 0, false
	return in
}

func giveReader(r *Reader) {
	r.r, r.pos, r.err = nil, position{}, nil
	readers.Put(r)
}

// Next moves to the next node. Content of the present one that was not read is
// read and thrown away. At the end of the archive it returns io.EOF.
func (r *Reader) Next() (Header, error) {
	if r.err != nil {
		return Header{}, r.err
	}
	h, err := r.next()
	if err != nil {
		r.err = err
	}
	return h, err
}

func (r *Reader) next() (Header, error) {
	var err error
	switch r.state {
	case stateStart:
		return r.readRoot()
	case stateLeaf:
		err = r.endLeaf()
	case stateDirectory:
		r.pos.open()
		r.state = stateInside
	}
	for err == nil && r.state == stateInside && !r.more {
		err = r.endDirectory()
	}
	if err != nil {
		return Header{}, err
	}
	if r.state == stateDone {
		return Header{}, io.EOF
	}
	return r.readEntry()
}

// All pieces below are read at once, because the format has no shorter
// continuation of what came before. Thus nothing beyond the archive is taken.
const (
	rootHead  = wordMagic + wordOpen + wordType
	entryHead = wordOpen + wordName
	nodeHead  = wordNode + wordOpen + wordType

	typeLen  = 16 // the type, but for the end of "directory"
	afterLen = 24 // what comes at least after that
	tailLen  = typeLen + afterLen
)

func (r *Reader) readRoot() (Header, error) {
	head, err := r.take(len(rootHead) + tailLen)
	if err != nil {
		return Header{}, err
	}
	if string(head[:len(wordMagic)]) != wordMagic {
		return Header{}, r.bad(len(head), "input doesn't look like a Nix archive")
	}
	if string(head[:len(rootHead)]) != rootHead {
		return Header{}, r.badWord(head, rootHead)
	}
	r.pos.entries++
	return r.readNode(head[len(rootHead):], Header{})
}

func (r *Reader) readEntry() (Header, error) {
	head, err := r.take(len(entryHead) + 8)
	if err != nil {
		return Header{}, err
	}
	if string(head[:len(entryHead)]) != entryHead {
		return Header{}, r.badWord(head, entryHead)
	}
	size := binary.LittleEndian.Uint64(head[len(entryHead):])
	if size > MaxName {
		return Header{}, r.bad(8, "name of %d bytes, at most %d are allowed", size, MaxName)
	}
	n, pad := int(size), padding(int64(size))
	rest, err := r.take(n + pad + len(nodeHead) + tailLen)
	if err != nil {
		return Header{}, err
	}
	h := Header{Name: string(rest[:n]), Depth: r.pos.depth()}
	if reason := r.pos.enter(h.Name); reason != "" {
		return Header{}, r.bad(len(rest), "%s", reason)
	}
	if !zero(rest[n : n+pad]) {
		return Header{}, r.bad(len(rest)-n, "padding of a name is not zero")
	}
	rest = rest[n+pad:]
	if string(rest[:len(nodeHead)]) != nodeHead {
		return Header{}, r.badWord(rest, nodeHead)
	}
	return r.readNode(rest[len(nodeHead):], h)
}

// readNode reads what follows the word "type". tail is the beginning of that, the
// last that was taken.
func (r *Reader) readNode(tail []byte, h Header) (Header, error) {
	kind, after := tail[:typeLen], tail[typeLen:]
	switch {
	case string(kind) == wordRegular:
		return r.readRegular(after, h)
	case string(kind) == wordSymlink:
		return r.readSymlink(after, h)
	case string(kind) == wordDirectory[:typeLen] && string(after[:8]) == wordDirectory[typeLen:]:
		var err error
		h.Type, r.state = Directory, stateDirectory
		r.more, err = r.entryOrEnd(after[8:])
		return h, err
	}
	return Header{}, r.bad(len(tail), "%s", wrongWord(tail, "regular", "directory", "symlink"))
}

func (r *Reader) readRegular(after []byte, h Header) (Header, error) {
	h.Type = Regular
	if string(after[:16]) == wordExecutable[:16] {
		if string(after) != wordExecutable {
			return Header{}, r.badWord(after, wordExecutable)
		}
		var err error
		if after, err = r.take(len(wordEmpty+wordContents) + 8); err != nil {
			return Header{}, err
		}
		if value := binary.LittleEndian.Uint64(after); value != 0 {
			return Header{}, r.bad(len(after), "executable marker has a value of %d bytes", value)
		}
		h.Executable, after = true, after[8:]
	}
	if string(after[:16]) != wordContents {
		if h.Executable {
			return Header{}, r.bad(len(after), "%s", wrongWord(after, "contents"))
		}
		return Header{}, r.bad(len(after), "%s", wrongWord(after, "executable", "contents"))
	}
	size := binary.LittleEndian.Uint64(after[16:])
	// The offset must not overflow before the limit is noticed.
	if room := uint64(math.MaxInt64 - r.offset - bufSize); size > room {
		return Header{}, r.bad(8, "content of %d bytes", size)
	}
	if limit := r.pos.limits.Size; limit > 0 && int64(size) > limit-r.offset {
		return Header{}, r.bad(8, "content of %d bytes exceeds an archive of %d bytes", size, limit)
	}
	h.Size = int64(size)
	r.state, r.content, r.pad = stateLeaf, h.Size, padding(h.Size)
	return h, nil
}

func (r *Reader) readSymlink(after []byte, h Header) (Header, error) {
	if string(after[:16]) != wordTarget {
		return Header{}, r.badWord(after, wordTarget)
	}
	size := binary.LittleEndian.Uint64(after[16:])
	if size > MaxTarget {
		return Header{}, r.bad(8, "symlink target of %d bytes, at most %d are allowed", size, MaxTarget)
	}
	n := int(size)
	target, err := r.take(n + padding(int64(n)))
	if err != nil {
		return Header{}, err
	}
	h.Type, h.Target = Symlink, string(target[:n])
	if reason := checkTarget(h.Target); reason != "" {
		return Header{}, r.bad(len(target), "%s", reason)
	}
	if !zero(target[n:]) {
		return Header{}, r.bad(len(target)-n, "padding of a symlink target is not zero")
	}
	r.state = stateLeaf
	return h, nil
}

// endLeaf reads the rest of a file or a symbolic link, and what comes after.
func (r *Reader) endLeaf() error {
	if err := r.discard(); err != nil {
		return err
	}
	if r.pos.depth() == 0 {
		return r.end(wordClose)
	}
	return r.end(wordClose + wordClose) // of the node and of the entry
}

// endDirectory goes up from the innermost open directory, whose own end has been
// read.
func (r *Reader) endDirectory() error {
	r.pos.close()
	if r.pos.depth() == 0 {
		r.state = stateDone
		return nil
	}
	return r.end(wordClose)
}

// end reads padding and the words want, which end a node. In a directory, a
// further entry or the directory's end come next.
func (r *Reader) end(want string) error {
	size := r.pad + len(want)
	if r.pos.depth() > 0 {
		size += len(wordEntry)
	}
	got, err := r.take(size)
	if err != nil {
		return err
	}
	if !zero(got[:r.pad]) {
		return r.bad(len(got), "padding of content is not zero")
	}
	got, r.pad = got[r.pad:], 0
	if string(got[:len(want)]) != want {
		return r.badWord(got, want)
	}
	if r.state = stateDone; r.pos.depth() > 0 {
		r.state = stateInside
		r.more, err = r.entryOrEnd(got[len(want):])
	}
	return err
}

// entryOrEnd tells whether word is an entry of a directory or its end.
func (r *Reader) entryOrEnd(word []byte) (more bool, err error) {
	switch string(word) {
	case wordEntry:
		return true, nil
	case wordClose:
		return false, nil
	}
	return false, r.bad(len(word), "%s", wrongWord(word, "entry", ")"))
}

// Read reads from the content of the node that Next moved to. At its end, and for
// a node without content, it returns io.EOF.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil && r.err != io.EOF {
		return 0, r.err
	}
	if r.content == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > r.content {
		p = p[:r.content]
	}
	n, err := r.r.Read(p)
	r.content -= int64(n)
	r.offset += int64(n)
	if err == io.EOF && r.content > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		r.err = r.failed(err)
		return n, r.err
	}
	return n, nil
}

// WriteTo writes the rest of the content of the present node to w.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	buf := takeBuffer()
	defer giveBuffer(buf)
	var total int64
	for {
		n, err := r.Read(buf[:])
		total += int64(n)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// discard throws the rest of the content of the present node away.
func (r *Reader) discard() error {
	n := r.content
	if n > int64(len(r.buf)) {
		_, err := r.WriteTo(io.Discard)
		return err
	}
	r.content = 0
	_, err := r.take(int(n))
	return err
}

// Path is the path of the node that Next moved to, relative to the root, for
// which it is "".
func (r *Reader) Path() string { return r.pos.String() }

// Offset is the number of bytes taken from the stream. After Next has returned
// io.EOF it is the size of the archive.
func (r *Reader) Offset() int64 { return r.offset }

// take reads the next n bytes, at most bufSize, into buf.
func (r *Reader) take(n int) ([]byte, error) {
	if limit := r.pos.limits.Size; limit > 0 && int64(n) > limit-r.offset {
		return nil, r.bad(0, "archive of more than %d bytes", limit)
	}
	p := r.buf[:n]
	got, err := io.ReadFull(r.r, p)
	r.offset += int64(got)
	if err != nil {
		return nil, r.failed(err)
	}
	return p, nil
}

// bad makes the error for what stands back bytes before the present offset.
func (r *Reader) bad(back int, format string, args ...any) error {
	return &FormatError{Offset: r.offset - int64(back), Path: r.Path(), Reason: fmt.Sprintf(format, args...)}
}

// badWord is bad for words that are not those of want. got is the end of what
// was taken, and begins where want should.
func (r *Reader) badWord(got []byte, want string) error {
	offset, reason := mismatch(got, want)
	return r.bad(len(got)-offset, "%s", reason)
}

// failed is the error for a failing stream.
func (r *Reader) failed(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read archive: %w", err)
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
