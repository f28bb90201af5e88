package rmtree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/dirfd"
	"golang.org/x/sys/unix"
)

// TestT09SwapWhileRemoving has a goroutine that puts symbolic links to a
// directory outside in the place of directories, and back, one call for each
// swap, while they are deleted.
func TestT09SwapWhileRemoving(t *testing.T) {
	rounds, limit := 10_000, 3*time.Second
	if testing.Short() {
		rounds = 500
	}
	// The link is relative: an absolute one leads over the root, which may be another
	// mount, and is refused for that.
	top := t.TempDir()
	root, outside, link := filepath.Join(top, "root"), filepath.Join(top, "outside"), "../outside"
	must(t, os.Mkdir(root, 0o700))
	for i := range 10 {
		dir := filepath.Join(outside, "sub", strconv.Itoa(i))
		must(t, os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	}
	// The names that the removal is looking for exist outside too.
	must(t, os.WriteFile(filepath.Join(outside, "f"), nil, 0o600), os.WriteFile(filepath.Join(outside, "sub", "f"), nil, 0o600))
	want := paths(t, outside)

	aside := filepath.Join(root, "aside")
	must(t, os.Mkdir(aside, 0o700))
	dir := openDirectory(t, root)
	stop, done := make(chan struct{}), make(chan int)
	go func() { // the attacker
		swaps, trash := 0, 0
		defer func() { done <- swaps }()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			unix.Symlinkat([...]string{link, "../" + link}[i%2], dir, "aside/link")
			victim := [...]string{"tree", "tree/sub"}[i%2]
			if unix.Renameat2(dir, victim, dir, "aside/link", unix.RENAME_EXCHANGE) != nil {
				continue
			}
			swaps++
			if unix.Renameat2(dir, victim, dir, "aside/link", unix.RENAME_EXCHANGE) != nil {
				trash++ // the link was deleted in the meantime
				unix.Renameat(dir, "aside/link", dir, "aside/"+strconv.Itoa(trash))
			}
		}
	}()

	start, n, failures := time.Now(), 0, 0
	for ; n < rounds && time.Since(start) < limit; n++ {
		// Made elsewhere: the calls of this loop would go through the links.
		must(t, unix.Mkdirat(dir, "new", 0o700), unix.Mkdirat(dir, "new/sub", 0o700),
			unix.Symlinkat("x", dir, "new/f"), unix.Symlinkat("x", dir, "new/sub/f"))
		if unix.Renameat(dir, "new", dir, "tree") != nil {
			must(t, RemoveTree(filepath.Join(root, "new")))
		}
		if RemoveTree(filepath.Join(root, "tree")) != nil {
			failures++
		}
	}
	close(stop)
	t.Logf("%d rounds, %d swaps, %d removals gave up, in %v", n, <-done, failures, time.Since(start))
	if diff := cmp.Diff(want, paths(t, outside)); diff != "" {
		t.Errorf("outside of the tree (-want +got):\n%s", diff)
	}
}

func paths(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	}))
	return all
}

func TestMountPointIsNotEntered(t *testing.T) {
	private := make(chan error)
	done := make(chan struct{})
	go func() { // in a mount namespace of its own, which ends with the thread
		defer close(done)
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		private <- err
		if err == nil {
			mountPoint(t)
		}
	}()
	err := <-private
	<-done
	if err != nil && os.Getenv("KILN_REQUIRE_SANDBOX") == "1" && os.Geteuid() == 0 {
		t.Fatal(err)
	} else if err != nil {
		t.Skipf("no mount namespace to be had: %v", err)
	}
}

func mountPoint(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	kept := filepath.Join(outside, "kept")
	tree := filepath.Join(root, "tree")
	mounted := filepath.Join(tree, "mounted")
	if err := errors.Join(os.WriteFile(kept, nil, 0o600), os.MkdirAll(mounted, 0o700),
		os.WriteFile(filepath.Join(tree, "file"), nil, 0o600), unix.Mount(outside, mounted, "", unix.MS_BIND, "")); err != nil {
		t.Error(err)
		return
	}
	if err := RemoveTree(tree); !errors.Is(err, dirfd.ErrMountPoint) {
		t.Errorf("removal over a mount point: %v", err)
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Error(err)
	}
	gone(t, filepath.Join(tree, "file"))
	if err := errors.Join(unix.Unmount(mounted, 0), RemoveTree(tree)); err != nil {
		t.Error(err)
	}
	gone(t, tree)
}
