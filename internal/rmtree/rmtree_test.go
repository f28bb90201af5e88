//go:build linux || darwin

package rmtree

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", path, err)
	}
}

func openDirectory(t testing.TB, path string) int {
	t.Helper()
	parent, name, err := dirfd.OpenParent(path)
	must(t, err)
	defer dirfd.Close(parent)
	fd, err := dirfd.OpenDir(parent, name)
	must(t, err)
	t.Cleanup(func() { dirfd.Close(fd) })
	return fd
}

func TestRemove(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, path string){
		"nothing":      func(*testing.T, string) {},
		"file":         func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o000)) },
		"dangling":     func(t *testing.T, p string) { must(t, os.Symlink("nowhere", p)) },
		"fifo":         func(t *testing.T, p string) { must(t, syscall.Mkfifo(p, 0o600)) },
		"empty":        func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)) },
		"unreadable":   func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o000)) },
		"locked files": locked,
		"many entries": func(t *testing.T, p string) {
			must(t, os.Mkdir(p, 0o700))
			for i := range 3000 {
				must(t, os.WriteFile(filepath.Join(p, strconv.Itoa(i)), nil, 0o600))
			}
		},
		"names of ours": func(t *testing.T, p string) {
			deep := p
			for range maxOpen + 5 {
				deep = filepath.Join(deep, "d")
			}
			must(t, os.MkdirAll(deep, 0o700))
			must(t, os.WriteFile(filepath.Join(p, ".deleting-1"), nil, 0o600))
			must(t, os.MkdirAll(filepath.Join(p, ".deleting-2", "full"), 0o700))
			must(t, os.Symlink("/", filepath.Join(p, ".deleting-3")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, "tree")
			make(t, path)
			if err := RemoveTree(path); err != nil {
				t.Fatal(err)
			}
			gone(t, path)
			make(t, path)
			if err := RemoveAt(openDirectory(t, root), "tree"); err != nil {
				t.Fatal(err)
			}
			gone(t, path)
		})
	}
}

// locked makes directories that do not let their owner in, or not write, or not
// list.
func locked(t *testing.T, path string) {
	must(t, os.Mkdir(path, 0o700))
	for _, mode := range []fs.FileMode{0o000, 0o100, 0o200, 0o400, 0o500, 0o600, 0o077} {
		sub := filepath.Join(path, strconv.FormatUint(uint64(mode), 8))
		must(t, os.MkdirAll(filepath.Join(sub, "inner", "empty"), 0o700))
		must(t, os.WriteFile(filepath.Join(sub, "inner", "file"), nil, 0o400))
		must(t, os.Chmod(filepath.Join(sub, "inner"), mode), os.Chmod(sub, mode))
	}
	must(t, os.Chmod(path, 0o500))
}

func TestParentMissing(t *testing.T) {
	if err := RemoveTree(filepath.Join(t.TempDir(), "no", "such")); err != nil {
		t.Error(err)
	}
}

func TestT09NamesRefused(t *testing.T) {
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "d"), 0o700), os.WriteFile(filepath.Join(root, "d", "kept"), nil, 0o600))
	dir := openDirectory(t, root)
	for _, name := range []string{"", ".", "..", "d/kept", "/etc", "d/", "../" + filepath.Base(root)} {
		if err := RemoveAt(dir, name); err == nil {
			t.Errorf("RemoveAt with name %q succeeded", name)
		}
	}
	for _, path := range []string{"", "/", root + "/d/..", ".", ".."} {
		if path == root+"/d/.." {
			continue // is root itself after cleaning
		}
		if err := RemoveTree(path); err == nil {
			t.Errorf("RemoveTree(%q) succeeded", path)
		}
	}
	must(t, func() error { _, err := os.Lstat(filepath.Join(root, "d", "kept")); return err }())
}

func TestT09LinksAreNotFollowed(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600))
	tree := filepath.Join(root, "tree")
	must(t, os.Mkdir(tree, 0o700), os.Symlink(outside, filepath.Join(tree, "link")),
		os.Symlink(outside+"/", filepath.Join(tree, "slash")), os.Symlink(outside, filepath.Join(root, "link")),
		os.Link(filepath.Join(outside, "kept"), filepath.Join(tree, "hard")))
	must(t, RemoveTree(tree), RemoveTree(filepath.Join(root, "link")))
	gone(t, tree)
	must(t, func() error { _, err := os.Lstat(filepath.Join(outside, "kept")); return err }())
}

// TestT09CallsOnlyByDescriptor reads the sources: every call that touches files
// goes through package dirfd, which takes single names.
func TestT09CallsOnlyByDescriptor(t *testing.T) {
	files, err := filepath.Glob("*.go")
	must(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		for _, imp := range file.Imports {
			switch p, _ := strconv.Unquote(imp.Path.Value); p {
			case "os", "path/filepath", "golang.org/x/sys/unix":
				t.Errorf("%s imports %s, whose calls take paths", name, p)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "syscall" {
					t.Errorf("%s calls syscall.%s", name, sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// grow makes a chain of directories below the open directory fd, with a file in
// each, and returns how long the path to the last would be.
func grow(t testing.TB, fd, depth int, name string) int {
	t.Helper()
	fd, err := syscall.Dup(fd)
	must(t, err)
	for range depth {
		must(t, dirfd.Mkdir(fd, name, 0o700))
		file, err := dirfd.Create(fd, "f", 0o400)
		must(t, err, dirfd.Close(file))
		next, err := dirfd.OpenDir(fd, name)
		must(t, err, dirfd.Close(fd))
		fd = next
	}
	must(t, dirfd.Close(fd))
	return depth * (len(name) + 1)
}

func TestDeeperThanPathMax(t *testing.T) {
	for _, c := range []struct {
		depth int
		name  string
	}{{maxOpen - 1, "d"}, {maxOpen, "d"}, {maxOpen + 1, "d"}, {2*maxOpen + 1, "d"}, {3000, strings.Repeat("n", 200)}} {
		t.Run(fmt.Sprint(c.depth), func(t *testing.T) {
			root := t.TempDir()
			tree := filepath.Join(root, "tree")
			must(t, os.Mkdir(tree, 0o700))
			length := grow(t, openDirectory(t, tree), c.depth, c.name)
			start := time.Now()
			if err := RemoveTree(tree); err != nil {
				t.Fatal(err)
			}
			t.Logf("path of %d bytes removed in %v", length, time.Since(start))
			gone(t, tree)
		})
	}
}

func TestErrorNamesPath(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	err := RemoveTree(filepath.Join(root, "file", "below"))
	if err == nil || !strings.Contains(err.Error(), filepath.Join(root, "file", "below")) || !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkRemove(b *testing.B) {
	root := b.TempDir()
	for b.Loop() {
		b.StopTimer()
		for d := range 100 {
			dir := filepath.Join(root, "tree", strconv.Itoa(d))
			must(b, os.MkdirAll(dir, 0o700))
			for f := range 200 {
				must(b, os.WriteFile(filepath.Join(dir, strconv.Itoa(f)), nil, 0o600))
			}
		}
		b.StartTimer()
		must(b, RemoveTree(filepath.Join(root, "tree")))
	}
}
