package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"go.uber.org/goleak"
)

// roleVar makes a process that a test starts play a part instead of testing.
const roleVar = "KILN_TEST_ROLE"

// roles are the parts, by name. They get the arguments of the process.
var roles = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleVar)]; ok {
		if err := role(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// player is a process of this program that plays a part.
func player(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return cmd
}

// tempDir is t.TempDir for what has read-only directories in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if err := rmtree.RemoveTree(filepath.Join(dir, e.Name())); err != nil {
				t.Error(err)
			}
		}
	})
	return dir
}

// options are those of a store with the given root that fails the test for every
// warning.
func options(t testing.TB, root string) Options {
	o := ChrootOptions(root)
	o.ReservedSpace = 64 << 10 // 8 MiB take their time, for each of so many stores
	o.Warn = func(err error) { t.Errorf("warning: %v", err) }
	return o
}

// opened counts the stores that tests have open, by state directory.
var opened = make(map[string]int)

// open opens a store. If the test does not close it, its end does; when the last
// one of a directory is closed, nothing may be left in it that is not valid.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	opened[o.StateDir]++
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if opened[o.StateDir]--; opened[o.StateDir] == 0 {
			checkTidy(t, o)
		}
	})
	return s
}

// newStore opens a new store.
func newStore(t testing.TB) *Store {
	t.Helper()
	return open(t, options(t, tempDir(t)))
}

// reopen closes a store and opens it again.
func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, s.opts)
}

// checkTidy checks that a store which nobody has open has nothing in it but valid
// objects in canonical form, and nothing in its state that is for a while only.
func checkTidy(t testing.TB, o Options) {
	t.Helper()
	o.ReadOnly = true
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Errorf("open for checking: %v", err)
		return
	}
	defer s.Close()
	for _, name := range names(t, s.layout.store) {
		if name == ".links" {
			continue
		}
		p, err := nix.ParseStorePath(name)
		valid := false
		if err == nil {
			if valid, err = s.isValid(context.Background(), p); err != nil {
				t.Error(err)
			}
		}
		if !valid {
			t.Errorf("left in the store: %s", name)
			continue
		}
		checkCanonical(t, s.RealPath(p))
	}
	if left := names(t, s.layout.sessions()); len(left) > 0 {
		t.Errorf("left sessions: %v", left)
	}
	for _, name := range names(t, s.layout.tempRoots()) {
		if strings.Contains(name, "-") { // else it is one that Nix has left
			t.Errorf("left temporary roots: %s", name)
		}
	}
	for _, name := range logNames(t, s) {
		if exists(name) && exists(name+compressedSuffix) {
			t.Errorf("a log in two forms: %s", name)
		}
	}
}

// logNames are the files of the log directory.
func logNames(t testing.TB, s *Store) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(s.layout.log, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// checkCanonical checks mode, time and owner of every file of a tree.
func checkCanonical(t testing.TB, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		const bits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
		mode := info.Mode() & bits
		if d.Type()&fs.ModeSymlink == 0 && mode != 0o555 && (mode != 0o444 || d.IsDir()) {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if info.ModTime().UnixNano() != 1e9 {
			t.Errorf("%s has the time %v", path, info.ModTime())
		}
		if user(info) != os.Geteuid() {
			t.Errorf("%s belongs to %d", path, user(info))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// names are the names in a directory, none if it does not exist.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// realNix runs a program of Nix on the chroot store root and gives what it prints
// to standard output.
func realNix(t *testing.T, root, program string, args ...string) string {
	t.Helper()
	out, err := tryRealNix(t, root, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryRealNix(t *testing.T, root, program string, args ...string) (string, error) {
	t.Helper()
	cmd := nixCommand(t, root, program, args...)
	out, err := cmd.Output()
	if err != nil {
		stderr := ""
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			stderr = string(exit.Stderr)
		}
		err = fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, stderr)
	}
	return strings.TrimSpace(string(out)), err
}

func nixCommand(t *testing.T, root, program string, args ...string) *exec.Cmd {
	t.Helper()
	testenv.NixVersion(t)
	store := []string{"--store", root, "--option", "build-users-group", "", "--option", "substituters", ""}
	if program == "nix" {
		args = slices.Concat(args[:1], store, []string{"--extra-experimental-features", "nix-command"}, args[1:])
	} else {
		args = slices.Concat(store, args)
	}
	cmd := exec.Command(program, args...)
	home := filepath.Join(root, "home")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "NIX_CONF_DIR=" + home, "NIX_USER_CONF_FILES=", "USER=tester", "TMPDIR=" + os.TempDir()}
	return cmd
}

// nixVerifies lets real Nix check a store with all contents.
func nixVerifies(t *testing.T, root string) {
	t.Helper()
	cmd := nixCommand(t, root, "nix-store", "--verify", "--check-contents")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "error") || strings.Contains(string(out), "modified") ||
		strings.Contains(string(out), "disappeared") || strings.Contains(string(out), "removing") {
		t.Errorf("nix-store --verify --check-contents: %v\n%s", err, out)
	}
}

// rootOf is the root of a store that was made by options.
func rootOf(s *Store) string { return strings.TrimSuffix(s.layout.store, "/nix/store") }

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A suite of all stores passes in each way of opening one.
func TestSuite(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"default": func(*Options) {},
		"no WAL":  func(o *Options) { o.UseSQLiteWAL = false },
		"zero": func(o *Options) {
			*o = Options{RealStoreDir: o.RealStoreDir, StateDir: o.StateDir, LogDir: o.LogDir, Warn: o.Warn}
		},
		"all":      func(o *Options) { o.AutoOptimise, o.FsyncStorePaths, o.CADerivations = true, true, true },
		"relocate": func(o *Options) { o.StoreDir, o.CADerivations = "/somewhere/else", true },
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				o := options(t, tempDir(t))
				change(&o)
				if strings.HasSuffix(t.Name(), "/Realisations") {
					o.CADerivations = true
				}
				return open(t, o)
			})
		})
	}
}

func TestSuiteAsOrdinaryUser(t *testing.T) {
	if testenv.AsOrdinaryUser(t) {
		storetest.Run(t, func(t *testing.T) store.Store {
			o := options(t, tempDir(t))
			o.AutoOptimise, o.CADerivations = true, true
			return open(t, o)
		})
	}
}

// hashTree gives the hash and size of the archive of a tree.
func hashTree(path string) (nix.Hash, int64, error) {
	sum := sha256.New()
	size, err := nar.Dump(sum, path, nar.DumpOptions{})
	return nix.SumHash(nix.SHA256, sum), size, err
}
