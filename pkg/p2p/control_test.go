package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// quick is a timing for tests that wait for a deadline.
func quick() timing {
	t := calm()
	t.ping, t.silence = 50*time.Millisecond, 400*time.Millisecond
	t.retryMin, t.retryMax = 20*time.Millisecond, 100*time.Millisecond
	t.idle = 300 * time.Millisecond
	t.hello = 2 * time.Second
	return t
}

func testPSK(b byte) pnet.PSK {
	k := make(pnet.PSK, 32)
	k[0] = b
	return k
}

func TestPrivateNetwork(t *testing.T) {
	with := func(psk pnet.PSK) *testNode {
		c := testConfig(t)
		c.PSK = psk
		return startNode(t, c)
	}
	a, b, other, open := with(testPSK(1)), with(testPSK(1)), with(testPSK(2)), with(nil)
	connect(t, a, b)
	for name, pair := range map[string][2]*testNode{"other key": {a, other}, "open": {a, open}, "from open": {open, a}} {
		// Noise can look like a length and make the dial wait; then the error
		// says "perhaps".
		err := pair[0].Connect(t.Context(), pair[1].info())
		var ke *NetworkKeyError
		if !errors.As(err, &ke) || !strings.Contains(err.Error(), "private network key") {
			t.Errorf("%s: %v", name, err)
		}
		t.Log(name, ": ", err)
	}
}

func TestSimultaneousConnect(t *testing.T) {
	for range 10 {
		a, b := startNode(t, testConfig(t)), startNode(t, testConfig(t))
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { connect(t, a, b) })
			wg.Go(func() { connect(t, b, a) })
		}
		wg.Wait()
		a.Send(b.ID(), Leave{Digest: testDigest})
		b.Send(a.ID(), Leave{Digest: testDigest})
		a.rec.until(t, "message", func() bool { return len(a.rec.got[b.ID()]) == 1 })
		b.rec.until(t, "message", func() bool { return len(b.rec.got[a.ID()]) == 1 })
		for _, n := range []*testNode{a, b} {
			n.rec.mu.Lock()
			if strings.Join(n.rec.order, " ") != "up" {
				t.Errorf("callbacks: %v", n.rec.order)
			}
			n.rec.mu.Unlock()
		}
		a.Close()
		b.Close()
		for _, n := range []*testNode{a, b} {
			if strings.Join(n.rec.order, " ") != "up down" {
				t.Errorf("callbacks: %v", n.rec.order)
			}
		}
	}
}

func TestRestartWithSameIdentity(t *testing.T) {
	ca, cb := testConfig(t), testConfig(t)
	ca.timing = quick()
	ca.timing.silence = time.Hour // only the new stream tells of the restart
	ca.timing.ping = time.Hour
	a := startNode(t, ca)
	cb.Bootstrap = []peer.AddrInfo{a.info()}
	b := startNode(t, cb)
	a.rec.until(t, "up", func() bool { return a.rec.ups[b.ID()] == 1 })

	// Another node with b's identity stands for b after a crash that a has
	// not noticed.
	b2 := startNode(t, cb)
	a.rec.until(t, "second up", func() bool { return a.rec.ups[b.ID()] == 2 })
	a.rec.mu.Lock()
	if got := strings.Join(a.rec.order, " "); got != "up down up" {
		t.Errorf("callbacks: %s", got)
	}
	a.rec.mu.Unlock()
	b.Close()
	b2.Close()
	a.rec.until(t, "down", func() bool { return a.rec.downs[b.ID()] == a.rec.ups[b.ID()] })
}

func TestBootstrapReconnects(t *testing.T) {
	ca := testConfig(t)
	a := startNode(t, ca)
	info := a.info()
	ca.Listen = info.Addrs
	c := testConfig(t)
	c.timing = quick()
	b := startNode(t, c)
	b.AddBootstrap(info)
	b.rec.until(t, "up", func() bool { return b.rec.ups[a.ID()] == 1 })
	a.Close()
	b.rec.until(t, "down", func() bool { return b.rec.downs[a.ID()] == 1 })
	startNode(t, ca)
	b.rec.until(t, "up again", func() bool { return b.rec.ups[a.ID()] == 2 })
}

// stranger is a bare libp2p host that speaks the control protocol by hand.
type stranger struct {
	t      *testing.T
	stream network.Stream
}

func newStranger(t *testing.T, n *testNode) *stranger {
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics(), libp2p.DisableRelay())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Connect(ctx, n.info()); err != nil {
		t.Fatal(err)
	}
	s, err := h.NewStream(ctx, n.ID(), controlProtocol)
	if err != nil {
		t.Fatal(err)
	}
	return &stranger{t, s}
}

func (s *stranger) id() peer.ID { return s.stream.Conn().LocalPeer() }

