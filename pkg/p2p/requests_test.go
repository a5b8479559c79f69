package p2p

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
)

func TestContent(t *testing.T) {
	a, b := pair(t, nil)
	body := []byte(`{"schemaVersion":2}`)
	dg := digest.FromBytes(body)
	b.rec.content[dg] = body
	b.rec.content[testDigest] = []byte("not what the digest says")
	got, mt, err := a.Content(t.Context(), b.ID(), dg, 1<<20)
	if err != nil || !bytes.Equal(got, body) || mt != "application/vnd.oci.image.manifest.v1+json" {
		t.Errorf("got %q, %q, %v", got, mt, err)
	}
	if _, _, err := a.Content(t.Context(), b.ID(), dg, 5); err == nil {
		t.Error("larger than the limit, and taken")
	}
	if _, _, err := a.Content(t.Context(), b.ID(), testDigest, 1<<20); err == nil {
		t.Error("wrong bytes were taken")
	}
	if _, _, err := a.Content(t.Context(), b.ID(), digest.FromString("x"), 1<<20); !errors.Is(err, ErrNotHeld) {
		t.Errorf("not held: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	a, b := pair(t, nil)
	for name, c := range map[string]struct {
		method, path string
		body         []byte
		status       int
	}{
		"path":        {"GET", "/", nil, 400},
		"digest":      {"POST", blobsPath + "sha256:12/pieces", nil, 400},
		"method":      {"GET", blobsPath + string(testDigest) + "/pieces", nil, 405},
		"protobuf":    {"POST", blobsPath + string(testDigest) + "/pieces", []byte{0xff}, 400},
		"large body":  {"POST", blobsPath + string(testDigest) + "/pieces", make([]byte, maxAskBody+1), 400},
		"empty body":  {"POST", blobsPath + string(testDigest) + "/pieces", nil, 400},
		"long digest": {"GET", blobsPath + "sha256:" + strings.Repeat("a", 300), nil, 400},
	} {
		answers(t, a, b, name, c.method, c.path, c.body, c.status)
	}
}

// answers holds the status of b's answer to a's request.
func answers(t *testing.T, a, b *testNode, name, method, path string, body []byte, want int) {
	t.Helper()
	host, _ := hostOf(b.ID())
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.data.client.RoundTrip(req)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("%s: status %s, want %d", name, resp.Status, want)
	}
	for h := range resp.Header {
		if resp.StatusCode != http.StatusOK && h != "Content-Length" && h != "Connection" {
			t.Errorf("%s: the answer pays for the header %s", name, h)
		}
	}
}

func TestHello(t *testing.T) {
	a := startNode(t, testConfig(t))
	c := testConfig(t)
	c.PSK = testPSK(1)
	b := startNode(t, c)
	ai, network, err := a.data.hello(t.Context(), b.PiecesAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if ai.ID != b.ID() || network != Fingerprint(c.PSK) || len(ai.Addrs) == 0 || !ai.Addrs[0].Equal(b.Addrs()[0]) {
		t.Errorf("got %v, network %s", ai, network)
	}
}

func TestDNSBootstrap(t *testing.T) {
	b := startNode(t, testConfig(t))
	c := testConfig(t)
	_, port, _ := net.SplitHostPort(b.PiecesAddrs()[0])
	c.BootstrapDNS = "localhost:" + port
	a := startNode(t, c)
	eventually(t, 10*time.Second, "the host behind the name", func() bool { return a.DHTSize() == 1 })
}

// The dates of a certificate must not matter: clocks are wrong in places.
func TestCertificateOutlivesWrongClocks(t *testing.T) {
	id, err := newIdentity(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	conf, _ := id.ConfigForPeer("")
	cert, err := x509.ParseCertificate(conf.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if now := time.Now(); now.AddDate(-40, 0, 0).Before(cert.NotBefore) || now.AddDate(100, 0, 0).After(cert.NotAfter) {
		t.Errorf("valid from %s to %s", cert.NotBefore, cert.NotAfter)
	}
}

func TestPlaneOfAdvertised(t *testing.T) {
	c := testConfig(t)
	c.PiecesListen = ":0"
	c.Listen = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/0.0.0.0/tcp/0")}
	b := startNode(t, c)
	a := startNode(t, testConfig(t))
	if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: []multiaddr.Multiaddr{loopback(t, b)}}); err != nil {
		t.Fatal(err)
	}
	nb, _ := a.Neighbour(b.ID())
	_, port := b.data.advertised()
	if want := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))); nb.PiecesAddr != want {
		t.Errorf("pieces address %s, want %s", nb.PiecesAddr, want)
	}
}

// loopback is where a node that listens on every address is reached here.
func loopback(t testing.TB, n *testNode) multiaddr.Multiaddr {
	for _, a := range n.host.Network().ListenAddresses() {
		if port, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil {
			return multiaddr.StringCast("/ip4/127.0.0.1/tcp/" + port)
		}
	}
	t.Fatal("no TCP address")
	return nil
}
