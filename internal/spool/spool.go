package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// inMemory is how many bytes are kept in memory before there is a file.
const inMemory = 1 << 20

// ErrLimit is wrapped by the error for more than there may be.
var ErrLimit = errors.New("over the limit")

// A Spool keeps what was written to it. The zero value is ready to use; whoever has
// written to one closes it. It is not safe for concurrent use, but for its readers.
type Spool struct {
	// Dir is the directory for the file; "" for the system's.
	Dir string
	// Limit is how many bytes there may be; 0 for any number.
	Limit int64

	size   int64
	memory bytes.Buffer
	file   *os.File
}

// Write implements io.Writer.
func (s *Spool) Write(p []byte) (int, error) {
	if s.Limit > 0 && s.size+int64(len(p)) > s.Limit {
		return 0, fmt.Errorf("keep object: more than %d bytes: %w", s.Limit, ErrLimit)
	}
	if s.file == nil && s.size+int64(len(p)) > inMemory {
		if err := s.open(); err != nil {
			return 0, err
		}
	}
	s.size += int64(len(p))
	if s.file == nil {
		return s.memory.Write(p)
	}
	return s.file.Write(p)
}

func (s *Spool) open() error {
	f, err := os.CreateTemp(s.Dir, "kiln-object-")
	if err != nil {
		return fmt.Errorf("keep object: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return fmt.Errorf("keep object: %w", err)
	}
	s.file = f
	if _, err := f.Write(s.memory.Bytes()); err != nil {
		return fmt.Errorf("keep object: %w", err)
	}
	s.memory = bytes.Buffer{}
	return nil
}

// Size is how many bytes there are.
func (s *Spool) Size() int64 { return s.size }

// Reader reads what was written from its beginning. Each has its own position.
func (s *Spool) Reader() io.Reader {
	if s.file == nil {
		return bytes.NewReader(s.memory.Bytes())
	}
	return io.NewSectionReader(s.file, 0, s.size)
}

// Close gives back the file. Readers are of no use any more.
func (s *Spool) Close() {
	if s.file != nil {
		s.file.Close()
	}
}
