package build

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/store/local"
	"golang.org/x/sys/unix"
)

const workspaceDrv = "00000000000000000000000000000000-test.drv"

// testUser is who a test's workspace is for: for root a user that nobody is.
func testUser() *User {
	if testenv.Root() {
		return &User{UID: 910_000_001, GID: 910_000_002, Count: 1}
	}
	return &User{UID: os.Geteuid(), GID: os.Getegid(), Count: 1, Own: true}
}

// newTestWorkspace makes the workspace of a build in a sandbox.
func newTestWorkspace(t *testing.T) *workspace {
	t.Helper()
	root := t.TempDir()
	o := local.ChrootOptions(root)
	base := filepath.Join(root, "builds")
	o.ScratchDirs = []string{base}
	st, err := local.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorkspace(st, workspaceDrv, base, testUser(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.Remove(), st.Close(), rmtree.RemoveTree(filepath.Join(root, "nix"))); err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestT10BuildDirectory wants a directory for each attempt whose name nobody can
// know beforehand, and in which nobody but its builder gets anywhere.
func TestT10BuildDirectory(t *testing.T) {
	w := newTestWorkspace(t)
	old := unix.Umask(0) // of a user who has none
	defer unix.Umask(old)
	if err := w.Remove(); err != nil {
		t.Fatal(err)
	}
	again, err := newWorkspace(w.store, workspaceDrv, filepath.Dir(w.top), w.user, true)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Remove()
	if w.top == again.top {
		t.Errorf("two attempts have the directory %s", w.top)
	}
	name := filepath.Base(again.top)
	if random := name[strings.LastIndex(name, "-")+1:]; len(random) < 10 {
		t.Errorf("of %s only %q is random", name, random)
	}
	for path, uid := range map[string]int{again.top: os.Geteuid(), filepath.Dir(again.root): os.Geteuid(), again.inner: again.user.UID} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != unix.S_IFDIR|0o700 || int(st.Uid) != uid {
			t.Errorf("%s has mode %o and belongs to %d", path, st.Mode, st.Uid)
		}
	}
}

// TestT11BuildRoot has directories for build directories in which somebody else
// could put something in the place of one.
func TestT11BuildRoot(t *testing.T) {
	top := t.TempDir()
	mkdir := func(name string, mode fs.FileMode) string {
		path := filepath.Join(top, name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mkdir("open", 0o777)
	mkdir("sticky", 0o777|fs.ModeSticky)
	file := filepath.Join(top, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(mkdir("real", 0o755), filepath.Join(top, "link"))); err != nil {
		t.Fatal(err)
	}
	foreign := "/usr" // is root's
	if testenv.Root() {
		foreign = mkdir("foreign", 0o755)
		if err := os.Lchown(foreign, 910_000_001, 0); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		mkdir("world", 0o757):                      "can be written to by others",
		mkdir("group", 0o775):                      "can be written to by others",
		mkdir("tmp", 0o777|fs.ModeSticky):          "can be written to by others",
		foreign:                                    "belongs to the user",
		filepath.Join(top, "link"):                 "is not a directory but a L",
		file:                                       "not a directory",
		filepath.Join(top, "open", "builds"):       "is world-writable",
		filepath.Join(top, "open", "x", "builds"):  "is world-writable",
		filepath.Join(top, "sticky", "builds"):     "",
		filepath.Join(top, "new", "below", "that"): "",
		mkdir("private", 0o700):                    "",
	} {
		err := privateDirectory(path)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	made := filepath.Join(top, "made")
	if err := privateDirectory(made); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(made); err != nil || info.Mode().Perm()&0o022 != 0 {
		t.Errorf("it is made with %v, %v", info.Mode(), err)
	}
}

// TestT13ThingsInTheWay puts links where files are to be written for the builder:
// what they lead to must stay as it is.
func TestT13ThingsInTheWay(t *testing.T) {
	w := newTestWorkspace(t)
	outside := filepath.Join(filepath.Dir(filepath.Dir(w.top)), "outside")
	inside := filepath.Join(w.inner, "inside")
	for _, victim := range []string{outside, inside} {
		if err := os.WriteFile(victim, []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, put := range map[string]func(path string) error{
		"hard link":        func(path string) error { return os.Link(outside, path) },
		"link to outside":  func(path string) error { return os.Symlink(outside, path) },
		"relative link":    func(path string) error { return os.Symlink("../../../outside", path) },
		"link to inside":   func(path string) error { return os.Symlink("inside", path) },
		"link to nothing":  func(path string) error { return os.Symlink(outside+"-new", path) },
		"../../../outside": func(string) error { return nil },
		"../outside-new":   func(string) error { return nil },
	} {
		if err := put(filepath.Join(w.inner, name)); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteFiles(map[string]string{name: "ours"}); err == nil {
			t.Errorf("%s: it was written", name)
		}
		for _, victim := range []string{outside, inside} {
			var st unix.Stat_t
			if err := unix.Lstat(victim, &st); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(victim)
			if err != nil || string(text) != "as it was" || int(st.Uid) != os.Geteuid() {
				t.Errorf("%s: of %s became %q of user %d, %v", name, victim, text, st.Uid, err)
			}
		}
		for _, made := range []string{outside + "-new", filepath.Join(w.top, "outside-new")} {
			if _, err := os.Lstat(made); err == nil {
				t.Errorf("%s: %s was made", name, made)
			}
		}
	}
}

// TestT13SwapWhileWriting has somebody who puts a link to a file outside in the
// place of each file as soon as it is there, as a process of the builder's user
// can. The file outside must not become the builder's.
func TestT13SwapWhileWriting(t *testing.T) {
	testenv.NeedRoot(t)
	const rounds = 4000
	w := newTestWorkspace(t)
	outside := filepath.Join(filepath.Dir(filepath.Dir(w.top)), "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, link := filepath.Join(w.inner, "file"), filepath.Join(w.inner, "link")
	stop, done := make(chan struct{}), make(chan int)
	go func() { // the attacker
		swaps := 0
		defer func() { done <- swaps }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			unix.Symlink(outside, link)
			if unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, file, unix.RENAME_EXCHANGE) == nil {
				swaps++
				unix.Unlink(link)
			}
		}
	}()
	for range rounds {
		unix.Unlink(file)
		// It fails where the attacker was between both calls.
		w.WriteFiles(map[string]string{"file": "ours"})
	}
	close(stop)
	if swaps := <-done; swaps == 0 {
		t.Error("there was no swap")
	}
	var st unix.Stat_t
	if err := unix.Lstat(outside, &st); err != nil || st.Uid != 0 || st.Size != 0 {
		t.Errorf("the file outside belongs to %d and has %d bytes, %v", st.Uid, st.Size, err)
	}
}
