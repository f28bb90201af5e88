package outputs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
	"golang.org/x/sys/unix"
)

const (
	testDrv   = nix.StorePath("00000000000000000000000000000000-test.drv")
	outPath   = nix.StorePath("11111111111111111111111111111111-test")
	devPath   = nix.StorePath("22222222222222222222222222222222-test-dev")
	inputPath = nix.StorePath("33333333333333333333333333333333-input")
)

// scene is a store and the directory in which a builder left its outputs.
type scene struct {
	t     *testing.T
	store *local.Store
	left  string
	job   Job
}

func newScene(t *testing.T) *scene {
	t.Helper()
	root := t.TempDir()
	// Objects are read-only, which is in the way of the removal of a TempDir.
	t.Cleanup(func() {
		if err := rmtree.RemoveTree(filepath.Join(root, "nix")); err != nil {
			t.Error(err)
		}
	})
	st, err := local.Open(t.Context(), local.ChrootOptions(root))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	left := filepath.Join(root, "nix/store", string(testDrv)+".chroot")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	return &scene{t: t, store: st, left: left, job: Job{
		DrvPath: testDrv, DrvName: "test", Inputs: []nix.StorePath{inputPath},
		Owner: local.Owner{UID: os.Geteuid(), Count: 1, Own: true},
	}}
}

// output tells the job of an output and gives where the builder is to put it.
func (s *scene) output(name nix.OutputName, p nix.StorePath) string {
	actual := filepath.Join(s.left, string(p))
	s.job.Outputs = append(s.job.Outputs, Produced{
		Name: name, Actual: actual, Scratch: p, Spec: nix.DerivationOutput{Kind: nix.InputAddressed, Path: p},
	})
	return actual
}

// fixed is output for a fixed output with the given content hash.
func (s *scene) fixed(method nix.ContentAddressMethod, hash nix.Hash) string {
	s.t.Helper()
	p, err := nix.MakeContentAddressedPath(s.store.Dir(), "test", nix.ContentAddress{Method: method, Hash: hash}, nix.References{})
	if err != nil {
		s.t.Fatal(err)
	}
	actual := s.output("out", p)
	s.job.Outputs[0].Spec = nix.DerivationOutput{Kind: nix.Fixed, Path: p, Method: method, Algorithm: hash.Algorithm(), Hash: hash}
	return actual
}

func (s *scene) write(path, text string) {
	s.t.Helper()
	// What an earlier build left there may be read-only.
	if err := os.RemoveAll(path); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) collect() ([]Collected, error) { return Collect(s.t.Context(), s.store, &s.job) }

