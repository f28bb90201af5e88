//go:build linux

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kilnbuild/kiln/internal/enclave"
	"github.com/kilnbuild/kiln/internal/testenv"
)

// newestSeries is the release that kiln follows where releases differ.
const newestSeries = "2.34"

// A release is a real Nix: that of PATH, or one with a root directory of its own.
type release struct {
	version string // "2.34.8"
	root    string // "" for the machine's
}

// hostNix is the Nix of PATH.
func hostNix(t *testing.T) *release {
	t.Helper()
	return &release{version: testenv.NixVersion(t)}
}

// newestNix is a Nix of newestSeries. Only root can have it: others cannot give a
// program another root directory in which it still builds as it would.
func newestNix(t *testing.T) *release {
	t.Helper()
	root, err := newestRoot()
	if err != nil {
		testenv.SkipTool(t, "no Nix %s to compare with: %v", newestSeries, err)
	}
	r := &release{root: root}
	out := must(t, r.command(newScene(t), "nix-hash", "--version"))
	r.version = out[0][strings.LastIndex(out[0], " ")+1:]
	return r
}

var newestRoot = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("../.ci/peer", newestSeries)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
})

// atLeast tells whether a release is that of a version, or a later one.
func (r *release) atLeast(version string) bool {
	have, want := strings.Split(r.version, "."), strings.Split(version, ".")
	for i := range want {
		w, err := strconv.Atoi(want[i])
		if err != nil || i >= len(have) {
			return false
		}
		if h, err := strconv.Atoi(have[i]); err != nil || h != w {
			return err == nil && h > w
		}
	}
	return true
}

// command is a command of the release in a scene.
func (r *release) command(scene *testenv.Scene, words ...string) *exec.Cmd {
	if r.root == "" {
		return sceneCommand(scene, words...)
	}
	cmd := sceneCommand(scene, append([]string{"/proc/self/exe"}, words...)...)
	cmd.Env = append(cmd.Env, inRoot+"="+r.root, inRootDir+"="+testenv.Enclave().Dir)
	return cmd
}

// inRoot is set for the test binary when it has to run its arguments with another
// root directory, in which the directory of inRootDir is to be seen.
const (
	inRoot    = "KILN_INTEROP_ROOT"
	inRootDir = "KILN_INTEROP_ROOT_DIR"
)

func runInRoot(words []string) error {
	root, dir := os.Getenv(inRoot), os.Getenv(inRootDir)
	os.Unsetenv(inRoot)
	os.Unsetenv(inRootDir)
	if err := enclave.EnterRoot(root, dir); err != nil {
		return err
	}
	program, err := exec.LookPath(words[0])
	if err != nil {
		return err
	}
	return unix.Exec(program, words, os.Environ())
}

// visible gives a file or tree of the machine a place that programs with another
// root directory see too: the same for every call.
func visible(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	e := testenv.Enclave()
	if e == nil {
		return path
	}
	visibleLock.Lock()
	defer visibleLock.Unlock()
	copied := filepath.Join(e.Dir, "visible", path)
	if exists(copied) {
		return copied
	}
	if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", path, copied).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", path, err, out)
	}
	return copied
}

var visibleLock sync.Mutex
