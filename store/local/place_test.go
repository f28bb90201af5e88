package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"golang.org/x/sys/unix"
)

// messy is a tree as builders leave it.
func messy(t *testing.T, dir string) {
	t.Helper()
	writeFiles(t, dir, map[string]string{"bin/run": "#!/bin/sh", "lib/data": "data", "lib/setuid": "s", "top": "t", "empty/x/y": ""})
	old := time.Unix(1e9, 5)
	for _, err := range []error{
		os.Chmod(dir+"/bin/run", 0o700), os.Chmod(dir+"/lib/data", 0o620), os.Chmod(dir+"/top", 0o666),
		os.Symlink("bin/run", dir+"/link"), os.Symlink("/nowhere", dir+"/dangling"),
		os.Link(dir+"/lib/data", dir+"/lib/again"), os.Link(dir+"/dangling", dir+"/dangling2"),
		syscall.Chmod(dir+"/lib/setuid", 0o6755), syscall.Chmod(dir+"/empty", 0o3711), os.Chmod(dir+"/empty/x", 0o700),
		os.Chtimes(dir+"/top", old, old),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCanonicalise(t *testing.T) { testCanonicalise(t) }

func TestCanonicaliseAsOrdinaryUser(t *testing.T) {
	if testenv.AsOrdinaryUser(t) {
		testCanonicalise(t)
	}
}

func testCanonicalise(t *testing.T) {
	s := newStore(t)
	tree := filepath.Join(tempDir(t), "tree")
	messy(t, tree)
	attributes := unix.Lsetxattr(tree+"/top", "user.test", []byte("x"), 0) == nil
	errors.Join(unix.Lsetxattr(tree+"/lib", "user.test", []byte("x"), 0))
	if testenv.Root() { // files of a build user become the store's
		err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, 12345, 12345))
		})
		err = errors.Join(err, syscall.Chmod(tree+"/lib/setuid", 0o6755), syscall.Chmod(tree+"/empty", 0o3711))
		if err != nil {
			t.Fatal(err)
		}
	}
	before, _, err := hashTree(tree)
	if err != nil {
		t.Fatal(err)
	}
	owner := Owner{Own: true}
	if testenv.Root() {
		owner = Owner{UID: 12340, Count: 10}
	}
	// In the same walk in which the tree is hashed.
	sum := nix.SHA256.New()
	if _, err := nar.Dump(sum, tree, nar.DumpOptions{Inode: s.Canonicaliser(owner).Inode}); err != nil {
		t.Fatal(err)
	}
	if got := nix.SumHash(nix.SHA256, sum); got != before {
		t.Error("what is archived changed by becoming canonical")
	}
	checkCanonical(t, tree)
	for name, want := range map[string]fs.FileMode{
		"bin/run": 0o555, "lib/data": 0o444, "lib/again": 0o444, "top": 0o444, "lib/setuid": 0o555, "empty": 0o555 | fs.ModeDir, ".": 0o555 | fs.ModeDir,
	} {
		info, err := os.Lstat(filepath.Join(tree, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want mode %v", name, info.Mode(), err, want)
		}
	}
	if !attributes {
		t.Log("the file system has no extended attributes")
	}
	for _, name := range []string{"top", "lib"} {
		if n, err := unix.Llistxattr(filepath.Join(tree, name), nil); n > 0 {
			t.Errorf("%s still has extended attributes (%d bytes, %v)", name, n, err)
		}
	}
}

func TestCanonicaliseRefuses(t *testing.T) {
	s := newStore(t)
	foreign := Owner{UID: os.Geteuid() + 1}
	for name, test := range map[string]struct {
		owner Owner
		make  func(dir string) error
		want  string
	}{
		"foreign file": {foreign, func(dir string) error { return os.WriteFile(dir+"/x", nil, 0o644) }, "invalid ownership on file '"},
		"fifo":         {Owner{Own: true}, func(dir string) error { return syscall.Mkfifo(dir+"/x", 0o644) }, "has an unsupported type"},
		"socket":       {Owner{Own: true}, func(dir string) error { return syscall.Mknod(dir+"/x", syscall.S_IFSOCK|0o644, 0) }, "has an unsupported type"},
	} {
		t.Run(name, func(t *testing.T) {
			// Not the temporary directory itself: it is made read-only.
			dir := filepath.Join(tempDir(t), "tree")
			if err := errors.Join(os.Mkdir(dir, 0o755), test.make(dir)); err != nil {
				t.Fatal(err)
			}
			err := s.Canonicaliser(test.owner).Tree(dir)
			if name == "foreign file" {
				err = s.Canonicaliser(test.owner).Tree(dir + "/x")
			}
			var content *ContentError
			if !errors.As(err, &content) || content.Path != dir+"/x" || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir+"/x") {
				t.Errorf("error %v, want a *ContentError about x with %q", err, test.want)
			}
		})
	}
}

