//go:build linux || darwin

package dirfd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func openDir(t *testing.T, path string) int {
	t.Helper()
	parent, name, err := OpenParent(path)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(parent)
	fd, err := OpenDir(parent, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(fd) })
	return fd
}

func TestT09NamesAreSingleEntries(t *testing.T) {
	dir := openDir(t, t.TempDir())
	buf := make([]byte, 4096)
	var s Stat
	for _, name := range []string{"", ".", "..", "/", "a/b", "../a", "a/", "/etc", "a\x00b"} {
		first := func(_ any, err error) error { return err }
		for call, err := range map[string]error{
			"OpenFile":    first(OpenFile(dir, name)),
			"OpenDir":     first(OpenDir(dir, name)),
			"OpenDirHere": first(OpenDirHere(dir, name)),
			"Create":      first(Create(dir, name, 0o600)),
			"StatAt":      StatAt(dir, name, &s),
			"Readlink":    first(Readlink(dir, name, buf)),
			"Mkdir":       Mkdir(dir, name, 0o700),
			"SymlinkAt":   SymlinkAt("x", dir, name),
			"Unlink":      Unlink(dir, name),
			"Rmdir":       Rmdir(dir, name),
			"Rename from": Rename(dir, name, dir, "x"),
			"Rename to":   Rename(dir, "x", dir, name),
			"Chmod":       Chmod(dir, name, 0o700),
			"SetMtimeAt":  SetMtimeAt(dir, name, 1),
		} {
			if !errors.Is(err, errName) {
				t.Errorf("%s with name %q: error %v, want %v", call, name, err, errName)
			}
		}
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	target := filepath.Join(outside, "file")
	if err := os.WriteFile(target, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"file": target, "dir": outside, "dangling": filepath.Join(outside, "new")} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	dir := openDir(t, root)
	first := func(_ any, err error) error { return err }
	for call, err := range map[string]error{
		"OpenFile":    first(OpenFile(dir, "file")),
		"OpenDir":     first(OpenDir(dir, "dir")),
		"OpenDirHere": first(OpenDirHere(dir, "dir")),
		"Create":      first(Create(dir, "dangling", 0o600)),
		"Mkdir":       Mkdir(dir, "dangling", 0o700),
		"Rmdir":       Rmdir(dir, "dir"),
		"Chmod":       Chmod(dir, "file", 0o777),
	} {
		if err == nil {
			t.Errorf("%s through a symbolic link succeeded", call)
		}
	}
	if err := SetMtimeAt(dir, "file", 1); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(target)
	if err != nil || info.Mode().Perm() != 0o640 || info.ModTime().Unix() == 1 {
		t.Errorf("the file behind a link was changed: %v, %v", info, err)
	}
	if _, err := os.Lstat(filepath.Join(outside, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file appeared behind a dangling link: %v", err)
	}
	var s Stat
	if err := StatAt(dir, "file", &s); err != nil || s.Type() != Symlink || s.MtimeSec != 1 {
		t.Errorf("the link itself: %+v, %v", s, err)
	}
}

func TestListAndStat(t *testing.T) {
	root := t.TempDir()
	want := map[string]Type{"dir": Directory, "link": Symlink, "fifo": Other}
	for _, name := range []string{"file", strings.Repeat("n", 255), "new\nline", "\xff"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("text"), 0o600); err != nil {
			continue // not every file system takes every name
		}
		want[name] = Regular
	}
	if err := errors.Join(os.Mkdir(filepath.Join(root, "dir"), 0o700), os.Symlink("target", filepath.Join(root, "link")),
		syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	dir := openDir(t, root)
	for range 2 {
		got := map[string]Type{}
		err := List(dir, make([]byte, 2048), func(name []byte, typ Type) error {
			var s Stat
			if err := StatAt(dir, string(name), &s); err != nil {
				return err
			}
			if typ != Unknown && typ != s.Type() {
				t.Errorf("%q is listed as type %d, is %d", name, typ, s.Type())
			}
			got[string(name)] = s.Type()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("listing (-want +got):\n%s", diff)
		}
		if err := Rewind(dir); err != nil {
			t.Fatal(err)
		}
	}
	stop := errors.New("stop")
	if err := List(dir, make([]byte, 2048), func([]byte, Type) error { return stop }); err != stop {
		t.Errorf("error of yield: got %v", err)
	}
}

func TestReadlinkLimit(t *testing.T) {
	root := t.TempDir()
	if err := os.Symlink("12345678", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	dir := openDir(t, root)
	if got, err := Readlink(dir, "link", make([]byte, 9)); err != nil || got != "12345678" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Readlink(dir, "link", make([]byte, 8)); err == nil {
		t.Errorf("a target that may have been cut was returned: %q", got)
	}
}

func TestOpenParent(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	for path, want := range map[string]string{
		root + "/x": "x", root + "/x/": "x", "x": "x", "./x": "x", "a/../x": "x", root: filepath.Base(root),
	} {
		fd, name, err := OpenParent(path)
		if err != nil || name != want {
			t.Errorf("OpenParent(%q) gives name %q, %v; want %q", path, name, err, want)
			continue
		}
		Close(fd)
	}
	for _, path := range []string{"", ".", "..", "/", "x/.."} {
		if fd, name, err := OpenParent(path); err == nil {
			Close(fd)
			t.Errorf("OpenParent(%q) gives name %q, want an error", path, name)
		}
	}
}

func TestChmodUnreadable(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "dir"), 0); err != nil {
		t.Fatal(err)
	}
	dir := openDir(t, root)
	if err := Chmod(dir, "dir", 0o750); err != nil {
		t.Fatal(err)
	}
	var s Stat
	if err := StatAt(dir, "dir", &s); err != nil || s.Mode != 0o040750 {
		t.Errorf("mode %o, %v", s.Mode, err)
	}
}
