package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

// Methods that everybody knows what they do.
var knownMethods = []string{"Error", "String", "Unwrap", "Read", "Write", "Close", "ServeHTTP"}

// docFaults wants a package comment in doc.go (in any file of a program), and
// a doc comment on every exported name.
func docFaults(tr *tree) []string {
	var faults []string
	for _, p := range tr.packages {
		if len(p.files) == 0 {
			continue
		}
		if !documented(p) {
			faults = append(faults, p.dir+" has no doc.go with a package comment: what is its job, what is not, what holds always, who may call it?")
		}
		for _, f := range p.code() {
			if f.Name.Name == "main" {
				continue
			}
			for _, d := range f.Decls {
				for _, id := range undocumented(d) {
					faults = append(faults, fmt.Sprintf("%s: exported %s has no doc comment", tr.at(id.Pos()), id.Name))
				}
			}
		}
	}
	return faults
}

func documented(p *pkg) bool {
	return slices.ContainsFunc(p.files, func(f *file) bool {
		return !f.generated && strings.TrimSpace(f.Doc.Text()) != "" && (path.Base(f.name) == "doc.go" || f.Name.Name == "main")
	})
}

// undocumented yields the exported names of d that have no comment. In a group
// of constants or variables the group's comment will do.
func undocumented(d ast.Decl) []*ast.Ident {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && (d.Recv == nil || !slices.Contains(knownMethods, d.Name.Name)) {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		var out []*ast.Ident
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || d.Lparen != token.NoPos) {
					out = append(out, s.Name)
				}
			case *ast.ValueSpec:
				if s.Doc != nil || s.Comment != nil || d.Doc != nil {
					continue
				}
				for _, id := range s.Names {
					if id.IsExported() {
						out = append(out, id)
					}
				}
			}
		}
		return out
	}
	return nil
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	t := d.Recv.List[0].Type
	for {
		switch u := t.(type) {
		case *ast.StarExpr:
			t = u.X
		case *ast.IndexExpr:
			t = u.X
		case *ast.IndexListExpr:
			t = u.X
		case *ast.Ident:
			return u.IsExported()
		default:
			return true
		}
	}
}

func TestDocs(t *testing.T) {
	report(t, docFaults(repository(t)))
}
