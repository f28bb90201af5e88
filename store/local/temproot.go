package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/base32"
)

// tempRoots is the file with this process's temporary roots. It is made for the
// first root, and locked as long as the process lives: that is how a collector
// tells that it counts. Nothing can be taken out of it again.
//
// A collector reads all such files once, after it has locked gc.lock for itself.
// So a root either is written while gc.lock is held together with others, or it
// is sent to the collector's socket, which answers when it has been noticed.
type tempRoots struct {
	store *Store
	turn  chan struct{} // a token while nobody adds a root

	mu    sync.Mutex
	known map[rootKey]struct{} // what a collector knows or will read

	// Of whoever has the token.
	file      *os.File
	gcLock    *os.File
	collector net.Conn // nil while no collector runs
}

// rootKey is a hash part, decoded. Collectors, too, look at nothing else.
type rootKey [20]byte

func (t *tempRoots) init(s *Store) {
	t.store, t.known, t.turn = s, make(map[rootKey]struct{}), make(chan struct{}, 1)
	t.turn <- struct{}{}
}

// AddTempRoot implements store.TempRooter. While a collector runs, it waits until
// the collector has taken notice. A store that is open for reading only has no
// roots; AddTempRoot does nothing there.
func (s *Store) AddTempRoot(ctx context.Context, paths ...nix.StorePath) error {
	if s.opts.ReadOnly {
		return nil
	}
	return s.roots.add(ctx, paths)
}

func (t *tempRoots) add(ctx context.Context, paths []nix.StorePath) error {
	fresh, err := t.unknown(paths)
	if err != nil || len(fresh) == 0 {
		return err
	}
	select {
	case _, ok := <-t.turn:
		if !ok {
			return errClosed
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { t.turn <- struct{}{} }()
	if fresh, err = t.unknown(fresh); err != nil || len(fresh) == 0 {
		return err
	}
	if err := t.write(ctx, fresh); err != nil {
		return fmt.Errorf("add temporary roots: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range fresh {
		key, _ := keyOf(p)
		t.known[key] = struct{}{}
	}
	return nil
}

// unknown gives those of paths that no collector knows of.
func (t *tempRoots) unknown(paths []nix.StorePath) ([]nix.StorePath, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var fresh []nix.StorePath
	for _, p := range paths {
		key, err := keyOf(p)
		if err != nil {
			return nil, err
		}
		if _, ok := t.known[key]; !ok {
			fresh = append(fresh, p)
		}
	}
	return fresh, nil
}

func keyOf(p nix.StorePath) (key rootKey, err error) {
	if _, err := nix.ParseStorePath(string(p)); err != nil {
		return key, fmt.Errorf("add temporary root: %w", err)
	}
	digest, err := base32.DecodeString(p.HashPart())
	copy(key[:], digest)
	return key, err
}

// write makes roots known, to the running collector or to the next one.
func (t *tempRoots) write(ctx context.Context, paths []nix.StorePath) error {
	if err := t.open(); err != nil {
		return explain(err)
	}
	for {
		free, err := tryFlock(t.gcLock, lockShared)
		if err != nil {
			return err
		}
		if free {
			err := t.append(paths)
			return errors.Join(err, flock(t.gcLock, unlocked))
		}
		known, err := t.tell(ctx, paths)
		if err != nil {
			return err
		}
		if known {
			return t.append(paths)
		}
	}
}

// insist tells a collector that runs of roots, whether or not they have been told of.
// Nix's collectors read temporary roots after permanent ones: one that has looked for
// the latter just before somebody made one, and looks for the former when he has
// ended, would see neither.
func (t *tempRoots) insist(ctx context.Context, paths ...nix.StorePath) error {
	select {
	case _, ok := <-t.turn:
		if !ok {
			return errClosed
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { t.turn <- struct{}{} }()
	if err := t.open(); err != nil {
		return explain(err)
	}
	for {
		free, err := tryFlock(t.gcLock, lockShared)
		if err != nil {
			return err
		}
		if free {
			return flock(t.gcLock, unlocked)
		}
		if known, err := t.tell(ctx, paths); known || err != nil {
			return err
		}
	}
}

// open makes the file. Its name begins with the number of the process, which is
// how collectors call it; the rest makes it this store's own, in whatever process
// namespace.
func (t *tempRoots) open() error {
	if t.file == nil {
		name := filepath.Join(t.store.layout.tempRoots(), strconv.Itoa(os.Getpid())+"-"+strings.ToLower(rand.Text()[:10]))
		if err := t.store.journal.note(transientOwned, name); err != nil {
			return err
		}
		for t.file == nil {
			f, err := openLock(name)
			if err != nil {
				return err
			}
			err = flock(f, lockExclusive)
			linked := false
			if err == nil {
				// A collector may have taken it for a dead process's.
				linked, err = isLinked(f)
			}
			if err != nil {
				f.Close()
				return err
			}
			if linked {
				t.file = f
			} else {
				f.Close()
			}
		}
	}
	if t.gcLock == nil {
		f, err := openLock(t.store.layout.gcLock())
		if err != nil {
			return err
		}
		t.gcLock = f
	}
	return nil
}

// append writes roots to the file. Collectors ignore a root without its end.
func (t *tempRoots) append(paths []nix.StorePath) error {
	var records []byte
	for _, p := range paths {
		records = append(append(records, t.store.opts.StoreDir.Join(p)...), 0)
	}
	size, err := t.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := t.file.Write(records); err != nil {
		// Without this the next root would be read as the rest of this one.
		return explain(errors.Join(err, t.file.Truncate(size)))
	}
	return nil
}

const (
	// collectorPause is how long to wait for a collector that has locked gc.lock to
	// listen, or to end.
	collectorPause = 20 * time.Millisecond
	// tellAtOnce bounds how many roots are sent before the answers are read.
	tellAtOnce = 100
)

// tell sends roots to the running collector. It tells whether the collector has
// noticed all of them; if not, it has ended, or has not begun to listen.
func (t *tempRoots) tell(ctx context.Context, paths []nix.StorePath) (bool, error) {
	conn := t.collector
	if conn == nil {
		var err error
		conn, err = dialSocket(ctx, t.store.layout.gcSocket())
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EAGAIN) {
			timer := time.NewTimer(collectorPause)
			defer timer.Stop()
			select {
			case <-timer.C:
				return false, nil
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
		}
		if err != nil {
			return false, fmt.Errorf("connect to the running collector: %w", err)
		}
		t.collector = conn
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for len(paths) > 0 {
		n := min(len(paths), tellAtOnce)
		var lines []byte
		for _, p := range paths[:n] {
			lines = append(append(lines, t.store.opts.StoreDir.Join(p)...), '\n')
		}
		_, err := conn.Write(lines)
		if err == nil {
			_, err = io.ReadFull(conn, lines[:n])
		}
		if err != nil {
			conn.Close()
			t.collector = nil
			return false, context.Cause(ctx) // or the collector has ended
		}
		for _, answer := range lines[:n] {
			if answer != '1' {
				return false, fmt.Errorf("the collector at '%s' answers %q", t.store.layout.gcSocket(), answer)
			}
		}
		paths = paths[n:]
	}
	return true, nil
}

// close takes all roots away.
func (t *tempRoots) close() error {
	<-t.turn
	close(t.turn)
	if t.collector != nil {
		t.collector.Close()
	}
	if t.gcLock != nil {
		t.gcLock.Close()
	}
	if t.file == nil {
		return nil
	}
	err := os.Remove(t.file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, t.file.Close(), t.store.journal.done(transientOwned, t.file.Name()))
}
