package local

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

const (
	// maxTellers bounds the connections to a collector. Who comes when there are as
	// many waits for one to end.
	maxTellers = 4096
	// maxRootLine is the length of a line that a collector is told, in bytes.
	maxRootLine = 4096
)

// rootServer listens to those who need temporary roots while a collector has the
// lock. They send lines with full store paths, and get a "1" for each. (Nix:
// gc-socket.)
type rootServer struct {
	collection *Collection
	listener   net.Listener
	path       string
	slots      chan struct{}
	work       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	ended bool
}

func (c *Collection) serve() (*rootServer, error) {
	path := c.store.layout.gcSocket()
	if err := makeDirs(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// That of a collector that was killed. We have its lock.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := listenSocket(path)
	if err != nil {
		return nil, fmt.Errorf("listen to those who need temporary roots: %w", err)
	}
	// Whoever may use the store may need a root.
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s := &rootServer{
		collection: c, listener: listener, path: path,
		slots: make(chan struct{}, maxTellers), conns: make(map[net.Conn]struct{}),
	}
	s.work.Go(s.accept)
	return s, nil
}

func (s *rootServer) accept() {
	for {
		s.slots <- struct{}{}
		conn, err := s.listener.Accept()
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// There may be no descriptor left just now. Who is not answered waits.
			s.collection.store.opts.Warn(fmt.Errorf("listen to those who need temporary roots: %w", err))
			time.Sleep(collectorPause)
			continue
		}
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			conn.Close()
			<-s.slots
			continue
		}
		s.conns[conn] = struct{}{}
		s.mu.Unlock()
		s.work.Go(func() {
			s.listen(conn)
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
			conn.Close()
			<-s.slots
		})
	}
}

// listen serves one connection, and tells once of what is not understood there.
func (s *rootServer) listen(conn net.Conn) {
	opts := &s.collection.store.opts
	if err := hearRoots(conn, opts.StoreDir, s.collection.shelf.root); err != nil && !errors.Is(err, net.ErrClosed) {
		opts.Warn(fmt.Errorf("somebody told the collector of a root: %w", err))
	}
}

// hearRoots reads lines with store paths, and answers each with a "1" when root has
// returned: those that are no store paths as well, as Nix does. A line that is too long
// is the end. The error is the first that is about what was read.
func hearRoots(conn io.ReadWriter, dir nix.StoreDir, root func(nix.StorePath)) (first error) {
	lines := bufio.NewReaderSize(conn, maxRootLine)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			if len(line) > 0 && first == nil && !errors.Is(err, io.EOF) {
				first = fmt.Errorf("read a line: %w", err)
			}
			return first
		}
		p, err := dir.Parse(strings.TrimSuffix(string(line), "\n"))
		switch {
		case err == nil:
			root(p)
		case first == nil:
			first = err
		}
		if _, err := conn.Write([]byte{'1'}); err != nil {
			return first
		}
	}
}

// root notes a temporary root, and returns when the object is not being taken away.
func (s *shelf) root(p nix.StorePath) {
	key, err := keyOf(p)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.rooted[key]; !known {
		s.rooted[key] = struct{}{}
		s.arrivals = append(s.arrivals, p.HashPart())
	}
	for {
		if _, doomed := s.condemned[key]; !doomed {
			return
		}
		s.gone.Wait()
	}
}

// close tells everybody to turn to the lock, which is still ours.
func (s *rootServer) close() error {
	err := os.Remove(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	s.mu.Lock()
	s.ended = true
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	err = errors.Join(err, s.listener.Close())
	// Somebody who waits for a slot gets one from those that were closed.
	s.work.Wait()
	return err
}
