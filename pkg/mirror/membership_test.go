package mirror

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls" //nolint:depguard // strangers make their own connections
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// listener is a peer that has nothing and writes down what it is told.
type listener struct {
	*p2p.Node
	mu    sync.Mutex
	heard []string
}

func (l *listener) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, fmt.Sprintf(format, args...))
}

func (l *listener) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.heard, "\n")
}

func (l *listener) PeerUp(nb p2p.Neighbour)          { l.note("up %+v", nb) }
func (l *listener) PeerDown(peer.ID)                 {}
func (l *listener) Message(_ peer.ID, m p2p.Message) { l.note("%T %+v", m, m) }
func (l *listener) Give(_ context.Context, _ peer.ID, a p2p.Ask) (*p2p.Gift, error) {
	l.note("%+v", a)
	return nil, p2p.ErrNotHeld
}

func (l *listener) Content(_ context.Context, _ peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	l.note("content %s", d)
	return nil, 0, "", p2p.ErrNotHeld
}

func (l *listener) Contents(_ context.Context, _ peer.ID, ds []digest.Digest, _ p2p.ContentsWriter) error {
	l.note("contents %v", ds)
	return p2p.ErrNotHeld
}

// listen starts one with a key, or without.
func listen(t *testing.T, key pnet.PSK) *listener {
	t.Helper()
	k, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{}
	l.Node, err = p2p.New(p2p.Config{Key: k, PSK: key, Listen: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/0")}, PiecesListen: "127.0.0.1:0", Handler: l, Pieces: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	l.TellVisibility(func(repository string, d digest.Digest) (p2p.Visibility, bool) {
		l.note("visibility %s %s", repository, d)
		return p2p.Visibility{}, false
	})
	if err := l.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return l
}

// takes tries all that a member could get of an image from a host, by name.
func (l *listener) takes(ctx context.Context, to peer.AddrInfo, repository string, manifest, blob digest.Digest) map[string]bool {
	got := map[string]bool{"connect": l.Connect(ctx, to) == nil}
	content, _, err := l.Node.Content(ctx, to.ID, manifest, 1<<20)
	got["manifest"] = err == nil && len(content) > 0
	err = l.Node.Contents(ctx, to.ID, []digest.Digest{manifest}, 1<<20, func(int, []byte, string) { got["contents"] = true }, func() {})
	got["contents"] = got["contents"] && err == nil
	if a, err := l.Ask(ctx, to.ID, p2p.Ask{Digest: blob, Pieces: []int{0}}); err == nil {
		_, n, err := a.Next(make([]byte, 4<<20))
		got["piece"] = err == nil && n > 0
		a.Close()
	}
	if key, err := piece.BlobCID(blob); err == nil {
		for range l.Providers(ctx, key, 5) {
			got["dht"] = true
		}
	}
	_, err = l.Visibility(ctx, to, repository, manifest)
	got["visibility"] = err == nil
	if l.Send(to.ID, p2p.Join{Digest: blob, WantPeers: 5}) == nil {
		end := time.After(5 * time.Second)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for waiting := true; waiting && !got["have"]; {
			got["have"] = strings.Contains(l.all(), "p2p.State")
			select {
			case <-tick.C:
			case <-end:
				waiting = false
			}
		}
	}
	return got
}

