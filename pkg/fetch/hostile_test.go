package fetch

import (
	"context"
	"crypto/rand"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// script turns a fuzzer's bytes into what neighbours might say and do.
type script struct {
	b       *bubble
	data    []byte
	digests []digest.Digest
	sizes   []int64
	keys    []crypto.PrivKey // trusted, and not
	up      map[int]peer.ID
}

func (s *script) byte() int {
	if len(s.data) == 0 {
		return 0
	}
	x := s.data[0]
	s.data = s.data[1:]
	return int(x)
}

// bits is a bitfield, most of the time of the right length.
func (s *script) bits(n int) []byte {
	k := s.byte()
	if k%5 == 0 {
		return nil
	}
	if k%7 == 0 {
		n += k
	}
	b := piece.NewBitfield(n)
	for i := range n {
		if s.byte()%3 > 0 {
			b.Set(i)
		}
	}
	return b.Bytes()
}

func (s *script) size(i int) int64 {
	switch k := s.byte(); k % 6 {
	case 0:
		return 0
	case 1:
		return int64(k) << 20
	case 2:
		return 1 << 40
	}
	return s.sizes[i]
}

func (s *script) pieces() []int {
	out := make([]int, s.byte()%20)
	for i := range out {
		if out[i] = s.byte() % 16; s.byte()%9 == 0 {
			out[i] = 262_143
		}
	}
	return out
}

func (s *script) peers() []peer.AddrInfo {
	out := make([]peer.AddrInfo, s.byte()%40)
	for i := range out {
		out[i].ID = peer.ID([]byte{'x', byte(s.byte()), byte(i)})
	}
	return out
}

func (s *script) run(i int) []byte {
	r := piece.Run{Digest: s.digests[i], Size: s.sizes[i], First: s.byte() % 8}
	for range s.byte()%8 + 1 {
		r.Hashes = append(r.Hashes, piece.Sum([]byte{byte(s.byte() % 3)}))
	}
	if g, err := piece.GeometryOf(r.Size); err == nil && s.byte()%2 == 0 {
		r.First, r.Final = 0, true
		for len(r.Hashes) < g.Count() {
			r.Hashes = append(r.Hashes, r.Hashes[0])
		}
	}
	env, err := piece.Seal(s.keys[s.byte()%2], r)
	if err != nil || s.byte()%8 == 0 {
		return []byte{1, 2, 3}
	}
	return env
}

// happens does one thing.
func (s *script) happens() {
	b, k := s.b, s.byte()
	n := s.byte() % 6
	from, up := s.up[n]
	if !up {
		s.up[n] = b.neighbour(n)
		return
	}
	i := s.byte() % len(s.digests)
	d := s.digests[i]
	switch k % 12 {
	case 0:
		b.down(from)
		delete(s.up, n)
	case 1, 2:
		b.Message(from, p2p.Join{Digest: d, Size: s.size(i), Source: "test/x", Have: s.bits(8), Complete: k > 200, WantPeers: s.byte()})
	case 3, 4:
		b.Message(from, p2p.State{Digest: d, Size: s.size(i), Have: s.bits(8), Complete: k > 128})
	case 5:
		b.Message(from, p2p.Have{Digest: d, Pieces: s.pieces(), Complete: k > 200})
	case 6:
		b.Message(from, p2p.Leave{Digest: d, Reason: "bye"})
	case 7:
		b.Message(from, p2p.Peers{Digest: d, Peers: s.peers()})
	case 8:
		b.Message(from, p2p.Runs{Digest: d, Envelopes: [][]byte{s.run(i), s.run(i)}})
	case 9:
		env, err := piece.SealRevocation(s.keys[s.byte()%2], d)
		if err == nil {
			b.Message(from, p2p.Revoke{Digest: d, Envelope: env})
		}
	case 10:
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.byte())*time.Millisecond)
		defer cancel()
		ask := p2p.Ask{Digest: d, Pieces: s.pieces(), Urgent: k > 128}
		if len(ask.Pieces) == 0 {
			ask.Any, ask.Max = s.bits(8), s.byte()
		}
		if gift, err := b.Give(ctx, from, ask); err == nil {
			gift.Done(k > 100)
		}
	case 11:
		time.Sleep(time.Duration(s.byte()) * 50 * time.Millisecond)
		b.Prefetch(Want{Digest: d, Size: s.sizes[i], Source: source})
	}
}

// check holds what must be bounded against its bounds.
func (s *script) check(t *testing.T) {
	synctest.Wait()
	for _, sw := range s.b.all() {
		on(sw, func() {
			if len(sw.members) > 6 || len(sw.handles) > 7 || len(sw.asked) > 6 || len(sw.meeting) > maxNear || len(sw.early) > 0 ||
				len(sw.feed.from) > 6 || len(sw.feed.vain) > 6 {
				t.Errorf("%d members, %d handles, %d asked, %d being met", len(sw.members), len(sw.handles), len(sw.asked), len(sw.meeting))
			}
			if sw.e.o.Seeder && sw.dl != nil || !sw.e.o.Seeder && sw.origin != nil {
				t.Error("a seeder downloads, or a peer is an origin")
			}
		})
	}
	g := s.b.giver
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.asks) > 0 || len(g.peers) > 6 {
		t.Errorf("%d asks, %d peers", len(g.asks), len(g.peers))
	}
}

// Whatever neighbours say, in whatever order: no panic, no growth, and an end.
func FuzzHostileNeighbours(f *testing.F) {
	seed := noise(4096)
	for i := range 12 {
		f.Add(seed[i*300:(i+1)*300], i%2 == 0)
	}
	f.Fuzz(hostileRun)
}

func hostileRun(t *testing.T, data []byte, seeder bool) {
	if len(data) > 4096 {
		return
	}
	trusted, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(trusted)
	if err != nil {
		t.Fatal(err)
	}
	options := func(o *Options) {
		o.Seeder = seeder
		o.Trusted = func(p peer.ID) bool { return p == id || p == "neighbour-0" }
	}
	before := runtime.NumGoroutine()
	inBubble(t, options, func(t *testing.T, b *bubble) {
		held, want := b.fill(2*mib), b.wish(1, 2*mib-7)
		s := &script{b: b, data: data, keys: []crypto.PrivKey{trusted, other}, up: make(map[int]peer.ID),
			digests: []digest.Digest{held.Digest, want.Digest, digest.FromString("unknown")},
			sizes:   []int64{held.Size, want.Size, 5 * mib}}
		for len(s.data) > 0 {
			s.happens()
		}
		s.check(t)
		if n := runtime.NumGoroutine(); n > before+400 {
			t.Errorf("%d goroutines", n-before)
		}
		time.Sleep(linger + 10*time.Minute)
		if n := len(b.all()); n > 0 && seeder {
			t.Errorf("%d swarms are left", n)
		}
		if !b.complete(held) {
			t.Error("the blob that was held is gone")
		}
	})
}

func (b *bubble) complete(w Want) bool {
	in, err := b.st.Stat(w.Digest)
	return err == nil && in.Complete
}
