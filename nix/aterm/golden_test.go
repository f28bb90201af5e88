package aterm_test

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
)

const dir = nix.DefaultStoreDir

// golden are derivation files that Nix wrote.
const golden = "../../testdata/derivations/drv"

// readDrv reads a derivation file from a directory of a real store.
func readDrv(store string, path nix.StorePath) (*nix.Derivation, []byte, error) {
	text, err := os.ReadFile(filepath.Join(store, string(path)))
	if err != nil {
		return nil, nil, err
	}
	d, err := aterm.Parse(dir, strings.TrimSuffix(path.Name(), ".drv"), text, aterm.Limits{})
	return d, text, err
}

func loader(store string) aterm.Loader {
	return func(_ context.Context, path nix.StorePath) (*nix.Derivation, error) {
		d, _, err := readDrv(store, path)
		return d, err
	}
}

func drvFiles(t testing.TB, store string) []nix.StorePath {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(store, "*.drv"))
	if err != nil {
		t.Fatal(err)
	}
	var paths []nix.StorePath
	for _, f := range files {
		p, err := nix.ParseStorePath(filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// checkStore holds every derivation in a directory of a real store against what
// the package makes of it. It gives how many of each kind there were.
func checkStore(t *testing.T, store string) map[nix.OutputKind]int {
	t.Helper()
	ctx := t.Context()
	kinds := make(map[nix.OutputKind]int)
	hasher := aterm.NewHasher(dir, loader(store), aterm.HasherOptions{})
	for _, path := range drvFiles(t, store) {
		d, text, err := readDrv(store, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		kind, err := d.Kind()
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		kinds[kind]++
		got, refs, printed, err := aterm.DerivationPath(dir, d)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(string(text), string(printed)); diff != "" {
			t.Errorf("%s is printed in another way (-want +got):\n%s", path, diff)
		}
		if got != path {
			t.Errorf("%s has the path %s", path, got)
		}
		inputs := make(map[nix.StorePath]bool)
		for _, p := range d.InputSrcs {
			inputs[p] = true
		}
		for p := range d.InputDrvs {
			inputs[p] = true
		}
		if want := slices.Sorted(maps.Keys(inputs)); !slices.Equal(refs, want) {
			t.Errorf("%s refers to %v, want %v", path, refs, want)
		}
		if err := hasher.CheckInvariants(ctx, path, d); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		want := make(map[nix.OutputName]nix.StorePath)
		for name, o := range d.Outputs {
			if o.Path != "" {
				want[name] = o.Path
			}
		}
		paths, err := hasher.OutputPaths(ctx, d)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, paths); diff != "" {
			t.Errorf("%s has other outputs (-want +got):\n%s", path, diff)
		}
	}
	return kinds
}

func TestGolden(t *testing.T) {
	kinds := checkStore(t, golden)
	for _, kind := range []nix.OutputKind{nix.InputAddressed, nix.Fixed, nix.Floating, nix.Deferred, nix.Impure} {
		if kinds[kind] < 2 {
			t.Errorf("only %d %s derivations were checked", kinds[kind], kind)
		}
	}
}

// The same with what the Nix of this machine writes.
func TestRealNix(t *testing.T) {
	version := testenv.NixVersion(t)
	scene := testenv.NewScene(t, "")
	root := scene.Path("root")
	runNix(t, scene, "nix-instantiate", "--store", root, "../../testdata/derivations/derivations.nix")
	kinds := checkStore(t, filepath.Join(root, "nix/store"))
	if n := kinds[nix.InputAddressed] + kinds[nix.Fixed]; n < 30 {
		t.Errorf("Nix %s wrote only %d derivations", version, n)
	}
}

// A path that Nix computes for text with references is the one we compute.
func TestTextPath(t *testing.T) {
	d := &nix.Derivation{BasicDerivation: nix.BasicDerivation{Name: "empty", System: "x"}}
	path, refs, text, err := aterm.DerivationPath(dir, d)
	if err != nil {
		t.Fatal(err)
	}
	if want := `Derive([],[],[],"x","",[],[])`; string(text) != want || len(refs) != 0 {
		t.Errorf("got %s with references %v, want %s with none", text, refs, want)
	}
	d.InputSrcs = []nix.StorePath{"1h1056s5ii4c1w472ryvgc0c447nz6yp-src", "0h1056s5ii4c1w472ryvgc0c447nz6yp-src"}
	d.InputDrvs = map[nix.StorePath]nix.InputOutputs{"1h1056s5ii4c1w472ryvgc0c447nz6yp-a.drv": {Outputs: []nix.OutputName{"out"}}}
	other, refs, text, err := aterm.DerivationPath(dir, d)
	if err != nil || other == path {
		t.Errorf("path with references is %s, %v", other, err)
	}
	want := []nix.StorePath{
		"0h1056s5ii4c1w472ryvgc0c447nz6yp-src",
		"1h1056s5ii4c1w472ryvgc0c447nz6yp-a.drv",
		"1h1056s5ii4c1w472ryvgc0c447nz6yp-src",
	}
	if diff := cmp.Diff(want, refs); diff != "" {
		t.Error(diff)
	}
	// The caller's list stays as it is; the text is in order nevertheless.
	if d.InputSrcs[0] != "1h1056s5ii4c1w472ryvgc0c447nz6yp-src" {
		t.Error("the derivation was changed")
	}
	again, err := aterm.Parse(dir, "empty", text, aterm.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if back, err := aterm.Marshal(dir, again); err != nil || string(back) != string(text) {
		t.Errorf("got %s, %v, want %s", back, err, text)
	}
}

// runNix runs a program of real Nix with the scene's settings.
func runNix(t *testing.T, scene *testenv.Scene, program string, args ...string) []byte {
	t.Helper()
	var errors strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Env = scene.Env()
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, errors.String())
	}
	return out
}
