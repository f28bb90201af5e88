package binarycache

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// widePipe is how much is to fit into a pipe from a program that unpacks, in bytes: with
// the usual 64 KiB, either side waits for the other most of the time.
const widePipe = 1 << 20

// widen makes a pipe hold more, as far as the user may have that.
func widen(pipe io.Reader) {
	if f, ok := pipe.(*os.File); ok {
		if conn, err := f.SyscallConn(); err == nil {
			conn.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, widePipe) })
		}
	}
}
