package local

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// TestAddManyWaits has somebody else hold the lock of an object in the middle: those before
// it are not kept waiting, and nothing is held while it is waited for.
func TestAddManyWaits(t *testing.T) {
	s := open(t, options(t, tempDir(t)))
	var objects []storetest.Object
	var infos []*nix.PathInfo
	for _, name := range []string{"a", "b", "c", "d"} {
		objects = append(objects, storetest.Text(t, s.Dir(), name, name))
	}
	for i := range objects {
		infos = append(infos, &objects[i].Info)
	}
	locks, err := s.LockPaths(t.Context(), []nix.StorePath{objects[2].Info.Path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	added := make(chan error, 1)
	go func() {
		added <- s.AddMany(t.Context(), infos, func(_ context.Context, i int, w io.Writer) error {
			_, err := w.Write(objects[i].NAR)
			return err
		}, store.AddOptions{})
	}()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, err := s.PathInfo(t.Context(), objects[1].Info.Path); err == nil {
			break
		} else if time.Since(begin) > 10*time.Second {
			t.Fatal(err)
		}
	}
	others, err := s.LockPaths(t.Context(), []nix.StorePath{objects[1].Info.Path, objects[3].Info.Path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	others.Release()
	storetest.CheckMissing(t, s, objects[2].Info.Path)
	locks.Release()
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		storetest.Check(t, s, o)
	}
	// What is valid is not asked for.
	err = s.AddMany(t.Context(), infos, func(context.Context, int, io.Writer) error { return io.ErrUnexpectedEOF }, store.AddOptions{})
	if err != nil {
		t.Error(err)
	}
}

// TestAddManyBounded has a source that sends more than it told of: memory does not hold it.
func TestAddManyBounded(t *testing.T) {
	s := open(t, options(t, tempDir(t)))
	o := storetest.Text(t, s.Dir(), "a", "a")
	sent := 0
	err := s.AddMany(t.Context(), []*nix.PathInfo{&o.Info}, func(_ context.Context, _ int, w io.Writer) error {
		for chunk := make([]byte, 64<<10); ; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return err
			}
		}
	}, store.AddOptions{})
	if err == nil || sent > 0 {
		t.Errorf("error %v after %d bytes", err, sent)
	}
	storetest.CheckMissing(t, s, o.Info.Path)
}

// TestAddManyBehind has a source that sends something behind an archive, of a size that is
// held in memory and of one that is not.
func TestAddManyBehind(t *testing.T) {
	s := open(t, options(t, tempDir(t)))
	for _, size := range []int{1, 2 * smallArchive} {
		o := storetest.Text(t, s.Dir(), "a", strings.Repeat("a", size))
		o.Info.NARSize++ // what is held in memory takes no more than it was told of
		err := s.AddMany(t.Context(), []*nix.PathInfo{&o.Info}, func(_ context.Context, _ int, w io.Writer) error {
			_, err := w.Write(append(slices.Clone(o.NAR), 0))
			return err
		}, store.AddOptions{})
		if !errors.Is(err, errBehind) {
			t.Errorf("%d: error %v", size, err)
		}
		storetest.CheckMissing(t, s, o.Info.Path)
	}
}

// TestAddManyPlainFile has an object that is one file and is named by no content.
func TestAddManyPlainFile(t *testing.T) {
	s := open(t, options(t, tempDir(t)))
	archive := storetest.Archive(t, storetest.Node{Content: "text"})
	info := &nix.PathInfo{Path: "00000000000000000000000000000000-file", NARHash: nix.HashBytes(nix.SHA256, archive), NARSize: int64(len(archive))}
	err := s.AddMany(t.Context(), []*nix.PathInfo{info}, func(_ context.Context, _ int, w io.Writer) error {
		_, err := w.Write(archive)
		return err
	}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	storetest.Check(t, s, storetest.Object{Info: *info, NAR: archive})
}

// TestSpareLocks has somebody open the lock file of an object while it is held: he is told that
// it is over, and the file is not used for another object.
func TestSpareLocks(t *testing.T) {
	s := open(t, options(t, tempDir(t)))
	spares, err := s.spareLocks()
	if err != nil {
		t.Fatal(err)
	}
	defer spares.close()
	paths := make([]string, 3)
	for i := range paths {
		paths[i] = s.RealPath(storetest.Text(t, s.Dir(), "x", strings.Repeat("x", i)).Info.Path) + lockSuffix
	}
	lock := func(name string) *pathLock {
		t.Helper()
		if err := s.journal.note(transientLock, name); err != nil {
			t.Fatal(err)
		}
		l, err := s.tryLock(name, spares)
		if err != nil || l == nil {
			t.Fatalf("lock '%s': %v, %v", name, l, err)
		}
		if got, err := isLinked(l.file); err != nil || !got || !exists(name) {
			t.Fatalf("the lock of '%s' is not there, %v", name, err)
		}
		return l
	}
	lock(paths[0]).release()
	if n := len(spares.files); n != 1 && runtime.GOOS == "linux" {
		t.Fatalf("%d files to spare, want 1", n)
	}
	l := lock(paths[1])
	other, err := openLock(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if got, err := tryFlock(other, lockExclusive); err != nil || got {
		t.Errorf("what is locked was locked again, %v", err)
	}
	l.release()
	if got, err := tryFlock(other, lockExclusive); err != nil || !got {
		t.Errorf("nobody holds the lock, and it cannot be had, %v", err)
	}
	if linked, err := isLinked(other); err != nil || linked {
		t.Errorf("a lock that was given back counts, %v", err)
	}
	if len(spares.files) != 0 {
		t.Error("a file that somebody has opened is to spare")
	}
	lock(paths[2]).release()
	for _, name := range paths {
		if exists(name) {
			t.Errorf("'%s' is left", name)
		}
	}
}