func (s *scene) mustCollect() []Collected {
	s.t.Helper()
	c, err := s.collect()
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// rejects checks that the build is blamed, with a message that has all of words.
func (s *scene) rejects(status nix.BuildStatus, words ...string) {
	s.t.Helper()
	_, err := s.collect()
	var failed *nix.BuildError
	if !errors.As(err, &failed) {
		s.t.Fatalf("got %v, want a *nix.BuildError", err)
	}
	if failed.Status != status {
		s.t.Errorf("status %v, want %v (%v)", failed.Status, status, err)
	}
	for _, w := range words {
		if !strings.Contains(failed.Message, w) {
			s.t.Errorf("the message %q lacks %q", failed.Message, w)
		}
	}
	if _, err := os.Lstat(s.store.RealPath(outPath)); err == nil {
		s.t.Error("a rejected output is in the store")
	}
}

func TestCollectFindsReferences(t *testing.T) {
	s := newScene(t)
	dir := s.store.Dir()
	s.write(s.output("out", outPath), "see "+dir.Join(devPath)+" and "+dir.Join(outPath))
	s.write(s.output("dev", devPath), dir.Join(inputPath))
	collected := s.mustCollect()

	got := make(map[nix.OutputName][]nix.StorePath)
	for _, c := range collected {
		got[c.Output] = c.Info.References
	}
	want := map[nix.OutputName][]nix.StorePath{"out": {outPath, devPath}, "dev": {inputPath}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if collected[0].Output != "dev" {
		t.Errorf("%s comes first, want dev, which the other refers to", collected[0].Output)
	}
}

func TestT08CollectedOutputsAreCanonical(t *testing.T) {
	s := newScene(t)
	out := s.output("out", outPath)
	if err := os.MkdirAll(filepath.Join(out, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(out, "d/f"), "x")
	if err := os.Chmod(filepath.Join(out, "d/f"), 0o777); err != nil {
		t.Fatal(err)
	}
	s.mustCollect()
	want := map[string]os.FileMode{"": os.ModeDir | 0o555, "d": os.ModeDir | 0o555, "d/f": 0o555}
	for name, mode := range want {
		info, err := os.Lstat(filepath.Join(s.store.RealPath(outPath), name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode || !info.ModTime().Equal(time.Unix(1, 0)) {
			t.Errorf("'%s' has mode %v and time %v, want %v and 1", name, info.Mode(), info.ModTime(), mode)
		}
	}
}

func TestCollectRejects(t *testing.T) {
	for _, c := range []struct {
		name  string
		make  func(s *scene)
		words []string
	}{
		{"a missing output", func(s *scene) { s.output("out", outPath) }, []string{"failed to produce output path for output 'out'"}},
		{"an output that all can write to", func(s *scene) {
			out := s.output("out", outPath)
			s.write(out, "x")
			os.Chmod(out, 0o666)
		}, []string{"suspicious ownership or permission"}},
		{"a fifo", func(s *scene) { unix.Mkfifo(s.output("out", outPath), 0o644) }, []string{"unsupported type"}},
		{"a socket inside", func(s *scene) {
			out := s.output("out", outPath)
			os.Mkdir(out, 0o755)
			unix.Mknod(filepath.Join(out, "s"), unix.S_IFSOCK|0o644, 0)
		}, []string{"unsupported type"}},
		{"outputs that need each other", func(s *scene) {
			s.write(s.output("out", outPath), s.store.Dir().Join(devPath))
			s.write(s.output("dev", devPath), s.store.Dir().Join(outPath))
		}, []string{"cycle detected"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			c.make(s)
			s.rejects(nix.StatusOutputRejected, c.words...)
		})
	}
}

func TestFixedOutput(t *testing.T) {
	text := []byte("fixed\n")
	for _, algo := range []nix.HashAlgorithm{nix.MD5, nix.SHA1, nix.SHA256, nix.SHA512, nix.BLAKE3} {
		t.Run(algo.String(), func(t *testing.T) {
			s := newScene(t)
			s.write(s.fixed(nix.Flat, nix.HashBytes(algo, text)), string(text))
			c := s.mustCollect()
			if c[0].Info.Path != s.job.Outputs[0].Spec.Path || c[0].Info.CA.Hash != nix.HashBytes(algo, text) {
				t.Errorf("collected %+v", c[0].Info)
			}
		})
	}
}

func TestFixedOutputWithAnotherHash(t *testing.T) {
	s := newScene(t)
	s.write(s.fixed(nix.Flat, nix.HashBytes(nix.SHA256, []byte("expected"))), "unexpected")
	collected, err := s.collect()
	var failed *nix.BuildError
	if !errors.As(err, &failed) || failed.Status != nix.StatusHashMismatch {
		t.Fatalf("got %v, want a hash mismatch", err)
	}
	got := nix.HashBytes(nix.SHA256, []byte("unexpected"))
	if !strings.Contains(failed.Message, "got:    "+got.SRI()) {
		t.Errorf("the message %q does not say what the hash is", failed.Message)
	}
	if len(collected) != 1 || collected[0].Info.CA.Hash != got {
		t.Errorf("what was made is not there under its own path: %+v", collected)
	}
	if _, err := os.Lstat(s.store.RealPath(s.job.Outputs[0].Spec.Path)); err == nil {
		t.Error("it is there under the path that was asked for")
	}
}

func TestFixedOutputRejects(t *testing.T) {
	hash := nix.HashBytes(nix.SHA256, nil)
	t.Run("references", func(t *testing.T) {
		s := newScene(t)
		s.write(s.fixed(nix.Recursive, hash), s.store.Dir().Join(inputPath))
		s.rejects(nix.StatusOutputRejected, "must not reference store paths")
	})
	t.Run("an executable that is hashed flat", func(t *testing.T) {
		s := newScene(t)
		out := s.fixed(nix.Flat, hash)
		s.write(out, "x")
		os.Chmod(out, 0o755)
		s.rejects(nix.StatusOutputRejected, "should be a non-executable regular file")
	})
	t.Run("a directory that is hashed flat", func(t *testing.T) {
		s := newScene(t)
		os.Mkdir(s.fixed(nix.Flat, hash), 0o755)
		s.rejects(nix.StatusOutputRejected, "should be a non-executable regular file")
	})
}

// TestT03FixedOutputHasFreshInodes keeps a descriptor of a fixed output, as an
// accomplice of its builder would, and writes through it after it was accepted.
func TestT03FixedOutputHasFreshInodes(t *testing.T) {
	s := newScene(t)
	text := "accepted"
	out := s.fixed(nix.Flat, nix.HashBytes(nix.SHA256, []byte(text)))
	s.write(out, text)
	accomplice, err := os.OpenFile(out, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer accomplice.Close()
	c := s.mustCollect()
	if _, err := accomplice.WriteAt([]byte("replaced"), 0); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.store.RealPath(c[0].Info.Path))
	if err != nil || string(got) != text {
		t.Errorf("the object has %q, %v", got, err)
	}
}

// TestT17TrapsBesideFixedOutputs leaves symlinks at names that a careless copy
// might use.
func TestT17TrapsBesideFixedOutputs(t *testing.T) {
	s := newScene(t)
	victim := filepath.Join(t.TempDir(), "victim")
	s.write(victim, "untouched")
	text := "content"
	out := s.fixed(nix.Flat, nix.HashBytes(nix.SHA256, []byte(text)))
	s.write(out, text)
	for _, suffix := range []string{".tmp", ".check", ".lock", ".chroot", "-x"} {
		if err := os.Symlink(victim, out+suffix); err != nil {
			t.Fatal(err)
		}
	}
	s.mustCollect()
	got, err := os.ReadFile(victim)
	if err != nil || string(got) != "untouched" {
		t.Errorf("a file outside has %q, %v", got, err)
	}
}

func TestValidOutputsAreNotLookedAt(t *testing.T) {
	s := newScene(t)
	s.output("out", outPath)
	s.job.Outputs[0].Valid = true
	if c := s.mustCollect(); len(c) != 0 {
		t.Errorf("collected %v", c)
	}
}
