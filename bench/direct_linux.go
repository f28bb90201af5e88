package main

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// direct is the other end of a connection without this program's scheduler in between, which
// takes as long as a daemon does for an answer. Its thread blocks: it is for one goroutine
// that waits for answers which come at once.
func direct(conn *net.UnixConn) (io.ReadWriter, func(), error) {
	f, err := conn.File()
	if err != nil {
		return nil, nil, err
	}
	runtime.LockOSThread()
	fd := f.Fd() // makes it block
	return blocking(fd), func() {
		runtime.UnlockOSThread()
		f.Close()
	}, nil
}

// blocking is a descriptor.
type blocking uintptr

// Read implements io.Reader.
func (fd blocking) Read(p []byte) (int, error) {
	n, err := fd.call(syscall.SYS_READ, p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write implements io.Writer.
func (fd blocking) Write(p []byte) (int, error) { return fd.call(syscall.SYS_WRITE, p) }

func (fd blocking) call(number uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, os.NewSyscallError("call", errno)
		}
	}
}
