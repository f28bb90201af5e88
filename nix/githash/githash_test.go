package githash

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
)

func sumOf(t *testing.T, path string, algo nix.HashAlgorithm) string {
	t.Helper()
	var archive bytes.Buffer
	if _, err := nar.Dump(&archive, path, nar.DumpOptions{}); err != nil {
		t.Fatal(err)
	}
	h, err := Sum(&archive, algo, nar.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(h.Base16Prefixed(), algo.String()+":")
}

// The hashes of what everybody who uses git has seen once.
func TestKnown(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := sumOf(t, empty, nix.SHA1); got != "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391" {
		t.Errorf("empty blob: %s", got)
	}
	if got := sumOf(t, t.TempDir(), nix.SHA1); got != "4b825dc642cb6eb9a060e54bf8d69288fbee4904" {
		t.Errorf("empty tree: %s", got)
	}
}

// Git itself is asked about a tree with everything that is sorted in a special way.
func TestLikeGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	for _, algo := range []nix.HashAlgorithm{nix.SHA1, nix.SHA256} {
		t.Run(algo.String(), func(t *testing.T) {
			dir := t.TempDir()
			for name, mode := range map[string]os.FileMode{
				"a": 0o644, "a.b": 0o755, "a-b/x": 0o644, "a/../ab/c": 0o644, "foo/deep/er/f": 0o755, "foo.c": 0o644, "foo0": 0o644,
			} {
				p := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte(name+"\n"), mode); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink("../nowhere", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			repo := filepath.Join(t.TempDir(), "repo")
			git := func(args ...string) string {
				cmd := exec.Command("git", args...)
				cmd.Env = append(os.Environ(), "GIT_DIR="+repo, "GIT_WORK_TREE="+dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("git %v: %v\n%s", args, err, out)
				}
				return strings.TrimSpace(string(out))
			}
			git("init", "-q", "--object-format="+algo.String())
			git("add", "-A", dir)
			if want, got := git("write-tree"), sumOf(t, dir, algo); got != want {
				t.Errorf("got %s, git has %s", got, want)
			}
		})
	}
}

func FuzzSum(f *testing.F) {
	var archive bytes.Buffer
	if _, err := nar.Dump(&archive, f.TempDir(), nar.DumpOptions{}); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Sum(bytes.NewReader(data), nix.SHA1, nar.Limits{Entries: 1000})
		if err == nil && h.IsZero() {
			t.Error("no error and no hash")
		}
	})
}
