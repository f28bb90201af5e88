package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Scene has the private directories of one test: stores, settings, state,
// home and temporary files for the programs that the test runs. Its name occurs
// nowhere else on the machine, so what is left behind can be told by it. When
// the test ends, a Scene fails it for any process, mount or temporary file that
// is left, and then removes the directories.
type Scene struct {
	t   testing.TB
	Dir string
}

// NewScene makes the directories below dir, or below the system's temporary
// directory if dir is empty.
func NewScene(t testing.TB, dir string) *Scene {
	t.Helper()
	d, err := os.MkdirTemp(dir, "kiln-scene-")
	if err != nil {
		t.Fatal(err)
	}
	s := &Scene{t: t, Dir: d}
	t.Cleanup(s.close)
	for _, sub := range []string{"conf", "home", "state", "log", "tmp"} {
		if err := os.Mkdir(filepath.Join(d, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := "substituters =\nexperimental-features = nix-command\nbuild-users-group =\n"
	if err := os.WriteFile(filepath.Join(d, "conf", "nix.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	// MkdirTemp lets nobody else in, but build users must reach their directories.
	if err := os.Chmod(d, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// Path is the path of a name in the scene.
func (s *Scene) Path(names ...string) string {
	return filepath.Join(append([]string{s.Dir}, names...)...)
}

// Mkdir makes a directory in the scene.
func (s *Scene) Mkdir(names ...string) string {
	s.t.Helper()
	p := s.Path(names...)
	if err := os.MkdirAll(p, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// Tmp is the TMPDIR of programs in the scene.
func (s *Scene) Tmp() string { return s.Path("tmp") }

// Env is the environment for a program in the scene. Nothing that would steer
// Nix or kiln is inherited.
func (s *Scene) Env() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "NIX_"), strings.HasPrefix(name, "XDG_"), strings.HasPrefix(name, "KILN"):
		case name == "HOME", name == "TMPDIR", name == "IN_NIX_SHELL":
		default:
			env = append(env, kv)
		}
	}
	return append(env,
		"HOME="+s.Path("home"), "TMPDIR="+s.Tmp(), "USER=tester", "LC_ALL=C", "TERM=dumb",
		"NIX_CONF_DIR="+s.Path("conf"), "NIX_USER_CONF_FILES=", "NIX_STATE_DIR="+s.Path("state"),
		"NIX_LOG_DIR="+s.Path("log"),
	)
}

// Mark is a text that occurs in the scene's paths and nowhere else.
func (s *Scene) Mark() string { return filepath.Base(s.Dir) }

func (s *Scene) close() {
	s.t.Helper()
	NoProcesses(s.t, s.Mark())
	NoMounts(s.t, s.Mark())
	if left := list(s.t, s.Tmp()); len(left) > 0 && !s.t.Failed() {
		s.t.Errorf("temporary files are left in TMPDIR: %s", strings.Join(left, " "))
	}
	removeTree(s.t, s.Dir)
}

// list gives the names in a directory that may not exist.
func list(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// removeTree removes a tree whose directories may be read-only, as a store's
// are.
func removeTree(t testing.TB, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("remove what the test made: %v", err)
	}
}
