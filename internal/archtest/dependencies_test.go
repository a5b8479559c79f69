package archtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// directRequirements are the modules that go.mod requires for our own code.
func directRequirements(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = repositoryRoot(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	return direct
}

// usedBy tells whether a module is imported by the daemons' code, and whether
// by anything at all.
func usedBy(tr *tree, mod string) (daemons, anything bool) {
	for _, p := range tr.packages {
		for _, f := range p.files {
			for _, imported := range importsOf(f) {
				if imported != mod && !strings.HasPrefix(imported, mod+"/") {
					continue
				}
				anything = true
				if !f.test && !forTests(p.dir) {
					daemons = true
				}
			}
		}
	}
	return daemons, anything
}

var dependencyRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.*) \\|$")

// docs/dependencies.md names each direct requirement with a reason, in the
// table that it belongs to, and nothing else.
func TestDependenciesPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repositoryRoot(t), "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	inDaemons, inTests, ok := strings.Cut(string(page), "## In tests only")
	if !ok {
		t.Fatal("no section on tests")
	}
	rows := make(map[string]bool) // whether it is in the first table
	for i, text := range []string{inDaemons, inTests} {
		for _, m := range dependencyRow.FindAllStringSubmatch(text, -1) {
			if _, twice := rows[m[1]]; twice {
				t.Errorf("%s is there twice", m[1])
			}
			if len(m[2]) < 10 {
				t.Errorf("%s has no reason", m[1])
			}
			rows[m[1]] = i == 0
		}
	}
	tr := repository(t)
	direct := directRequirements(t)
	for _, mod := range direct {
		daemons, anything := usedBy(tr, mod)
		first, listed := rows[mod]
		switch {
		case !anything:
			t.Errorf("go.mod requires %s, which nothing imports", mod)
		case !listed:
			t.Errorf("%s is not on the page: why do we need it?", mod)
		case daemons && !first:
			t.Errorf("%s is in the table of tests, and the daemons import it", mod)
		case !daemons && first:
			t.Errorf("%s is in the table of the daemons, and only tests import it", mod)
		}
	}
	for mod := range rows {
		if !slices.Contains(direct, mod) {
			t.Errorf("%s is on the page, and go.mod does not require it directly", mod)
		}
	}
}
