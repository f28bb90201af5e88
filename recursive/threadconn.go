package recursive

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// A threadConn is a connection whose Read and Write occupy a thread while they wait.
// The runtime's way is made for many that wait long, and occupies none. Where the only
// goroutine that has anything to do waits for its client again and again, it has each
// request wake three threads in turn, which takes longer than a small request itself.
type threadConn struct {
	*os.File
	yielded time.Time // is Read's
}

// maxThreadConns bounds the threads that wait so in this process: the runtime ends a
// process that has too many.
const maxThreadConns = 64

var threadConns = make(chan struct{}, maxThreadConns)

// onThread makes a threadConn of a connection. Where it cannot, or if there are enough
// of them, it gives the connection as it is. The caller calls done when the one that he
// got is closed and nobody reads from it any more.
func onThread(conn net.Conn) (_ io.ReadWriteCloser, done func()) {
	select {
	case threadConns <- struct{}{}:
	default:
		return conn, func() {}
	}
	done = func() { <-threadConns }
	f, err := blocking(conn)
	if err != nil {
		return conn, done
	}
	conn.Close()
	return &threadConn{File: f, yielded: time.Now()}, done
}

// blocking gives a descriptor of a connection that the runtime does not watch.
func blocking(conn net.Conn) (f *os.File, err error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlled := raw.Control(func(fd uintptr) {
		var own int
		if own, err = duplicate(int(fd)); err == nil {
			f = os.NewFile(uintptr(own), "connection")
		}
	})
	return f, errors.Join(err, controlled)
}

// yieldEvery is half of the time for which a goroutine may do nothing but system calls
// without being scheduled anew. After that the runtime looks after it every 20 µs.
const yieldEvery = 5 * time.Millisecond

// Read implements io.Reader.
func (c *threadConn) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(c.yielded) > yieldEvery {
		runtime.Gosched()
		c.yielded = now
	}
	return c.File.Read(p)
}

// Close ends Read and Write, too, which closing the descriptor alone would not.
func (c *threadConn) Close() error {
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { hangUp(int(fd)) })
	}
	return errors.Join(err, c.File.Close())
}
