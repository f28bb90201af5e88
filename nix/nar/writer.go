package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Writer writes one archive. WriteHeader begins a node, Write and ReadFrom give
// the content of a regular file, Close ends the archive:
//
//	w := nar.NewWriter(stream, nar.Limits{})
//	err := w.WriteHeader(nar.Header{Type: nar.Regular, Size: int64(len(text))})
//	...
//	_, err = w.Write(text)
//	...
//	err = w.Close()
//
// What would be no archive, or one that a Reader with the same limits refuses, is
// an error: names that are not sorted, content that is shorter or longer than
// said, a second root. After an error every call returns it again, and what was
// written is to be thrown away.
//
// Writer collects what it writes in a buffer of 256 KiB, which it gives back at
// Close. It is not safe for concurrent use.
type Writer struct {
	w     io.Writer
	pos   position
	state state
	err   error

	offset  int64 // bytes of the archive before buf
	content int64 // bytes of content that are still to come
	pad     int   // NULs after them

	room *buffer
	buf  []byte // what is collected, in room
}

// NewWriter returns a Writer to w, which stays open.
func NewWriter(w io.Writer, limits Limits) *Writer {
	room := takeBuffer()
	return &Writer{w: w, pos: newPosition(limits), room: room, buf: room[:0]}
}

// WriteHeader ends the present node and begins the next one. The fields that h's
// type does not have must be zero.
func (w *Writer) WriteHeader(h Header) error {
	if w.err != nil {
		return w.err
	}
	if err := w.writeHeader(h); err != nil && w.err == nil {
		w.err = err
	}
	return w.err
}

func (w *Writer) writeHeader(h Header) error {
	if reason := checkFields(h); reason != "" {
		return w.misuse(h.Name, reason)
	}
	if h.Size > math.MaxInt64-w.Size()-bufSize {
		return w.misuse(h.Name, fmt.Sprintf("content of %d bytes", h.Size)) // the size of the archive would overflow
	}
	if w.state == stateStart {
		if h.Depth != 0 || h.Name != "" {
			return w.misuse(h.Name, "the root has a name or a depth")
		}
		w.pos.entries++
		w.put(wordMagic)
	} else {
		if err := w.endNode(); err != nil {
			return err
		}
		if h.Depth < 1 || h.Depth > w.pos.depth() {
			return w.misuse(h.Name, fmt.Sprintf("depth %d, where %d directories are open", h.Depth, w.pos.depth()))
		}
		for w.pos.depth() > h.Depth {
			w.endDirectory()
		}
		if reason := w.pos.enter(h.Name); reason != "" {
			return w.misuse("", reason)
		}
		w.put(wordEntry + wordOpen + wordName)
		w.putString(h.Name)
		w.put(wordNode)
	}
	w.put(wordOpen + wordType)
	switch h.Type {
	case Regular:
		w.put(wordRegular)
		if h.Executable {
			w.put(wordExecutable + wordEmpty)
		}
		w.put(wordContents)
		w.putLength(h.Size)
		w.state, w.content, w.pad = stateLeaf, h.Size, padding(h.Size)
	case Symlink:
		w.put(wordSymlink + wordTarget)
		w.putString(h.Target)
		w.state = stateLeaf
	case Directory:
		w.put(wordDirectory)
		w.state = stateDirectory
	}
	if limit := w.pos.limits.Size; limit > 0 && w.content > limit-w.Size() {
		return w.misuse(h.Name, fmt.Sprintf("archive of more than %d bytes", limit))
	}
	return w.err
}

// checkFields gives the reason why h is no header by itself, or "".
func checkFields(h Header) string {
	switch {
	case h.Type < Regular || h.Type > Symlink:
		return fmt.Sprintf("no such type: %d", h.Type)
	case h.Type != Regular && (h.Size != 0 || h.Executable):
		return fmt.Sprintf("a %v has no size and is not executable", h.Type)
	case h.Size < 0:
		return fmt.Sprintf("size %d", h.Size)
	case h.Type != Symlink && h.Target != "":
		return fmt.Sprintf("a %v has no target", h.Type)
	case h.Type == Symlink:
		return checkTarget(h.Target)
	}
	return ""
}

// Write adds to the content of the present node, a regular file. To write more
// than its header said is an error.
func (w *Writer) Write(p []byte) (int, error) {
	n := 0
	for w.err == nil && n < len(p) {
		if int64(len(p)-n) > w.content {
			w.err = w.misuse("", "content is longer than said")
			break
		}
		if len(p)-n >= bufferSize {
			w.flush()
			w.send(p[n:]) // without a copy
			w.content -= int64(len(p) - n)
			n = len(p)
			break
		}
		size := copy(w.space(), p[n:])
		w.took(size)
		n += size
	}
	return n, w.err
}