func (s *stranger) send(f *pb.Frame) {
	if err := writeFrame(s.stream, f); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stranger) hello() {
	s.send(&pb.Frame{Body: &pb.Frame_Hello{Hello: &pb.Hello{Instance: []byte("x"), Epoch: 1}}})
}

func TestFrozenNeighbour(t *testing.T) {
	c := testConfig(t)
	c.timing = quick()
	n := startNode(t, c)
	s := newStranger(t, n)
	s.hello() // and then never a word
	n.rec.until(t, "up", func() bool { return n.rec.ups[s.id()] == 1 })
	n.rec.until(t, "down", func() bool { return n.rec.downs[s.id()] == 1 })
}

func TestIdleNeighboursStay(t *testing.T) {
	c := testConfig(t)
	c.timing = quick()
	a := startNode(t, c)
	c = testConfig(t)
	c.timing = quick()
	b := startNode(t, c)
	connect(t, a, b)
	a.rec.until(t, "up", func() bool { return a.rec.ups[b.ID()] == 1 })
	eventually(t, 5*time.Second, "a measured round trip", func() bool {
		nb, ok := b.Neighbour(a.ID())
		return ok && nb.RTT > 0
	})
	for watched := time.After(2 * c.timing.silence); ; {
		select {
		case <-watched:
			return
		case <-time.After(c.timing.ping):
			if _, ok := a.Neighbour(b.ID()); !ok {
				t.Fatal("an idle neighbour was given up")
			}
		}
	}
}

func TestBadControlStreams(t *testing.T) {
	join := &pb.Frame{Body: &pb.Frame_Join{Join: &pb.Join{Digest: "sha256:short"}}}
	for name, bad := range map[string]func(*stranger){
		"oversize":     func(s *stranger) { s.stream.Write(binary.AppendUvarint(nil, maxMessage+1)) },
		"long varint":  func(s *stranger) { s.stream.Write([]byte{0xff, 0xff, 0xff, 0xff, 0xff}) },
		"no protobuf":  func(s *stranger) { s.stream.Write([]byte{3, 0xff, 0xff, 0xff}) },
		"bad digest":   func(s *stranger) { s.send(join) },
		"second hello": func(s *stranger) { s.hello() },
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, testConfig(t))
			s := newStranger(t, n)
			s.hello()
			n.rec.until(t, "up", func() bool { return n.rec.ups[s.id()] == 1 })
			bad(s)
			n.rec.until(t, "down", func() bool { return n.rec.downs[s.id()] == 1 })
		})
	}
	t.Run("no hello", func(t *testing.T) {
		n := startNode(t, testConfig(t))
		s := newStranger(t, n)
		s.send(&pb.Frame{Body: &pb.Frame_Ping{Ping: &pb.Ping{Token: 1}}})
		s.stream.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := s.stream.Read(make([]byte, 1)); err == nil {
			t.Error("answered")
		}
		if n.rec.ups[s.id()] != 0 {
			t.Error("became a neighbour")
		}
	})
	t.Run("unknown frames are skipped", func(t *testing.T) {
		n := startNode(t, testConfig(t))
		s := newStranger(t, n)
		s.hello()
		s.stream.Write([]byte{4, 0xfa, 0x01, 1, 'x'}) // field 31
		s.send(&pb.Frame{Body: &pb.Frame_Leave{Leave: &pb.Leave{Digest: string(testDigest)}}})
		n.rec.until(t, "the message after", func() bool { return len(n.rec.got[s.id()]) == 1 })
	})
}

func TestBan(t *testing.T) {
	a, b := startNode(t, testConfig(t)), startNode(t, testConfig(t))
	connect(t, a, b)
	b.rec.until(t, "up", func() bool { return b.rec.ups[a.ID()] == 1 })
	a.Ban(b.ID(), time.Hour, "lies")
	b.rec.until(t, "down", func() bool { return b.rec.downs[a.ID()] == 1 })
	a.rec.until(t, "down", func() bool { return a.rec.downs[b.ID()] == 1 })
	if err := a.Connect(t.Context(), b.info()); !errors.Is(err, ErrBanned) {
		t.Errorf("connect to a banned peer: %v", err)
	}
	eventually(t, 5*time.Second, "the connection to end", func() bool {
		return a.host.Network().Connectedness(b.ID()) != network.Connected
	})
	if err := b.Connect(t.Context(), a.info()); err == nil {
		t.Error("a banned peer could connect")
	}
	if _, err := b.Ask(t.Context(), a.ID(), Ask{Digest: testDigest, Pieces: []int{1}}); !errors.Is(err, ErrDenied) {
		t.Errorf("ask of a banned peer: %v", err)
	}
}

type admitOnly map[peer.ID]bool

func (a admitOnly) Admit(p peer.ID) error {
	if !a[p] {
		return errors.New("no token")
	}
	return nil
}

