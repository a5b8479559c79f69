package scheduler

import (
	"math/bits"
	"math/rand/v2"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// gblob is one blob that this host gives.
type gblob struct {
	id        Blob
	n         int
	geo       piece.Geometry
	have      set
	superseed bool
	growing   bool
	asked     time.Duration // for any of its pieces, last
	copies    []uint16      // live peers known to hold the piece, or being sent it
	fresh     set           // held here and copies == 0
	freshN    int
	whole     int             // peers that hold everything since they came
	byID      map[Peer]*gpeer // for look-up only
	peers     []*gpeer        // in the order they came
}

// gpeer is one peer, as to one blob.
type gpeer struct {
	id      Peer
	has     set // announced
	hasN    int
	told    bool       // its pieces are known
	whole   bool       // it held everything when first told of
	counted set        // has, or will have, as far as we know: in copies
	flight  set        // being sent by us
	sent    []delivery // sent, but not announced yet
	fed     int        // pieces sent, or being sent
	asked   bool       // base is known
	base    int        // pieces it lacked when it first asked for any
	others  int        // of them it got elsewhere, as its asks tell
	active  int        // uploads to it under way
	gained  time.Duration
	refused time.Duration // refused a second copy since; never = not refused
	hungry  time.Duration // refused although it said too little comes, since; never = not so
	alone   bool          // nobody else feeds it: second copies are given
	gone    bool          // forgotten: no longer in the blob's peers
}

// delivery is a piece sent to a peer.
type delivery struct {
	piece int
	at    time.Duration
}

func (g *Giver) blobUp(ev BlobUp) bool {
	n := ev.Geometry.Count()
	b := g.blobs[ev.Blob]
	if b == nil {
		b = &gblob{id: ev.Blob, byID: map[Peer]*gpeer{}}
		g.blobs[ev.Blob] = b
		g.order = append(g.order, b)
	}
	if b.copies == nil || b.n != n {
		b.n, b.copies = n, make([]uint16, n)
		for _, p := range b.peers {
			p.gone = true
		}
		b.byID, b.peers = map[Peer]*gpeer{}, nil
	}
	b.geo, b.superseed, b.growing = ev.Geometry, ev.Superseed, ev.Growing
	b.have, b.fresh, b.freshN = setOf(n, ev.Have), newSet(n), 0
	for i := b.have.next(0); i >= 0; i = b.have.next(i + 1) {
		b.refresh(i)
	}
	g.look(b)
	return true
}

func (g *Giver) grew(ev BlobGrew) bool {
	b := g.blobs[ev.Blob]
	if b == nil || ev.Piece < 0 || ev.Piece >= b.n || !b.have.add(ev.Piece) {
		return false
	}
	b.refresh(ev.Piece)
	return len(g.waiting) > 0
}

func (g *Giver) shrank(ev BlobShrank) bool {
	b := g.blobs[ev.Blob]
	if b == nil {
		return false
	}
	for _, i := range ev.Pieces {
		if i >= 0 && i < b.n && b.have.del(i) {
			b.refresh(i)
		}
	}
	g.look(b)
	return true
}

func (g *Giver) blobDown(id Blob) bool {
	b := g.blobs[id]
	if b == nil {
		return false
	}
	delete(g.blobs, id)
	for k, x := range g.order {
		if x == b {
			g.order = append(g.order[:k], g.order[k+1:]...)
			break
		}
	}
	b.have, b.fresh, b.freshN, b.growing = newSet(b.n), newSet(b.n), 0, false
	g.look(b) // waiting asks are answered NotHeld
	return true
}

func (g *Giver) peerHas(ev PeerHas) bool {
	b := g.blobs[ev.Blob]
	if b == nil || ev.Peer <= Upstream || ev.Peer > MaxPeer {
		return false
	}
	p := b.peer(ev.Peer)
	if ev.Bitfield != nil {
		s := setOf(b.n, ev.Bitfield)
		if s.empty() {
			b.forget(p)
			return true
		}
		if !p.told && b.n > 0 && s.count() == b.n {
			p.whole = true
			b.addWhole(1)
		}
		p.told = true
		for i := range b.n {
			switch {
			case s.has(i):
				g.feeds(b.announced(p, i, g.now), p)
			case p.has.has(i):
				p.has.del(i)
				p.hasN--
				b.uncount(p, i)
			}
		}
	}
	if !p.told && b.n > 0 && len(ev.Pieces) >= b.n {
		p.whole, p.told = true, true
		b.addWhole(1)
	}
	for _, i := range ev.Pieces {
		if i >= 0 && i < b.n {
			g.feeds(b.announced(p, i, g.now), p)
		}
	}
	return false
}

func (g *Giver) peerGone(id Peer) bool {
	for _, b := range g.order {
		if p := b.byID[id]; p != nil {
			b.forget(p)
		}
	}
	for k := 0; k < len(g.waiting); {
		if g.waiting[k].peer.id == id {
			g.waiting = append(g.waiting[:k], g.waiting[k+1:]...)
			continue
		}
		k++
	}
	delete(g.fed, id)
	return true
}

// feeds notes that somebody else has fed p.
func (g *Giver) feeds(others bool, p *gpeer) {
	if others {
		g.fed[p.id] = g.now
	}
}

// scarce tells whether second copies are to be spared: on a seeder, and on a
// complete host that peers take for one.
func (b *gblob) scarce(now time.Duration) bool {
	return b.superseed || b.asked > 0 && now-b.asked < rootFor
}

// rootFor is how long after the last ask for any of its pieces a host still
// counts as one that stands in for a seeder.
const rootFor = 2 * time.Second

// forget drops what is known of p: it is gone, or left the swarm.
func (b *gblob) forget(p *gpeer) {
	delete(b.byID, p.id)
	p.gone = true
	for k, x := range b.peers {
		if x == p {
			b.peers = append(b.peers[:k], b.peers[k+1:]...)
			break
		}
	}
	for i := p.counted.next(0); i >= 0; i = p.counted.next(i + 1) {
		b.uncount(p, i)
	}
	if p.whole {
		b.addWhole(-1)
	}
}

func (b *gblob) peer(id Peer) *gpeer {
	p := b.byID[id]
	if p == nil {
		p = &gpeer{id: id, has: newSet(b.n), counted: newSet(b.n), flight: newSet(b.n), refused: never, hungry: never}
		b.byID[id] = p
		b.peers = append(b.peers, p)
	}
	return p
}

// refresh keeps fresh in step with have and copies.
func (b *gblob) refresh(i int) {
	if b.have.has(i) && b.copies[i] == 0 {
		if b.fresh.add(i) {
			b.freshN++
		}
	} else if b.fresh.del(i) {
		b.freshN--
	}
}

// addWhole notes that there is one more, or less, peer that held everything
// from the start. While they are few they are asked as seeders are, beside us,
// and what they hold does not count as given; once they are many it does.
func (b *gblob) addWhole(by int) {
	before := b.whole > maxRoots
	b.whole += by
	after := b.whole > maxRoots
	if before == after {
		return
	}
	for _, p := range b.peers {
		if !p.whole {
			continue
		}
		for i := range b.n {
			if after {
				b.count(p, i)
			} else {
				b.uncount(p, i)
			}
		}
	}
}

func (b *gblob) count(p *gpeer, i int) {
	if p.whole && b.whole <= maxRoots {
		return
	}
	if p.counted.add(i) {
		b.copies[i]++
		b.refresh(i)
	}
}

func (b *gblob) uncount(p *gpeer, i int) {
	if p.counted.del(i) {
		b.copies[i]--
		b.refresh(i)
	}
}

// announced: p holds piece i. It tells whether somebody else has fed p.
func (b *gblob) announced(p *gpeer, i int, now time.Duration) bool {
	if !p.has.add(i) {
		return false
	}
	p.hasN++
	p.told = true
	p.gained, p.refused = now, never
	ours := false
	for k, x := range p.sent {
		if x.piece == i {
			p.sent = append(p.sent[:k], p.sent[k+1:]...)
			ours = true
			break
		}
	}
	others := !ours && !p.counted.has(i)
	if others {
		p.alone = false
	}
	b.count(p, i)
	return others
}

func (b *gblob) sendTo(p *gpeer, i int) {
	b.count(p, i)
	p.flight.add(i)
	p.fed++
}

// sentTo: the upload of piece i to p ended.
func (b *gblob) sentTo(p *gpeer, i int, ok bool, now time.Duration) {
	if p.gone || i >= b.n {
		return
	}
	p.flight.del(i)
	if !ok {
		p.fed--
	}
	switch {
	case p.has.has(i):
	case ok:
		p.gained = now
		p.sent = append(p.sent, delivery{i, now})
	default:
		b.uncount(p, i)
	}
}

// learn takes from an ask for any of s what its peer must have: what it does
// not ask for it holds, or is about to get elsewhere. So a seeder knows the
// swarm from the asks alone; announcements only tell it sooner. It tells whether
// somebody else has fed p.
func (b *gblob) learn(p *gpeer, s set, now time.Duration) bool {
	lacks := 0
	for w := range s {
		lacks += bits.OnesCount64(s[w])
		for x := ^s[w] & b.valid(w) &^ p.counted[w]; x != 0; {
			z := bits.LeadingZeros64(x)
			x &^= 1 << (63 - z)
			b.count(p, w<<6+z)
		}
		// What it was thought to have but asks for has not reached it. Announced
		// pieces stay: the ask may be older than the announcement.
		for x := s[w] & p.counted[w] &^ p.has[w] &^ p.flight[w]; x != 0; {
			z := bits.LeadingZeros64(x)
			x &^= 1 << (63 - z)
			if i := w<<6 + z; !p.justSent(i, now) {
				b.uncount(p, i)
			}
		}
	}
	if !p.asked {
		p.asked, p.base = true, lacks+p.fed
	}
	others := p.base - lacks - p.fed
	more := others > p.others
	if more {
		p.gained, p.refused, p.alone = now, never, false
	}
	p.others = others
	return more
}

// justSent tells whether piece i was sent to p so lately that an ask for it
// may be older. Older deliveries are forgotten.
func (p *gpeer) justSent(i int, now time.Duration) bool {
	just := false
	for k := 0; k < len(p.sent); {
		if now-p.sent[k].at > 2*time.Second {
			p.sent = append(p.sent[:k], p.sent[k+1:]...)
			continue
		}
		just = just || p.sent[k].piece == i
		k++
	}
	return just
}

// valid is the mask of word w's pieces that exist.
func (b *gblob) valid(w int) uint64 {
	if left := b.n - w<<6; left < 64 {
		return ^uint64(0) << (64 - left)
	}
	return ^uint64(0)
}

// try names up to n peers that hold, or are being sent, something that a wants.
func (b *gblob) try(rng *rand.Rand, a *ask, n int) []Peer {
	if len(b.peers) == 0 {
		return nil
	}
	var try []Peer
	start := rng.IntN(len(b.peers))
	for k := 0; k < len(b.peers) && len(try) < n; k++ {
		p := b.peers[(start+k)%len(b.peers)]
		if p == a.peer || a.any != nil && !p.counted.intersects(a.any) {
			continue
		}
		hit := a.any != nil
		for _, i := range a.pieces {
			hit = hit || p.counted.has(i)
		}
		if hit {
			try = append(try, p.id)
		}
	}
	return try
}
