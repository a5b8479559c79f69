package mirror

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// A seeder with TLS that lets nobody pull without a login admits whoever has the
// swarm key, and writes down who that was.
func TestGuardedSeederAdmitsItsPeers(t *testing.T) {
	t.Parallel()
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
	b.sc.TLSCert, b.sc.TLSKey = certificate(t)
	b.startSeeder()
	img := b.up.AddImage("lab/app", "v1", 3*mib, 1000)
	p := b.peer(func(c *config.Peerd) {
		c.OpenSwarm, c.SwarmKey = false, key
		c.Seeders = []string{"https://" + b.sc.Listen}
		c.SeederCA = b.sc.TLSCert
	})
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

// certificate is one of loopback that signs itself, and its key, in files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
