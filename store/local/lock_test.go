package local

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

const (
	pathA nix.StorePath = "11111111111111111111111111111111-a"
	pathB nix.StorePath = "22222222222222222222222222222222-b"
)

func mustLock(t testing.TB, s *Store, paths ...nix.StorePath) *PathLocks {
	t.Helper()
	l, err := s.LockPaths(t.Context(), paths, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLockFiles(t *testing.T) {
	s := newStore(t)
	l := mustLock(t, s, pathB, pathA, pathB)
	for _, p := range []nix.StorePath{pathA, pathB} {
		name := s.RealPath(p) + ".lock"
		info, err := os.Stat(name)
		if err != nil || info.Mode() != 0o600 || info.Size() != 0 {
			t.Errorf("lock file: %v, %v, want an empty one with mode 0600", info, err)
		}
		// As Nix tries it.
		if err := exec.Command("flock", "--nonblock", name, "true").Run(); err == nil {
			t.Error("another process got the lock")
		}
	}
	old, err := os.Open(s.RealPath(pathA) + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	l.Release()
	l.Release()
	// Whoever had it open before sees that it is stale.
	if info, err := old.Stat(); err != nil || info.Size() != 1 {
		t.Errorf("the released lock file has %d bytes, want 1 (%v)", info.Size(), err)
	}
	if left := names(t, s.RealDir()); len(left) != 1 {
		t.Errorf("left in the store: %v", left)
	}
}

// A lock file that somebody has released while we waited for it is not the lock.
func TestStaleLock(t *testing.T) {
	s := newStore(t)
	name := s.RealPath(pathA) + ".lock"
	theirs, err := openLock(name)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := flock(theirs, lockExclusive); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan string, 1)
	got := make(chan *PathLocks, 1)
	go func() {
		l, err := s.LockPaths(t.Context(), []nix.StorePath{pathA}, func(path string) { waiting <- path })
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	if path := <-waiting; path != s.RealPath(pathA) {
		t.Errorf("waiting for %q, want the object's path", path)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.WriteString("d"); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	l := <-got
	if !exists(name) {
		t.Error("the lock is held on a file that is gone")
	}
	l.Release()
}

func TestLockCancel(t *testing.T) {
	s := newStore(t)
	l := mustLock(t, s, pathB)
	theirs, err := openLock(s.RealPath(pathA) + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := flock(theirs, lockExclusive); err != nil {
		t.Fatal(err)
	}
	for _, p := range []nix.StorePath{pathB, pathA} { // held by a goroutine, by another opening
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		calls := 0
		_, err := s.LockPaths(ctx, []nix.StorePath{p}, func(string) { calls++ })
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), string(p)) {
			t.Errorf("error %v, want one of the context that names %s", err, p)
		}
		if calls != 1 {
			t.Errorf("onWait was called %d times", calls)
		}
		cancel()
	}
	if err := errors.Join(theirs.Close(), os.Remove(theirs.Name())); err != nil {
		t.Fatal(err)
	}
	l.Release()
	mustLock(t, s, pathA, pathB).Release()
}

func TestLockExcludes(t *testing.T) {
	root := tempDir(t)
	// Two stores of one process are like two processes to each other.
	stores := []*Store{open(t, options(t, root)), open(t, options(t, root))}
	var holders, most atomic.Int32
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for range 20 {
				l, err := stores[g%2].LockPaths(t.Context(), []nix.StorePath{pathA, pathB}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), holders.Add(1)))
				time.Sleep(50 * time.Microsecond)
				holders.Add(-1)
				l.Release()
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d held the locks at a time", most.Load())
	}
}

func TestTempDir(t *testing.T) {
	s := newStore(t)
	a, err := s.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a.Path() == b.Path() {
		t.Error("two temporary directories are one")
	}
	// Collectors respect what is called like an object and is a temporary root.
	top := filepath.Dir(a.Path())
	roots, err := os.ReadFile(s.roots.file.Name())
	if err != nil || !strings.Contains(string(roots), s.Dir().Join(nix.StorePath(filepath.Base(top)))+"\x00") {
		t.Errorf("%s is no temporary root (%v)", top, err)
	}
	if info, err := os.Stat(top); err != nil || info.Mode() != os.ModeDir|0o700 || filepath.Dir(top) != s.RealDir() {
		t.Errorf("%s: %v, %v, want a directory of the store with mode 0700", top, info, err)
	}
	writeFiles(t, a.Path(), map[string]string{"deep/in/it": "x"})
	if err := os.Chmod(filepath.Join(a.Path(), "deep/in"), 0); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if exists(a.Path()) || !exists(b.Path()) {
		t.Error("Close removed the wrong directory")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
