//go:build linux || darwin

package nar

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix/base32"
)

func dump(t testing.TB, path string, opts DumpOptions) string {
	t.Helper()
	var out bytes.Buffer
	size, err := Dump(&out, path, opts)
	must(t, err)
	if size != int64(out.Len()) {
		t.Errorf("size %d, but %d bytes", size, out.Len())
	}
	return out.String()
}

// restored restores an archive into a new place and returns that.
func restored(t testing.TB, archive string) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "tree")
	_, err := Restore(path, strings.NewReader(archive), RestoreOptions{})
	must(t, err)
	return path
}

func openDirectory(t testing.TB, path string) int {
	t.Helper()
	parent, name, err := dirfd.OpenParent(path)
	must(t, err)
	defer dirfd.Close(parent)
	fd, err := dirfd.OpenDir(parent, name)
	must(t, err)
	t.Cleanup(func() { dirfd.Close(fd) })
	return fd
}

func nix32(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base32.EncodeToString(sum[:])
}

// Hashes that real Nix printed for such files.
func TestDumpGolden(t *testing.T) {
	root := tempDir(t)
	for _, c := range []struct {
		text string
		size int
		want string
	}{
		{"hi\n", 120, "1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h"},
		{"hello world", 128, "14r07wnk5h2bl40v1nknwkwrzh5li7z4bl02vcsqh52vxwm08idf"},
	} {
		path := filepath.Join(root, "file")
		must(t, os.WriteFile(path, []byte(c.text), 0o644))
		if got := dump(t, path, DumpOptions{}); len(got) != c.size || nix32(got) != c.want {
			t.Errorf("%q: %d bytes, hash %s; want %d, %s", c.text, len(got), nix32(got), c.size, c.want)
		}
	}
}

func TestDumpOfRestored(t *testing.T) {
	for name, archive := range valid {
		if got := dump(t, restored(t, archive), DumpOptions{}); got != archive {
			t.Errorf("%s: the dump of the restored tree differs", name)
		}
	}
}

// randomTree makes files of random names, types and sizes.
func randomTree(t testing.TB, rng *rand.Rand, path string, depth int) {
	switch k := rng.IntN(10); {
	case depth > 0 && (k < 4 || depth == 4):
		must(t, os.Mkdir(path, 0o755))
		for range rng.IntN(12) {
			name := make([]byte, 1+rng.IntN(6))
			for i := range name {
				const odd = "abcAB.-_~ ()\x01\x7f\xc3\xa9"
				name[i] = odd[rng.IntN(len(odd))]
			}
			sub := filepath.Join(path, string(name)+"x")
			if _, err := os.Lstat(sub); err != nil {
				randomTree(t, rng, sub, depth-1)
			}
		}
	case k < 6:
		must(t, os.Symlink(strings.Repeat("../t", 1+rng.IntN(20)), path))
	default:
		content := make([]byte, rng.IntN(40))
		if k == 9 {
			content = make([]byte, rng.IntN(2*bufferSize))
		}
		for i := range content {
			content[i] = byte(rng.Uint32())
		}
		must(t, os.WriteFile(path, content, []fs.FileMode{0o644, 0o755, 0o400, 0o455, 0o700}[rng.IntN(5)]))
	}
}

// TestAgainstNix compares with the nix-store of the machine, in both directions.
func TestAgainstNix(t *testing.T) {
	nix, err := exec.LookPath("nix-store")
	if err != nil {
		t.Skip("no nix-store on PATH to compare with")
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range 8 {
		path := filepath.Join(tempDir(t), "tree")
		randomTree(t, rng, path, 4)
		want, err := exec.Command(nix, "--dump", path).Output()
		must(t, err)
		got := dump(t, path, DumpOptions{})
		if got != string(want) {
			t.Errorf("tree %d: the dump differs from that of nix-store", i)
		}
		if again := dump(t, restored(t, string(want)), DumpOptions{}); again != string(want) {
			t.Errorf("tree %d: restored from nix-store it differs", i)
		}
		theirs := path + "-restored"
		cmd := exec.Command(nix, "--restore", theirs)
		cmd.Stdin = strings.NewReader(got)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("tree %d: nix-store --restore: %v: %s", i, err, out)
		} else if dump(t, theirs, DumpOptions{}) != got {
			t.Errorf("tree %d: restored by nix-store it differs", i)
		}
	}
}

