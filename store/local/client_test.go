package local

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/githash"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// What follows is what clients of a daemon ask of a store.

func TestAddContentByGit(t *testing.T) {
	s := newStore(t)
	tree := storetest.Archive(t, storetest.Node{Entries: []storetest.Node{
		{Name: "file", Content: "content"}, {Name: "program", Content: "#!", Executable: true},
	}})
	for _, algo := range []nix.HashAlgorithm{nix.SHA1, nix.SHA256} {
		want, err := githash.Sum(bytes.NewReader(tree), algo, nar.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.AddContent(t.Context(), "tree", nix.Git, algo, nil, bytes.NewReader(tree))
		if err != nil || info.CA != (nix.ContentAddress{Method: nix.Git, Hash: want}) {
			t.Fatalf("%+v, %v, want %v", info, err, want)
		}
		// Whoever adds it by name has to say the truth.
		other := newStore(t)
		if err := other.Add(t.Context(), info, bytes.NewReader(tree), store.AddOptions{}); err != nil {
			t.Error(err)
		}
		lie := nix.ContentAddress{Method: nix.Git, Hash: nix.HashBytes(algo, nil)}
		bad := *info
		bad.CA = lie
		if bad.Path, err = nix.MakeContentAddressedPath(s.Dir(), "tree", lie, nix.References{}); err != nil {
			t.Fatal(err)
		}
		if err := other.Add(t.Context(), &bad, bytes.NewReader(tree), store.AddOptions{}); err == nil {
			t.Error("a wrong content address was believed")
		}
	}
}

func TestClientRoots(t *testing.T) {
	root := t.TempDir()
	s := open(t, options(t, root))
	p, err := s.AddText(t.Context(), "text", []byte("text"), nil)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "result")
	if err := s.AddIndirectRoot(t.Context(), link); err != nil {
		t.Error(err)
	}
	if err := s.AddIndirectRoot(t.Context(), "result"); err == nil {
		t.Error("a relative link became a root")
	}
	entries, err := os.ReadDir(s.layout.autoRoots())
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	if to, err := os.Readlink(filepath.Join(s.layout.autoRoots(), entries[0].Name())); err != nil || to != link {
		t.Errorf("the root leads to %q, %v", to, err)
	}
	perm := filepath.Join(s.layout.roots(), "mine", "text")
	for range 2 {
		if err := s.AddPermRoot(t.Context(), perm, p); err != nil {
			t.Error(err)
		}
	}
	if to, err := os.Readlink(perm); err != nil || to != s.Dir().Join(p) {
		t.Errorf("the root leads to %q, %v", to, err)
	}
	for _, bad := range []string{s.layout.roots(), filepath.Join(s.layout.roots(), "..", "x"), link, "x"} {
		if err := s.AddPermRoot(t.Context(), bad, p); err == nil {
			t.Errorf("%s became a root", bad)
		}
	}
	if err := s.AddPermRoot(t.Context(), perm+"2", "00000000000000000000000000000000-none"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a root of what is not valid: %v", err)
	}
}

func TestLease(t *testing.T) {
	root := t.TempDir()
	s := open(t, options(t, root))
	refuses := errors.New("it refuses everything")
	lease := s.Lease(func(*nix.PathInfo) error { return refuses })
	object := storetest.Built(t, s.Dir(), "object", false)
	add := func(s *Store) error {
		return s.Add(t.Context(), &object.Info, bytes.NewReader(object.NAR), store.AddOptions{CheckSignatures: true})
	}
	if err := add(lease); !errors.Is(err, refuses) {
		t.Errorf("added: %v", err)
	}
	if _, err := lease.AddText(t.Context(), "text", []byte("text"), nil); err != nil {
		t.Fatal(err)
	}
	file := lease.roots.file.Name()
	release := lease.Hold()
	if err := lease.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("what is held has no roots: %v", err)
	}
	release()
	release()
	if _, err := os.Stat(file); err == nil {
		t.Error("the roots are left")
	}
	if _, err := s.AddText(t.Context(), "more", []byte("more"), nil); err != nil {
		t.Errorf("the store, after its lease: %v", err)
	}
	s.Hold()()
}

func TestReplaced(t *testing.T) {
	root := t.TempDir()
	s := open(t, options(t, root))
	if s.Replaced() {
		t.Error("by whom?")
	}
	schema := s.layout.schema()
	if err := os.WriteFile(schema+".new", []byte("10"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(schema+".new", schema); err != nil {
		t.Fatal(err)
	}
	if !s.Replaced() {
		t.Error("a migration was not noticed")
	}
}

func TestAddBuildLog(t *testing.T) {
	s := newStore(t)
	const drv nix.StorePath = "00000000000000000000000000000000-x.drv"
	for _, text := range []string{"the first log\n", "another one\n"} {
		if err := s.AddBuildLog(t.Context(), drv, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		log, err := s.BuildLog(t.Context(), drv)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(log)
		if log.Close(); err != nil || string(got) != "the first log\n" {
			t.Errorf("%q, %v", got, err)
		}
	}
	broken := errors.New("the client has left")
	if err := s.AddBuildLog(t.Context(), drv[:20]+"-y.drv", strings.NewReader("")); err == nil {
		t.Error("of what is no derivation")
	}
	const other nix.StorePath = "00000000000000000000000000000001-x.drv"
	if err := s.AddBuildLog(t.Context(), other, io.MultiReader(strings.NewReader("half"), errReader{broken})); !errors.Is(err, broken) {
		t.Errorf("half a log: %v", err)
	}
	if _, err := s.BuildLog(t.Context(), other); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("half a log is kept: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestPrepare(t *testing.T) {
	root := t.TempDir()
	s := open(t, options(t, root))
	profiles := filepath.Join(s.layout.state, "profiles")
	if err := os.RemoveAll(profiles); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Prepare("somebody", os.Getuid()); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", "..", ".", "a/b", "a\x00"} {
		if err := s.Prepare(bad, os.Getuid()); err != nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(profiles, "per-user"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "somebody" {
		t.Errorf("%v, %v", entries, err)
	}
}

// TestVacate wants the temporary directory to go when nobody uses it, and to come back.
func TestVacate(t *testing.T) {
	root := tempDir(t)
	s := open(t, options(t, root))
	entries := func() (n int) {
		all, err := os.ReadDir(s.RealDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if strings.Contains(e.Name(), "-tmp-") {
				n++
			}
		}
		return n
	}
	vacate := func() {
		t.Helper()
		if err := s.Vacate(); err != nil {
			t.Error(err)
		}
	}
	vacate()
	object := storetest.Built(t, s.Dir(), "object", false)
	storetest.Add(t, s, object)
	bad := object
	bad.Info.Path = "00000000000000000000000000000000-bad"
	for _, archive := range [][]byte{nil, bad.NAR[:len(bad.NAR)/2], storetest.Archive(t, storetest.Node{Content: "other"})} {
		if err := s.Add(t.Context(), &bad.Info, bytes.NewReader(archive), store.AddOptions{}); err == nil {
			t.Error("it was added")
		}
	}
	if entries() != 1 {
		t.Errorf("%d directories", entries())
	}
	vacate()
	if entries() != 0 {
		t.Error("it was not removed")
	}
	dir, err := s.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vacate()
	if _, err := os.Stat(dir.Path()); err != nil {
		t.Errorf("it was removed while it was in use: %v", err)
	}
	if err := dir.Close(); err != nil {
		t.Error(err)
	}
	vacate()
	if entries() != 0 {
		t.Error("it was not removed the second time")
	}
}
