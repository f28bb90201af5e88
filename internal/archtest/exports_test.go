package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestInternalTypes wants that a type of internal/ stands in no exported
// signature of another package: who imports that package could not name it.
func TestInternalTypes(t *testing.T) {
	packages := load(t)
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		p := packages[dir]
		if strings.HasPrefix(dir, "internal/") || p.name() == "main" {
			continue
		}
		for _, f := range p.files {
			if f.test {
				continue
			}
			for _, leak := range leaks(f.syntax) {
				t.Errorf("%v: %s is of an internal package, and exported here", fset.Position(leak.Pos()), leak.X.(*ast.Ident).Name+"."+leak.Sel.Name)
			}
		}
	}
}

// leaks finds identifiers of internal packages in a file's exported
// declarations.
func leaks(f *ast.File) []*ast.SelectorExpr {
	internal := map[string]bool{}
	for _, spec := range f.Imports {
		full, err := strconv.Unquote(spec.Path.Value)
		if err != nil || !strings.HasPrefix(full, module+"/internal/") {
			continue
		}
		name := path.Base(full)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		internal[name] = true
	}
	var found []*ast.SelectorExpr
	look := func(n ast.Node) {
		if n == nil {
			return
		}
		ast.Inspect(n, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && internal[x.Name] {
					found = append(found, sel)
				}
			}
			return true
		})
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && exportedReceiver(d) {
				look(d.Type)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						lookInType(s.Type, look)
					}
				case *ast.ValueSpec:
					lookInValue(d.Tok, s, look)
				}
			}
		}
	}
	return found
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	exported := false
	ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && id.IsExported() {
			exported = true
		}
		return true
	})
	return exported
}

// lookInType looks at what of a type others can see: unexported fields and
// methods are its own.
func lookInType(t ast.Expr, look func(ast.Node)) {
	var fields *ast.FieldList
	switch t := t.(type) {
	case *ast.StructType:
		fields = t.Fields
	case *ast.InterfaceType:
		fields = t.Methods
	default:
		look(t)
		return
	}
	for _, field := range fields.List {
		visible := len(field.Names) == 0
		for _, name := range field.Names {
			visible = visible || name.IsExported()
		}
		if visible {
			look(field.Type)
		}
	}
}

// lookInValue looks at the type of exported variables, which may be that of
// their value.
func lookInValue(tok token.Token, s *ast.ValueSpec, look func(ast.Node)) {
	if tok != token.VAR || !slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) {
		return
	}
	if s.Type != nil {
		look(s.Type)
		return
	}
	for _, v := range s.Values {
		look(v)
	}
}

func TestLeaks(t *testing.T) {
	const text = `package p
import "github.com/kilnbuild/kiln/internal/x"
type T struct { A x.Bad; b x.Good }
type u struct { A x.Good }
type I interface { M(x.Bad) ; m(x.Good) }
func F(x.Bad) { var _ x.Good }
func g(x.Good) {}
func (T) M() x.Bad { return nil }
func (u) M() x.Good { return nil }
func (T) m() x.Good { return nil }
var V = x.Bad()
var w = x.Good()
type A = x.Bad
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for _, l := range leaks(f) {
		if l.Sel.Name != "Bad" {
			t.Errorf("%s.%s is no leak", l.X, l.Sel.Name)
		}
		bad++
	}
	if want := strings.Count(text, "x.Bad"); bad != want {
		t.Errorf("found %d leaks, want %d", bad, want)
	}
}