func TestDumpUnsupportedTypes(t *testing.T) {
	root := tempDir(t)
	must(t, os.MkdirAll(filepath.Join(root, "tree", "sub"), 0o755), syscall.Mkfifo(filepath.Join(root, "tree", "sub", "fifo"), 0o600),
		syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	for dumped, bad := range map[string]string{"tree": "tree/sub/fifo", "fifo": "fifo"} {
		_, err := Dump(io.Discard, filepath.Join(root, dumped), DumpOptions{})
		var unsupported *UnsupportedTypeError
		if !errors.As(err, &unsupported) || err.Error() != "file '"+filepath.Join(root, bad)+"' has an unsupported type" || unsupported.Mode != 0o10600 {
			t.Errorf("%s: %v", dumped, err)
		}
	}
	_, err := DumpAt(io.Discard, openDirectory(t, root), "tree", DumpOptions{Name: "/nix/store/x"})
	if err == nil || err.Error() != "file '/nix/store/x/sub/fifo' has an unsupported type" {
		t.Errorf("with another name: %v", err)
	}
}

func TestDumpErrors(t *testing.T) {
	root := tempDir(t)
	if _, err := Dump(io.Discard, filepath.Join(root, "none"), DumpOptions{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "dump "+root+"/none: ") {
		t.Errorf("missing: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "/etc"} {
		if _, err := DumpAt(io.Discard, openDirectory(t, root), name, DumpOptions{}); err == nil {
			t.Errorf("name %q: no error", name)
		}
		if _, err := RestoreAt(openDirectory(t, root), name, strings.NewReader(sample), RestoreOptions{}); err == nil {
			t.Errorf("name %q: no error of RestoreAt", name)
		}
	}
	path := restored(t, sample)
	if _, err := Dump(io.Discard, path, DumpOptions{Limits: Limits{Depth: 2}}); err == nil || !strings.Contains(err.Error(), "more than 2 levels") {
		t.Errorf("too deep: %v", err)
	}
	if _, err := Dump(&failingWriter{100}, path, DumpOptions{}); err == nil {
		t.Error("a failing writer was not noticed")
	}
}

func TestDumpInodes(t *testing.T) {
	path := restored(t, sample)
	var got []string
	hook := func(i *Inode) error {
		var byFD, byName dirfd.Stat
		must(t, dirfd.StatAt(i.Dir, i.Name, &byName))
		if i.FD >= 0 {
			must(t, dirfd.Fstat(i.FD, &byFD))
		}
		if (i.FD >= 0) != (i.Type != Symlink) || i.FD >= 0 && byFD != byName {
			t.Errorf("%s: descriptor %d is not that of its name", i.Path(), i.FD)
		}
		want := Inode{FD: i.FD, Dir: i.Dir, Name: i.Name, Type: i.Type, Depth: i.Depth, Dev: byName.Dev, Ino: byName.Ino, Nlink: byName.Nlink,
			Mode: byName.Mode, UID: byName.UID, GID: byName.GID, Size: byName.Size, MtimeSec: byName.MtimeSec, MtimeNsec: byName.MtimeNsec, dumper: i.dumper}
		if *i != want {
			t.Errorf("%s: got %+v, want %+v", i.Path(), *i, want)
		}
		got = append(got, fmt.Sprintf("%d %s", i.Depth, strings.TrimPrefix(i.Path(), path)))
		return nil
	}
	if dump(t, path, DumpOptions{Inode: hook}) != sample {
		t.Error("the dump differs")
	}
	want := []string{"0 ", "1 /.hidden", "1 /A~nix~case~hack~1", "1 /bin", "2 /bin/tool", "2 /bin/tool-link", "1 /eight", "1 /empty", "1 /last",
		"2 /last/deep", "3 /last/deep/er", "4 /last/deep/er/est", "1 /link", "1 /\xff\xfe"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	for _, path := range []string{restored(t, valid["file"]), restored(t, valid["symlink"])} {
		calls := 0
		dump(t, path, DumpOptions{Inode: func(i *Inode) error { calls++; return nil }})
		if calls != 1 {
			t.Errorf("%d calls for a single file", calls)
		}
	}
	stop := errors.New("stop")
	if _, err := Dump(io.Discard, path, DumpOptions{Inode: func(*Inode) error { return stop }}); err != stop {
		t.Errorf("error of Inode: got %v", err)
	}
}

// TestDumpCanonicalises does in one walk what a store does to an output.
func TestDumpCanonicalises(t *testing.T) {
	path := filepath.Join(tempDir(t), "tree")
	must(t, os.MkdirAll(filepath.Join(path, "sub"), 0o700), os.WriteFile(filepath.Join(path, "sub", "file"), []byte("x"), 0o640),
		os.WriteFile(filepath.Join(path, "tool"), nil, 0o4710), os.Symlink("x", filepath.Join(path, "link")))
	got := dump(t, path, DumpOptions{Inode: func(i *Inode) error {
		if i.FD < 0 {
			return dirfd.SetMtimeAt(i.Dir, i.Name, 1)
		}
		perm := uint32(0o444)
		if i.Type == Directory || i.Mode&0o100 != 0 {
			perm = 0o555
		}
		return errors.Join(dirfd.Fchmod(i.FD, perm), dirfd.SetMtime(i.FD, 1))
	}})
	if want := root(dir(named("link", link("x")), named("sub", dir(named("file", file("x")))), named("tool", tool("")))); got != want {
		t.Error("the dump differs")
	}
	checkCanonical(t, path)
}

// checkCanonical checks permissions and times of a tree.
func checkCanonical(t *testing.T, path string) {
	t.Helper()
	must(t, filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode(); mode.Type() != fs.ModeSymlink && mode.Perm() != 0o555 && (mode.Perm() != 0o444 || mode.IsDir()) || mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			t.Errorf("%s has mode %v", p, mode)
		}
		if mtime := info.ModTime(); mtime.UnixNano() != 1e9 {
			t.Errorf("%s has mtime %v", p, mtime)
		}
		return nil
	}))
}

func TestDumpSizeChange(t *testing.T) {
	for name, size := range map[string]int64{"grown": 101, "grown much": 3 * bufferSize, "shrunk": 99, "emptied": 0} {
		for _, before := range []int64{100, bufferSize, bufferSize + 5000} {
			path := filepath.Join(tempDir(t), "file")
			must(t, os.WriteFile(path, make([]byte, before), 0o644))
			var out bytes.Buffer
			_, err := Dump(&out, path, DumpOptions{Inode: func(*Inode) error { return os.Truncate(path, before-100+size) }})
			if !errors.Is(err, errSize) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := Skip(&out, Limits{}); err == nil {
				t.Errorf("%s: what was written is an archive", name)
			}
		}
	}
}

// TestT17DumpFollowsNoLink puts links in the place of files and directories that
// the walk has listed.
func TestT17DumpFollowsNoLink(t *testing.T) {
	outside := tempDir(t)
	must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("secret"), 0o644))
	for name, to := range map[string]string{"file": filepath.Join(outside, "f"), "dir": outside, "link": "elsewhere"} {
		path := filepath.Join(tempDir(t), "tree")
		must(t, os.MkdirAll(filepath.Join(path, "dir"), 0o755), os.WriteFile(filepath.Join(path, "file"), nil, 0o644),
			os.WriteFile(filepath.Join(path, "a"), nil, 0o644), os.Symlink("x", filepath.Join(path, "link")))
		var out bytes.Buffer
		_, err := Dump(&out, path, DumpOptions{Inode: func(i *Inode) error {
			if i.Name != "a" {
				return nil
			}
			victim := filepath.Join(path, name)
			return errors.Join(os.RemoveAll(victim), os.Symlink(to, victim))
		}})
		if name != "link" && err == nil {
			t.Errorf("%s became a link, and was dumped", name)
		}
		if strings.Contains(out.String(), "secret") {
			t.Errorf("%s: the dump went through a link", name)
		}
	}
}

