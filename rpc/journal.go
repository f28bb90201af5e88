package rpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxEvent bounds an event in bytes. The largest are those with results.
const maxEvent = 64 << 20

// maxChunk bounds the log in one event.
const maxChunk = 64 << 10

// journal is what happened to one build: a file of events, each after its length as a
// varint. It is safe for concurrent use. What cannot be written is lost for watchers; the
// build goes on.
type journal struct {
	path string
	id   string

	mu       sync.Mutex
	file     *os.File // nil while nothing much is written
	keepOpen bool
	size     int64
	events   uint64
	logBytes uint64
	over     bool          // no more will come
	ended    chan struct{} // closed then
	grown    chan struct{} // closed when there is more, and replaced
	err      error
	buf      []byte
}

func newJournal(path, id string) *journal {
	return &journal{path: path, id: id, grown: make(chan struct{}), ended: make(chan struct{})}
}

// append writes an event, and gives it number, time and build.
func (j *journal) append(e *kilnv1.BuildEvent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over || j.err != nil {
		return
	}
	e.Number, e.BuildId, e.Time = j.events+1, j.id, timestamppb.Now()
	if log := e.GetLog(); log != nil {
		log.Offset = j.logBytes
	}
	if j.err = j.write(e); j.err != nil {
		return
	}
	j.events++
	j.logBytes += uint64(len(e.GetLog().GetData()))
	j.tell()
}

func (j *journal) tell() {
	close(j.grown)
	j.grown = make(chan struct{})
}

func (j *journal) write(e *kilnv1.BuildEvent) error {
	j.buf = binary.AppendUvarint(j.buf[:0], uint64(proto.Size(e)))
	var err error
	if j.buf, err = (proto.MarshalOptions{}).MarshalAppend(j.buf, e); err != nil {
		return err
	}
	if j.file == nil {
		if j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
			return err
		}
	}
	// What an earlier write has left half is written over.
	if _, err = j.file.WriteAt(j.buf, j.size); err != nil {
		return err
	}
	j.size += int64(len(j.buf))
	if cap(j.buf) > 2*maxChunk {
		j.buf = nil
	}
	if !j.keepOpen {
		err = j.file.Close()
		j.file = nil
	}
	return err
}

// hold keeps the file open from now on: much will be written.
func (j *journal) hold() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.keepOpen = true
}

// end writes the last event, which is nil for a build that came to nothing.
func (j *journal) end(e *kilnv1.BuildEvent) {
	if e != nil {
		j.append(e)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return
	}
	j.over = true
	close(j.ended)
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
	j.buf = nil
	j.tell()
}

// counts gives how many events and bytes of log there are.
func (j *journal) counts() (events, logBytes uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.events, j.logBytes
}

func (j *journal) state() (size int64, over bool, grown <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size, j.over, j.grown
}

// maxMerged bounds the log that is given to a reader at once. Many read at the same time,
// and gRPC keeps messages in buffers of 16 KiB, the next larger ones being twice that.
const maxMerged = 15 << 10

// gathering is how long a reader waits after what it has got, unless that was the last. Each
// message to each of many readers costs the same, be it a line or a page.
const gathering = 20 * time.Millisecond

// read calls yield with every event after one of a number, and with the last one in any
// case; with follow it waits for more until that.
// Pieces of log that follow on each other come as one, with the number of the last: builders
// print line after line, and who watches from the beginning would get as many messages.
func (j *journal) read(ctx context.Context, after uint64, follow bool, yield func(*kilnv1.BuildEvent) error) error {
	m := merger{after: after, yield: yield}
	r := newEventReader()
	var f *os.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for at := int64(0); ; {
		size, over, grown := j.state()
		if size > at {
			if f == nil {
				var err error
				if f, err = os.Open(j.path); err != nil {
					return fmt.Errorf("read the events of build '%s': %w", j.id, err)
				}
			}
			_, err := r.read(io.NewSectionReader(f, at, size-at), m.add)
			if err == nil {
				err = m.flush()
			}
			if err != nil {
				return err
			}
			at = size
			if !over && follow {
				select {
				case <-time.After(gathering):
				case <-j.ended:
				case <-ctx.Done():
				}
			}
			continue
		}
		if over || !follow {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// merger joins pieces of log.
type merger struct {
	after uint64 // events up to this number are left out
	yield func(*kilnv1.BuildEvent) error
	log   *kilnv1.BuildEvent // nil for none
}

func (m *merger) add(e *kilnv1.BuildEvent) error {
	if e.Number <= m.after && e.GetEnded() == nil {
		return nil
	}
	log := e.GetLog()
	if log == nil {
		if err := m.flush(); err != nil {
			return err
		}
		return m.yield(e)
	}
	if m.log != nil && (m.log.StorePath != e.StorePath || len(m.log.GetLog().Data)+len(log.Data) > maxMerged) {
		if err := m.flush(); err != nil {
			return err
		}
	}
	if m.log == nil {
		m.log = e
		return nil
	}
	m.log.Number, m.log.Time = e.Number, e.Time
	m.log.GetLog().Data = append(m.log.GetLog().Data, log.Data...)
	return nil
}

func (m *merger) flush() error {
	e := m.log
	m.log = nil
	if e == nil {
		return nil
	}
	return m.yield(e)
}

// eventReader reads events from one place after the other.
type eventReader struct {
	br  countingReader
	buf []byte
}

func newEventReader() *eventReader {
	return &eventReader{br: countingReader{Reader: bufio.NewReaderSize(nil, 4096)}}
}

// readEvents calls yield with the events of r. It gives the number of bytes of those that
// are whole; that the last one is not is no error.
func readEvents(r io.Reader, yield func(*kilnv1.BuildEvent) error) (whole int64, err error) {
	return newEventReader().read(r, yield)
}

func (er *eventReader) read(r io.Reader, yield func(*kilnv1.BuildEvent) error) (whole int64, err error) {
	br := &er.br
	br.Reset(r)
	br.n = 0
	for {
		n, err := binary.ReadUvarint(br)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return whole, nil
		}
		if err != nil {
			return whole, err
		}
		if n > maxEvent {
			return whole, fmt.Errorf("an event of %d bytes", n)
		}
		if er.buf, err = readN(br, er.buf[:0], int(n)); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return whole, nil
			}
			return whole, err
		}
		e := &kilnv1.BuildEvent{}
		if err := proto.Unmarshal(er.buf, e); err != nil {
			return whole, fmt.Errorf("an event that is none: %w", err)
		}
		if cap(er.buf) > 2*maxChunk {
			er.buf = nil
		}
		whole = br.n
		if err := yield(e); err != nil {
			return whole, err
		}
	}
}

// countingReader counts what was taken from it.
type countingReader struct {
	*bufio.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *countingReader) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// readN reads n bytes, and takes no more memory than has come.
func readN(r io.Reader, buf []byte, n int) ([]byte, error) {
	for len(buf) < n {
		part := min(n-len(buf), maxChunk)
		at := len(buf)
		buf = append(buf, make([]byte, part)...)
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// recover finds out what an earlier process has written.
func (j *journal) recover() error {
	f, err := os.Open(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	j.size, err = readEvents(f, func(e *kilnv1.BuildEvent) error {
		j.events = e.Number
		j.logBytes += uint64(len(e.GetLog().GetData()))
		return nil
	})
	return err
}