// contract 27: whoever does not have the swarm key is given nothing, however much
// he knows: no answer of the DHT, no message, no manifest, blob or piece, and no
// word about what is public; and what passes on the wire tells him nothing.
func TestContract27Membership(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.lock()
	img := b.up.AddImage("lab/app", "v1", 3*mib, 1000)
	h := b.peer(nil)
	h.image("v1", img)
	key, err := p2p.LoadSwarmKey(b.sc.SwarmKey)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.Decode(h.Status().PeerID)
	if err != nil {
		t.Fatal(err)
	}
	to := peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{multiaddr.StringCast(h.c.P2PListen[0])}}
	other := make(pnet.PSK, len(key))
	for who, psk := range map[string]pnet.PSK{"no key": nil, "another key": other} {
		for what, ok := range listen(t, psk).takes(t.Context(), to, upName+"/lab/app", img.Digest, img.Layers[0]) {
			if ok {
				t.Errorf("%s: got %s", who, what)
			}
		}
	}
	// A member gets all of it: the test would show if others did.
	for what, ok := range listen(t, key).takes(t.Context(), to, upName+"/lab/app", img.Digest, img.Layers[0]) {
		if !ok {
			t.Errorf("a member did not get %s", what)
		}
	}
	strangersOfThePiecesPort(t, h, img.Digest, img.Layers[0])
	noise(t, strings.Replace(strings.TrimPrefix(h.c.P2PListen[0], "/ip4/"), "/tcp/", ":", 1), h.Status().PeerID)

	// The seeder admits peers by a proof that they have the key.
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	b.sc.Allow = []string{"user:somebody pull **"}
	b.startSeeder()
	for what, psk := range map[string]pnet.PSK{"the key": key, "another key": other} {
		token, err := auth.PeerToken(psk, id.String(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		status := map[string]int{"the key": 200, "another key": 401}[what]
		seeder := &host{b: b, t: t, Daemon: b.seeder}
		seeder.get(manifestPath(img.Digest.String()), status, "Authorization: Bearer "+token)
	}
}

// strangersOfThePiecesPort ask it with an identity that was never met, claim one
// that was, have none, and speak no TLS. They are told hello, no more.
func strangersOfThePiecesPort(t *testing.T, h *host, manifest, blob digest.Digest) {
	t.Helper()
	k, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := libp2ptls.NewIdentity(k)
	if err != nil {
		t.Fatal(err)
	}
	proved, _ := identity.ConfigForPeer("")
	proved.NextProtos, proved.VerifyPeerCertificate = []string{"http/1.1"}, nil // whoever it is
	for who, tr := range map[string]*http.Transport{
		"a stranger":              {TLSClientConfig: proved},
		"one without an identity": {TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // as a stranger does
		"one without TLS":         {},
	} {
		client := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		scheme := "https://"
		if tr.TLSClientConfig == nil {
			scheme = "http://"
		}
		ask := func(method, path string, body []byte, header ...string) (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), method, scheme+h.c.PiecesListen+path, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i+1 < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			resp, err := client.Do(req)
			if err != nil {
				return 0, ""
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what came counts
			return resp.StatusCode, string(b)
		}
		for _, header := range [][]string{nil, {"Samara-Peer", h.b.seeder.Status().PeerID}} {
			for _, r := range []struct {
				method, path string
				body         []byte
			}{
				{"GET", "/samara/v1/blobs/" + manifest.String(), nil},
				{"HEAD", "/samara/v1/blobs/" + manifest.String(), nil},
				{"POST", "/samara/v1/blobs/" + blob.String() + "/pieces", []byte{0x0a, 1, 0}},
				{"POST", "/samara/v1/contents", append([]byte{0x0a, byte(len(manifest))}, manifest...)},
				{"POST", "/samara/v1/reach", nil},
				{"GET", "/samara/v1/", nil},
				{"GET", "/v2/lab/app/manifests/v1", nil},
				{"GET", "/metrics", nil},
			} {
				if status, body := ask(r.method, r.path, r.body, header...); status/100 == 2 || status != 403 && body != "" && scheme == "https://" {
					t.Errorf("%s: %s %s: %d %.100q", who, r.method, r.path, status, body)
				}
			}
		}
		if status, body := ask("GET", "/samara/v1/hello", nil); who == "a stranger" && status != 200 || strings.Contains(body, "lab/app") || strings.Contains(body, "sha256") {
			t.Errorf("%s: hello: %d %s", who, status, body)
		}
		tr.CloseIdleConnections()
	}
}

// noise reads what the libp2p port says to who has no key: nothing readable.
func noise(t *testing.T, addr, id string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = conn.Write(slices.Concat(make([]byte, 24), []byte("\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n"), make([]byte, 512)))
	said, _ := io.ReadAll(io.LimitReader(conn, 64<<10)) // until it hangs up, or has waited enough
	for _, word := range []string{"multistream", "tls", "samara", "yamux", id} {
		if bytes.Contains(said, []byte(word)) {
			t.Errorf("it says %q", said)
		}
	}
}

// contract 26: what a client shows goes to the upstream, and to nobody else: not
// to the seeder, by its registry API, nor to peers.
func TestContract26NothingIsPassedOn(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	b.lock()
	target, err := url.Parse(b.seeder.URL)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said bytes.Buffer
	through := httputil.NewSingleHostReverseProxy(target)
	through.ErrorLog = zap.NewStdLog(zap.NewNop()) // the seeder goes away
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump, err := httputil.DumpRequest(r, true)
		mu.Lock()
		said.Write(dump)
		mu.Unlock()
		if err == nil {
			through.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(proxy.Close)
	key, err := p2p.LoadSwarmKey(b.sc.SwarmKey)
	if err != nil {
		t.Fatal(err)
	}
	spy := listen(t, key)
	h := b.peer(func(c *config.Peerd) { c.Seeders = []string{proxy.URL} })
	id, err := peer.Decode(h.Status().PeerID)
	if err != nil {
		t.Fatal(err)
	}
	if err := spy.Connect(t.Context(), peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{multiaddr.StringCast(h.c.P2PListen[0])}}); err != nil {
		t.Fatal(err)
	}
	ops := h.login(secretTag, "ops", secretPassword)
	h.get(secretTag, 200, ops)
	for _, path := range paths(b.closed) {
		h.get(path, 200, ops)
	}
	h.get(secretTag, 404, "Authorization: Basic b3BzOnBhc3N3b3JkLXRoYXQtbm9ib2R5LW1heS1zZWU=")
	h.get("/v2/lab/other/manifests/v1", 404, ops)
	b.seeder.Stop()
	b.up.Close()
	h.get("/v2/lab/new/manifests/"+digest.FromString("new").String(), 404, ops) // peers are asked
	mu.Lock()
	defer mu.Unlock()
	clean(t, "what the seeder was asked", said.Bytes())
	clean(t, "what a peer was told", []byte(spy.all()))
	if !bytes.Contains(said.Bytes(), []byte("/v2/lab/secret/")) || !strings.Contains(spy.all(), "visibility "+upName+"/lab/new") {
		t.Errorf("the seeder was asked %d bytes, a peer was told\n%s", said.Len(), spy.all())
	}
}
