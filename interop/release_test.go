//go:build linux

package interop

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/kilnbuild/kiln/internal/enclave"
	"github.com/kilnbuild/kiln/internal/testenv"
)

// newestSeries is the release that kiln follows where releases differ, and middleSeries
// one between that and the machine's.
const (
	newestSeries = "2.34"
	middleSeries = "2.26"
)

// A release is a real Nix: that of PATH, or one with a root directory of its own.
type release struct {
	version string // "2.34.8"
	room    string // the mount namespace that it has a root directory of its own in, "" for the machine's
}

// hostNix is the Nix of PATH.
func hostNix(t *testing.T) *release {
	t.Helper()
	return &release{version: testenv.NixVersion(t)}
}

// newestNix is a Nix of newestSeries.
func newestNix(t *testing.T) *release {
	t.Helper()
	return otherNix(t, newestSeries)
}

// otherNix is a Nix of a series. Only root can have it: others cannot give a program
// another root directory in which it still builds as it would.
func otherNix(t *testing.T, series string) *release {
	t.Helper()
	p, ok := peers[series]
	if !ok {
		t.Fatalf("no release %s is known", series)
	}
	room, err := p.room()
	if err != nil {
		testenv.SkipTool(t, "no Nix %s to compare with: %v", series, err)
	}
	r := &release{room: room}
	out := must(t, r.command(newScene(t), "nix-hash", "--version"))
	r.version = out[0][strings.LastIndex(out[0], " ")+1:]
	return r
}

// peers are the releases that root can have, by series.
var peers = map[string]peer{newestSeries: newPeer(newestSeries), middleSeries: newPeer(middleSeries)}

// A peer gives the root directory of a release, and a namespace in which it is that.
type peer struct{ root, room func() (string, error) }

func newPeer(series string) peer {
	root := sync.OnceValues(func() (string, error) {
		cmd := exec.Command("../.ci/peer", series)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, said.String())
		}
		return strings.TrimSpace(string(out)), nil
	})
	return peer{root, sync.OnceValues(func() (string, error) {
		dir, err := root()
		if err != nil {
			return "", err
		}
		return newRoom(dir)
	})}
}

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
	if r.room == "" {
		return sceneCommand(scene, words...)
	}
	return sceneCommand(scene, append([]string{"nsenter", "--mount=" + r.room, "--"}, words...)...)
}

// inRoot is set for the test binary when it has to keep a mount namespace in which
// the root directory is another one, and the directory of inRootDir is to be seen.
const (
	inRoot    = "KILN_INTEROP_ROOT"
	inRootDir = "KILN_INTEROP_ROOT_DIR"
)

// newRoom makes such a namespace for all commands of a release, and gives its
// file. It ends with this process.
func newRoom(root string) (string, error) {
	keeper := exec.Command("/proc/self/exe")
	keeper.Env = append(os.Environ(), inRoot+"="+root, inRootDir+"="+testenv.Enclave().Dir)
	keeper.Stderr = os.Stderr
	ready, err := keeper.StdoutPipe()
	if err != nil {
		return "", err
	}
	// Nobody writes to it: its end tells the keeper of ours, so it must not be closed
	// as garbage.
	alive, err := keeper.StdinPipe()
	if err != nil {
		return "", err
	}
	keepers.Lock()
	keepers.alive = append(keepers.alive, alive)
	keepers.Unlock()
	if err := keeper.Start(); err != nil {
		return "", err
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return "", errors.Join(fmt.Errorf("enter the root directory %s: %w", root, err), keeper.Wait())
	}
	return fmt.Sprintf("/proc/%d/ns/mnt", keeper.Process.Pid), nil
}

var keepers struct {
	sync.Mutex
	alive []io.Closer
}

// keepRoom is what the test binary does with inRoot set.
func keepRoom() error {
	if err := enclave.EnterRoot(os.Getenv(inRoot), os.Getenv(inRootDir)); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
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
