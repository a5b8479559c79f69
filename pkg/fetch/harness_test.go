package fetch

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// testTimeout is how long a test waits for what must happen: long, since the
// machine may be busy.
const testTimeout = 90 * time.Second

const (
	kib = 1 << 10
	mib = 1 << 20
)

// world is a few hosts on loopback and the upstream that they know.
type world struct {
	t  *testing.T
	up *upstreamtest.Server

	mu      sync.Mutex
	trusted map[peer.ID]bool
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, up: upstreamtest.New(), trusted: make(map[peer.ID]bool)}
	t.Cleanup(w.up.Close)
	return w
}

// source is where every blob of a world comes from.
var source = Source{Upstream: "test", Repository: "lib/app"}

// blob makes a blob of random bytes at the upstream.
func (w *world) blob(size int) (Want, []byte) {
	d, content := w.up.AddRandomBlob(size)
	return Want{Digest: d, Size: int64(size), Source: source}, content
}

// hostConfig says what a host is; the zero value is a peer with an upstream.
type hostConfig struct {
	seeder     bool
	lonely     bool // knows no upstream
	dir        string
	key        crypto.PrivKey
	zone       string
	quota      int64
	pieces     func(*Engine) p2p.PieceServer // nil: the engine itself
	handler    func(*Engine) p2p.Handler
	hello      bool // says that it is a seeder, but is none
	trustsNone bool
	more       map[string]string // further upstreams, name to URL
	options    func(*Options)
}

// host is one daemon without its HTTP side.
type host struct {
	*Engine
	w    *world
	cfg  hostConfig
	node *p2p.Node
	st   *store.Store
	up   *upstream.Client
	id   peer.ID
	once sync.Once
}

func (w *world) host(c hostConfig) *host {
	w.t.Helper()
	if c.dir == "" {
		c.dir = w.t.TempDir()
	}
	if c.key == nil {
		k, _, err := crypto.GenerateEd25519Key(rand.Reader)
		w.must(err)
		c.key = k
	}
	id, err := peer.IDFromPrivateKey(c.key)
	w.must(err)
	name := "peer"
	if c.seeder {
		name = "seeder"
		w.mu.Lock()
		w.trusted[id] = true
		w.mu.Unlock()
	}
	h := &host{w: w, cfg: c, id: id}
	log := zaptest.NewLogger(w.t, zaptest.Level(zap.WarnLevel)).Named(name + "-" + id.String()[46:])
	h.st, err = store.Open(c.dir, store.Options{Quota: c.quota, Log: log})
	w.must(err)
	o := Options{
		Store: h.st, Seeder: c.seeder, Key: c.key, Zone: c.zone, Log: log,
		Trusted: func(p peer.ID) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.trusted[p] && !c.trustsNone
		},
		Locate: func(d digest.Digest) (Want, bool) {
			b := w.up.Blob(d)
			return Want{Digest: d, Size: int64(len(b)), Source: source}, b != nil
		},
	}
	if !c.lonely {
		regs := []upstream.Registry{{Name: source.Upstream, URL: w.up.URL()}}
		for name, url := range c.more {
			regs = append(regs, upstream.Registry{Name: name, URL: url})
		}
		h.up, err = upstream.New(regs, upstream.Options{Log: log})
		w.must(err)
		o.Upstream = h.up
	}
	if c.options != nil {
		c.options(&o)
	}
	h.Engine = New(o)
	pc := p2p.Config{
		Key: c.key, Listen: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/0")}, PiecesListen: "127.0.0.1:0",
		Agent: name, Zone: c.zone, Seeder: c.seeder || c.hello, Handler: h.Engine, Pieces: h.Engine, Log: log,
	}
	if c.pieces != nil {
		pc.Pieces = c.pieces(h.Engine)
	}
	if c.handler != nil {
		pc.Handler = c.handler(h.Engine)
	}
	h.node, err = p2p.New(pc)
	w.must(err)
	w.must(h.node.Start(context.Background()))
	h.Engine.Start(h.node)
	w.t.Cleanup(h.close)
	return h
}

