package outputs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/refscan"
	"github.com/kilnbuild/kiln/store/local"
)

// floating is output for an output whose path follows from its content.
func (s *scene) floating(name nix.OutputName, scratch nix.StorePath, method nix.ContentAddressMethod, algo nix.HashAlgorithm) string {
	actual := s.output(name, scratch)
	s.job.Outputs[len(s.job.Outputs)-1].Spec = nix.DerivationOutput{Kind: nix.Floating, Method: method, Algorithm: algo}
	return actual
}

// register makes valid what was collected, so that it can be looked at.
func (s *scene) register(collected []Collected) map[nix.OutputName]nix.PathInfo {
	s.t.Helper()
	infos := make(map[nix.OutputName]nix.PathInfo)
	var objects []local.Registration
	for _, c := range collected {
		objects = append(objects, local.Registration{Info: c.Info})
		infos[c.Output] = c.Info
	}
	if err := s.store.Register(s.t.Context(), objects); err != nil {
		s.t.Fatal(err)
	}
	return infos
}

func (s *scene) read(p nix.StorePath, name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.store.RealPath(p), name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// verified fails the test if an object is not what is registered of it.
func (s *scene) verified() {
	s.t.Helper()
	if problems, err := s.store.Verify(s.t.Context(), local.VerifyOptions{CheckContents: true}); err != nil || problems > 0 {
		s.t.Errorf("%d problems in the store, %v", problems, err)
	}
}

func TestFloatingOutputsFollowFromTheirContent(t *testing.T) {
	paths := make(map[string]bool)
	for _, text := range []string{"one", "two", "one"} {
		for _, c := range []struct {
			method nix.ContentAddressMethod
			algo   nix.HashAlgorithm
		}{{nix.Recursive, nix.SHA256}, {nix.Recursive, nix.SHA1}, {nix.Flat, nix.SHA256}, {nix.Flat, nix.SHA512}, {nix.Text, nix.SHA256}, {nix.Git, nix.SHA1}} {
			s := newScene(t)
			s.write(s.floating("out", outPath, c.method, c.algo), text)
			info := s.register(s.mustCollect())["out"]
			if info.CA.Method != c.method || info.CA.Hash.Algorithm() != c.algo {
				t.Errorf("%v %v: content address %v", c.method, c.algo, info.CA)
			}
			if want, err := nix.MakeContentAddressedPath(s.store.Dir(), "test", info.CA, nix.References{}); err != nil || info.Path != want {
				t.Errorf("%v %v: path %s, want %s (%v)", c.method, c.algo, info.Path, want, err)
			}
			if c.method == nix.Flat && info.CA.Hash != nix.HashBytes(c.algo, []byte(text)) {
				t.Errorf("flat hash is %v", info.CA.Hash)
			}
			paths[string(info.Path)] = true
			s.verified()
		}
	}
	if len(paths) != 12 {
		t.Errorf("%d different objects, want 12: one for each text and method", len(paths))
	}
}

// The names that the builder knew are nowhere in what becomes of its outputs: not
// in files, targets of links or names, of this output or of others.
func TestFloatingOutputsAreRewritten(t *testing.T) {
	s := newScene(t)
	dir := s.store.Dir()
	out := s.floating("out", outPath, nix.Recursive, nix.SHA256)
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(out, "file"), "I am "+dir.Join(outPath)+", see "+dir.Join(devPath))
	if err := os.Symlink(dir.Join(outPath)+"/file", filepath.Join(out, "link")); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(out, "name-"+devPath.HashPart()), "")
	s.write(s.floating("dev", devPath, nix.Recursive, nix.SHA256), dir.Join(inputPath)+"\n")
	s.register([]Collected{{Info: nix.PathInfo{Path: inputPath, NARHash: nix.HashBytes(nix.SHA256, nil), NARSize: 1}}})

	infos := s.register(s.mustCollect())
	outInfo, devInfo := infos["out"], infos["dev"]
	want := []nix.StorePath{outInfo.Path, devInfo.Path}
	if outInfo.Path > devInfo.Path {
		want[0], want[1] = want[1], want[0]
	}
	if diff := cmp.Diff(want, outInfo.References); diff != "" {
		t.Errorf("references of out: %s", diff)
	}
	if diff := cmp.Diff([]nix.StorePath{inputPath}, devInfo.References); diff != "" {
		t.Errorf("references of dev: %s", diff)
	}
	if got, want := s.read(outInfo.Path, "file"), "I am "+dir.Join(outInfo.Path)+", see "+dir.Join(devInfo.Path); got != want {
		t.Errorf("file has %q, want %q", got, want)
	}
	if target, err := os.Readlink(filepath.Join(s.store.RealPath(outInfo.Path), "link")); err != nil || target != dir.Join(outInfo.Path)+"/file" {
		t.Errorf("link leads to %q, %v", target, err)
	}
	s.read(outInfo.Path, "name-"+devInfo.Path.HashPart())
	if outInfo.Path.Name() != "test" || devInfo.Path.Name() != "test-dev" {
		t.Errorf("names are %s and %s", outInfo.Path.Name(), devInfo.Path.Name())
	}
}