// fill reads the content of the present node from r, and fails if r ends before.
func (w *Writer) fill(r io.Reader) error {
	for w.err == nil && w.content > 0 {
		space := w.space()
		n, err := r.Read(space[:min(int64(len(space)), w.content)])
		w.took(n)
		if err != nil && w.content > 0 {
			return err
		}
	}
	return w.err
}

// space returns room for the present content, at least one byte of it. How much
// was filled is then told to took.
func (w *Writer) space() []byte {
	if free := cap(w.buf) - len(w.buf); free < 64<<10 && int64(free) <= w.content || free == 0 {
		w.flush()
	}
	return w.buf[len(w.buf):cap(w.buf)]
}

func (w *Writer) took(n int) {
	w.buf = w.buf[:len(w.buf)+n]
	w.content -= int64(n)
}

var errClosed = errors.New("write archive: already closed")

// Close ends the archive and writes what is left of it to the underlying writer,
// which stays open. It fails if the archive is not whole. Whoever gives up on an
// archive must not call Close: directories that lack entries are whole to it.
func (w *Writer) Close() error {
	if w.err == errClosed {
		return nil
	}
	err := w.err
	if err == nil {
		err = w.finish()
	}
	if w.err = err; err == nil {
		w.err = errClosed
	}
	if w.room != nil {
		giveBuffer(w.room)
		w.room, w.buf = nil, nil
	}
	return err
}

// abandon ends the work on an archive that failed for a reason of the caller's.
func (w *Writer) abandon(err error) {
	w.err = err
	w.Close()
}

func (w *Writer) finish() error {
	if w.state == stateStart {
		return w.misuse("", "there is no root")
	}
	if err := w.endNode(); err != nil {
		return err
	}
	for w.pos.depth() > 0 {
		w.endDirectory()
	}
	if limit := w.pos.limits.Size; limit > 0 && w.Size() > limit {
		return w.misuse("", fmt.Sprintf("archive of more than %d bytes", limit))
	}
	w.flush()
	return w.err
}

// Size is the number of bytes of the archive so far. After Close it is the size
// of the archive.
func (w *Writer) Size() int64 { return w.offset + int64(len(w.buf)) }

// endNode ends the present node; a directory is opened instead.
func (w *Writer) endNode() error {
	switch w.state {
	case stateDirectory:
		w.pos.open()
	case stateLeaf:
		if w.content != 0 {
			return w.misuse("", fmt.Sprintf("content is shorter than said: %d bytes are missing", w.content))
		}
		w.put(wordEmpty[:w.pad])
		w.pad = 0
		w.closeNode()
	}
	w.state = stateInside
	return nil
}

func (w *Writer) endDirectory() {
	w.pos.close()
	w.closeNode()
}

// closeNode writes the end of a node, and of the entry that it is.
func (w *Writer) closeNode() {
	w.put(wordClose)
	if w.pos.depth() > 0 {
		w.put(wordClose)
	}
}

func (w *Writer) put(words string) {
	if cap(w.buf)-len(w.buf) < len(words) {
		w.flush()
	}
	w.buf = append(w.buf, words...)
}

func (w *Writer) putLength(n int64) {
	var length [8]byte
	binary.LittleEndian.PutUint64(length[:], uint64(n))
	w.put(string(length[:]))
}

func (w *Writer) putString(s string) {
	w.putLength(int64(len(s)))
	w.put(s)
	w.put(wordEmpty[:padding(int64(len(s)))])
}

// flush empties buf. After an error it does so as well.
func (w *Writer) flush() {
	if other, ok := w.w.(Exchanger); ok && w.err == nil && len(w.buf) == cap(w.buf) {
		w.exchange(other)
		return
	}
	w.send(w.buf)
	w.buf = w.buf[:0]
}

// An Exchanger is a writer that can go on using what is written to it while more is
// written, and so saves a copy.
type Exchanger interface {
	io.Writer
	// Exchange writes p and keeps its memory. It gives other memory of the same
	// length, whose content does not matter, also with an error.
	Exchange(p []byte) (other []byte, err error)
}

func (w *Writer) exchange(to Exchanger) {
	w.offset += int64(len(w.buf))
	other, err := to.Exchange(w.buf)
	if err != nil {
		w.err = fmt.Errorf("write archive: %w", err)
	}
	w.room = (*buffer)(other)
	w.buf = w.room[:0]
}

func (w *Writer) send(p []byte) {
	w.offset += int64(len(p))
	if w.err != nil || len(p) == 0 {
		return
	}
	if _, err := w.w.Write(p); err != nil {
		w.err = fmt.Errorf("write archive: %w", err)
	}
}

// misuse is the error for what would be no archive. name is a node that was not
// entered.
func (w *Writer) misuse(name, reason string) error {
	if name == "" {
		name = w.pos.String()
	}
	return fmt.Errorf("write archive: %s, at %q", reason, clip(name))
}
