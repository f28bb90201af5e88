package socket

import (
	"errors"
	"fmt"
	"net"
)

// A Peer is the process at the other end of a connection, as it was when it connected.
type Peer struct {
	PID      int // 0 if it is not known
	UID, GID uint32
}

// PeerOf asks the kernel who is at the other end. On systems where it cannot tell, that
// is an error that wraps errors.ErrUnsupported.
func PeerOf(conn net.Conn) (Peer, error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, errors.New("find out who connects: it is no connection of this machine")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("find out who connects: %w", err)
	}
	var p Peer
	var failed error
	err = raw.Control(func(fd uintptr) { p, failed = credentials(int(fd)) })
	if err = errors.Join(err, failed); err != nil {
		return Peer{}, fmt.Errorf("find out who connects: %w", err)
	}
	return p, nil
}
