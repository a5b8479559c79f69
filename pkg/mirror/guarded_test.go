package mirror

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// A seeder that lets nobody pull without a login admits whoever has the swarm
// key, and writes down who that was.
func TestGuardedSeederAdmitsItsPeers(t *testing.T) {
	b := newBench(t)
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "swarm.key")
	if _, err := p2p.CreateSwarmKey(key); err != nil {
		t.Fatal(err)
	}
	audit := filepath.Join(t.TempDir(), "audit.log")
	b.sc.OpenSwarm, b.sc.SwarmKey = false, key
	b.sc.Allow = []string{"user:somebody pull **"}
	b.sc.AuditLog = audit
	b.startSeeder()
	img := b.up.AddImage("lab/app", "v1", 3*mib, 1000)
	p := b.peer(func(c *config.Peerd) { c.OpenSwarm, c.SwarmKey = false, key })
	p.image("v1", img)
	content, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	want := `"user":"peer:` + p.Status().PeerID + `","auth":"peer","client":"127.0.0.1","action":"pull","method":"GET","repository":"up.test/lab/app","reference":"v1"`
	if !strings.Contains(string(content), want) || strings.Contains(string(content), `"outcome":"unauthenticated"`) {
		t.Fatalf("the audit log has no line with %s:\n%s", want, content)
	}
}
