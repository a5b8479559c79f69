package fetch

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// What nobody has signed is "raw". A download takes raw pieces of members that
// hold the whole blob when no signer is there: DESIGN section 4. They are read
// by nobody before the digest of the whole is right; so where clients read
// already, or the upstream could serve them, it is asked instead.

// signersGrace is how long a download waits for somebody who has signed hashes
// before it takes pieces that nobody vouches for.
const signersGrace = 2 * time.Second

// reconsider decides anew whether raw pieces are taken, and tells the
// scheduler where that changes what it may ask of whom. It is called when
// anything has changed that it depends on.
func (d *download) reconsider() {
	raw := d.lone && d.s.seederMember() == nil
	switch {
	case !raw:
	case !d.s.whole && (d.s.hasUpstream() && d.stuck == nil || !d.s.someComplete()):
		raw = false
	case !d.s.whole: // nothing of theirs can be read before the whole is here
		d.s.wantWhole()
	case d.upstream && d.s.readers.count() > 0:
		raw = false // clients read what the upstream sends
	case d.s.hashes.known() > 0:
		raw = d.stuck != nil || !d.s.hasUpstream() // some are signed: the rest is better had from the upstream
	}
	if raw == d.raw {
		return
	}
	d.raw = raw
	for _, m := range d.s.handles {
		if m != nil && m.complete && !m.seeder {
			d.memberUp(m)
		}
	}
}

// takesRaw tells whether m is asked for pieces whose hash is not known.
func (d *download) takesRaw(m *member) bool {
	return d.raw && m.complete && !m.seeder && (!d.s.single || d.s.sole == m.id)
}

// chooseSole picks the one unsigned holder that is asked next: once several
// gave a wrong blob between them, each has to answer for itself.
func (s *swarm) chooseSole() {
	s.sole = ""
	for p, m := range s.members {
		if m.complete && !m.seeder && !s.liars[p] && (s.sole == "" || p < s.sole) {
			s.sole = p
		}
	}
}

// verifiable narrows pieces of a member to those that may be asked of it: that
// can be checked when they come, or are taken raw.
func (d *download) verifiable(m *member, pieces []int) []int {
	if d.takesRaw(m) {
		return pieces
	}
	out := make([]int, 0, len(pieces))
	for _, i := range pieces {
		if _, ok := d.s.hashes.get(i); ok {
			out = append(out, i)
		}
	}
	return out
}

// liar is told of a peer that sent wrong bytes: it is named, banned and not
// asked again. The seeder is only passed over for this blob, since without it
// nothing new can be had.
func (s *swarm) liar(p peer.ID, i int, what string) {
	s.e.metrics.badPieces.Inc()
	s.log.Error("a peer sent wrong bytes; nothing of it was kept and it is not asked again",
		zap.Stringer("peer", p), zap.Int("piece", i), zap.String("what", what))
	s.e.ledger.wasted(s.geom.Len(i))
	s.liars[p] = true
	m := s.members[p]
	if m != nil && s.dl != nil {
		s.dl.step(scheduler.PieceBad{Peer: m.handle, Piece: i})
	}
	if m != nil && m.seeder {
		s.e.ledger.bad(p, s.digest, what, 0)
		s.e.metrics.liar(p)
		return
	}
	s.e.ban(p, s.digest, what)
	s.drop(p)
}

// rawLiar is told of an unverified piece that a signed hash, which came later,
// proved wrong. Who gave it is banned; the upstream's own are just dropped.
func (d *download) rawLiar(i int) {
	if p, ok := d.rawFrom[i]; ok {
		delete(d.rawFrom, i)
		d.s.liar(p, i, "a piece that does not match its signed hash")
	}
}

// blameRaw is told that the blob is wrong. Where one member gave all that
// nobody vouched for it is a liar; where it gave only some, it is not asked for
// this blob again; where there were several, each is tried alone from now on.
// It reports whether there was anybody.
func (d *download) blameRaw() bool {
	givers := make(map[peer.ID]int)
	for _, p := range d.rawFrom {
		givers[p]++
	}
	if len(givers) > 1 {
		d.s.single = true
	}
	for p, n := range givers {
		if len(givers) > 1 {
			break
		}
		const what = "pieces of a blob that does not match its digest"
		d.s.log.Error("the blob is wrong; this peer gave unsigned pieces of it", zap.Stringer("peer", p), zap.Int("pieces", n), zap.Int("of", d.s.geom.Count()))
		d.s.e.metrics.badPieces.Inc()
		d.s.liars[p] = true
		if n == d.s.geom.Count()-d.s.hashes.known() {
			d.s.e.ban(p, d.s.digest, what)
		} else {
			d.s.e.ledger.bad(p, d.s.digest, what, 0)
			d.s.e.metrics.liar(p)
		}
		d.s.drop(p)
	}
	d.s.chooseSole()
	return len(givers) > 0
}
