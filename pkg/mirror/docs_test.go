package mirror

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

// Whatever a live scrape of either daemon shows is in the reference of metrics,
// and each warning on the operations page.
func TestOperationsPageIsComplete(t *testing.T) {
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
