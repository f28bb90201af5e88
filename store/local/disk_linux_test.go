package local

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// smallDiskVar tells the test below that it is in a namespace of its own, and
// where to put a small file system.
const smallDiskVar = "KILN_TEST_SMALL_DISK"

// A full disk is an error that says so, and leaves nothing.
func TestDiskFull(t *testing.T) {
	dir := os.Getenv(smallDiskVar)
	if dir != "" {
		testDiskFull(t, dir)
		return
	}
	testenv.Sandbox(t)
	dir = t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDiskFull$", "-test.v")
	cmd.Env = append(os.Environ(), smallDiskVar+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("the file system was mounted outside: %v", left)
	}
}

func testDiskFull(t *testing.T, dir string) {
	if err := syscall.Mount("kiln-test", dir, "tmpfs", 0, "size=12m,nr_inodes=400"); err != nil {
		t.Fatal(err)
	}
	o := options(t, filepath.Join(dir, "root"))
	o.FsyncStorePaths = true
	s := open(t, o)
	refused := 0
	for round := range 40 {
		// Large ones for the blocks, many files for the inodes.
		node := storetest.Node{Content: strings.Repeat("x", 200_000+round)}
		if round%2 == 1 {
			node = storetest.Node{Entries: []storetest.Node{}}
			for i := range 60 {
				node.Entries = append(node.Entries, storetest.Node{Name: fmt.Sprintf("%02d-%d", i, round)})
			}
		}
		archive := storetest.Archive(t, node)
		sum := nix.HashBytes(nix.SHA256, archive)
		info := &nix.PathInfo{NARHash: sum, CA: nix.ContentAddress{Method: nix.Recursive, Hash: sum}}
		var err error
		if info.Path, err = nix.MakeContentAddressedPath(s.Dir(), "x", info.CA, nix.References{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(t.Context(), info, bytes.NewReader(archive), store.AddOptions{}); err != nil {
			refused++
			if !strings.Contains(err.Error(), "free some space") || !strings.Contains(err.Error(), string(info.Path)) {
				t.Errorf("error %q does not say what to do", err)
			}
			storetest.CheckMissing(t, s, info.Path)
		}
	}
	if refused < 5 {
		t.Errorf("the disk was full only %d times", refused)
	}
	s = reopen(t, s)
	if n, err := s.Verify(t.Context(), VerifyOptions{CheckContents: true, Problem: func(p Problem) { t.Error(p) }}); n > 0 || err != nil {
		t.Errorf("Verify: %d, %v", n, err)
	}
}
