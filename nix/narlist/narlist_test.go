package narlist

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix/nar"
)

// tree makes a file tree with everything that a listing has.
func tree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"", "a", "a/empty", "z", "z/y", "z/y/x"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"a/run": 0o755, "file": 0o644, "empty": 0o644, "z/y/x/q\"u<ö": 0o644, "~": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(name, len(name)-1)), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../<a>", filepath.Join(dir, "a/link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func list(t testing.TB, path string, opts Options) string {
	t.Helper()
	var archive, out bytes.Buffer
	if _, err := nar.Dump(&archive, path, nar.DumpOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Write(&out, &archive, opts); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestListing(t *testing.T) {
	dir := tree(t)
	var files []string
	got := list(t, dir, Options{File: func(path string) { files = append(files, path) }})
	if !json.Valid([]byte(got)) || !strings.HasPrefix(got, `{"version":1,"root":{"type":"directory","entries":{"a":{"type":"directory","entries":{"empty":{"type":"directory","entries":{}},"link":{"type":"symlink","target":"../<a>"},"run":`) {
		t.Errorf("%s", got)
	}
	if want := []string{"a/run", "empty", "file", "z/y/x/q\"u<ö", "~"}; !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}
	for name, want := range map[string]string{
		"file":   `{"version":1,"root":{"type":"regular","size":12,"narOffset":96}}`,
		"a/link": `{"version":1,"root":{"type":"symlink","target":"../<a>"}}`,
		"a/run":  `{"version":1,"root":{"type":"regular","size":20,"executable":true,"narOffset":128}}`,
	} {
		if got := list(t, filepath.Join(dir, name), Options{}); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestRealListing compares with what Nix writes into a cache.
func TestRealListing(t *testing.T) {
	testenv.NixVersion(t)
	scene := testenv.NewScene(t, "")
	dir := tree(t)
	cache := scene.Path("cache")
	cmd := exec.Command("nix", "--store", "file://"+cache+"?write-nar-listing=true", "store", "add-path", dir)
	cmd.Env = scene.Env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	names, err := filepath.Glob(cache + "/*.ls")
	if err != nil || len(names) != 1 {
		t.Fatalf("%q, %v", names, err)
	}
	want, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, dir, Options{}); got != string(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzWrite(f *testing.F) {
	var archive bytes.Buffer
	if _, err := nar.Dump(&archive, tree(f), nar.DumpOptions{}); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		if err := Write(&out, bytes.NewReader(data), Options{}); err == nil && !json.Valid(out.Bytes()) {
			t.Errorf("no JSON: %s", out.Bytes())
		}
	})
}
