package scheduler

import "math/bits"

// batch is how many pieces one request to p asks for: enough to bridge the
// round trips of the request that follows.
func (d *Download) batch(p *peer) int {
	t := max(d.c.Batch, 2*p.rtt)
	k := int(p.rate * t.Seconds() / float64(d.c.Geometry.PieceSize()))
	if d.spend.on {
		k = min(k, int(d.spend.left/d.c.Geometry.PieceSize())) // no more than is allowed
	}
	return min(max(k, 1), d.c.MaxBatch)
}

// askable is what of word w could be asked of p now: pieces that are open and
// p holds; of a peer in another zone only what nobody in ours holds.
func (d *Download) askable(p *peer, w int) uint64 {
	x := d.open[w] & p.have[w]
	if p.near {
		return x
	}
	x &^= d.nearH[w]
	if !d.zone.shared() || d.lazy() || d.widened() {
		return x
	}
	for y := x; y != 0; {
		z := bits.LeadingZeros64(y)
		m := uint64(1) << (63 - z)
		y &^= m
		if !d.zone.has(w<<6 + z) {
			x &^= m
		}
	}
	return x
}

// mayCross tells whether it is on us to bring piece i into our zone.
func (d *Download) mayCross(i int) bool {
	return d.zone.has(i) || !d.zone.shared() || d.lazy() || d.widened()
}

// widened tells whether we got nothing for a while, and no longer wait for
// those whose duty it is to bring the pieces into our zone.
func (d *Download) widened() bool { return d.now-d.lastGiven >= d.c.Share }

// widen takes note when widened turns true.
func (d *Download) widen() {
	if !d.zone.shared() || d.openN == 0 {
		return
	}
	wide := d.widened()
	if !wide {
		d.at(d.lastGiven + d.c.Share)
	} else if !d.wide {
		for _, p := range d.up {
			p.dry = false
		}
	}
	d.wide = wide
}

// pick chooses up to k pieces to ask of p: what readers want soon while they
// have less than their share of the requests, else the rarest.
func (d *Download) pick(p *peer, k int) (pieces []int, window bool) {
	if len(d.wants) > 0 && d.windowOut < d.windowLimit() {
		if pieces = d.pickWindow(p, k); pieces != nil {
			return pieces, true
		}
	}
	return d.pickRarest(p, k), false
}

// windowLimit is how many requests may serve readers: a quarter, for a herd
// that reads in order and fetched in order would have nothing to share. All,
// where there is nobody to share with.
func (d *Download) windowLimit() int {
	if d.rivals == 0 {
		return d.c.MaxRequests
	}
	return max(1, min(d.c.MaxRequests, d.peerRequests()+1)/4)
}

// pickWindow chooses the first open pieces of the readers' windows.
func (d *Download) pickWindow(p *peer, k int) []int {
	var got []int
	for _, w := range d.wants {
		if w.block < 0 {
			continue
		}
		end := min(w.end, w.block+d.c.Window)
		for i := d.open.next(w.block); i >= 0 && i < end && len(got) < k; i = d.open.next(i + 1) {
			if p.have.has(i) && (p.near || !d.nearH.has(i) && d.mayCross(i)) && !contains(got, i) {
				got = append(got, i)
			}
		}
	}
	return got
}

// pickRarest chooses among the pieces with the fewest holders, and of those
// first what is ours by duty: so hosts that see the same holders still choose
// different pieces. What ties then is chosen evenly at random, more than one
// piece as a run from a random place on.
func (d *Download) pickRarest(p *peer, k int) []int {
	least, ties := 1<<30, 0
	for w := range d.open {
		for x := d.askable(p, w); x != 0; {
			z := bits.LeadingZeros64(x)
			x &^= 1 << (63 - z)
			i := w<<6 + z
			switch c := d.rarity(i); {
			case c < least:
				least, ties = c, 1
			case c == least:
				ties++
			}
		}
	}
	if ties == 0 {
		return nil
	}
	// The t-th of the ties, then those after it, around the end.
	t := d.rng.IntN(ties)
	k = min(k, ties)
	got := make([]int, 0, k)
	for len(got) < k {
		for w := 0; w < len(d.open) && len(got) < k; w++ {
			for x := d.askable(p, w); x != 0 && len(got) < k; {
				z := bits.LeadingZeros64(x)
				x &^= 1 << (63 - z)
				i := w<<6 + z
				if d.rarity(i) != least {
					continue
				}
				if t--; t < 0 {
					got = append(got, i)
				}
			}
		}
		t = 0
	}
	return got
}

// rarity orders pieces; lower is rarer, or more ours.
func (d *Download) rarity(i int) int {
	c := 2 * int(d.near[i]+d.far[i])
	if !d.all.has(i) {
		c++
	}
	return c
}

func contains(s []int, i int) bool {
	for _, x := range s {
		if x == i {
			return true
		}
	}
	return false
}
