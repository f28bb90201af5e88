package gc

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"golang.org/x/sys/unix"
)

// lockDir locks a directory as Nix does those that it uses.
func lockDir(t testing.TB, dir string) (unlock func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

// immutable keeps a directory from being deleted until undo, by a mount in it, which
// moves with it.
func immutable(t *testing.T, dir string) (undo func()) {
	t.Helper()
	testenv.NeedRoot(t)
	if err := unix.Mount("none", filepath.Join(dir, "none"), "tmpfs", 0, "mode=0755"); err != nil {
		testenv.SkipSandbox(t, "mount: %v", err)
	}
	root, _, _ := strings.Cut(dir, "/nix/store")
	undo = func() {
		table, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			if at := strings.Fields(line)[4]; strings.HasPrefix(at, root+"/") {
				if err := unix.Unmount(at, 0); err != nil {
					t.Error(err)
				}
			}
		}
	}
	t.Cleanup(undo)
	return undo
}

// What processes use is found in each of the ways in which they can use it.
func TestRuntimeRoots(t *testing.T) {
	st := open(t, scratch(t))
	full := func(name string) (nix.StorePath, string) {
		p := add(t, st, name)
		return p, st.RealPath(p)
	}
	want := map[nix.StorePath]string{}
	mapped, path := full("mapped")
	f, err := os.Open(path + "/bin/run")
	if err != nil {
		t.Fatal(err)
	}
	text, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	defer unix.Munmap(text)
	want[mapped] = "maps"

	opened, path := full("opened")
	if f, err = os.Open(path + "/name"); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want[opened] = "fd/" // and a number

	cmd := exec.Command("sleep", "100")
	named, _ := full("named")
	inside, path := full("inside")
	cmd.Dir, cmd.Env = path+"/bin", []string{"A=" + st.Dir().Join(named) + "/bin:/x", "B=" + st.Dir().Join(named)}
	want[named], want[inside] = "environ", "cwd"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	unused := add(t, st, "unused")

	roots, err := FindRoots(context.Background(), st, nil)
	if err != nil {
		t.Fatal(err)
	}
	for p, file := range want {
		found := false
		for _, r := range roots[p] {
			rel, err := filepath.Match("/proc/[0-9]*/"+file+"*", r.Name)
			found = found || err == nil && rel && r.Kind == Process
		}
		if !found {
			t.Errorf("%s is not found by %s: %v", p, file, roots[p])
		}
	}
	if roots[unused] != nil {
		t.Errorf("%s is used: %v", unused, roots[unused])
	}
}

// Processes that end while others are looked at do no harm.
func TestRuntimeRootsOfEndingProcesses(t *testing.T) {
	st := open(t, scratch(t))
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
				_ = exec.Command("true").Run()
			}
		}
	}()
	for range 50 {
		if _, err := FindRoots(context.Background(), st, func(p Problem) {
			if !p.Usual {
				t.Error(p)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	<-stopped
}

// A profile that cannot be read is told of, and stops nothing.
func TestUnreadableProfile(t *testing.T) {
	if !testenv.AsOrdinaryUser(t) {
		return
	}
	st := open(t, scratch(t))
	kept := add(t, st, "kept")
	add(t, st, "lost")
	link(t, st, st.Dir().Join(kept), "kept")
	dir := filepath.Join(st.StateDir(), "profiles", "per-user", "somebody")
	if err := os.Mkdir(dir, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)
	var told reports
	if r := mustCollect(t, st, Options{Report: told.add}); len(r.Paths) != 1 {
		t.Errorf("deleted %q", r.Paths)
	}
	if !told.about(dir) {
		t.Errorf("nobody was told of %s: %v", dir, told.all)
	}
}
