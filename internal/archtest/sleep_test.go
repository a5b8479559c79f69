package archtest

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// sleepFaults finds tests of packages that wait by the clock on the wall. In a
// testing/synctest bubble time is virtual; a sleep is in one if it lies
//
//   - in a function literal that is passed to synctest.Test, or for a parameter
//     that a function of the package runs in a bubble only, or
//   - in a function of an unexported name that the package mentions in bubbles
//     only.
//
// Functions are known by their names, methods of all types together: that finds
// too much rather than too little.
func sleepFaults(tr *tree) []string {
	var faults []string
	for _, p := range tr.packages {
		if strings.HasPrefix(p.dir, "test") {
			continue // there the time is real
		}
		b := bubblesOf(p)
		for _, f := range p.files {
			if !f.test || !slices.Contains(importsOf(f), "time") {
				continue
			}
			b.walk(f.File, func(n ast.Node, within bool) {
				if !within && sleeps(n) {
					faults = append(faults, tr.at(n.Pos())+": a test sleeps: wait on a channel, or use testing/synctest")
				}
			})
		}
	}
	return faults
}

// sleeps tells whether a node is time.Sleep, or a statement that waits for
// time.After.
func sleeps(n ast.Node) bool {
	if s, ok := n.(*ast.ExprStmt); ok {
		wait, ok := s.X.(*ast.UnaryExpr)
		if !ok || wait.Op != token.ARROW {
			return false
		}
		call, ok := wait.X.(*ast.CallExpr)
		return ok && isSelector(call.Fun, "time", "After")
	}
	return isSelector(n, "time", "Sleep")
}

func isSelector(n ast.Node, pkg, name string) bool {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// bubbles is what of a package runs in bubbles.
type bubbles struct {
	makers map[string][]int // functions, and which of their arguments they run in a bubble only
	within map[string]bool  // functions that are mentioned in bubbles only
}

// bubblesOf finds makers, from synctest.Test upwards, and then leaves of all other
// functions those that nothing outside mentions.
func bubblesOf(p *pkg) *bubbles {
	b := &bubbles{makers: map[string][]int{}, within: map[string]bool{}}
	if !slices.ContainsFunc(p.files, func(f *file) bool { return slices.Contains(importsOf(f), "testing/synctest") }) {
		return b
	}
	decls := map[string][]*ast.FuncDecl{}
	for _, f := range p.files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				decls[fn.Name.Name] = append(decls[fn.Name.Name], fn)
			}
		}
	}
	for more := true; more; {
		more = false
		for name, list := range decls {
			if len(list) > 1 || b.makers[name] != nil {
				continue
			}
			if run := b.runs(list[0]); run != nil {
				b.makers[name], more = run, true
			}
		}
	}
	// Who mentions whom outside of the bubbles that are to be seen there.
	outside := map[string][]string{}
	mentioned := map[string]bool{}
	for _, f := range p.files {
		for _, d := range f.Decls {
			by := ""
			if fn, ok := d.(*ast.FuncDecl); ok {
				by = fn.Name.Name
			}
			b.walk(d, func(n ast.Node, within bool) {
				if id, ok := n.(*ast.Ident); ok {
					mentioned[id.Name] = true
					if !within {
						outside[id.Name] = append(outside[id.Name], by)
					}
				}
			})
		}
	}
	for name := range decls {
		b.within[name] = mentioned[name] && !ast.IsExported(name) && name != "init" && name != "main"
	}
	for more := true; more; {
		more = false
		for name, in := range b.within {
			if in && slices.ContainsFunc(outside[name], func(by string) bool { return !b.within[by] }) {
				b.within[name], more = false, true
			}
		}
	}
	return b
}

// runs are the parameters of a function that it uses in bubbles only.
func (b *bubbles) runs(fn *ast.FuncDecl) []int {
	var run []int
	i := 0
	for _, field := range fn.Type.Params.List {
		for _, name := range field.Names {
			if _, ok := field.Type.(*ast.FuncType); ok {
				used, outside := false, false
				b.walk(fn.Body, func(n ast.Node, within bool) {
					if id, ok := n.(*ast.Ident); ok && id.Name == name.Name {
						used, outside = true, outside || !within
					}
				})
				if used && !outside {
					run = append(run, i)
				}
			}
			i++
		}
		if len(field.Names) == 0 {
			i++
		}
	}
	return run
}

// arguments are those that a call runs in a bubble.
func (b *bubbles) arguments(call *ast.CallExpr) []int {
	if isSelector(call.Fun, "synctest", "Test") {
		return []int{1}
	}
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return b.makers[fun.Name]
	case *ast.SelectorExpr:
		return b.makers[fun.Sel.Name]
	}
	return nil
}

// walk visits every node but the names of declared functions and what a select
// waits for, and tells whether it is within a bubble.
func (b *bubbles) walk(root ast.Node, visit func(n ast.Node, within bool)) {
	var in func(n ast.Node, within bool)
	in = func(n ast.Node, within bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case nil:
				return false
			case *ast.FuncDecl:
				if n.Recv != nil {
					in(n.Recv, within)
				}
				in(n.Type, within)
				if n.Body != nil {
					in(n.Body, within || b.within[n.Name.Name])
				}
				return false
			case *ast.CommClause:
				if wait, ok := n.Comm.(*ast.ExprStmt); ok {
					in(wait.X, within)
				} else if n.Comm != nil {
					in(n.Comm, within)
				}
				for _, s := range n.Body {
					in(s, within)
				}
				return false
			case *ast.CallExpr:
				in(n.Fun, within)
				run := b.arguments(n)
				for i, arg := range n.Args {
					in(arg, within || slices.Contains(run, i))
				}
				return false
			}
			visit(n, within)
			return true
		})
	}
	in(root, false)
}

func TestNoSleep(t *testing.T) {
	report(t, sleepFaults(repository(t)))
}
