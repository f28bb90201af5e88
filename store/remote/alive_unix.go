//go:build unix

package remote

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// errPeerGone is what writing to a connection gives that the other side has closed.
const errPeerGone = unix.EPIPE

// errTryAgain is what connecting to a socket gives at which too many wait already.
const errTryAgain = unix.EAGAIN

// alive tells whether an idle connection is still good: one on which something has
// come is not, since a daemon says nothing unasked but that it has gone.
func alive(raw io.ReadWriteCloser) bool {
	c, ok := raw.(syscall.Conn)
	if !ok {
		return true
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = rc.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		quiet = n == 0 && err == nil
	})
	return err == nil && quiet
}
