package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	pageRE = regexp.MustCompile(`docs/[a-z-]+\.md`)
	rowRE  = regexp.MustCompile("(?m)^\\| `([a-z][a-z0-9-]+)` \\|")
)

// codeFaults holds each codes.go to the page that its comment names: the page has
// one row for each code, and no row for what is none.
func codeFaults(tr *tree, read func(page string) (string, error)) []string {
	var faults []string
	for _, p := range tr.packages {
		for _, f := range p.code() {
			if path.Base(f.name) != "codes.go" {
				continue
			}
			codes, page := codesOf(f)
			text, err := read(page)
			if err != nil || len(codes) == 0 {
				faults = append(faults, fmt.Sprintf("%s: %d codes, on page %q: %v", f.name, len(codes), page, err))
				continue
			}
			rows := map[string]int{}
			for _, row := range rowRE.FindAllStringSubmatch(text, -1) {
				rows[row[1]]++
			}
			for _, c := range codes {
				if rows[c] != 1 {
					faults = append(faults, fmt.Sprintf("%s has %d rows for %s of %s", page, rows[c], c, f.name))
				}
				delete(rows, c)
			}
			for row := range rows {
				faults = append(faults, fmt.Sprintf("%s has a row for %s, which %s does not have", page, row, f.name))
			}
		}
	}
	return faults
}

// codesOf are the constants of a file, and the page that the comment on them names.
func codesOf(f *file) (codes []string, page string) {
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		page += pageRE.FindString(g.Doc.Text())
		ast.Inspect(g, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok {
				if c, err := strconv.Unquote(lit.Value); err == nil {
					codes = append(codes, c)
				}
			}
			return true
		})
	}
	return codes, page
}

func TestCodesPages(t *testing.T) {
	tr := repository(t)
	pages := 0
	report(t, codeFaults(tr, func(page string) (string, error) {
		pages++
		b, err := os.ReadFile(filepath.Join(repositoryRoot(t), filepath.FromSlash(page)))
		return string(b), err
	}))
	if pages < 2 { // the doctor's and setup's
		t.Errorf("%d files of codes", pages)
	}
}

func TestCodesPageFindsFaults(t *testing.T) {
	const source = "package a\n// Codes of faults. docs/a.md says what to do.\nconst (\n a = \"one\"\n b = \"two\"\n c = \"three\"\n)"
	tr := parseTree(t, map[string]string{"pkg/a/codes.go": source})
	const table = "| code | |\n|---|---|\n| `one` | x |\n| `two` | x |\n| `two` | y |\n| `four` | z |\n"
	read := func(page string) (string, error) {
		if page != "docs/a.md" {
			return "", os.ErrNotExist
		}
		return table, nil
	}
	wantFaults(t, codeFaults(tr, read), []string{"2 rows for two", "0 rows for three", "a row for four"})
	unnamed := parseTree(t, map[string]string{"pkg/a/codes.go": strings.Replace(source, "docs/a.md", "a page", 1)})
	wantFaults(t, codeFaults(unnamed, read), []string{`on page ""`})
}
