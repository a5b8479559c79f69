package scheduler

import (
	"math/bits"
	"time"
)

// peer is what a Download knows of one peer.
type peer struct {
	// What is looked at to find somebody to ask lies together.
	id     Peer
	up     bool
	seeder bool
	whole  bool // held everything when it came up
	root   bool // whole, and one of few: asked as a seeder
	near   bool
	bad    bool // sent wrong bytes: never asked again
	shun   bool // asked and silent, or failing: asked at times, but not counted on
	lost   bool // shunned for long: the upstream may stand in for it
	slow   bool // demoted: asked after the others, until it gives something
	counts bool // its pieces are in near/far
	relied bool // it is in sourceN
	rival  bool // lacks pieces itself
	dry    bool // holds nothing that could be asked of it; spares a scan
	out    int  // requests under way
	haveN  int
	rtt    time.Duration
	wait   backoff
	have   set
	life   time.Duration // last sign of life
	rate   float64       // bytes/s of one request, moving average; 0 = unknown
	urgent backoff       // of urgent asks
	key    uint64
}

// backoff is when a source may be asked again.
type backoff struct {
	until time.Duration
	fails int
}

// fail doubles the pause with each failure in a row, from first up to 8 s.
func (b *backoff) fail(now, first time.Duration) {
	b.until = max(b.until, now+min(first<<min(b.fails, 6), 8*time.Second))
	b.fails++
}

// source tells whether p is asked for any of its pieces, rather than for
// exact ones: a seeder, or what takes its place.
func (p *peer) source() bool { return p.seeder || p.root }

// maxRoots is the number of whole peers up to which they are sources. With
// more of them there is no scarcity to manage. Peers that became complete in
// the same herd do not count: others have what they have.
const maxRoots = 2

// reroot finds the peers that are asked as seeders are: where only one or two
// hosts hold everything, a herd that asked them for exact pieces would fetch
// the same ones from them again and again.
func (d *Download) reroot() {
	whole := 0
	for _, p := range d.up {
		if p.usable() && p.whole {
			whole++
		}
	}
	for _, p := range d.up {
		if root := whole <= maxRoots && p.whole; root != p.root {
			d.count(p, false)
			p.root, p.dry = root, false
			d.count(p, true)
		}
	}
}

// rival makes p one that shares our duties, or no longer.
func (d *Download) rival(p *peer, on bool) {
	on = on && p.usable() && !p.seeder && !p.whole && p.haveN < d.n
	if on == p.rival {
		return
	}
	p.rival = on
	if on {
		d.rivals++
		d.all.add(p.key)
		if p.near {
			d.zone.add(p.key)
		}
		return
	}
	d.rivals--
	d.all.remove(p.key)
	d.zone.remove(p.key)
}

// usable tells whether p may be asked at all.
func (p *peer) usable() bool { return p.up && !p.bad }

// peer returns the record of a handle, making it where make is set.
func (d *Download) peer(h Peer, create bool) *peer {
	if h <= Upstream || h > MaxPeer {
		return nil
	}
	if int(h) >= len(d.peers) {
		if !create {
			return nil
		}
		d.peers = append(d.peers, make([]*peer, int(h)+1-len(d.peers))...)
	}
	if d.peers[h] == nil && create {
		d.peers[h] = &peer{id: h, have: newSet(d.n)}
	}
	return d.peers[h]
}

func (d *Download) peerUp(ev PeerUp) bool {
	p := d.peer(ev.Peer, true)
	if p == nil {
		return false
	}
	if d.sources() == 0 {
		d.lastGiven, d.lastLife = d.now, d.now
	}
	d.rival(p, false)
	d.count(p, false)
	if !p.up {
		p.up, p.shun, p.slow, p.lost = true, false, false, false
		p.wait, p.urgent, p.life = backoff{}, backoff{}, d.now
		d.up = append(d.up, p)
	}
	p.seeder, p.near, p.rtt, p.key = ev.Seeder, ev.SameZone, ev.RTT, ev.Key
	p.have = setOf(d.n, ev.Have)
	p.haveN = p.have.count()
	p.whole = !p.seeder && (ev.Complete || p.haveN == d.n)
	d.relied(p)
	d.count(p, true)
	d.rival(p, true)
	d.reroot()
	for _, q := range d.up {
		q.dry = false // zones may have shifted
	}
	return true
}

