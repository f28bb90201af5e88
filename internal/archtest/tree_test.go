package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kilnbuild/kiln"

// A file is a Go source file, whatever system it is for.
type file struct {
	name    string // relative to the module
	test    bool   // a _test.go file
	syntax  *ast.File
	imports []string
	lines   int
}

// A pkg is a directory with Go files.
type pkg struct {
	path  string // relative to the module
	files []file
}

// name is the package's name as its sources say it.
func (p *pkg) name() string {
	for _, f := range p.files {
		if !f.test {
			return f.syntax.Name.Name
		}
	}
	return ""
}

// imports are what the package's own files import, without its tests'.
func (p *pkg) imports() []string {
	var all []string
	for _, f := range p.files {
		if !f.test {
			all = append(all, f.imports...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var fset = token.NewFileSet()

// load reads every package of the module.
func load(t *testing.T) map[string]*pkg {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]*pkg{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "build") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
				return fs.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, err := read(path, rel)
		if err != nil {
			return err
		}
		dir := filepath.Dir(rel)
		if packages[dir] == nil {
			packages[dir] = &pkg{path: dir}
		}
		packages[dir].files = append(packages[dir].files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if packages["internal/archtest"] == nil {
		t.Fatalf("the tree at %s is not this module's", root)
	}
	return packages
}

func read(path, rel string) (file, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return file{}, err
	}
	syntax, err := parser.ParseFile(fset, rel, text, parser.ParseComments)
	if err != nil {
		return file{}, err
	}
	f := file{name: rel, test: strings.HasSuffix(rel, "_test.go"), syntax: syntax, lines: strings.Count(string(text), "\n")}
	for _, spec := range syntax.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file{}, err
		}
		f.imports = append(f.imports, path)
	}
	return f, nil
}

// local is the package of the module that an import path names.
func local(path string) (string, bool) {
	return strings.CutPrefix(path, module+"/")
}

// isGenerated tells whether a program wrote the file.
func (f file) isGenerated() bool { return ast.IsGenerated(f.syntax) }
