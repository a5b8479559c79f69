package fetch

import (
	"crypto/rand"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// signer is a seeder as its neighbours see it: a name and signed hashes.
type signer struct {
	t   *testing.T
	key crypto.PrivKey
	id  peer.ID
}

func newSigner(t *testing.T) signer {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer{t, key, id}
}

// run signs hashes of n pieces of a blob from first on.
func (s signer) run(w Want, first, n int, final bool) []byte {
	r := piece.Run{Digest: w.Digest, Size: w.Size, First: first, Final: final}
	for i := range n {
		r.Hashes = append(r.Hashes, piece.Sum([]byte{byte(first + i)}))
	}
	env, err := piece.Seal(s.key, r)
	if err != nil {
		s.t.Fatal(err)
	}
	return env
}

// up makes the signer b's neighbour.
func (s signer) up(b *bubble) {
	nb := p2p.Neighbour{ID: s.id, Seeder: true}
	b.net.mu.Lock()
	b.net.neighbours[s.id] = nb
	b.net.mu.Unlock()
	b.PeerUp(nb)
}

// sentTo returns what was sent to p since the last call, of type M.
func sentTo[M p2p.Message](b *bubble, p peer.ID) []M {
	synctest.Wait()
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	var out []M
	rest := b.net.sent[:0]
	for _, s := range b.net.sent {
		m, ok := s.m.(M)
		if ok && s.to == p {
			out = append(out, m)
			continue
		}
		rest = append(rest, s)
	}
	b.net.sent = rest
	return out
}

// asked tells which of these were sent a Join that asks for signed hashes.
func (b *bubble) asked(ps ...peer.ID) []peer.ID {
	var out []peer.ID
	for _, p := range ps {
		for _, j := range sentTo[p2p.Join](b, p) {
			if !j.NoRuns {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// A host asks two neighbours and its seeder for signed hashes, not all of them;
// two more where it sees that they have some; and others, and the seeder for
// certain, where those that were asked say no, lie, or promise and do not deliver.
func TestFewAreAskedForHashes(t *testing.T) {
	sg := newSigner(t)
	trust := func(o *Options) { o.Trusted = func(p peer.ID) bool { return p == sg.id } }
	inBubble(t, trust, func(t *testing.T, b *bubble) {
		want := b.wish(1, 2*mib)
		sg.up(b)
		if _, err := b.want(want); err != nil {
			t.Fatal(err)
		}
		if j := sentTo[p2p.Join](b, sg.id); len(j) != 1 || j[0].NoRuns || !j[0].CanWait {
			t.Fatalf("the seeder was told %+v", j)
		}
		b.Message(sg.id, p2p.State{Digest: want.Digest, Size: want.Size, Elsewhere: true, Known: 8, Complete: true})
		var nbs []peer.ID
		for i := range 12 {
			nbs = append(nbs, b.neighbour(i))
		}
		state := func(p peer.ID, known int, elsewhere bool) {
			b.Message(p, p2p.State{Digest: want.Digest, Size: want.Size, Known: known, Elsewhere: elsewhere})
		}
		blind := b.asked(nbs...)
		if len(blind) != maxFeeders {
			t.Fatalf("%d of those that may know nothing were asked", len(blind))
		}
		for _, p := range nbs {
			state(p, 0, false)
		}
		if more := b.asked(nbs...); len(more) != 0 {
			t.Fatalf("asked %v beside", more)
		}
		state(blind[0], 0, true)
		second := b.asked(nbs...)
		if len(second) != 1 || second[0] == blind[0] {
			t.Fatalf("one passes nothing on; %v were asked instead", second)
		}
		b.Message(blind[1], p2p.Runs{Digest: want.Digest, Envelopes: [][]byte{{1, 2, 3}}})
		third := b.asked(nbs...)
		if len(third) != 1 || third[0] == blind[1] {
			t.Fatalf("one lies; %v were asked instead", third)
		}

		// Now some have hashes.
		var knowing []peer.ID
		for _, p := range nbs {
			if p != second[0] && p != third[0] {
				state(p, 8, false)
				knowing = append(knowing, b.asked(p)...)
			}
		}
		if len(knowing) != maxFeeders {
			t.Fatalf("%d that know were asked", len(knowing))
		}

		// Nobody delivers.
		time.Sleep(2 * feedWait)
		j := sentTo[p2p.Join](b, sg.id)
		if len(j) != 1 || j[0].NoRuns || j[0].CanWait {
			t.Fatalf("the seeder was asked again with %+v", j)
		}
		if again := b.asked(nbs...); len(again) != maxFeeders {
			t.Fatalf("%v were asked after nobody delivered", again)
		}
		// Then one does: that is the end of it.
		b.Message(nbs[11], p2p.Runs{Digest: want.Digest, Envelopes: [][]byte{sg.run(want, 0, 8, true)}})
		time.Sleep(2 * feedMost)
		if j := append(sentTo[p2p.Join](b, sg.id), sentTo[p2p.Join](b, nbs[0])...); len(j) != 0 {
			t.Errorf("asked on: %+v", j)
		}
	})
}

// Who asked is passed on what comes, at once and later; who did not, and who
// brought it, is not.
func TestHashesArePassedOn(t *testing.T) {
	sg := newSigner(t)
	trust := func(o *Options) { o.Trusted = func(p peer.ID) bool { return p == sg.id } }
	inBubble(t, trust, func(t *testing.T, b *bubble) {
		want := b.wish(1, 2*mib)
		if _, err := b.want(want); err != nil {
			t.Fatal(err)
		}
		sg.up(b)
		join := func(i int, j p2p.Join) peer.ID {
			p := b.neighbour(i)
			j.Digest, j.Size = want.Digest, want.Size
			b.Message(p, j)
			return p
		}
		early, no := join(1, p2p.Join{CanWait: true}), join(2, p2p.Join{NoRuns: true})
		runs := func(envs ...[]byte) { b.Message(sg.id, p2p.Runs{Digest: want.Digest, Envelopes: envs}) }
		runs(sg.run(want, 0, 3, false))
		late, knows := join(3, p2p.Join{CanWait: true}), join(4, p2p.Join{CanWait: true, Known: 3})
		b.Message(early, p2p.Runs{Digest: want.Digest, Envelopes: [][]byte{sg.run(want, 3, 2, false)}})
		sentTo[p2p.Join](b, sg.id)
		time.Sleep(3 * feedWait)
		if j := sentTo[p2p.Join](b, sg.id); len(j) != 0 {
			t.Errorf("nobody knows more, and yet the seeder is told %+v", j)
		}
		runs(sg.run(want, 0, 8, true))
		runs(sg.run(want, 0, 8, true)) // again: no news
		for p, n := range map[peer.ID]int{early: 2, no: 0, late: 3, knows: 2, sg.id: 0} {
			if got := len(sentTo[p2p.Runs](b, p)); got != n {
				t.Errorf("%s got %d runs, want %d", p, got, n)
			}
		}
	})
}

// A host passes hashes on to so many at once; the others are told so, unless
// they cannot wait.
func TestHashesAreLeftToOthers(t *testing.T) {
	inBubble(t, func(o *Options) { o.Seeder = true }, func(t *testing.T, b *bubble) {
		want := b.fill(20 * mib)
		join := func(i int, canWait bool) (p2p.State, int) {
			p := b.neighbour(i)
			b.Message(p, p2p.Join{Digest: want.Digest, Size: want.Size, CanWait: canWait})
			s := sentTo[p2p.State](b, p)
			if len(s) != 1 {
				t.Fatalf("%d answers", len(s))
			}
			return s[0], len(sentTo[p2p.Runs](b, p))
		}
		b.serving(want.Digest)
		time.Sleep(time.Second) // it is signed
		fed := 0
		for i := range 2 * maxFed {
			s, runs := join(i, true)
			if s.Elsewhere == (runs > 0) {
				t.Errorf("%d runs, and elsewhere is %v", runs, s.Elsewhere)
			}
			if s.Known != 80 || s.Swarm != i+1 {
				t.Errorf("%d hashes and %d peers known", s.Known, s.Swarm)
			}
			fed += runs
		}
		if fed != maxFed {
			t.Errorf("%d got the list, want %d", fed, maxFed)
		}
		if _, runs := join(100, false); runs != 1 {
			t.Error("who cannot wait got no list")
		}
		time.Sleep(feedWait)
		if s, runs := join(101, true); s.Elsewhere || runs != 1 {
			t.Error("a second later there is no room")
		}
		want = b.fill(2 * mib) // a short list
		b.serving(want.Digest)
		time.Sleep(time.Second)
		for i := range 2 * maxFed {
			if s, runs := join(i, true); s.Elsewhere || runs != 1 {
				t.Fatalf("a short list was left to others, or sent %d times", runs)
			}
		}
	})
}

// putOff is a seeder that leaves its hashes to others, of which there are none.
type putOff struct {
	*Engine
	mu   sync.Mutex
	firm int // Joins that it could not put off
}

func (e *putOff) Message(from peer.ID, m p2p.Message) {
	if j, ok := m.(p2p.Join); ok {
		if j.CanWait {
			_ = e.network().Send(from, p2p.State{Digest: j.Digest, Size: j.Size, Complete: true, Elsewhere: true, Known: 8})
			return
		}
		e.mu.Lock()
		e.firm++
		e.mu.Unlock()
	}
	e.Engine.Message(from, m)
}

// No pull hangs where nobody passes hashes on: neither the seeder, before it is
// asked again, nor a neighbour that says it has them.
func TestHashesThatDoNotCome(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(2 * mib)
	var off *putOff
	s := w.host(hostConfig{seeder: true, handler: func(e *Engine) p2p.Handler { off = &putOff{Engine: e}; return off }})
	h, mute := w.host(hostConfig{lonely: true}), w.liar(hostConfig{})
	w.connect(h, s, mute.host)
	h.check(want, content)
	off.mu.Lock()
	defer off.mu.Unlock()
	if off.firm == 0 {
		t.Error("the hashes came from nowhere")
	}
}

// A host of a large swarm announces a blob rarely, and does not draw twice.
func TestHerdIsRarelyAnnounced(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		g, err := piece.GeometryOf(2 * mib)
		if err != nil {
			t.Fatal(err)
		}
		count := func(size int) int {
			before := len(b.net.provided)
			for i := range 1000 {
				s := &swarm{e: b.Engine, digest: digest.FromString(string(rune(size)) + string(rune(i))), geom: g, size: size}
				s.provide()
				s.provide()
			}
			return len(b.net.provided) - before
		}
		if n := count(p2p.Crowd); n != 1000 {
			t.Errorf("%d of 1000 announced where few are", n)
		}
		if n := count(10 * p2p.Crowd); n < 60 || n > 150 {
			t.Errorf("%d of 1000 announced where ten times the crowd are", n)
		}
	})
}

// A seeder of a large swarm names fewer peers to each.
func TestLargeSwarmIsHintedAt(t *testing.T) {
	inBubble(t, func(o *Options) { o.Seeder = true }, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		for i := range hintAll + 2 {
			p := b.neighbour(i)
			b.Message(p, p2p.Join{Digest: want.Digest, Size: want.Size, NoRuns: true, WantPeers: hintPeers})
			n := min(i, hintPeers)
			if i >= hintAll {
				n = hintFew
			}
			if n == 0 {
				continue
			}
			if m := sentTo[p2p.Peers](b, p); len(m) != 1 || len(m[0].Peers) != n {
				t.Fatalf("joiner %d was named %+v, want %d peers", i, m, n)
			}
		}
	})
}
