package socket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// ErrInUse says that somebody answers at a socket already.
var ErrInUse = errors.New("a daemon is listening there already")

// mode lets everybody connect: who is served is decided by who they are.
const mode = 0o666

// Listen makes a socket to which everybody may connect, and the directories above it
// that are missing. A socket whose daemon is dead is replaced. If its daemon lives, that
// is an error that wraps ErrInUse; anything else at the path is one, too. The socket
// goes when the listener is closed, unless it is somebody else's by then.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	l, err := listen(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("listen at '%s': %w", path, err)
	}
	return l, nil
}

func listen(ctx context.Context, path string) (_ net.Listener, err error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("it is not an absolute path")
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := vacant(ctx, path); err != nil {
		return nil, err
	}
	// It gets its name when it can be connected to, and the old one is there until then.
	temp := filepath.Join(dir, ".new-"+rand.Text()[:8])
	address, done, err := shortAddress(temp)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
			os.Remove(temp)
		}
	}()
	if err := os.Chmod(temp, mode); err != nil {
		return nil, err
	}
	own, err := os.Lstat(temp)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(temp, path); err != nil {
		return nil, err
	}
	return &named{UnixListener: l, path: path, own: own}, nil
}

// vacant tells whether nobody listens at a path.
func vacant(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("there is something that is no socket; remove it, or choose another path")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := Dial(ctx, path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%w; stop it, or choose another path", ErrInUse)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, context.DeadlineExceeded): // its queue is full
		return fmt.Errorf("%w; stop it, or choose another path", ErrInUse)
	}
	return err
}

// Dial connects to a socket in the file system, however long its path is. Where many wait
// to be accepted it waits, too, until ctx ends: Nix's daemon lets five wait.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	address, done, err := shortAddress(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		conn, err := d.DialContext(ctx, "unix", address)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// named is a listener with a place in the file system.
type named struct {
	*net.UnixListener
	path string
	own  os.FileInfo
	once sync.Once
}

// Close implements net.Listener.
func (l *named) Close() error {
	l.once.Do(func() {
		if there, err := os.Lstat(l.path); err == nil && os.SameFile(there, l.own) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}

// maxAddress is the longest address of a socket, in bytes, on all systems.
const maxAddress = 103