// A hard link to a file outside of the tree that belongs to somebody else must
// not make that file the store's (T02), and one within the build's own trees is
// right however often it is met.
func TestT02HardLinks(t *testing.T) {
	testenv.NeedRoot(t)
	s := newStore(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"secret": "x", "a/own": "x"})
	for _, err := range []error{
		os.Chmod(dir+"/secret", 0o600), os.Mkdir(dir+"/b", 0o755), os.Link(dir+"/secret", dir+"/b/stolen"), os.Link(dir+"/a/own", dir+"/b/own"),
		os.Lchown(dir+"/a", 12345, 1), os.Lchown(dir+"/b", 12345, 1), os.Lchown(dir+"/a/own", 12345, 1),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := s.Canonicaliser(Owner{UID: 12345})
	if err := c.Tree(dir + "/a"); err != nil {
		t.Error(err)
	}
	if err := c.Tree(dir + "/b"); err == nil || !strings.Contains(err.Error(), "stolen") {
		t.Errorf("error %v, want that the linked file is somebody else's", err)
	}
	if info, err := os.Stat(dir + "/secret"); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file outside was changed: %v, %v", info, err)
	}
	if err := os.Remove(dir + "/b/stolen"); err != nil {
		t.Fatal(err)
	}
	c = s.Canonicaliser(Owner{UID: 12345})
	for _, tree := range []string{"a", "b"} {
		if err := os.Lchown(dir+"/"+tree, 12345, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Lchown(dir+"/a/own", 12345, 1); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Tree(dir+"/a"), c.Tree(dir+"/b")); err != nil {
		t.Errorf("a file with links in two trees of one build: %v", err)
	}
}

func TestPlace(t *testing.T) { testPlace(t) }

func TestPlaceAsOrdinaryUser(t *testing.T) {
	if testenv.AsOrdinaryUser(t) {
		testPlace(t)
	}
}

