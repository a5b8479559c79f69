package mirror

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

// Whatever a live scrape of either daemon shows is in the reference of metrics,
// and each warning on the operations page.
func TestOperationsPageIsComplete(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	h := b.peer(nil)
	h.image("v1", b.up.AddImage("lab/app", "v1", 2*mib, 1000))
	for name, d := range map[string]*daemontest.Daemon{"peerd": h.Daemon, "seeder": b.seeder} {
		r, err := daemontest.Get(d.Admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics := regexp.MustCompile(`(?m)^# TYPE `+name+`_(\S+) `).FindAllStringSubmatch(string(r.Body), -1)
		if len(metrics) < 20 {
			t.Errorf("only %d metrics of %s", len(metrics), name)
		}
		for _, m := range metrics {
			if !strings.Contains(string(reference), "| `"+m[1]+"` |") {
				t.Errorf("%s_%s is not in the reference", name, m[1])
			}
		}
	}
	code, err := os.ReadFile("seeders.go")
	if err != nil {
		t.Fatal(err)
	}
	warnings := regexp.MustCompile(`warn\("([a-z-]+)"`).FindAllStringSubmatch(string(code), -1)
	if len(warnings) == 0 {
		t.Error("no warnings found")
	}
	for _, m := range warnings {
		if !strings.Contains(string(page), "| `"+m[1]+"` |") {
			t.Errorf("warning %s is not on the page", m[1])
		}
	}
}

var (
	ruleRE  = regexp.MustCompile(`(?m)^(\d+)\. `)
	quoteRE = regexp.MustCompile(`(?:contract |func TestContract)(\d+(?:(?:, | to | and )\d+)*)`)
	spanRE  = regexp.MustCompile(`(\d+)(?: to (\d+))?`)
)

// Each rule of the contract has a test that names it, and what tests name are
// rules.
func TestEveryRuleHasATest(t *testing.T) {
	page, err := os.ReadFile("../../docs/mirror-contract.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[int][]string{} // by rule
	for i, m := range ruleRE.FindAllStringSubmatch(string(page), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n != i+1 {
			t.Fatalf("rule %s comes where rule %d should", m[1], i+1)
		}
		files[n] = nil
	}
	if len(files) < 30 {
		t.Fatalf("only %d rules on the page", len(files))
	}
	err = filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "testdata" || e.Name() == "bin" || len(e.Name()) > 2 && e.Name()[0] == '.'):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "docs_test.go":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, quote := range quoteRE.FindAllStringSubmatch(string(text), -1) {
			for _, span := range spanRE.FindAllStringSubmatch(quote[1], -1) {
				first, err := strconv.Atoi(span[1])
				last := first
				if err == nil && span[2] != "" {
					last, err = strconv.Atoi(span[2])
				}
				if err != nil {
					return err
				}
				for n := first; n <= last; n++ {
					if _, ok := files[n]; !ok {
						t.Errorf("%s names contract %d, which the page does not have", path, n)
					}
					files[n] = append(files[n], path)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, in := range files {
		if len(in) == 0 {
			t.Errorf("no test names contract %d", n)
		}
	}
}