func TestRestoreIsCanonical(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o027} {
		func() {
			defer syscall.Umask(syscall.Umask(umask))
			checkCanonical(t, restored(t, sample))
		}()
	}
	path := restored(t, sample)
	for name, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o555, "bin": fs.ModeDir | 0o555, "bin/tool": 0o555, "eight": 0o444, "empty": fs.ModeDir | 0o555} {
		if info, err := os.Lstat(filepath.Join(path, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, want %v", name, info.Mode(), want)
		}
	}
	if target, err := os.Readlink(filepath.Join(path, "link")); err != nil || target != "../outside" {
		t.Errorf("link to %q, %v", target, err)
	}
}

func TestRestoreStatsAndSync(t *testing.T) {
	path := filepath.Join(tempDir(t), "tree")
	var synced []string
	sync := func(fd int) error {
		var s dirfd.Stat
		must(t, dirfd.Fstat(fd, &s))
		synced = append(synced, fmt.Sprintf("%o", s.Mode))
		if s.MtimeSec != 1 {
			t.Error("a file was not finished before Sync")
		}
		return syscall.Fsync(fd)
	}
	stats, err := Restore(path, strings.NewReader(sample), RestoreOptions{Sync: sync})
	must(t, err)
	if want := (Stats{Inodes: 14, Bytes: 16 + 10 + 8 + 1, Size: int64(len(sample))}); stats != want {
		t.Errorf("got %+v, want %+v", stats, want)
	}
	want := []string{"100444", "100444", "100555", "40555", "100444", "40555", "100444", "40555", "40555", "40555", "100555", "40555"}
	if diff := cmp.Diff(want, synced); diff != "" {
		t.Errorf("synced (-want +got):\n%s", diff)
	}
	fail := errors.New("no space")
	for i := range len(want) {
		path, n := filepath.Join(tempDir(t), "tree"), 0
		_, err := Restore(path, strings.NewReader(sample), RestoreOptions{Sync: func(int) error {
			if n++; n > i {
				return fail
			}
			return nil
		}})
		if !errors.Is(err, fail) {
			t.Errorf("Sync fails at call %d: %v", i, err)
		}
		gone(t, path)
	}
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s was left (%v)", path, err)
	}
}