func (d *Download) peerDown(h Peer) bool {
	p := d.peer(h, false)
	if p == nil || !p.up {
		return false
	}
	d.count(p, false)
	d.rival(p, false)
	p.up = false
	d.relied(p)
	for k, q := range d.up {
		if q == p {
			d.up = append(d.up[:k], d.up[k+1:]...)
			break
		}
	}
	for k := 0; k < len(d.reqs); {
		if d.reqs[k].peer == p {
			d.cancel(d.reqs[k])
		} else {
			k++
		}
	}
	d.reroot()
	for _, q := range d.up {
		q.dry = false
	}
	// A herd that lost its seeder first hears what the others hold.
	d.grace = max(d.grace, d.now+250*time.Millisecond)
	return true
}

func (d *Download) peerHas(h Peer, pieces []int) bool {
	p := d.peer(h, false)
	if p == nil || !p.up {
		return false
	}
	fresh := false
	for _, i := range pieces {
		if i < 0 || i >= d.n || !p.have.add(i) {
			continue
		}
		p.haveN++
		if p.counts {
			d.holder(p, i, true)
		}
		fresh = fresh || !d.have.has(i) && (d.busy[i] == 0 || d.openN == 0)
	}
	d.relied(p)
	if p.haveN == d.n {
		d.rival(p, false)
	}
	if !fresh || !p.usable() {
		return false
	}
	p.dry = false
	return p.out == 0 && (len(d.reqs) < d.c.MaxRequests || len(d.wants) > 0)
}

// count makes p's pieces count as held by somebody we can rely on, or not.
func (d *Download) count(p *peer, on bool) {
	on = on && p.usable() && !p.source() && !p.shun
	if on == p.counts {
		return
	}
	p.counts = on
	for w, x := range p.have {
		for x != 0 {
			z := bits.LeadingZeros64(x)
			x &^= 1 << (63 - z)
			d.holder(p, w<<6+z, on)
		}
	}
	if !on {
		for _, q := range d.up {
			q.dry = false
		}
	}
}

// holder counts p as one that holds i, or no longer.
func (d *Download) holder(p *peer, i int, on bool) {
	c := d.far
	if p.near {
		c = d.near
	}
	if on {
		c[i]++
		d.held.add(i)
		if p.near {
			d.nearH.add(i)
		}
		return
	}
	c[i]--
	if d.near[i] == 0 {
		d.nearH.del(i)
		if d.far[i] == 0 {
			d.held.del(i)
		}
	}
}

// life notes that p answered; gave, that it brought bytes.
func (d *Download) life(p *peer, gave bool) {
	d.lastLife = d.now
	d.stuck = false
	if p == nil {
		d.upstream = backoff{}
		return
	}
	p.life, p.lost = d.now, false
	if gave {
		d.lastGiven = d.now
		p.slow = false
		p.wait.fails, p.urgent.fails = 0, 0
	}
	if p.shun {
		p.shun = false
		d.relied(p)
		d.count(p, true)
		d.reroot()
	}
}

// demote puts p behind the others; shun also stops counting on it.
func (d *Download) demote(p *peer, shun bool) {
	p.slow = true
	p.rate /= 2
	if shun && !p.shun {
		p.shun = true
		d.relied(p)
		d.count(p, false)
		d.reroot()
	}
}

// sources counts the peers that may be counted on for anything.
func (d *Download) sources() int { return d.sourceN }

// relied keeps sourceN in step with p; to be called when p comes, goes, is
// shunned or not, or holds its first piece or none any more.
func (d *Download) relied(p *peer) {
	on := p.usable() && !p.shun && (p.seeder || p.haveN > 0)
	if on == p.relied {
		return
	}
	p.relied = on
	if on {
		d.sourceN++
	} else {
		d.sourceN--
	}
}
