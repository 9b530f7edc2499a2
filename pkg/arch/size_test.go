package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// measures are the sizes of a module's files and functions.
type measures struct {
	files, functions, parameters []int
	exported                     int
	undocumented                 []string
}

// percentile of a list, which it sorts.
func percentile(all []int, p int) int {
	slices.Sort(all)
	return all[min(len(all)*p/100, len(all)-1)]
}

// TestSizes: a budget that good code meets by itself.
func TestSizes(t *testing.T) {
	t.Parallel()
	const fileLines, functionLines, parameters, documented = 450, 60, 5, 95
	m := &measures{}
	for _, path := range goFiles(t) {
		m.add(t, path)
	}
	percent := 100 * (m.exported - len(m.undocumented)) / m.exported
	t.Logf("%d files: median %d lines, p95 %d, longest %d", len(m.files),
		percentile(m.files, 50), percentile(m.files, 95), percentile(m.files, 100))
	t.Logf("%d functions: median %d lines, p95 %d, longest %d", len(m.functions),
		percentile(m.functions, 50), percentile(m.functions, 95), percentile(m.functions, 100))
	t.Logf("%d exported names, %d %% documented", m.exported, percent)
	if p := percentile(m.files, 95); p > fileLines {
		t.Errorf("files: p95 is %d lines, more than %d", p, fileLines)
	}
	if p := percentile(m.functions, 95); p > functionLines {
		t.Errorf("functions: p95 is %d lines, more than %d", p, functionLines)
	}
	if p := percentile(m.parameters, 100); p > parameters {
		t.Errorf("functions: one has %d parameters, more than %d", p, parameters)
	}
	if percent < documented {
		t.Errorf("exported names: %d %% documented, less than %d; not: %s", percent, documented, strings.Join(m.undocumented, ", "))
	}
}

func (m *measures) add(t *testing.T, path string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	m.files = append(m.files, set.File(file.Pos()).LineCount())
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			m.functions = append(m.functions, set.Position(d.End()).Line-set.Position(d.Pos()).Line+1)
			m.parameters = append(m.parameters, d.Type.Params.NumFields())
			if receiver(d) {
				m.name(path, d.Name, d.Doc != nil)
			}
		case *ast.GenDecl:
			m.declaration(path, d)
		}
	}
}

// receiver says whether a function is none's method, or an exported type's.
func receiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	x := d.Recv.List[0].Type
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	name, ok := x.(*ast.Ident)
	return ok && name.IsExported()
}

// declaration counts types, variables and constants; a comment over a group of
// these is about all of them.
func (m *measures) declaration(path string, d *ast.GenDecl) {
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			m.name(path, s.Name, d.Doc != nil || s.Doc != nil)
		case *ast.ValueSpec:
			for _, name := range s.Names {
				m.name(path, name, d.Doc != nil || s.Doc != nil || s.Comment != nil)
			}
		}
	}
}

func (m *measures) name(path string, name *ast.Ident, documented bool) {
	if !name.IsExported() {
		return
	}
	m.exported++
	if !documented {
		m.undocumented = append(m.undocumented, path+": "+name.Name)
	}
}
