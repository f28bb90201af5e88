package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
)

// Standard is standard input and output as a connection, whose Close unblocks Read and Write
// where they are pipes or sockets, as a server for remote logins has them. Whoever else has
// the same pipe is not affected.
func Standard() io.ReadWriteCloser {
	return &standard{in: unblocked(os.Stdin, os.O_RDONLY), out: unblocked(os.Stdout, os.O_WRONLY)}
}

type standard struct {
	in  io.ReadCloser
	out io.WriteCloser
}

// Read implements io.Reader.
func (s *standard) Read(p []byte) (int, error) { return s.in.Read(p) }

// Write implements io.Writer.
func (s *standard) Write(p []byte) (int, error) { return s.out.Write(p) }

// Close implements io.Closer.
func (s *standard) Close() error {
	return errors.Join(s.in.Close(), s.out.Close(), closed(os.Stdin), closed(os.Stdout))
}

// closed closes what may be closed already.
func closed(f *os.File) error {
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// unblocked gives a file by which a pipe or socket can be used without blocking a thread; f
// itself where there is none.
func unblocked(f *os.File, mode int) io.ReadWriteCloser {
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.Mode()&os.ModeSocket != 0:
		if conn, err := net.FileConn(f); err == nil {
			return conn
		}
	case info.Mode()&os.ModeNamedPipe != 0:
		// Opened again, it is another description of the same pipe.
		again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), mode|syscall.O_NONBLOCK, 0)
		if err == nil {
			return again
		}
	}
	return f
}
