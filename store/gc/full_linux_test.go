package gc

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a new file system of 64 MiB, none of which is kept for root.
func smallDisk(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t)
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		testenv.SkipTool(t, "no mkfs.ext4; install it with: apt-get install e2fsprogs")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(image, 64<<20), os.Mkdir(at, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		testenv.SkipSandbox(t, "mount a file system in a file: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return at
}

// fill writes to a file until there is no room for a byte more.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096, 1} {
		for block := make([]byte, n); ; {
			if _, err := f.Write(block); err != nil {
				if !errors.Is(err, unix.ENOSPC) {
					t.Fatal(err)
				}
				break
			}
		}
	}
}

// On a disk that is filled to the last byte, adding fails and says what to do, a
// collection works, and adding works then.
func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	root := filepath.Join(smallDisk(t), "root")
	warned := func(o *local.Options) { o.Warn, o.ReservedSpace = func(error) {}, 8<<20 }
	kept := add(t, open(t, root), "kept") // by a store that reserves nothing
	st := open(t, root, warned)
	link(t, st, st.Dir().Join(kept), "kept")
	big := func(st *local.Store, name string) error {
		o := storetest.Text(t, st.Dir(), name, strings.Repeat(name, 1<<20))
		return st.Add(ctx, &o.Info, bytes.NewReader(o.NAR), store.AddOptions{})
	}
	for i := range 8 {
		if err := big(st, "big"+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	noted, err := note(t, st, "before", 10)
	if err != nil {
		t.Fatal(err)
	}
	// Something else fills the disk: only what is garbage can be freed.
	fill(t, filepath.Join(root, "filler"))
	err = big(st, "more")
	if !errors.Is(err, unix.ENOSPC) && (err == nil || !strings.Contains(err.Error(), "full")) || !strings.Contains(err.Error(), "collecting garbage") {
		t.Errorf("adding to a full disk: %v", err)
	}
	// What is noted on a full disk is noted or not, and what was can be taken back.
	more, err := note(t, st, "full", 1000)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%d notes on a full disk: %v", len(more), err)
	}
	for _, path := range append(noted, more...) {
		if err := st.Done(local.TransientFile, path); err != nil {
			t.Error(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Errorf("close on a full disk: %v", err)
	}
	fill(t, filepath.Join(root, "filler2")) // what that left

	collector := open(t, root, warned, func(o *local.Options) { o.FreeReserve = true })
	r := mustCollect(t, collector, Options{Report: func(p Problem) {
		if p.Name == "" {
			t.Errorf("%v", p)
		}
	}})
	if r.Freed < 8*4<<20 {
		t.Errorf("%d bytes are free", r.Freed)
	}
	if d := valid(t, collector); len(d) != 1 || d[0] != kept {
		t.Errorf("valid: %q", d)
	}
	if err := collector.Close(); err != nil {
		t.Error(err)
	}
	st = open(t, root, warned)
	if err := big(st, "more"); err != nil {
		t.Errorf("adding after a collection: %v", err)
	}
	if n, err := st.Verify(ctx, local.VerifyOptions{CheckContents: true}); n > 0 || err != nil {
		t.Errorf("%d problems, %v", n, err)
	}
	if info, err := os.Lstat(filepath.Join(st.StateDir(), "db", "reserved")); err != nil || info.Size() == 0 {
		t.Errorf("nothing is reserved for the next collection: %v", err)
	}
}

// note notes n things in the session, as far as there is room for that, which it gives.
func note(t *testing.T, st *local.Store, name string, n int) (noted []string, err error) {
	t.Helper()
	for i := range n {
		path := filepath.Join(st.RealDir(), name+strconv.Itoa(i))
		if err := st.Note(local.TransientFile, path); err != nil {
			return noted, err
		}
		noted = append(noted, path)
	}
	return noted, nil
}
