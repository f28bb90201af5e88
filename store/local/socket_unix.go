//go:build linux || darwin

package local

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// maxSocketPath is the longest path, in bytes, that the address of a socket can
// have on all systems.
const maxSocketPath = 103

// dialSocket connects to a socket in the file system, whatever its path's length.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var dialer net.Dialer
	if len(path) > maxSocketPath {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), filepath.Base(path))
	}
	return dialer.DialContext(ctx, "unix", path)
}

// listenSocket makes a socket in the file system, whatever its path's length. Who
// closes it removes the file.
func listenSocket(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), filepath.Base(path))
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}
