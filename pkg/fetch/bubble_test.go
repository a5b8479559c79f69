package fetch

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
)

// fakeNet is a node without a network, for tests on virtual time: neighbours
// come and go as told, what is sent is kept, what is asked is not held.
type fakeNet struct {
	id peer.ID

	mu         sync.Mutex
	neighbours map[peer.ID]p2p.Neighbour
	sent       []sentMessage
	dials      int
	provided   map[cid.Cid]bool
	banned     map[peer.ID]bool
	refuse     func(context.Context) error // answers asks for pieces; nil: not held
}

type sentMessage struct {
	to peer.ID
	m  p2p.Message
}

func (n *fakeNet) ID() peer.ID { return n.id }

func (n *fakeNet) Connect(ctx context.Context, p peer.AddrInfo) error {
	n.mu.Lock()
	n.dials++
	n.mu.Unlock()
	<-ctx.Done() // nobody is there
	return ctx.Err()
}

func (n *fakeNet) Send(to peer.ID, m p2p.Message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.neighbours[to]; !ok {
		return p2p.ErrNotNeighbour
	}
	if len(n.sent) < 100_000 {
		n.sent = append(n.sent, sentMessage{to, m})
	}
	return nil
}

func (n *fakeNet) Ask(ctx context.Context, _ peer.ID, _ p2p.Ask) (*p2p.Answer, error) {
	n.mu.Lock()
	refuse := n.refuse
	n.mu.Unlock()
	if refuse != nil {
		return nil, refuse(ctx)
	}
	return nil, p2p.ErrNotHeld
}

func (n *fakeNet) Content(context.Context, peer.ID, digest.Digest, int64) ([]byte, string, error) {
	return nil, "", p2p.ErrNotHeld
}

func (n *fakeNet) Contents(context.Context, peer.ID, []digest.Digest, int64, func(int, []byte, string), func()) error {
	return p2p.ErrNotHeld
}

func (n *fakeNet) Neighbours() []p2p.Neighbour {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []p2p.Neighbour
	for _, nb := range n.neighbours {
		out = append(out, nb)
	}
	return out
}

func (n *fakeNet) Neighbour(p peer.ID) (p2p.Neighbour, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nb, ok := n.neighbours[p]
	return nb, ok
}

func (n *fakeNet) AddrInfo(p peer.ID) peer.AddrInfo {
	return peer.AddrInfo{ID: p, Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/1")}}
}

func (n *fakeNet) Providers(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	close(out)
	return out
}

func (n *fakeNet) Provide(keys ...cid.Cid) error   { return n.note(true, keys) }
func (n *fakeNet) Unprovide(keys ...cid.Cid) error { return n.note(false, keys) }

func (n *fakeNet) note(on bool, keys []cid.Cid) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range keys {
		n.provided[c] = on
	}
	return nil
}

func (n *fakeNet) Ban(p peer.ID, _ time.Duration, _ string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.banned[p] = true
}

// last returns the last message sent to p, or nil.
func (n *fakeNet) last(p peer.ID) p2p.Message {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := len(n.sent) - 1; i >= 0; i-- {
		if n.sent[i].to == p {
			return n.sent[i].m
		}
	}
	return nil
}

// bubble is an engine on virtual time.
type bubble struct {
	*Engine
	t   *testing.T
	st  *store.Store
	net *fakeNet
}

// inBubble runs f in a bubble of virtual time, with an engine in it.
func inBubble(t *testing.T, options func(*Options), f func(t *testing.T, b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, net: &fakeNet{
			neighbours: make(map[peer.ID]p2p.Neighbour), provided: make(map[cid.Cid]bool), banned: make(map[peer.ID]bool),
		}}
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err == nil {
			b.net.id, err = peer.IDFromPrivateKey(key)
		}
		if err == nil {
			b.st, err = store.Open(t.TempDir(), store.Options{})
		}
		if err != nil {
			t.Fatal(err)
		}
		o := Options{Store: b.st, Key: key}
		if options != nil {
			options(&o)
		}
		b.Engine = New(o)
		b.Start(b.net)
		f(t, b)
		b.Close()
		if err := b.st.Close(); err != nil {
			t.Error(err)
		}
	})
}

// neighbour makes the i-th neighbour come up and returns its name.
func (b *bubble) neighbour(i int) peer.ID {
	id := peer.ID(fmt.Sprintf("neighbour-%d", i))
	nb := p2p.Neighbour{ID: id}
	b.net.mu.Lock()
	b.net.neighbours[id] = nb
	b.net.mu.Unlock()
	b.PeerUp(nb)
	return id
}

func (b *bubble) down(id peer.ID) {
	b.net.mu.Lock()
	delete(b.net.neighbours, id)
	b.net.mu.Unlock()
	b.PeerDown(id)
}

// fill puts a complete blob of that size into the store.
func (b *bubble) fill(size int) Want {
	content := noise(size)
	d := digest.FromBytes(content)
	if err := b.st.Put(d, content, store.Meta{}); err != nil {
		b.t.Fatal(err)
	}
	return Want{Digest: d, Size: int64(size)}
}

// wish is a blob that nobody has.
func (b *bubble) wish(i, size int) Want {
	return Want{Digest: digest.FromString(fmt.Sprint("nobody has", i)), Size: int64(size)}
}

// on runs f on the swarm's owner goroutine and waits for it.
func on(s *swarm, f func()) bool {
	ran := make(chan bool, 1)
	return s.postOr(func() { f(); ran <- true }, func() { ran <- false }) && <-ran
}
