package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// full are the full paths of objects, one a line, sorted.
func full(s *Store, paths ...nix.StorePath) string {
	var lines []string
	for _, p := range paths {
		lines = append(lines, s.Dir().Join(p))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func sortLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestNixReadsOurs(t *testing.T) {
	testenv.NixVersion(t)
	testNixReadsOurs(t)
}

func TestNixReadsOursAsOrdinaryUser(t *testing.T) {
	testenv.NixVersion(t)
	if testenv.AsOrdinaryUser(t) {
		testNixReadsOurs(t)
	}
}

func testNixReadsOurs(t *testing.T) {
	o := options(t, tempDir(t))
	o.AutoOptimise = true
	s := open(t, o)
	ctx, root := t.Context(), rootOf(s)

	input, err := s.AddDerivation(ctx, fixedDerivation(t, s, "fixed"))
	if err != nil {
		t.Fatal(err)
	}
	drv := derivation(t, s, "built", input)
	drvPath, err := s.AddDerivation(ctx, drv)
	if err != nil {
		t.Fatal(err)
	}
	dep := storetest.Text(t, s.Dir(), "dep", "text")
	built := storetest.Built(t, s.Dir(), "built", true, dep.Info.Path)
	built.Info.Deriver, built.Info.Ultimate = drvPath, true
	built.Info.Signatures = []string{"a-1:c2ln", "b-1:c2ln"}
	built.Info.RegistrationTime = time.Unix(1_600_000_000, 0)
	storetest.Add(t, s, dep, built)
	log, err := s.CreateLog(drvPath)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(log, "what the builder said")
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	s.logs.wait()

	// While we have it open, and after.
	for _, when := range []string{"open", "closed"} {
		nixVerifies(t, root)
		p := s.Dir().Join(built.Info.Path)
		for _, test := range []struct {
			args []string
			want string
		}{
			{[]string{"--query", "--references", p}, full(s, built.Info.References...)},
			{[]string{"--query", "--referrers", s.Dir().Join(dep.Info.Path)}, full(s, built.Info.Path)},
			{[]string{"--query", "--deriver", p}, full(s, drvPath)},
			{[]string{"--query", "--hash", p}, built.Info.NARHash.String()},
			{[]string{"--query", "--size", p}, fmt.Sprint(built.Info.NARSize)},
			{[]string{"--query", "--outputs", s.Dir().Join(drvPath)}, full(s, drv.Outputs["out"].Path, drv.Outputs["dev"].Path)},
			{[]string{"--query", "--requisites", s.Dir().Join(drvPath)}, full(s, input, drvPath)},
			{[]string{"--read-log", s.Dir().Join(drvPath)}, "what the builder said"},
		} {
			if got := sortLines(realNix(t, root, "nix-store", test.args...)); got != test.want {
				t.Errorf("%s: nix-store %s:\n%s\nwant:\n%s", when, strings.Join(test.args, " "), got, test.want)
			}
		}
		cmd := nixCommand(t, root, "nix-store", "--dump", s.RealPath(built.Info.Path))
		if out, err := cmd.Output(); err != nil || !bytes.Equal(out, built.NAR) {
			t.Errorf("%s: nix-store --dump: %d bytes, %v, want %d", when, len(out), err, len(built.NAR))
		}
		checkPathInfo(t, s, root, built)
		if when == "open" {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// checkPathInfo compares an object with what real Nix says of it.
func checkPathInfo(t *testing.T, s *Store, root string, o storetest.Object) {
	t.Helper()
	var i struct {
		NarHash, Deriver       string
		NarSize                int64
		References, Signatures []string
		RegistrationTime       int64
		Ultimate               bool
	}
	text := realNix(t, root, "nix", "path-info", "--json", s.Dir().Join(o.Info.Path))
	// Older releases give a list, newer ones an object with the path as key.
	text = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if inner, ok := strings.CutPrefix(text, `{"`+s.Dir().Join(o.Info.Path)+`":`); ok {
		text = strings.TrimSuffix(inner, "}")
	}
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		t.Fatalf("nix path-info: %v\n%s", err, text)
	}
	slices.Sort(i.References)
	hash, err := nix.ParseHash(i.NarHash) // releases differ in the encoding
	if err != nil {
		t.Error(err)
	}
	if hash != o.Info.NARHash || i.NarSize != o.Info.NARSize ||
		i.Deriver != s.Dir().Join(o.Info.Deriver) || i.Ultimate != o.Info.Ultimate ||
		i.RegistrationTime != o.Info.RegistrationTime.Unix() || !slices.Equal(i.Signatures, o.Info.Signatures) ||
		strings.Join(i.References, "\n") != full(s, o.Info.References...) {
		t.Errorf("nix path-info says %+v of %+v", i, o.Info)
	}
}

func TestWeReadWhatNixWrote(t *testing.T) {
	testenv.NixVersion(t)
	root, src := tempDir(t), t.TempDir()
	writeFiles(t, src, map[string]string{"tree/a/b": "x", "tree/run": "#!/bin/sh", "file": "text\n"})
	if err := errors.Join(os.Chmod(src+"/tree/run", 0o755), os.Symlink("a/b", src+"/tree/link")); err != nil {
		t.Fatal(err)
	}
	added := strings.Fields(realNix(t, root, "nix-store", "--add", src+"/tree", src+"/file"))
	added = append(added, strings.Fields(realNix(t, root, "nix-store", "--add-fixed", "sha1", src+"/file"))...)
	added = append(added, strings.Fields(realNix(t, root, "nix-store", "--add-fixed", "--recursive", "sha512", src+"/tree"))...)
	expr := `let d = derivation { name = "d"; system = "x86_64-linux"; builder = "/bin/sh"; outputs = [ "out" "dev" ]; src = ` + src + `/tree;
		text = builtins.toFile "text" "to ${builtins.storeDir}"; }; in derivation { name = "e"; system = d.system; builder = d.builder; d = d.dev; }`
	cmd := nixCommand(t, root, "nix-instantiate", "--expr", expr)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	drv := strings.TrimSpace(string(out))

	s := open(t, options(t, root))
	for _, name := range added {
		p, err := s.Dir().Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.PathInfo(t.Context(), p)
		if err != nil {
			t.Error(err)
			continue
		}
		if hash, size, err := hashTree(s.RealPath(p)); err != nil || hash != info.NARHash || size != info.NARSize {
			t.Errorf("%s: hash %v of %d bytes (%v), want %v of %d", p, hash, size, err, info.NARHash, info.NARSize)
		}
		// We give the same the same path, and find it there.
		method, from := nix.Flat, src+"/file"
		if info.CA.Method == nix.Recursive {
			method = nix.Recursive
			if strings.HasSuffix(name, "-tree") {
				from = src + "/tree"
			}
		}
		if got, err := s.AddTree(t.Context(), p.Name(), from, method, info.CA.Hash.Algorithm()); err != nil || got != p {
			t.Errorf("AddTree: %v, %v, want %v", got, err, p)
		}
	}
	p, err := s.Dir().Parse(drv)
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := s.DerivationOutputs(t.Context(), p)
	if err != nil || len(outputs) != 1 {
		t.Errorf("outputs: %v, %v", outputs, err)
	}
	closure, err := store.Closure(t.Context(), s, p)
	if err != nil {
		t.Fatal(err)
	}
	if want := sortLines(realNix(t, root, "nix-store", "--query", "--requisites", drv)); full(s, closure...) != want {
		t.Errorf("closure:\n%s\nwant:\n%s", full(s, closure...), want)
	}
	if n, err := s.Verify(t.Context(), VerifyOptions{CheckContents: true, Problem: func(p Problem) { t.Error(p) }}); n > 0 || err != nil {
		t.Errorf("Verify: %d, %v", n, err)
	}
}

// Nix calls the same file the same by every method.
func TestAddTreeIsThatOfNix(t *testing.T) {
	testenv.NixVersion(t)
	s := newStore(t)
	src := t.TempDir()
	writeFiles(t, src, map[string]string{"file": "text\n", "dir/x": ""})
	for _, test := range []struct {
		name   string
		method nix.ContentAddressMethod
		algo   nix.HashAlgorithm
		args   []string
	}{
		{"file", nix.Flat, nix.MD5, []string{"--add-fixed", "md5"}},
		{"file", nix.Flat, nix.SHA1, []string{"--add-fixed", "sha1"}},
		{"file", nix.Flat, nix.SHA256, []string{"--add-fixed", "sha256"}},
		{"file", nix.Flat, nix.SHA512, []string{"--add-fixed", "sha512"}},
		{"dir", nix.Recursive, nix.SHA256, []string{"--add"}},
		{"dir", nix.Recursive, nix.MD5, []string{"--add-fixed", "--recursive", "md5"}},
		{"file", nix.Recursive, nix.SHA1, []string{"--add-fixed", "--recursive", "sha1"}},
	} {
		p, err := s.AddTree(t.Context(), test.name, filepath.Join(src, test.name), test.method, test.algo)
		if err != nil {
			t.Error(err)
			continue
		}
		theirs := realNix(t, tempDir(t), "nix-store", append(test.args, filepath.Join(src, test.name))...)
		if got := s.Dir().Join(p); got != theirs {
			t.Errorf("%v by %v of %s: %s, and Nix says %s", test.algo, test.method, test.name, got, theirs)
		}
	}
	p, err := s.AddText(t.Context(), "hello", []byte("hello world"), nil)
	if err != nil || p != "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello" {
		t.Errorf("AddText: %v, %v", p, err)
	}
	blake, err := s.AddTree(t.Context(), "file", src+"/file", nix.Recursive, nix.BLAKE3)
	if err != nil {
		t.Error(err)
	} else if info, err := s.PathInfo(t.Context(), blake); err != nil || info.CA.Hash.Algorithm() != nix.BLAKE3 {
		t.Errorf("BLAKE3: %+v, %v", info, err)
	} else if err := s.Invalidate(t.Context(), blake); err != nil { // Nix 2.8 does not know it
		t.Error(err)
	} else if err := os.Remove(s.RealPath(blake)); err != nil {
		t.Error(err)
	}
	nixVerifies(t, rootOf(s))
}

func TestAddTogetherWithNix(t *testing.T) {
	testenv.NixVersion(t)
	root, src := tempDir(t), t.TempDir()
	var files []string
	for i := range 60 {
		name := fmt.Sprintf("file-%02d", i)
		writeFiles(t, src, map[string]string{name: strings.Repeat(name, 1000)})
		files = append(files, filepath.Join(src, name))
	}
	s := open(t, options(t, root))
	var theirs string
	var ours []nix.StorePath
	var wg sync.WaitGroup
	wg.Go(func() { theirs = realNix(t, root, "nix-store", append([]string{"--add"}, files...)...) })
	wg.Go(func() {
		for _, f := range files {
			p, err := s.AddTree(t.Context(), filepath.Base(f), f, nix.Recursive, nix.SHA256)
			if err != nil {
				t.Error(err)
				return
			}
			ours = append(ours, p)
		}
	})
	wg.Wait()
	if got, want := full(s, ours...), sortLines(theirs); got != want {
		t.Errorf("we added\n%s\nand Nix\n%s", got, want)
	}
	nixVerifies(t, root)
}

func TestGCKeepsTempRoots(t *testing.T) {
	testenv.NixVersion(t)
	testGCKeepsTempRoots(t)
}

func TestGCKeepsTempRootsAsOrdinaryUser(t *testing.T) {
	testenv.NixVersion(t)
	if testenv.AsOrdinaryUser(t) {
		testGCKeepsTempRoots(t)
	}
}

func testGCKeepsTempRoots(t *testing.T) {
	root := tempDir(t)
	s := open(t, options(t, root))
	dep, garbage := storetest.Text(t, s.Dir(), "dep", ""), storetest.Text(t, s.Dir(), "garbage", "")
	kept := storetest.Built(t, s.Dir(), "kept", true, dep.Info.Path)
	storetest.Add(t, s, dep, garbage, kept)
	s = reopen(t, s) // adding has made them roots
	if err := s.AddTempRoot(t.Context(), kept.Info.Path, pathA); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.roots.file.Name())
	if want := s.Dir().Join(kept.Info.Path) + "\x00" + s.Dir().Join(pathA) + "\x00"; string(data) != want || err != nil {
		t.Errorf("file of temporary roots: %q, %v, want %q", data, err, want)
	}
	// What is on its way and not valid yet has to stay as well.
	writeFiles(t, s.RealDir(), map[string]string{string(pathA) + ".chroot/x": "", string(pathB) + ".chroot/x": ""})
	temp, err := s.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	realNix(t, root, "nix-store", "--gc")
	storetest.Check(t, s, kept)
	storetest.Check(t, s, dep)
	storetest.CheckMissing(t, s, garbage.Info.Path)
	for path, want := range map[string]bool{
		s.RealPath(garbage.Info.Path): false, s.RealPath(pathA) + ".chroot": true, s.RealPath(pathB) + ".chroot": false,
		temp.Path(): true, s.RealPath(kept.Info.Path): true,
	} {
		if exists(path) != want {
			t.Errorf("after the collection %s exists: %t, want %t", path, !want, want)
		}
	}
	if err := errors.Join(temp.Close(), os.RemoveAll(s.RealPath(pathA)+".chroot"), s.Close()); err != nil {
		t.Error(err)
	}
	// Without the process they are garbage.
	realNix(t, root, "nix-store", "--gc")
	storetest.CheckMissing(t, open(t, s.opts), kept.Info.Path)
}

// While Nix collects garbage, roots are sent to it.
func TestTempRootsWhileNixCollects(t *testing.T) {
	testenv.NixVersion(t)
	root := tempDir(t)
	s := open(t, options(t, root))
	var all []storetest.Object
	for i := range 250 { // more than are sent at a time
		o := storetest.Text(t, s.Dir(), "x", fmt.Sprint(i))
		all = append(all, o)
	}
	storetest.Add(t, s, all...)
	s = reopen(t, s)

	// Nix reads from this file when it is about to delete.
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	gc := nixCommand(t, root, "nix-store", "--gc")
	gc.Env = append(gc.Env, "_NIX_TEST_GC_SYNC="+fifo, "_NIX_TEST_GC_SYNC_2="+fifo) // of different releases
	var said bytes.Buffer
	gc.Stdout, gc.Stderr = &said, &said
	if err := gc.Start(); err != nil {
		t.Fatal(err)
	}
	var hold *os.File
	var err error
	for end := time.Now().Add(20 * time.Second); hold == nil; time.Sleep(time.Millisecond) {
		// It is an error while nobody reads.
		if hold, err = os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0); err != nil && time.Now().After(end) {
			gc.Process.Kill()
			gc.Wait()
			t.Fatalf("nix-store --gc does not stop for the test: %v\n%s", err, said.String())
		}
	}
	if got, err := tryFlock(mustOpen(t, s.layout.gcLock()), lockShared); got || err != nil {
		t.Fatalf("the collector does not hold its lock (%v)", err)
	}
	half := all[:200]
	var roots []nix.StorePath
	for _, o := range half {
		roots = append(roots, o.Info.Path)
	}
	err = s.AddTempRoot(t.Context(), roots...)
	if err == nil {
		err = s.AddTempRoot(t.Context(), pathA)
	}
	if s.roots.collector == nil {
		t.Error("the roots were not sent to the collector")
	}
	hold.Close()
	if werr := gc.Wait(); werr != nil || err != nil {
		t.Fatalf("AddTempRoot: %v; nix-store --gc: %v\n%s", err, werr, said.String())
	}
	for _, o := range half {
		storetest.Check(t, s, o)
	}
	deleted := 0
	for _, o := range all[200:] {
		if valid, err := s.isValid(t.Context(), o.Info.Path); err != nil {
			t.Error(err)
		} else if !valid {
			deleted++
		}
	}
	if deleted == 0 {
		t.Error("the collector deleted nothing")
	}
	// With the collector gone, the lock is what counts again.
	if err := s.AddTempRoot(t.Context(), pathB); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	realNix(t, root, "nix-store", "--gc")
}

func mustOpen(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := openLock(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// What we link when objects are added is what Nix links, and each takes the other's
// links for its own.
func TestNixOptimisesTheSame(t *testing.T) {
	testenv.NixVersion(t)
	ours, theirs := options(t, tempDir(t)), options(t, tempDir(t))
	ours.AutoOptimise = true
	// Nothing is more common in a store than the empty file.
	objects := func(s *Store) (list []storetest.Object) {
		for g := range 4 {
			list = append(list, storetest.Built(t, s.Dir(), fmt.Sprintf("%d", g), false), storetest.Text(t, s.Dir(), fmt.Sprintf("empty-%d", g), ""))
		}
		return list
	}
	links, counts := make([][]string, 2), make([]map[string]uint64, 2)
	for i, o := range []Options{ours, theirs} {
		s := open(t, o)
		storetest.Add(t, s, objects(s)...)
		if i == 1 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			realNix(t, rootOf(s), "nix-store", "--optimise")
			// There is nothing left for us.
			s = open(t, o)
			for _, x := range objects(s) {
				if saved, err := s.OptimisePath(t.Context(), x.Info.Path); saved != 0 || err != nil {
					t.Errorf("after Nix we save %d bytes in %s, %v", saved, x.Info.Path, err)
				}
			}
		} else {
			cmd := nixCommand(t, rootOf(s), "nix-store", "--optimise")
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "by hard-linking 0 files") {
				t.Errorf("after us nix-store --optimise says %s, %v", out, err)
			}
		}
		nixVerifies(t, rootOf(s)) // it looks at the links, too
		links[i], counts[i] = names(t, s.layout.links()), linkCounts(t, s.layout.links())
	}
	if diff := cmp.Diff(links[1], links[0]); diff != "" {
		t.Errorf("links (-Nix +ours):\n%s", diff)
	}
	if diff := cmp.Diff(counts[1], counts[0]); diff != "" {
		t.Errorf("number of links (-Nix +ours):\n%s", diff)
	}
}

// linkCounts are the numbers of links of the entries of a directory.
func linkCounts(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	counts := make(map[string]uint64)
	for _, name := range names(t, dir) {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		counts[name] = uint64(info.Sys().(*syscall.Stat_t).Nlink)
	}
	return counts
}

// Realisations are where Nix 2.8 looks for them.
func TestNixReadsRealisations(t *testing.T) {
	testenv.NixVersion(t)
	o := options(t, tempDir(t))
	o.CADerivations = true
	s := open(t, o)
	drv := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: "ca", System: "x86_64-linux", Builder: "/bin/sh",
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Floating, Method: nix.Recursive, Algorithm: nix.SHA256}},
		Env:     map[string]string{"out": nix.Placeholder("out")},
	}}
	p, err := s.AddDerivation(t.Context(), drv)
	if err != nil {
		t.Fatal(err)
	}
	out := storetest.Built(t, s.Dir(), "ca", false)
	storetest.Add(t, s, out)
	if err := s.RegisterRealisation(t.Context(), &nix.Realisation{ID: nix.DrvOutput{Drv: p, Output: "out"}, OutPath: out.Info.Path}); err != nil {
		t.Fatal(err)
	}
	got := realNix(t, rootOf(s), "nix-store", "--extra-experimental-features", "ca-derivations", "--realise", s.Dir().Join(p))
	if want := full(s, out.Info.Path); got != want {
		t.Errorf("nix-store --realise: %q, want %q", got, want)
	}
	nixVerifies(t, rootOf(s))
}
