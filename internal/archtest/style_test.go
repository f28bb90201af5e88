package archtest

import (
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// maxLines is how long a file may be before it wants a reason.
const maxLines = 600

// longFiles are the exceptions, with their reasons.
var longFiles = map[string]string{}

// vagueNames say nothing about what a package owns.
var vagueNames = []string{"pkg", "util", "utils", "common", "helper", "helpers", "types", "manager", "misc", "lib", "base"}

func TestNames(t *testing.T) {
	for dir := range load(t) {
		for _, word := range strings.Split(dir, "/") {
			if slices.Contains(vagueNames, word) {
				t.Errorf("%s: a package called %q says nothing about what it owns", dir, word)
			}
		}
	}
}

// TestPackageComments wants one package comment in each package, no more, that
// begins as godoc wants it.
func TestPackageComments(t *testing.T) {
	packages := load(t)
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		p := packages[dir]
		var in []string
		for _, f := range p.files {
			if f.syntax.Doc == nil || f.isGenerated() {
				continue
			}
			in = append(in, f.name)
			begin := "Package " + p.name() + " "
			if p.name() == "main" {
				begin = "Command " + path.Base(dir) + " "
			}
			if !strings.HasPrefix(f.syntax.Doc.Text(), begin) {
				t.Errorf("%s: the package comment begins with %.30q, not with %q", f.name, f.syntax.Doc.Text(), begin)
			}
		}
		if len(in) != 1 {
			t.Errorf("%s: %d package comments instead of one: %s", dir, len(in), strings.Join(in, " "))
		}
	}
}

func TestFileLength(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range load(t) {
		for _, f := range p.files {
			if f.isGenerated() || f.lines <= maxLines {
				continue
			}
			seen[f.name] = true
			if longFiles[f.name] == "" {
				t.Errorf("%s has %d lines: split it, or enter it in longFiles with the reason why it must be one", f.name, f.lines)
			}
		}
	}
	for name := range longFiles {
		if !seen[name] {
			t.Errorf("%s is not too long any more: take it off longFiles", name)
		}
	}
}

// mayExit are the packages that end the process, with their reasons. Programs'
// main packages need none.
var mayExit = map[string]string{
	"mountns": "under another name it is a process that attaches, which ends before anything else of the program has begun",
}

// TestExit wants that only main packages end the process: anywhere else it
// would skip everybody's clean-up.
func TestExit(t *testing.T) {
	packages := load(t)
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		p := packages[dir]
		if p.name() == "main" || mayExit[dir] != "" {
			continue
		}
		for _, f := range p.files {
			if f.test {
				continue
			}
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if name := calls(call); name == "os.Exit" || name == "syscall.Exit" || name == "unix.Exit" || strings.HasPrefix(name, "log.Fatal") {
					t.Errorf("%v: %s ends the process: return an error, or enter the package in mayExit with the reason", fset.Position(call.Pos()), name)
				}
				return true
			})
		}
	}
}

// calls is the name of a called function of another package, as "os.Exit".
func calls(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return x.Name + "." + sel.Sel.Name
}
