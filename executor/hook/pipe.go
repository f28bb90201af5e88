package hook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// drainTime is how long output is still waited for that may come through a
// program's pipe after its end, where something that escaped from its session
// keeps the pipe open.
const drainTime = 2 * time.Second

// maxLeft is how many bytes are taken of what is in a pipe when that time is up.
const maxLeft = 1 << 20

// drain makes pumps of the files, which are pipes, end before long.
func drain(files ...*os.File) {
	for _, f := range files {
		// It fails for one that is closed, which is drained.
		_ = f.SetReadDeadline(time.Now().Add(drainTime))
	}
}

// pump hands on what comes through a pipe until nobody holds the other end any
// more, or until drain's time is up: then, what is in the pipe.
func pump(f *os.File, take func([]byte) error) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := take(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return pumpLeft(f, buf, take)
		default:
			return fmt.Errorf("read the output of a hook: %w", err)
		}
	}
}

// pumpLeft hands on what is in a pipe. A taker may be so slow that much is.
func pumpLeft(f *os.File, buf []byte, take func([]byte) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for left := maxLeft; left > 0; {
		n := 0
		// Read gives nothing any more after a deadline. The descriptor does not block.
		if err := conn.Control(func(fd uintptr) { n, _ = syscall.Read(int(fd), buf[:min(len(buf), left)]) }); err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		if err := take(buf[:n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}