func testPlace(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	prepare := func(content string) string {
		t.Helper()
		dir, err := s.TempDir(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := dir.Close(); err != nil {
				t.Error(err)
			}
		})
		tree := dir.Path() + "/tree"
		writeFiles(t, tree, map[string]string{"a/b": content})
		if err := s.Canonicaliser(Owner{UID: os.Geteuid()}).Tree(tree); err != nil {
			t.Fatal(err)
		}
		return tree
	}
	locks := mustLock(t, s, pathA)
	defer locks.Release()
	for _, content := range []string{"first", "in the place of the first, which is not valid"} {
		if err := s.Place(ctx, prepare(content), pathA); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(s.RealPath(pathA) + "/a/b"); string(got) != content || err != nil {
			t.Errorf("content %q, %v, want %q", got, err, content)
		}
		checkCanonical(t, s.RealPath(pathA))
	}
	register := func() {
		t.Helper()
		hash, size, err := hashTree(s.RealPath(pathA))
		if err == nil {
			err = s.Register(ctx, []Registration{{Info: nix.PathInfo{Path: pathA, NARHash: hash, NARSize: size}}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	register()
	third := prepare("third")
	if err := s.Place(ctx, third, pathA); err == nil || !strings.Contains(err.Error(), "valid already") {
		t.Errorf("error %v, want that the object is valid already", err)
	}
	if err := s.Replace(ctx, third, pathA); err != nil {
		t.Error(err)
	}
	register()
	if got, err := os.ReadFile(s.RealPath(pathA) + "/a/b"); string(got) != "third" || err != nil {
		t.Errorf("content %q, %v, want %q", got, err, "third")
	}
	checkCanonical(t, s.RealPath(pathA))

	if err := s.Place(ctx, s.RealDir()+"/missing", pathB); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), string(pathB)) {
		t.Errorf("error %v, want that it does not exist", err)
	}
	elsewhere, err := os.MkdirTemp("/dev/shm", "kiln-test-")
	if err != nil {
		t.Skipf("no other file system: %v", err)
	}
	defer os.RemoveAll(elsewhere)
	if err := os.WriteFile(elsewhere+"/x", nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := s.Place(ctx, elsewhere+"/x", pathB); err == nil || !strings.Contains(err.Error(), "file system") {
		var a, b unix.Stat_t
		if unix.Stat(elsewhere, &a) == nil && unix.Stat(s.RealDir(), &b) == nil && a.Dev != b.Dev {
			t.Errorf("error %v, want one about the file system", err)
		}
		os.Remove(s.RealPath(pathB))
	}
}

// Nothing that is not canonical stays under a final path.
func TestT08bFinalMode(t *testing.T) {
	s := newStore(t)
	dir, err := s.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	locks := mustLock(t, s, pathA)
	defer locks.Release()
	for name, make := range map[string]func(string) error{
		"writable file": func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"setuid file": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o444), syscall.Chmod(path, 0o4555))
		},
		"writable directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"fifo":               func(path string) error { return syscall.Mkfifo(path, 0o444) },
	} {
		path := dir.Path() + "/x"
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if err := s.Place(t.Context(), path, pathA); err == nil || !strings.Contains(err.Error(), "mode") {
			t.Errorf("%s: error %v, want one about its mode", name, err)
		}
		if exists(s.RealPath(pathA)) {
			t.Errorf("%s: it is under the final path", name)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
}

// While an object is added, nobody sees it half done, writable or setuid.
func TestT08NobodySeesItHalfDone(t *testing.T) {
	s := newStore(t)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, name := range names(t, s.RealDir()) {
				if _, err := nix.ParseStorePath(name); err != nil || strings.HasSuffix(name, ".lock") || strings.Contains(name, "-tmp-") {
					continue
				}
				info, err := os.Lstat(filepath.Join(s.RealDir(), name))
				if err == nil && testenv.Root() && info.Mode().Perm() != 0o555 && info.Mode().Perm() != 0o444 {
					t.Errorf("%s was seen with mode %v", name, info.Mode())
				}
			}
		}
	}()
	for i := range 200 {
		o := storetest.Built(t, s.Dir(), strings.Repeat("x", 1+i), false)
		storetest.Add(t, s, o)
	}
	close(stop)
	<-done
}

func TestOptimise(t *testing.T) { testOptimise(t) }

func TestOptimiseAsOrdinaryUser(t *testing.T) {
	if testenv.AsOrdinaryUser(t) {
		testOptimise(t)
	}
}

