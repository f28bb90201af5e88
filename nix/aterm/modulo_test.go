package aterm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
)

// goldenDrv reads one of the golden derivations.
func goldenDrv(t testing.TB, path nix.StorePath) *nix.Derivation {
	t.Helper()
	d, _, err := readDrv(golden, path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// goldenNamed finds the golden derivation of a name that only one has.
func goldenNamed(t testing.TB, name string) (nix.StorePath, *nix.Derivation) {
	t.Helper()
	var found nix.StorePath
	for _, p := range drvFiles(t, golden) {
		if p.Name() == name+".drv" {
			if found != "" {
				t.Fatalf("two golden derivations are named %s", name)
			}
			found = p
		}
	}
	if found == "" {
		t.Fatalf("no golden derivation is named %s", name)
	}
	return found, goldenDrv(t, found)
}

func newHasher() *aterm.Hasher {
	return aterm.NewHasher(dir, loader(golden), aterm.HasherOptions{})
}

// The table Realisations of the database in which Nix 2.34.8 built realised.nix.
func TestLegacyRealisationID(t *testing.T) {
	h := newHasher()
	for path, want := range map[nix.StorePath]map[nix.OutputName]string{
		"3mk786rjnkjac12azzzj3fdjg40gm7nb-fod.drv":   {"out": "sha256:ec3379b85eb3c32824b1aee3fb9c7ce6247153d2332d23e70327ef21f3882cd4!out"},
		"c3yh3hnrjnfp3a7kb9h5q8x1ylmcr2kh-plain.drv": {"out": "sha256:0e0a49e2a70201ffc709ec62b13affdcbe0dbbc5b3943ce34d204b602a895539!out"},
		// Floating, before and after it was resolved.
		"94ibbjhxbwkzqqnkp9ix4yqvap1zqbx9-a.drv": {
			"out": "sha256:8f61377765616a85f9c836501f5c6320b62135a753b55ae4c5f6a5080b33b7c9!out",
			"lib": "sha256:8f61377765616a85f9c836501f5c6320b62135a753b55ae4c5f6a5080b33b7c9!lib",
		},
		"f5mvqxprvis2sfg8xld2cipd7m0h4saa-a.drv": {"lib": "sha256:b141e4c723c19e5392739fea37b567ace64d3842052f56bbbd43ae409926edb2!lib"},
		// Floating, with a floating input.
		"w7xspfs6gl4fc5sirvxdilidh6y7rwh9-b.drv": {"out": "sha256:5d5da027e2a317fb3b67d72020201db490e5913bf85648947c7d36a304089d46!out"},
		"nm0c3g5x7jvf0fn4qbdd40yiasr0v31j-b.drv": {"out": "sha256:8d5dac36749e56f7be1501567ca005c14b84966fe01e81aa8630809692786ee7!out"},
		// Deferred, and input-addressed once it was resolved.
		"rva411iz2363lx3wcsfslqq7z5lbkjii-c.drv": {"out": "sha256:5b8eef279a77377219219041f01f716e3b6c798ed29d4b3dc491f7a649b42019!out"},
		"ssan1lpnx88f85n1sihyh4bpq1rsppwg-c.drv": {"out": "sha256:800293d00ff67e075722d17f67c01a06048ab43af151ca5e3f7910f4943ac2ad!out"},
	} {
		for output, want := range want {
			got, err := h.LegacyRealisationID(t.Context(), goldenDrv(t, path), output)
			if err != nil || got != want {
				t.Errorf("%s!%s is %s, %v, want %s", path, output, got, err, want)
			}
		}
	}
	if _, err := h.LegacyRealisationID(t.Context(), goldenDrv(t, "3mk786rjnkjac12azzzj3fdjg40gm7nb-fod.drv"), "dev"); err == nil {
		t.Error("an output that does not exist has an ID")
	}
}

func TestInputHash(t *testing.T) {
	h := newHasher()
	for name, known := range map[string]bool{
		"simple":         true,
		"diamond":        true,
		"fixed-md5-flat": true,
		"floating":       false,
		"deferred":       false,
		"deferred-twice": false,
		"impure":         false,
		"on-impure":      false,
		"dynamic":        false,
		"fixed-sha1-git": true,
	} {
		path, d := goldenNamed(t, name)
		hash, err := h.InputHash(t.Context(), path)
		if err != nil || hash.IsZero() == known {
			t.Errorf("%s: %v, %v", name, hash, err)
		}
		masked, err := h.MaskedHash(t.Context(), d)
		switch kind, _ := d.Kind(); kind {
		case nix.InputAddressed, nix.Deferred:
			if err != nil || masked.IsZero() == known || masked == hash && known {
				t.Errorf("%s has the masked hash %v, %v", name, masked, err)
			}
		default:
			if err == nil {
				t.Errorf("%s has a masked hash, but is %s", name, kind)
			}
		}
	}
}

// Derivations that differ in how their fixed inputs are fetched are the same to
// those who depend on them.
func TestFixedInputsAreEqual(t *testing.T) {
	h := newHasher()
	hashes := make(map[nix.Hash]int)
	for _, path := range drvFiles(t, golden) {
		if path.Name() == "mirrored.drv" || path.Name() == "mirror.drv" {
			hash, err := h.InputHash(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			hashes[hash]++
		}
	}
	counts := make(map[int]int)
	for _, n := range hashes {
		counts[n]++
	}
	// Two mirrors are one, and so are two of the three that use one or both.
	if diff := cmp.Diff(map[int]int{2: 2}, counts); diff != "" {
		t.Errorf("derivations by hash (-want +got):\n%s", diff)
	}
}

// drvOf makes a small derivation.
func drvOf(name string, kind nix.OutputKind, inputs ...nix.StorePath) *nix.Derivation {
	d := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: name, System: "s", Builder: "/b",
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: kind, Algorithm: nix.SHA256}},
		Env:     map[string]string{"out": ""},
	}, InputDrvs: make(map[nix.StorePath]nix.InputOutputs)}
	for _, in := range inputs {
		d.InputDrvs[in] = nix.InputOutputs{Outputs: []nix.OutputName{"out"}}
	}
	return d
}

