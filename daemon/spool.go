package daemon

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/kilnbuild/kiln/wire"
)

// spoolMemory is how many bytes a spool keeps in memory before it takes a file.
const spoolMemory = 1 << 20

// A spool keeps what was written to it, in a file that has no name if there is much
// of it. It is not safe for concurrent use.
type spool struct {
	dir   string // for the file, "" for the system's
	limit int64  // bytes, 0 for none

	size   int64
	memory bytes.Buffer
	file   *os.File
}

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	if s.limit > 0 && s.size+int64(len(p)) > s.limit {
		return 0, fmt.Errorf("keep object: more than %d bytes: %w", s.limit, wire.ErrLimit)
	}
	if s.file == nil && s.size+int64(len(p)) > spoolMemory {
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

func (s *spool) open() error {
	f, err := os.CreateTemp(s.dir, "kiln-object-")
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

// reader reads what was written from its beginning. Each has its own position.
func (s *spool) reader() io.Reader {
	if s.file == nil {
		return bytes.NewReader(s.memory.Bytes())
	}
	return io.NewSectionReader(s.file, 0, s.size)
}

// close gives back the file.
func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
	}
}
