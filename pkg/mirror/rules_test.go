package mirror

import (
	"strings"
	"testing"
)

// A seeder's rules bind its peers, too, where they would ask the upstream
// themselves.
func TestRulesOfTheSeeder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.up.AddImage("lab/app", "v1", 1000)
	b.up.AddImage("lab/secret", "v1", 1000)
	b.seeder.Stop()
	for i := range b.sc.Upstreams {
		b.sc.Upstreams[i].Deny = []string{"lab/secret"}
	}
	b.startSeeder()
	h := b.peer(nil)
	h.get("/v2/lab/app/manifests/v1", 200)
	denied := func(when string) {
		t.Helper()
		if r := h.get("/v2/lab/secret/manifests/v1", 404); !strings.Contains(string(r.Body), "MANIFEST_UNKNOWN") {
			t.Errorf("%s: %s", when, r.Body)
		}
		if n := b.up.Count("", "lab/secret"); n != 0 {
			t.Errorf("%s: the upstream was asked %d times", when, n)
		}
	}
	denied("with the seeder")
	b.seeder.Stop()
	denied("without it")
	b.up.AddImage("lab/app", "v2", 1000)
	h.get("/v2/lab/app/manifests/v2", 200) // straight from the upstream
}
