package scheduler

import "time"

// Reasons of a Fallback.
const (
	ReasonNoSource = "no source" // no live peer holds them and no seeder answers
	ReasonStarved  = "starved"   // peers answer, but give nothing
	ReasonReader   = "reader"    // a reader waited too long
)

// fallback takes pieces from the upstream, where nobody else can give them.
func (d *Download) fallback() {
	if d.c.NoFallback {
		return
	}
	for d.fallbacks < d.c.MaxFallbacks && !d.broke() {
		if d.upstream.until > d.now {
			d.at(d.upstream.until)
			return
		}
		first, end, reason := d.fallbackRange()
		if reason == "" {
			return
		}
		pieces := make([]int, 0, end-first)
		for i := first; i < end; i++ {
			pieces = append(pieces, i)
		}
		r := d.begin(nil, pieces)
		d.emit(Fallback{Request: r.id, First: first, End: end, Reason: reason})
	}
}

// fallbackRange chooses what to take from the upstream now; reason "" = nothing.
func (d *Download) fallbackRange() (first, end int, reason string) {
	if w := d.starvedReader(); w != nil && !d.atUpstream(w.block) {
		first, end = w.block, w.block+1
		for end < d.n && end-first < d.fallbackPieces() && d.open.has(end) && (d.lazy() || d.all.has(end)) {
			end++
		}
		return first, end, ReasonReader
	}
	if d.openN == 0 {
		return 0, 0, ""
	}
	var from set
	if t := d.lastGiven + d.patient(); t <= d.now {
		from, reason = d.share(d.open), ReasonStarved
	} else {
		d.at(t)
		from, reason = d.sourceless()
	}
	if from == nil || reason == "" {
		return 0, 0, ""
	}
	first = d.fallbackStart(from)
	limit := d.fallbackPieces()
	end = first
	for end < d.n && end-first < limit && from.has(end) {
		end++
	}
	return first, end, reason
}

// sourceless returns the open pieces that nobody can be expected to give.
func (d *Download) sourceless() (set, string) {
	s := newSet(d.n)
	for w := range s {
		s[w] = d.open[w] &^ d.held[w]
	}
	for _, p := range d.up {
		if p.usable() && p.shun && !d.hopeless(p) || p.usable() && !p.shun && p.source() {
			if p.seeder {
				return nil, ""
			}
			for w := range s {
				s[w] &^= p.have[w]
			}
		}
	}
	if s.empty() {
		return nil, ""
	}
	if d.grace > d.now {
		d.at(d.grace)
		return nil, ""
	}
	return d.share(s), ReasonNoSource
}

// hopeless tells whether p, which is up but silent, is given up as a source:
// nobody gives anything, or it has been silent for long. On a busy machine
// everything is slow at times, and the upstream is not the cure for that.
func (d *Download) hopeless(p *peer) bool {
	if p.lost {
		return true
	}
	quiet := max(d.c.StallAfter, min(4*d.typical, d.c.Patience))
	t := min(d.lastGiven+quiet, p.life+d.c.Patience)
	if t > d.now {
		d.at(t)
		return false
	}
	p.lost = true
	return true
}

// share narrows s to what is ours to get of it. Where that is nothing, all of
// s is, once nothing has come for a while, or little for a long while.
func (d *Download) share(s set) set {
	if !d.all.shared() || d.lazy() {
		return s
	}
	own := newSet(d.n)
	for i := s.next(0); i >= 0; i = s.next(i + 1) {
		if d.all.has(i) {
			own.add(i)
		}
	}
	if !own.empty() {
		d.ownDone = never
		return own
	}
	d.ownDone = min(d.ownDone, d.now)
	if t := min(d.lastPiece+d.c.Share, d.ownDone+3*d.c.Share); t > d.now {
		d.at(t)
		return nil
	}
	return s
}

// starvedReader returns a reader that waited for its piece for too long.
func (d *Download) starvedReader() *want {
	for _, w := range d.wants {
		if w.block < 0 {
			continue
		}
		if t := w.since + d.patient(); t > d.now {
			d.at(t)
			continue
		}
		return w
	}
	return nil
}

// patient is how long nothing may come before the upstream is asked. On a slow
// link a piece takes long without any fault; a client gives up after 10 s.
func (d *Download) patient() time.Duration {
	return max(d.c.Patience, min(3*d.typical, d.c.Patience*4/3))
}

// atUpstream tells whether piece i is under way at the upstream.
func (d *Download) atUpstream(i int) bool {
	for _, r := range d.reqs {
		if r.peer == nil && contains(r.pieces, i) {
			return true
		}
	}
	return false
}

// fallbackStart is where the range begins: at a reader's position, else at
// random, so that a herd without a seeder spreads over the blob.
func (d *Download) fallbackStart(from set) int {
	for _, w := range d.wants {
		if w.block < 0 {
			continue
		}
		if i := from.next(w.block); i >= 0 && i < w.end {
			return i
		}
	}
	// Ranges start at multiples of their length: hosts that know nothing of
	// each other take the same range or another, rarely a part of one.
	i, limit := from.nth(d.rng.IntN(from.count())), d.fallbackPieces()
	for i > 0 && i%limit != 0 && from.has(i-1) {
		i--
	}
	return i
}

// fallbackPieces is how long a range is: shorter where others share the work.
func (d *Download) fallbackPieces() int {
	n := int(d.c.FallbackBytes / d.c.Geometry.PieceSize())
	others := 0
	for _, p := range d.up {
		if !p.seeder && p.usable() && p.haveN < d.n {
			others++
		}
	}
	return max(n/(1+others), min(n, 4), 1)
}
