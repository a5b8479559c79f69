package p2p

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// recorder is a Handler and PieceServer that keeps what it is told and gives
// what it is given.
type recorder struct {
	mu      sync.Mutex
	ups     map[peer.ID]int
	downs   map[peer.ID]int
	got     map[peer.ID][]Message
	order   []string
	changed chan struct{}

	give    func(ctx context.Context, from peer.ID, a Ask) (*Gift, error)
	content map[digest.Digest][]byte
}

func newRecorder() *recorder {
	return &recorder{ups: map[peer.ID]int{}, downs: map[peer.ID]int{}, got: map[peer.ID][]Message{}, changed: make(chan struct{}), content: map[digest.Digest][]byte{}}
}

func (r *recorder) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) PeerUp(nb Neighbour) {
	r.change(func() { r.ups[nb.ID]++; r.order = append(r.order, "up") })
}
func (r *recorder) PeerDown(p peer.ID) {
	r.change(func() { r.downs[p]++; r.order = append(r.order, "down") })
}
func (r *recorder) Message(p peer.ID, m Message) {
	r.change(func() { r.got[p] = append(r.got[p], m) })
}

func (r *recorder) Give(ctx context.Context, from peer.ID, a Ask) (*Gift, error) {
	r.mu.Lock()
	g := r.give
	r.mu.Unlock()
	if g == nil {
		return nil, ErrNotHeld
	}
	return g(ctx, from, a)
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func (r *recorder) Content(_ context.Context, _ peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.content[d]
	if !ok {
		return nil, 0, "", ErrNotHeld
	}
	return nopCloser{bytes.NewReader(b)}, int64(len(b)), "application/vnd.oci.image.manifest.v1+json", nil
}

// until waits for a condition on what was recorded.
func (r *recorder) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		ok, ch := cond(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ch:
		case <-timeout:
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// eventually polls what nobody announces.
func eventually(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(d)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("timed out after %s waiting for %s", d, what)
		}
	}
}

type testNode struct {
	*Node
	rec *recorder
}

func newKey(t testing.TB) crypto.PrivKey {
	k, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// calm is the usual timing, for nodes that make no neighbours by themselves.
func calm() timing {
	t := defaultTiming
	t.company = 0
	return t
}

// testConfig is a node on loopback with free ports.
func testConfig(t testing.TB) Config {
	return Config{
		Key: newKey(t), Listen: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/0")},
		timing: calm(), PiecesListen: "127.0.0.1:0", Agent: "test/1", Zone: "z", Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	}
}

func startNode(t testing.TB, c Config) *testNode {
	t.Helper()
	rec := newRecorder()
	if c.Handler == nil {
		c.Handler = rec
	}
	if c.Pieces == nil {
		c.Pieces = rec
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return &testNode{n, rec}
}

func (n *testNode) info() peer.AddrInfo { return peer.AddrInfo{ID: n.ID(), Addrs: n.Addrs()} }

func connect(t testing.TB, a, b *testNode) {
	t.Helper()
	if err := a.Connect(t.Context(), b.info()); err != nil {
		t.Fatal(err)
	}
}

var testDigest = digest.FromString("blob")

func TestTwoNodes(t *testing.T) {
	a, b := startNode(t, testConfig(t)), startNode(t, testConfig(t))
	connect(t, a, b)
	b.rec.until(t, "peer up", func() bool { return b.rec.ups[a.ID()] == 1 })
	a.rec.until(t, "peer up", func() bool { return a.rec.ups[b.ID()] == 1 })
	if err := a.Send(b.ID(), Have{Digest: testDigest, Pieces: []int{1, 2}}); err != nil {
		t.Fatal(err)
	}
	b.rec.until(t, "have", func() bool { return len(b.rec.got[a.ID()]) == 1 })
	if h, ok := b.rec.got[a.ID()][0].(Have); !ok || !slices.Equal(h.Pieces, []int{1, 2}) || h.Digest != testDigest {
		t.Errorf("got %#v", b.rec.got[a.ID()][0])
	}

	data := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	done := make(chan bool, 1)
	b.rec.give = func(_ context.Context, from peer.ID, q Ask) (*Gift, error) {
		return &Gift{Pieces: []int{4, 3}, Lengths: []int{len(data), 5}, Body: func(w io.Writer) (int64, error) {
			n, err := w.Write(data)
			if err != nil {
				return int64(n), err
			}
			m, err := w.Write([]byte("hello"))
			return int64(n + m), err
		}, Done: func(ok bool) { done <- ok }}, nil
	}
	ans, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{3, 4}})
	if err != nil {
		t.Fatal(err)
	}
	defer ans.Close()
	buf := make([]byte, 1<<20)
	if i, n, err := ans.Next(buf); err != nil || i != 4 || !bytes.Equal(buf[:n], data) {
		t.Errorf("first piece %d, %d bytes, %v", i, n, err)
	}
	if i, n, err := ans.Next(buf); err != nil || i != 3 || string(buf[:n]) != "hello" {
		t.Errorf("second piece %d, %d bytes, %v", i, n, err)
	}
	if _, _, err := ans.Next(buf); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
	if !<-done {
		t.Error("gift not done")
	}
}

// value reads a counter or gauge.
func value(m prometheus.Metric) float64 {
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		panic(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}