// filled is drvOf with its paths filled in, which a store has under the path
// that it gives.
func filled(t testing.TB, h *aterm.Hasher, store map[nix.StorePath]*nix.Derivation, d *nix.Derivation) nix.StorePath {
	t.Helper()
	if err := h.FillOutputPaths(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	path, _, _, err := aterm.DerivationPath(dir, d)
	if err != nil {
		t.Fatal(err)
	}
	store[path] = d
	return path
}

// memory is a Loader for derivations in a map, which counts.
type memory struct {
	mu    sync.Mutex
	drvs  map[nix.StorePath]*nix.Derivation
	loads int
}

func (m *memory) load(_ context.Context, path nix.StorePath) (*nix.Derivation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loads++
	d, ok := m.drvs[path]
	if !ok {
		return nil, errors.New("no such derivation")
	}
	return d, nil
}

func TestLongChain(t *testing.T) {
	const length = 10_000
	m := &memory{drvs: make(map[nix.StorePath]*nix.Derivation)}
	warm := aterm.NewHasher(dir, m.load, aterm.HasherOptions{})
	var last nix.StorePath
	for i := range length {
		d := drvOf(fmt.Sprintf("link-%d", i), nix.Deferred)
		if last != "" {
			d = drvOf(fmt.Sprintf("link-%d", i), nix.Deferred, last)
		}
		last = filled(t, warm, m.drvs, d)
	}
	want, err := warm.InputHash(t.Context(), last)
	if err != nil {
		t.Fatal(err)
	}
	// A memo that is too small for the chain costs time and nothing else.
	for _, entries := range []int{0, 10} {
		m.loads = 0
		cold := aterm.NewHasher(dir, m.load, aterm.HasherOptions{MemoEntries: entries})
		got, err := cold.InputHash(t.Context(), last)
		if err != nil || got != want || got.IsZero() {
			t.Errorf("memo of %d: got %v, %v, want %v", entries, got, err, want)
		}
		if m.loads != length {
			t.Errorf("memo of %d: %d derivations were loaded, not %d", entries, m.loads, length)
		}
		if err := cold.CheckInvariants(t.Context(), last, m.drvs[last]); err != nil {
			t.Error(err)
		}
		if entries == 0 && m.loads != length {
			t.Errorf("%d derivations were loaded again", m.loads-length)
		}
	}
}

// Every derivation of a wide graph is loaded once, not once a way to it.
func TestWideGraph(t *testing.T) {
	m := &memory{drvs: make(map[nix.StorePath]*nix.Derivation)}
	warm := aterm.NewHasher(dir, m.load, aterm.HasherOptions{})
	var layer []nix.StorePath
	for depth := range 30 {
		var next []nix.StorePath
		for i := range 4 {
			next = append(next, filled(t, warm, m.drvs, drvOf(fmt.Sprintf("n%d-%d", depth, i), nix.Deferred, layer...)))
		}
		layer = next
	}
	m.loads = 0
	cold := aterm.NewHasher(dir, m.load, aterm.HasherOptions{MemoEntries: 1})
	if _, err := cold.InputHash(t.Context(), layer[0]); err != nil {
		t.Fatal(err)
	}
	if want := 29*4 + 1; m.loads != want {
		t.Errorf("%d derivations were loaded, want %d", m.loads, want)
	}
}

func TestConcurrentUse(t *testing.T) {
	h := aterm.NewHasher(dir, loader(golden), aterm.HasherOptions{MemoEntries: 8})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for _, path := range drvFiles(t, golden) {
				d, _, err := readDrv(golden, path)
				if err != nil {
					t.Error(err)
					return
				}
				if err := h.CheckInvariants(t.Context(), path, d); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func TestHasherErrors(t *testing.T) {
	const a, b, none = "0h1056s5ii4c1w472ryvgc0c447nz6yp-a.drv", "1h1056s5ii4c1w472ryvgc0c447nz6yp-b.drv", "2h1056s5ii4c1w472ryvgc0c447nz6yp-c.drv"
	circle := func(name string, input nix.StorePath) *nix.Derivation {
		d := drvOf(name, nix.InputAddressed, input)
		d.Outputs["out"] = nix.DerivationOutput{Kind: nix.InputAddressed, Path: "0h1056s5ii4c1w472ryvgc0c447nz6yp-x"}
		return d
	}
	m := &memory{drvs: map[nix.StorePath]*nix.Derivation{a: circle("a", b), b: circle("b", a)}}
	h := aterm.NewHasher(dir, m.load, aterm.HasherOptions{})
	_, simple := goldenNamed(t, "simple")
	m.drvs["3h1056s5ii4c1w472ryvgc0c447nz6yp-simple.drv"] = simple
	wantsDev := drvOf("d", nix.Deferred)
	wantsDev.InputDrvs["3h1056s5ii4c1w472ryvgc0c447nz6yp-simple.drv"] = nix.InputOutputs{Outputs: []nix.OutputName{"dev"}}

	for _, test := range []struct {
		drv  *nix.Derivation
		want string
	}{
		{circle("x", a), "derivation '/nix/store/" + a + "' depends on itself"},
		{drvOf("x", nix.Deferred, none), "load derivation '/nix/store/" + none + "': no such derivation"},
		{wantsDev, "derivation '/nix/store/3h1056s5ii4c1w472ryvgc0c447nz6yp-simple.drv' has no output 'dev'"},
	} {
		if _, err := h.MaskedHash(t.Context(), test.drv); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.drv.Name, err, test.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.InputHash(ctx, none); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := aterm.NewHasher(dir, nil, aterm.HasherOptions{}).InputHash(t.Context(), none); err == nil {
		t.Error("a hasher without loader knows an input")
	}
}

// An input of which no output is wanted is no part of the hash, as with Nix up
// to 2.34.
func TestInputWithoutOutputs(t *testing.T) {
	path, _ := goldenNamed(t, "simple")
	h := newHasher()
	with, without := drvOf("x", nix.Deferred, path), drvOf("x", nix.Deferred)
	with.InputDrvs[path] = nix.InputOutputs{}
	a, err := h.MaskedHash(t.Context(), with)
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.MaskedHash(t.Context(), without)
	if err != nil || a != b {
		t.Errorf("%v, %v, %v", a, b, err)
	}
}

func BenchmarkHashChain(b *testing.B) {
	m := &memory{drvs: make(map[nix.StorePath]*nix.Derivation)}
	h := aterm.NewHasher(dir, m.load, aterm.HasherOptions{})
	var last []nix.StorePath
	for i := range 1000 {
		d := drvOf(fmt.Sprintf("link-%d", i), nix.Deferred, last...)
		d.Env["script"] = strings.Repeat("echo $out\n", 100)
		last = []nix.StorePath{filled(b, h, m.drvs, d)}
	}
	for b.Loop() {
		if _, err := aterm.NewHasher(dir, m.load, aterm.HasherOptions{}).InputHash(b.Context(), last[0]); err != nil {
			b.Fatal(err)
		}
	}
}