// What an output is called while it is built does not matter for what it becomes.
func TestFloatingPathDoesNotDependOnTheScratchPath(t *testing.T) {
	var paths []nix.StorePath
	for _, scratch := range []nix.StorePath{outPath, "88888888888888888888888888888888-test", "99999999999999999999999999999999-test"} {
		s := newScene(t)
		s.write(s.floating("out", scratch, nix.Recursive, nix.SHA256), strings.Repeat(s.store.Dir().Join(scratch)+" ", 3))
		info := s.register(s.mustCollect())["out"]
		paths = append(paths, info.Path)
		// The content address can be computed again from the finished object.
		var blank strings.Builder
		w, err := refscan.NewRewriter(&blank, map[string]string{info.Path.HashPart(): strings.Repeat("\x00", 32)}, refscan.RewriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.store.NAR(t.Context(), info.Path, w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := nix.HashBytes(nix.SHA256, []byte(blank.String())); got != info.CA.Hash {
			t.Errorf("the finished object's hash is %v, want %v", got, info.CA.Hash)
		}
	}
	if paths[0] != paths[1] || paths[1] != paths[2] {
		t.Errorf("three different objects: %v", paths)
	}
}

func TestFloatingOutputThatExistsIsNotMovedAgain(t *testing.T) {
	s := newScene(t)
	s.write(s.floating("out", outPath, nix.Recursive, nix.SHA256), "x")
	first := s.register(s.mustCollect())["out"]
	before, err := os.Lstat(s.store.RealPath(first.Path))
	if err != nil {
		t.Fatal(err)
	}
	again := &scene{t: t, store: s.store, left: s.left, job: Job{DrvPath: testDrv, DrvName: "test", Owner: s.job.Owner}}
	again.write(again.floating("out", devPath, nix.Recursive, nix.SHA256), "x")
	second := again.register(again.mustCollect())["out"]
	after, err := os.Lstat(s.store.RealPath(second.Path))
	if err != nil {
		t.Fatal(err)
	}
	if first.Path != second.Path || !os.SameFile(before, after) {
		t.Errorf("'%s' became '%s' with other files", first.Path, second.Path)
	}
}

func TestFloatingOutputRejects(t *testing.T) {
	for _, c := range []struct {
		name   string
		method nix.ContentAddressMethod
		algo   nix.HashAlgorithm
		make   func(s *scene, path string)
		says   string
	}{
		{"directory as flat", nix.Flat, nix.SHA256, func(s *scene, p string) { os.Mkdir(p, 0o755) }, "should be a non-executable regular file"},
		{"executable as text", nix.Text, nix.SHA256, func(s *scene, p string) { s.write(p, ""); os.Chmod(p, 0o755) }, "should be a non-executable regular file"},
		{"reference with sha1", nix.Recursive, nix.SHA1, func(s *scene, p string) { s.write(p, s.store.Dir().Join(inputPath)) }, "not allowed to refer to other store paths"},
		{"text that refers to itself", nix.Text, nix.SHA256, func(s *scene, p string) { s.write(p, s.store.Dir().Join(outPath)) }, "cannot refer to itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			c.make(s, s.floating("out", outPath, c.method, c.algo))
			s.rejects(nix.StatusOutputRejected, c.says)
		})
	}
}

// An input-addressed output that was built elsewhere, since something was in its
// place, gets its own name.
func TestRedirectedOutputGetsItsName(t *testing.T) {
	s := newScene(t)
	scratch := nix.StorePath("99999999999999999999999999999999-test")
	actual := s.output("out", scratch)
	o := &s.job.Outputs[0]
	o.Spec.Path, o.Known = outPath, outPath
	s.write(actual, "I am "+s.store.Dir().Join(scratch))
	info := s.register(s.mustCollect())["out"]
	if got, want := s.read(outPath, ""), "I am "+s.store.Dir().Join(outPath); got != want {
		t.Errorf("content %q, want %q", got, want)
	}
	if diff := cmp.Diff([]nix.StorePath{outPath}, info.References); diff != "" {
		t.Error(diff)
	}
	s.verified()
}

func TestOutputThatIsToBeADerivation(t *testing.T) {
	for text, words := range map[string][]string{
		"something else": {"error parsing derivation", "output 'out'"},
		`Derive([("out","/nix/store/44444444444444444444444444444444-other","","")],[],[],"s","b",[],[("out","/nix/store/44444444444444444444444444444444-other")])`: {"incorrect output"},
	} {
		s := newScene(t)
		s.job.DrvName = "other.drv"
		s.write(s.floating("out", outPath, nix.Text, nix.SHA256), text)
		s.rejects(nix.StatusOutputRejected, words...)
		if left, err := filepath.Glob(s.store.RealPath("*-other.drv")); err != nil || len(left) > 0 {
			t.Errorf("the store has %v (%v)", left, err)
		}
	}
	s := newScene(t)
	s.job.DrvName = "other.drv"
	s.write(s.floating("out", outPath, nix.Text, nix.SHA256), `Derive([("out","","r:sha256","")],[],[],"s","b",[],[])`)
	s.register(s.mustCollect())
	s.verified()
}