func TestAdmit(t *testing.T) {
	c := testConfig(t)
	admitted := admitOnly{}
	c.Admit = admitted
	b, stranger := startNode(t, testConfig(t)), startNode(t, testConfig(t))
	admitted[b.ID()] = true
	a := startNode(t, c)
	connect(t, b, a)
	if err := stranger.Connect(t.Context(), a.info()); err == nil {
		t.Error("connected without being admitted")
	}
}

func TestNeighbourLimit(t *testing.T) {
	c := testConfig(t)
	c.MaxNeighbours = 1
	a, b := startNode(t, c), startNode(t, testConfig(t))
	d := testConfig(t)
	d.timing = quick()
	d.timing.hello = 500 * time.Millisecond
	third := startNode(t, d)
	connect(t, b, a)
	if err := third.Connect(t.Context(), a.info()); err == nil {
		t.Error("a neighbour beyond the limit")
	}
	if err := a.Connect(t.Context(), third.info()); !errors.Is(err, ErrTooManyNeighbours) {
		t.Errorf("connect beyond the limit: %v", err)
	}
}

func TestSlowNeighbourIsDropped(t *testing.T) {
	n := startNode(t, testConfig(t))
	s := newStranger(t, n)
	s.hello()
	n.rec.until(t, "up", func() bool { return n.rec.ups[s.id()] == 1 })
	big := Runs{Digest: testDigest, Envelopes: [][]byte{make([]byte, 1<<19)}}
	var err error
	for range 200 { // the stranger reads nothing: 100 MiB do not fit
		if err = n.Send(s.id(), big); err != nil {
			break
		}
	}
	if !errors.Is(err, errOverflow) {
		t.Fatalf("send: %v", err)
	}
	n.rec.until(t, "down", func() bool { return n.rec.downs[s.id()] == 1 })
	if err := n.Send(s.id(), big); !errors.Is(err, ErrNotNeighbour) {
		t.Errorf("send after: %v", err)
	}
}

func TestDisconnectSendsWhatIsQueued(t *testing.T) {
	a, b := startNode(t, testConfig(t)), startNode(t, testConfig(t))
	connect(t, a, b)
	b.rec.until(t, "up", func() bool { return b.rec.ups[a.ID()] == 1 })
	a.Send(b.ID(), Leave{Digest: testDigest, Reason: "bye"})
	a.Disconnect(b.ID())
	b.rec.until(t, "down", func() bool { return b.rec.downs[a.ID()] == 1 })
	if len(b.rec.got[a.ID()]) != 1 {
		t.Error("the last message is lost")
	}
}

func TestKnownPeers(t *testing.T) {
	c := testConfig(t)
	c.Datastore = filepath.Join(t.TempDir(), "made", "here")
	c.timing.company = 50 * time.Millisecond
	a, b := startNode(t, testConfig(t)), startNode(t, c)
	connect(t, a, b)
	eventually(t, 5*time.Second, "the DHT to know the peer", func() bool { return b.DHTSize() == 1 })
	b.Close()
	if _, err := os.Stat(filepath.Join(c.Datastore, knownFile)); err != nil {
		t.Fatal(err)
	}
	again := startNode(t, c)
	again.rec.until(t, "the way back", func() bool { return again.rec.ups[a.ID()] == 1 })
}

func TestCompany(t *testing.T) {
	// A seeder and six hosts that know nobody else; it goes, they stay.
	var nodes []*testNode
	for i := range 7 {
		c := testConfig(t)
		c.timing = quick()
		c.timing.company = 50 * time.Millisecond
		if i > 0 {
			c.Bootstrap = []peer.AddrInfo{nodes[0].info()}
		}
		nodes = append(nodes, startNode(t, c))
	}
	enough := func() bool {
		for _, n := range nodes {
			if len(n.Neighbours()) < companyMin {
				return false
			}
		}
		return true
	}
	eventually(t, 10*time.Second, "company", enough)
	nodes[0].Close()
	nodes = nodes[1:]
	eventually(t, 10*time.Second, "company without the seeder", enough)
}

func TestListenErrors(t *testing.T) {
	a := startNode(t, testConfig(t))
	for name, change := range map[string]func(*Config){
		"libp2p port": func(c *Config) { c.Listen = a.Addrs() },
		"pieces port": func(c *Config) { c.PiecesListen = a.PiecesAddrs()[0] },
		"one of two":  func(c *Config) { c.Listen = append(c.Listen, a.Addrs()...) },
	} {
		c := testConfig(t)
		c.Handler, c.Pieces = a.rec, a.rec
		change(&c)
		n, err := New(c)
		if err == nil || !strings.Contains(err.Error(), "taken") {
			t.Errorf("%s: %v", name, err)
		}
		if n != nil {
			n.Close()
		}
	}
}
