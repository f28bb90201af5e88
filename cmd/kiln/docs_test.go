package main

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/docs"
	"github.com/kilnbuild/kiln/nix/conf"
)

var update = flag.Bool("update", false, "write the pages of the documentation anew")

const docsDir = "../../docs"

// TestDocs wants the pages in docs that follow from the program to be those of
// this program.
func TestDocs(t *testing.T) {
	idle := idleSettings(t)
	var configuration string
	checkManual(t, "kiln-settings.5", func(date string) (manual string, err error) {
		configuration, manual, err = docs.Settings(func(name string) bool { return idle[name] }, date)
		return manual, err
	})
	checkPage(t, "configuration.md", configuration)

	there := map[string]bool{"kiln-settings.5": true}
	for _, c := range docs.Commands(rootCommand()) {
		name := docs.PageName(c) + ".1"
		there[name] = true
		checkManual(t, name, func(date string) (string, error) { return docs.Manual(c, date) })
	}
	pages, err := os.ReadDir(filepath.Join(docsDir, "man"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if !there[p.Name()] {
			t.Errorf("docs/man/%s is the page of no command: remove it", p.Name())
		}
	}
}

var pageDate = regexp.MustCompile(`(?m)^\.TH \S+ \S+ (\S+)`)

// checkManual checks a manual page. Its date is that of its last change.
func checkManual(t *testing.T, name string, page func(date string) (string, error)) {
	t.Helper()
	name = filepath.Join("man", name)
	date := time.Now().UTC().Format(time.DateOnly)
	old, _ := os.ReadFile(filepath.Join(docsDir, name))
	if m := pageDate.FindSubmatch(old); m != nil {
		if text, err := page(string(m[1])); err == nil && text == string(old) {
			return
		}
	}
	text, err := page(date)
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, name, text)
}

func checkPage(t *testing.T, name, want string) {
	t.Helper()
	file := filepath.Join(docsDir, name)
	old, err := os.ReadFile(file)
	switch {
	case err == nil && string(old) == want:
		return
	case *update:
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("docs/%s is not what the program says any more: run `make docs`", name)
}

// idleSettings are the settings that nothing in this program asks for: those of
// notYet, and those whose field of conf.Settings nobody here reads. All that others
// learn of the settings goes through this package.
func idleSettings(t *testing.T) map[string]bool {
	t.Helper()
	read := readFields(t)
	// The build hook is told of every setting.
	read["BuildersUseSubstitutes"] = true
	idle := make(map[string]bool)
	fields := reflect.TypeFor[conf.Settings]()
	names := settingsByField()
	for i := range fields.NumField() {
		f := fields.Field(i)
		if !f.IsExported() {
			continue
		}
		name, ok := names[strings.ToLower(f.Name)]
		if !ok {
			t.Fatalf("conf.Settings.%s is the field of no setting that this test can find", f.Name)
		}
		idle[name] = !read[f.Name] || slices.Contains(notYet, name)
	}
	return idle
}

// settingsByField has the names of settings by those of their fields, without
// regard to case.
func settingsByField() map[string]string {
	names := make(map[string]string)
	for d := range conf.Definitions() {
		short := d.Name
		for _, prefix := range []string{"build-poll", "filetransfer-retry"} {
			if rest, ok := strings.CutPrefix(d.Name, prefix); ok {
				short = prefix[strings.LastIndex(prefix, "-")+1:] + rest
			}
		}
		names[strings.ReplaceAll(short, "-", "")] = d.Name
	}
	return names
}

// readFields are the fields that this package selects from a variable or field
// called s or settings.
func readFields(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	read := make(map[string]bool)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && isSettings(sel.X) {
				read[sel.Sel.Name] = true
			}
			return true
		})
	}
	return read
}

func isSettings(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "s" || x.Name == "settings"
	case *ast.SelectorExpr:
		return x.Sel.Name == "settings"
	}
	return false
}