func testOptimise(t *testing.T) {
	o := options(t, tempDir(t))
	var warnings []string
	o.Warn = func(err error) { warnings = append(warnings, err.Error()) }
	s := open(t, o)
	ctx := t.Context()
	same := strings.Repeat("the same ", 100)
	tree := func(name, other string) storetest.Object {
		o := storetest.Object{NAR: storetest.Archive(t, storetest.Node{Entries: []storetest.Node{
			{Name: "dir", Entries: []storetest.Node{{Name: "exec", Content: same, Executable: true}, {Name: "file", Content: same}}},
			{Name: "link", Target: "dir/file"}, {Name: "other", Content: other},
		}})}
		p, err := nix.MakeStorePath(s.Dir(), "output:out", nix.HashBytes(nix.SHA256, []byte(name)), name)
		if err != nil {
			t.Fatal(err)
		}
		o.Info = nix.PathInfo{Path: p, NARHash: nix.HashBytes(nix.SHA256, o.NAR), NARSize: int64(len(o.NAR))}
		return o
	}
	a, b, text := tree("a", "1"), tree("b", "2"), storetest.Text(t, s.Dir(), "text", same)
	storetest.Add(t, s, a, b, text)
	saved := int64(0)
	for _, x := range []storetest.Object{a, b, text, a} {
		n, err := s.OptimisePath(ctx, x.Info.Path)
		if err != nil {
			t.Fatal(err)
		}
		saved += n
	}
	want := int64(3 * len(same))
	if linksSymlinks {
		want += int64(len("dir/file"))
	}
	if saved != want {
		t.Errorf("%d bytes are saved, want %d", saved, want)
	}
	inodeOf := func(p nix.StorePath, name string) uint64 {
		t.Helper()
		info, err := os.Lstat(s.RealPath(p) + name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	if inodeOf(a.Info.Path, "/dir/file") != inodeOf(b.Info.Path, "/dir/file") || inodeOf(a.Info.Path, "/dir/file") != inodeOf(text.Info.Path, "") {
		t.Error("files with the same content are different files")
	}
	if (inodeOf(a.Info.Path, "/link") == inodeOf(b.Info.Path, "/link")) != linksSymlinks {
		t.Errorf("symlinks are linked: %t, want %t", !linksSymlinks, linksSymlinks)
	}
	if inodeOf(a.Info.Path, "/dir/file") == inodeOf(a.Info.Path, "/dir/exec") || inodeOf(a.Info.Path, "/other") == inodeOf(b.Info.Path, "/other") {
		t.Error("different files are one")
	}
	for _, x := range []storetest.Object{a, b, text} {
		storetest.Check(t, s, x)
		checkCanonical(t, s.RealPath(x.Info.Path))
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}

	// A damaged link is not spread, and a writable file not shared.
	c := tree("c", "3")
	storetest.Add(t, s, c)
	for _, name := range names(t, s.layout.links()) {
		link := filepath.Join(s.layout.links(), name)
		if err := errors.Join(os.Remove(link), os.WriteFile(link, []byte("damaged"), 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.RealPath(c.Info.Path)+"/other", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OptimisePath(ctx, c.Info.Path); err != nil {
		t.Error(err)
	}
	storetest.Check(t, s, c)
	if said := strings.Join(warnings, "\n"); !strings.Contains(said, "removing corrupted link") || !strings.Contains(said, "skipping suspicious writable file") {
		t.Errorf("warnings:\n%s", said)
	}
	if err := os.Chmod(s.RealPath(c.Info.Path)+"/other", 0o444); err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	dep, lone := storetest.Text(t, s.Dir(), "dep", "x"), storetest.Text(t, s.Dir(), "lone", "x")
	user := storetest.Built(t, s.Dir(), "user", false, dep.Info.Path)
	changed := storetest.Built(t, s.Dir(), "changed", true)
	objects := []storetest.Object{dep, lone, user, changed}
	storetest.Add(t, s, objects...)
	check := func(opts VerifyOptions, want ...string) {
		t.Helper()
		var problems []string
		forgotten := 0
		opts.Problem = func(p Problem) {
			problems = append(problems, p.String())
			if p.Forgotten {
				forgotten++
			}
		}
		n, err := s.Verify(ctx, opts)
		if err != nil || n+forgotten != len(want) || len(problems) != len(want) {
			t.Errorf("%d problems, %v, want %d:\n%s", n, err, len(want), strings.Join(problems, "\n"))
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(problems, "\n"), w) {
				t.Errorf("no problem %q in:\n%s", w, strings.Join(problems, "\n"))
			}
		}
	}
	check(VerifyOptions{CheckContents: true})

	for _, o := range []storetest.Object{dep, lone} {
		if err := os.Remove(s.RealPath(o.Info.Path)); err != nil {
			t.Fatal(err)
		}
	}
	file := s.RealPath(changed.Info.Path) + "/name"
	if err := errors.Join(os.Chmod(file, 0o644), os.WriteFile(file, []byte("CHANGED"), 0o644), os.Chmod(file, 0o444), os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	missing := func(o storetest.Object) string { return "path '" + s.Dir().Join(o.Info.Path) + "' disappeared" }
	modified := "path '" + s.Dir().Join(changed.Info.Path) + "' was modified! expected hash '" + changed.Info.NARHash.String() + "'"
	check(VerifyOptions{}, missing(dep), missing(lone))
	check(VerifyOptions{CheckContents: true}, missing(dep), missing(lone), modified)
	failing := errors.New("nobody has it")
	check(VerifyOptions{CheckContents: true, Repair: func(ctx context.Context, p nix.StorePath) error {
		if p != changed.Info.Path {
			return failing
		}
		return s.Add(ctx, &changed.Info, bytes.NewReader(changed.NAR), store.AddOptions{Repair: true})
	}}, missing(dep)+": repair: nobody has it", missing(lone))
	storetest.Check(t, s, changed)
	checkCanonical(t, s.RealPath(changed.Info.Path))
	check(VerifyOptions{Forget: true}, missing(dep)+", but it still has valid referrers", missing(lone)+", removing from database...")
	storetest.CheckMissing(t, s, lone.Info.Path)
	check(VerifyOptions{}, missing(dep)) // somebody refers to it
	if err := s.Add(ctx, &dep.Info, bytes.NewReader(dep.NAR), store.AddOptions{Repair: true}); err != nil {
		t.Fatal(err)
	}
	check(VerifyOptions{CheckContents: true})
}
