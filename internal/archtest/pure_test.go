package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// pureStd is the part of the standard library that pure packages may use.
// Nothing in it blocks, reads a clock or the machine, or starts a goroutine,
// but for the names in impureNames.
var pureStd = []string{
	"bytes", "cmp", "container/heap", "container/list", "crypto/sha256", "crypto/sha512", "encoding/binary", "encoding/hex",
	"errors", "fmt", "hash", "iter", "maps", "math", "math/bits", "math/rand/v2", "slices", "sort", "strconv", "strings", "time",
}

// pureModules is what else a pure package may use, by package.
var pureModules = map[string][]string{
	"pkg/piece": {
		"github.com/ipfs/go-cid",
		"github.com/libp2p/go-libp2p/core/crypto",
		"github.com/libp2p/go-libp2p/core/peer",
		"github.com/libp2p/go-libp2p/core/record",
		"github.com/multiformats/go-multihash",
		"github.com/opencontainers/go-digest",
		"google.golang.org/protobuf/proto",
	},
}

// impureNames are the functions of pureStd that make a decision depend on more
// than its arguments. Of math/rand/v2 see seededRand.
var impureNames = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "LoadLocation", "Local"},
	"maps": {"All", "Keys", "Values"}, // in random order
}

// seededRand are the functions of math/rand/v2 that make a source out of a
// seed; its others use the global one.
var seededRand = []string{"New", "NewPCG", "NewChaCha8", "NewZipf"}

func isPure(dir string) bool {
	l, ok := layerOf(dir)
	return ok && l == pure && !forTests(dir)
}

// pureImportFaults holds the imports of pure packages to the lists above.
func pureImportFaults(tr *tree) []string {
	var faults []string
	for _, p := range tr.packages {
		if !isPure(p.dir) {
			continue
		}
		for _, f := range p.code() {
			for _, imported := range importsOf(f) {
				if ours(imported) == "" && !slices.Contains(pureStd, imported) && !slices.Contains(pureModules[p.dir], imported) {
					faults = append(faults, fmt.Sprintf("%s: imports %q, which is not on the list of what a pure package may use", f.name, imported))
				}
			}
		}
	}
	return faults
}

// pureCodeFaults finds what makes a pure package depend on more than its
// arguments: goroutines, channels, the clock, global randomness, map order.
func pureCodeFaults(tr *tree, p *pkg, imp types.Importer) []string {
	var faults []string
	fault := func(pos token.Pos, format string, args ...any) {
		faults = append(faults, tr.at(pos)+": "+fmt.Sprintf(format, args...))
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: imp, Error: func(err error) { faults = append(faults, "type check: "+err.Error()) }}
	var files []*ast.File
	for _, f := range p.nonTest() {
		files = append(files, f.File)
	}
	_, _ = conf.Check(module+"/"+p.dir, tr.fset, files, info) // errors have gone to conf.Error

	for _, f := range p.code() {
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				fault(n.Pos(), "starts a goroutine")
			case *ast.SelectStmt:
				fault(n.Pos(), "waits in a select")
			case *ast.ChanType:
				fault(n.Pos(), "has a channel")
			case *ast.RangeStmt:
				if ranged := info.Types[n.X].Type; ranged == nil || !ordered(ranged) {
					fault(n.Pos(), "ranges over a map, whose order is random")
				}
			case *ast.Ident:
				if name := impure(info.Uses[n]); name != "" {
					fault(n.Pos(), "uses %s", name)
				}
			}
			return true
		})
	}
	return faults
}

// ordered tells whether a range over t runs in an order of its own: no map, and
// no type parameter that may be one.
func ordered(t types.Type) bool {
	switch u := t.Underlying().(type) {
	case *types.Map:
		return false
	case *types.Interface: // of a type parameter
		for i := range u.NumEmbeddeds() {
			union, ok := u.EmbeddedType(i).(*types.Union)
			if !ok {
				return ordered(u.EmbeddedType(i))
			}
			for j := range union.Len() {
				if !ordered(union.Term(j).Type()) {
					return false
				}
			}
		}
	}
	return true
}

// impure is the name of a package-level object that is on one of the lists.
func impure(o types.Object) string {
	if o == nil || o.Pkg() == nil || o.Parent() != o.Pkg().Scope() {
		return ""
	}
	name := o.Pkg().Path() + "." + o.Name()
	if _, isFunc := o.(*types.Func); isFunc && o.Pkg().Path() == "math/rand/v2" && !slices.Contains(seededRand, o.Name()) {
		return name
	}
	if slices.Contains(impureNames[o.Pkg().Path()], o.Name()) {
		return name
	}
	return ""
}

func TestPureImports(t *testing.T) {
	report(t, pureImportFaults(repository(t)))
}

func TestPureCode(t *testing.T) {
	tr := repository(t)
	var paths []string
	for _, p := range tr.packages {
		if isPure(p.dir) && len(p.nonTest()) > 0 {
			paths = append(paths, "./"+p.dir)
		}
	}
	imp := exportImporter(t, tr.fset, paths)
	for _, p := range tr.packages {
		if isPure(p.dir) {
			report(t, pureCodeFaults(tr, p, imp))
		}
	}
}

// exportImporter imports what the packages need from the compiler's export
// data, which the go command has built or builds.
func exportImporter(t *testing.T, fset *token.FileSet, packages []string) types.Importer {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-deps", "-export", "-json=ImportPath,Export"}, packages...)...)
	cmd.Dir = repositoryRoot(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.Bytes())
	}
	exports := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		exports[p.ImportPath] = p.Export
	}
	return importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("go list has no export data of %s:\n%s", path, strings.TrimSpace(stderr.String()))
		}
		return os.Open(exports[path])
	})
}
