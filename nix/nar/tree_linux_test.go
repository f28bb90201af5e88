package nar

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asUser runs f without the privilege to pass over permissions, in a directory
// that belongs to whom f runs as.
func asUser(t *testing.T, f func(dir string)) {
	t.Helper()
	dir := tempDir(t)
	if os.Geteuid() != 0 {
		f(dir)
		return
	}
	const nobody = 65534
	must(t, os.Chown(dir, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o755))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with this function
		if err := unix.Setfsuid(nobody); err != nil {
			t.Errorf("cannot become another user: %v", err)
			return
		}
		f(dir)
	}()
	<-done
}

func TestDumpMakeReadable(t *testing.T) {
	asUser(t, func(top string) {
		path := filepath.Join(top, "tree")
		for _, perm := range []os.FileMode{0o000, 0o100, 0o200, 0o400, 0o600} {
			sub := filepath.Join(path, fmt.Sprintf("%03o", perm))
			if err := errors.Join(os.MkdirAll(sub, 0o700), os.WriteFile(filepath.Join(sub, "file"), []byte("x"), 0o600),
				os.Chmod(filepath.Join(sub, "file"), perm), os.Chmod(sub, perm)); err != nil {
				t.Error(err)
				return
			}
		}
		if _, err := Dump(io.Discard, path, DumpOptions{}); !errors.Is(err, os.ErrPermission) {
			t.Errorf("without the option: %v", err)
		}
		var out strings.Builder
		if _, err := Dump(&out, path, DumpOptions{MakeReadable: true}); err != nil {
			t.Error(err)
			return
		}
		want := root(dir(
			named("000", dir(named("file", file("x")))),
			named("100", dir(named("file", tool("x")))),
			named("200", dir(named("file", file("x")))),
			named("400", dir(named("file", file("x")))),
			named("600", dir(named("file", file("x"))))))
		if out.String() != want {
			t.Error("the dump differs")
		}
	})
}

func TestRestoreAsUser(t *testing.T) {
	asUser(t, func(top string) {
		path := filepath.Join(top, "tree")
		for _, archive := range []string{sample, chain(2*maxOpen, "d")} {
			if _, err := Restore(path, strings.NewReader(archive), RestoreOptions{}); err != nil {
				t.Error(err)
				return
			}
			checkCanonical(t, path)
			var out strings.Builder
			if _, err := Dump(&out, path, DumpOptions{}); err != nil || out.String() != archive {
				t.Errorf("dumped again: %v, equal: %v", err, out.String() == archive)
			}
			if _, err := Restore(path+"-broken", strings.NewReader(archive[:len(archive)-1]), RestoreOptions{}); err == nil {
				t.Error("a broken archive was restored")
			}
			gone(t, path+"-broken")
			path += "-2"
		}
	})
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestDescriptors(t *testing.T) {
	before, most := openDescriptors(t), 0
	path := restored(t, chain(500, "d"))
	count := func(*Inode) error { most = max(most, openDescriptors(t)); return nil }
	dump(t, path, DumpOptions{Inode: count})
	if most > before+maxOpen+6 {
		t.Errorf("%d descriptors are open in a deep tree", most-before)
	}
	for range 3 { // also after errors
		stop := errors.New("stop")
		Dump(io.Discard, path, DumpOptions{Inode: func(i *Inode) error {
			if i.Depth == 100 {
				return stop
			}
			return nil
		}})
		archive := chain(100, "d")
		Restore(path+"-broken", strings.NewReader(archive[:len(archive)/2]), RestoreOptions{})
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

// makeFiles makes 20,000 files of 100 bytes in 100 directories.
func makeFiles(tb testing.TB) string {
	entries := wide(100)
	files := make([]string, 200)
	for i := range files {
		files[i] = named(fmt.Sprintf("%03d", i), file(strings.Repeat("x", 100)))
	}
	for i := range entries {
		entries[i] = named(fmt.Sprintf("%03d", i), dir(files...))
	}
	return root(dir(entries...))
}

func BenchmarkDump(b *testing.B) {
	path := restored(b, makeFiles(b))
	for name, opts := range map[string]DumpOptions{
		"plain": {},
		"canonicalising": {Inode: func(i *Inode) error {
			if i.FD < 0 {
				return nil
			}
			return errors.Join(unix.Fchown(i.FD, os.Geteuid(), os.Getegid()), unix.Fchmod(i.FD, i.Mode&0o777),
				unix.Futimes(i.FD, []unix.Timeval{{Sec: 1}, {Sec: 1}}))
		}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h := sha256.New()
				if _, err := Dump(h, path, opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDumpLarge(b *testing.B) {
	path := filepath.Join(tempDir(b), "file")
	must(b, os.WriteFile(path, make([]byte, 256<<20), 0o644))
	b.SetBytes(256 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Dump(io.Discard, path, DumpOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	top, archive := tempDir(b), makeFiles(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		if _, err := Restore(filepath.Join(top, fmt.Sprint(n)), strings.NewReader(archive), RestoreOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