func (w *world) seeder() *host { return w.host(hostConfig{seeder: true}) }
func (w *world) peer() *host   { return w.host(hostConfig{}) }

// close ends the host as a daemon ends; a second call does nothing.
func (h *host) close() {
	h.once.Do(func() {
		h.Engine.Close()
		if err := h.node.Close(); err != nil {
			h.w.t.Errorf("close node: %v", err)
		}
		if h.up != nil {
			h.up.Close()
		}
		if err := h.st.Close(); err != nil {
			h.w.t.Errorf("close store: %v", err)
		}
	})
}

// again starts the host anew, with its identity and its disk.
func (h *host) again() *host {
	h.close()
	c := h.cfg
	c.dir, c.key = h.cfg.dir, h.cfg.key
	return h.w.host(c)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// connect makes every host a neighbour of the first.
func (w *world) connect(a *host, others ...*host) {
	w.t.Helper()
	for _, b := range others {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		w.must(a.node.Connect(ctx, peer.AddrInfo{ID: b.id, Addrs: b.node.Addrs()}))
		cancel()
		w.until("neighbours", func() bool {
			_, ab := a.node.Neighbour(b.id)
			_, ba := b.node.Neighbour(a.id)
			return ab && ba
		})
	}
}

// mesh makes all of them neighbours of each other.
func (w *world) mesh(hosts ...*host) {
	for i, h := range hosts {
		w.connect(h, hosts[i+1:]...)
	}
}

// until polls what nobody announces.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(testTimeout)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			w.t.Fatalf("timed out after %s waiting for: %s", testTimeout, what)
		}
	}
}

// open opens a blob as a client does that has all the time of the test.
func (h *host) open(want Want) (io.ReadSeekCloser, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	r, size, err := h.Open(ctx, context.Background(), want)
	if err == nil && size != want.Size {
		h.w.t.Errorf("size %d, want %d", size, want.Size)
	}
	return r, err
}

// read reads the whole blob, as the registry does: it lets the reader write.
func (h *host) read(want Want) ([]byte, error) {
	r, err := h.open(want)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, r)
	return b.Bytes(), err
}

// check reads the whole blob and holds it against the content. It may be
// called from any goroutine.
func (h *host) check(want Want, content []byte) {
	got, err := h.read(want)
	switch {
	case err != nil:
		h.w.t.Errorf("read %s: %v (after %d of %d bytes)", want.Digest, err, len(got), len(content))
	case !bytes.Equal(got, content):
		h.w.t.Errorf("read %s: wrong bytes (%d of %d)", want.Digest, len(got), len(content))
	}
}

// all runs f for each host at the same time.
func all(hosts []*host, f func(*host)) {
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f(h)
		}()
	}
	wg.Wait()
}

func (h *host) complete(d digest.Digest) bool {
	in, err := h.st.Stat(d)
	return err == nil && in.Complete
}

// held is the number of verified pieces on disk.
func (h *host) held(d digest.Digest) int {
	in, err := h.st.Stat(d)
	if err != nil {
		return 0
	}
	return in.Have
}

// fill puts a complete blob into the store of a host, as if it had come long ago.
func (h *host) fill(content []byte) {
	h.w.t.Helper()
	h.w.must(h.st.Put(digest.FromBytes(content), content, store.Meta{Sources: []string{source.String()}}))
}

// known returns what the ledger says of a peer.
func (h *host) known(p peer.ID) PeerBytes {
	for _, b := range h.Peers() {
		if b.ID == p {
			return b
		}
	}
	return PeerBytes{}
}

// dead is an upstream that has nothing.
var dead = upstreamtest.Fault{Status: 404}

// covered tells whether these hosts hold every piece between them.
func (w *world) covered(d digest.Digest, hosts []*host) bool {
	var all *piece.Bitfield
	for _, h := range hosts {
		b, err := h.st.Blob(d)
		if err != nil {
			continue
		}
		have := b.Have()
		b.Release()
		if all == nil {
			all = have
			continue
		}
		for i := range have.All() {
			all.Set(i)
		}
	}
	return all != nil && all.Full()
}
