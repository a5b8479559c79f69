package mirror

import (
	"fmt"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/registry"
)

// The latest repositories and programs are remembered, and no more.
func TestAsked(t *testing.T) {
	a := newAsked()
	at := time.Unix(1_700_000_000, 0)
	for i := range maxRepositories + 10 {
		a.note(registry.Name{Upstream: "docker.io", Repository: fmt.Sprintf("r%d", i)}, fmt.Sprintf("agent%d/1.0", i), at.Add(time.Duration(i)))
	}
	a.note(registry.Name{Upstream: "docker.io", Repository: "r20"}, "", at.Add(time.Hour))
	var st status.Status
	a.status(&st)
	if r := st.Clients.Repositories; len(r) != maxRepositories || r[0].Name != "docker.io/r20" || r[len(r)-1].Name != "docker.io/r10" {
		t.Errorf("%d repositories: %v ... %v", len(r), r[0], r[len(r)-1])
	}
	if g := st.Clients.Agents; len(g) != maxAgents || g[0].Name != fmt.Sprintf("agent%d", maxRepositories+9) {
		t.Errorf("agents %v", g)
	}
}
