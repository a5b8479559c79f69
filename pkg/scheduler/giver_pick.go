package scheduler

import (
	"math/bits"
	"time"
)

// verdict is what becomes of an ask.
type verdict uint8

const (
	verdictGive      verdict = iota // as soon as there is a slot
	verdictPark                     // what it wants is still to come
	verdictElsewhere                // others can give it
	verdictNotHeld
)

// choose says what a may get now.
func (g *Giver) choose(a *ask) ([]int, verdict) {
	if a.any != nil {
		return g.chooseAny(a)
	}
	b := a.blob
	var give []int
	lacking := 0
	for _, i := range a.pieces {
		if b.have.has(i) {
			give = append(give, i)
		} else {
			lacking++
		}
	}
	if len(give) == 0 {
		if b.superseed && b.growing && lacking > 0 {
			return nil, verdictPark
		}
		return nil, verdictNotHeld
	}
	if !b.superseed && !(a.urgent && b.scarce(g.now)) || g.starves(a) {
		return give, verdictGive
	}
	// First copies go out; second ones only to who starves, and to a reader where
	// the first one is stuck on its way: all of a herd's readers wait for it.
	k := 0
	for _, i := range give {
		if b.copies[i] == 0 || b.copies[i] == 1 && (a.peer.counted.has(i) || a.urgent && g.late(b, i)) {
			give[k] = i
			k++
		}
	}
	if k == 0 {
		return nil, verdictElsewhere
	}
	return give[:k], verdictGive
}

// late tells whether piece i has been under way to somebody for so long that it
// must be stuck.
func (g *Giver) late(b *gblob, i int) bool {
	for _, a := range g.active {
		if a.blob == b && contains(a.given, i) && g.now-a.started >= lateAfter {
			return true
		}
	}
	return false
}

// lateAfter is half of the time after which a reader turns to the upstream. Of
// eight uploads that share a link one takes 2 s now and then, and each copy that is
// given for that reason is a piece that somebody else waits for.
const lateAfter = 3 * time.Second

// chooseAny picks for an ask of any of many pieces: those with the fewest
// known copies, in order where those tie.
func (g *Giver) chooseAny(a *ask) ([]int, verdict) {
	b, turn := a.blob, g.turn(a)
	a.spare = false
	if b.freshN > 0 {
		if give := b.firstOf(a, b.fresh, turn); give != nil {
			return give, verdictGive
		}
	}
	// All that it wants and we hold has been given before.
	want := false
	for w := range a.any {
		if a.any[w]&b.have[w] != 0 {
			want = true
			break
		}
	}
	switch {
	case b.superseed && b.growing && b.lacks(a.any):
		return nil, verdictPark
	case !want:
		return nil, verdictNotHeld
	case !g.starves(a):
		if !g.hungry(a) {
			return nil, verdictElsewhere
		}
		a.spare = true
	}
	if give := b.leastCopied(a, turn); give != nil {
		return give, verdictGive
	}
	// It was sent all of it, or is being sent it.
	return nil, verdictElsewhere
}

// lacks tells whether s has a piece that is not here.
func (b *gblob) lacks(s set) bool {
	for w := range s {
		if s[w]&^b.have[w] != 0 {
			return true
		}
	}
	return false
}

// turnBytes is what a peer is given at a time while others wait: one that got
// sixteen new pieces in one go would be the only one to have any.
const turnBytes = 1 << 20

// turn is how many pieces an ask for any of them may get now.
func (g *Giver) turn(a *ask) int {
	for _, o := range g.waiting {
		if o.any != nil && o.peer.id != a.peer.id {
			return min(a.max, max(1, int(turnBytes/a.blob.geo.PieceSize())))
		}
	}
	return a.max
}

// firstOf returns the first pieces of from that a wants, up to limit.
func (b *gblob) firstOf(a *ask, from set, limit int) []int {
	var give []int
	for w := range from {
		for x := from[w] & a.any[w]; x != 0; {
			z := bits.LeadingZeros64(x)
			x &^= 1 << (63 - z)
			give = append(give, w<<6+z)
			if len(give) == limit {
				return give
			}
		}
	}
	return give
}

// leastCopied returns the pieces with the fewest copies that a wants and has
// not been sent, up to limit.
func (b *gblob) leastCopied(a *ask, limit int) []int {
	least := uint16(1<<16 - 1)
	var give []int
	for w := range a.any {
		for x := a.any[w] & b.have[w] &^ a.peer.counted[w]; x != 0; {
			z := bits.LeadingZeros64(x)
			x &^= 1 << (63 - z)
			i := w<<6 + z
			switch c := b.copies[i]; {
			case c < least:
				least, give = c, append(give[:0], i)
			case c == least && len(give) < limit:
				give = append(give, i)
			}
		}
	}
	return give
}

// hungry tells whether a's peer has said for a while that too little comes
// from elsewhere. It gets second copies from what the uplink can spare.
func (g *Giver) hungry(a *ask) bool {
	return a.urgent && a.peer.hungry != never && g.now-a.peer.hungry >= max(g.c.Hungry, 2*g.takes())
}

// takes is how long an upload takes: as the last ones did, or as those under way
// already have. At a herd's start none has ended, and who waits for what they
// bring is not alone.
func (g *Giver) takes() time.Duration {
	age := time.Duration(0)
	for _, a := range g.active {
		age += g.now - a.started
	}
	return max(g.sending, age/time.Duration(max(1, len(g.active))))
}

// starves tells whether nobody else feeds the asker: it got nothing for a
// while although it was refused, nor anything of another blob, or that was found
// so before. Of a small layer all is given out at once, and takes its time to
// go round: who waits for that is fed with others meanwhile.
func (g *Giver) starves(a *ask) bool {
	p := a.peer
	if p.alone {
		return true
	}
	if others := len(a.blob.peers) - 1; others <= 0 {
		return true
	}
	if p.refused == never || g.now-max(p.refused, p.gained, g.fed[p.id]) < max(g.c.Starve, 2*g.takes()) {
		return false
	}
	p.alone = true
	return true
}