func TestRestoreKeepsWhatExists(t *testing.T) {
	root := tempDir(t)
	file, sub, link := filepath.Join(root, "file"), filepath.Join(root, "dir"), filepath.Join(root, "link")
	must(t, os.WriteFile(file, []byte("kept"), 0o644), os.Mkdir(sub, 0o755), os.Symlink("new", link))
	for _, path := range []string{file, sub, link} {
		for name, archive := range valid {
			if _, err := Restore(path, strings.NewReader(archive), RestoreOptions{}); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s over %s: %v", name, path, err)
			}
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "kept" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 3 {
		t.Errorf("there are %v, %v", entries, err)
	}
	if _, err := Restore(filepath.Join(root, "no", "tree"), strings.NewReader(sample), RestoreOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a parent: %v", err)
	}
}

// snapshot is everything below a directory.
func snapshot(t *testing.T, path string) string { return dump(t, path, DumpOptions{}) }

func TestT05RestoreRefusesEvil(t *testing.T) {
	outside := tempDir(t)
	must(t, os.WriteFile(filepath.Join(outside, "kept"), []byte("kept"), 0o644))
	for name, c := range evil {
		t.Run(name, func(t *testing.T) {
			top := tempDir(t)
			must(t, os.WriteFile(filepath.Join(top, "kept"), nil, 0o644))
			before := snapshot(t, top)
			// Links point to where a write would show.
			archive := strings.ReplaceAll(c.archive, word("/tmp"), word(outside))
			_, err := Restore(filepath.Join(top, "tree"), strings.NewReader(archive), RestoreOptions{})
			var bad *FormatError
			if !errors.As(err, &bad) {
				t.Errorf("got %v", err)
			}
			if snapshot(t, top) != before {
				t.Error("something was left or changed")
			}
		})
	}
	if got, err := os.ReadDir(outside); err != nil || len(got) != 1 {
		t.Errorf("outside there are %v, %v", got, err)
	}
}

func TestRestoreEveryTruncation(t *testing.T) {
	top := tempDir(t)
	for n := 0; n < len(sample); n += 1 + n%17 {
		path := filepath.Join(top, "tree")
		if _, err := Restore(path, strings.NewReader(sample[:n]), RestoreOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
		gone(t, path)
	}
}

// TestT19SizeIsNotTrusted has an archive that promises more content than any disk
// holds.
func TestT19SizeIsNotTrusted(t *testing.T) {
	path := filepath.Join(tempDir(t), "tree")
	archive := withLength(root(file("hi")), len(root(file("")))-24, 1<<61)
	var err error
	bytes := allocated(func() { _, err = Restore(path, strings.NewReader(archive), RestoreOptions{}) })
	if !errors.Is(err, io.ErrUnexpectedEOF) || bytes > 4<<20 {
		t.Errorf("error %v, %d bytes allocated", err, bytes)
	}
	gone(t, path)
}

func TestT20RestoreLengths(t *testing.T) {
	top := tempDir(t)
	for _, at := range lengths(sample) {
		for _, n := range []uint64{1 << 40, 1 << 63, 1<<64 - 8} {
			if _, err := Restore(filepath.Join(top, "tree"), strings.NewReader(withLength(sample, at, n)), RestoreOptions{}); err == nil {
				t.Errorf("length %#x at %d was accepted", n, at)
			}
			gone(t, filepath.Join(top, "tree"))
		}
	}
}

// chain is an archive of directories in each other.
func chain(depth int, name string) string {
	node := file("the end")
	head := words("(", "type", "directory", "entry", "(", "name", name, "node")
	return root(strings.Repeat(head, depth) + node + strings.Repeat(words(")", ")"), depth))
}

func TestDeeperThanPathMax(t *testing.T) {
	for _, c := range []struct {
		depth int
		name  string
	}{{maxOpen - 1, "d"}, {maxOpen, "d"}, {maxOpen + 1, "d"}, {2*maxOpen + 1, "d"}, {DefaultDepth, "d"}, {300, strings.Repeat("n", 200)}} {
		t.Run(fmt.Sprint(c.depth), func(t *testing.T) {
			archive := chain(c.depth, c.name)
			path := restored(t, archive)
			inodes := 0
			if dump(t, path, DumpOptions{Inode: func(*Inode) error { inodes++; return nil }}) != archive || inodes != c.depth+1 {
				t.Errorf("the dump differs, %d inodes", inodes)
			}
			// Broken at its end, it must be removed.
			if _, err := Restore(path+"-broken", strings.NewReader(archive[:len(archive)-8]), RestoreOptions{}); err == nil {
				t.Error("a broken archive was restored")
			}
			gone(t, path+"-broken")
		})
	}
}

// TestWalkUpIsChecked moves a directory away while the walk is so deep below it
// that it was closed.
func TestWalkUpIsChecked(t *testing.T) {
	path := restored(t, chain(maxOpen+20, "d"))
	var out bytes.Buffer
	_, err := Dump(&out, path, DumpOptions{Inode: func(i *Inode) error {
		if i.Type == Regular {
			sub := filepath.Join(path, "d", "d", "d")
			return errors.Join(os.Chmod(filepath.Dir(sub), 0o755), os.Chmod(sub, 0o755), os.Rename(sub, path+"-moved"))
		}
		return nil
	}})
	if !errors.Is(err, errMoved) {
		t.Errorf("got %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	for _, archive := range valid {
		if len(archive) < 1<<12 {
			f.Add([]byte(archive))
		}
	}
	for _, c := range evil {
		if len(c.archive) < 1<<12 {
			f.Add([]byte(c.archive))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		top := tempDir(t)
		path := filepath.Join(top, "tree")
		stats, err := Restore(path, bytes.NewReader(b), RestoreOptions{})
		entries, listErr := os.ReadDir(top)
		must(t, listErr)
		if err != nil {
			if len(entries) != 0 {
				t.Fatalf("left after %v: %v", err, entries)
			}
			return
		}
		if len(entries) != 1 {
			t.Fatalf("there are %v", entries)
		}
		if got := dump(t, path, DumpOptions{}); got != string(b[:stats.Size]) {
			t.Fatalf("dumped again it differs:\n%q\n%q", b[:stats.Size], got)
		}
		checkCanonical(t, path)
	})
}
