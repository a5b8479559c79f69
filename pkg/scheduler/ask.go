package scheduler

import "time"

func (d *Download) want(ev Want) bool {
	first, end := max(ev.First, 0), min(ev.End, d.n)
	for _, w := range d.wants {
		if w.id == ev.ID {
			w.first, w.end = first, end
			d.seek(w)
			return true
		}
	}
	w := &want{id: ev.ID, first: first, end: end, block: -1}
	d.wants = append(d.wants, w)
	d.seek(w)
	return true
}

func (d *Download) unwant(id int) bool {
	for k, w := range d.wants {
		if w.id == id {
			d.wants = append(d.wants[:k], d.wants[k+1:]...)
			break
		}
	}
	return false
}

// seek finds the piece that w waits for now.
func (d *Download) seek(w *want) {
	i := max(w.first, 0)
	for i < w.end && d.have.has(i) {
		i++
	}
	if i >= w.end || !d.needs(i) {
		i = -1
	}
	if i != w.block {
		w.block, w.since = i, d.now
	}
}

// serveReaders asks for the very pieces that readers wait for: of whoever
// holds them, also beside another request to that peer; of the seeder once
// waiting has not helped.
func (d *Download) serveReaders() {
	for _, w := range d.wants {
		d.seek(w)
		if w.block < 0 {
			continue
		}
		if !d.open.has(w.block) {
			d.hurry(w)
			continue
		}
		if p := d.holderFor(w.block, d.hurryAt(w) <= d.now); p != nil {
			d.ask(p, []int{w.block}, true, false)
			continue
		}
		d.urge(w)
	}
}

// hurry asks a second source for the piece that w waits for, where the first
// takes long.
func (d *Download) hurry(w *want) {
	if d.hurryAt(w) > d.now {
		return
	}
	w.hurried = d.now
	first := (*peer)(nil)
	for _, r := range d.reqs {
		if contains(r.pieces, w.block) {
			if r.stalled || first != nil {
				return // it is being asked for elsewhere
			}
			first = r.peer
		}
	}
	p := d.second(w.block, first, d.c.MaxPerPeer)
	for _, q := range d.up {
		if p == nil && q != first && q.source() && q.usable() && !q.shun &&
			q.urgent.until <= d.now && q.wait.fails == 0 && q.out <= d.c.MaxPerPeer {
			p = q
		}
	}
	if p != nil {
		d.stats.Hedges++
		d.ask(p, []int{w.block}, true, true)
	}
}

func (d *Download) hurryAt(w *want) time.Duration {
	return max(w.since, w.hurried) + min(max(time.Second, 2*d.typical), d.c.Patience/2)
}

// wakeForReaders sees to it that hurry comes to pass.
func (d *Download) wakeForReaders() {
	for _, w := range d.wants {
		if w.block >= 0 && (!d.open.has(w.block) || d.hurryAt(w) > d.now) {
			d.at(d.hurryAt(w))
		}
	}
}

// holderFor returns the best peer to ask for piece i at once, or nil. It is one
// of this zone, unless it is on us to bring the piece here, or a reader has waited
// for long: before it is asked of the upstream, which is no nearer.
func (d *Download) holderFor(i int, late bool) *peer {
	var best *peer
	for _, p := range d.up {
		if p.source() || !p.usable() || !p.have.has(i) || p.out >= d.c.MaxPerPeer || p.wait.until > d.now || p.shun {
			continue
		}
		if !p.near && !late && (d.nearH.has(i) || !d.mayCross(i)) {
			continue
		}
		if best == nil || p.out < best.out || p.out == best.out && p.rank() < best.rank() {
			best = p
		}
	}
	return best
}

// urge asks the seeder for the very piece that w waits for.
func (d *Download) urge(w *want) {
	if t := w.since + d.c.UrgentAfter; t > d.now {
		d.at(t)
		return
	}
	for _, p := range d.up {
		if !p.source() || !p.usable() {
			continue
		}
		if p.urgent.until > d.now {
			d.at(p.urgent.until)
			continue
		}
		if p.wait.fails > 0 && p.wait.until > d.now || p.out > d.c.MaxPerPeer {
			continue
		}
		d.ask(p, []int{w.block}, true, false)
		return
	}
}

// ask asks p for exactly these pieces.
func (d *Download) ask(p *peer, pieces []int, urgent, hedge bool) *request {
	r := d.begin(p, pieces)
	r.urgent = urgent
	if p.shun { // a probe: if it does not answer, nothing has waited for it
		r.stalled = true
		for _, i := range pieces {
			d.release(i)
		}
	}
	d.emit(RequestPieces{Request: r.id, Peer: p.id, Pieces: pieces, Max: len(pieces), Urgent: urgent, Hedge: hedge})
	return r
}

// perPeer is how many requests one peer may have under way: two, so that the
// link does not idle for the round trip between them; one where sources are
// enough for that anyhow, and a request that waits in a queue could be another's.
func (d *Download) perPeer() int {
	if d.sources() > d.c.MaxRequests {
		return 1
	}
	return d.c.MaxPerPeer
}

// maxRequests is how many requests may be under way in all. On a slow link each
// of many takes long, and a reader would wait for its piece longer than a client
// does: there are fewer in proportion. How slow it is the first pieces tell, so
// there are as few as on the slowest until these have come.
func (d *Download) maxRequests() int {
	least := max(d.c.MaxRequests/4, min(d.c.MaxRequests, 4))
	n := min(d.c.MaxRequests, least+d.arrived)
	if d.typical <= slowPiece {
		return n
	}
	return min(n, max(int(float64(d.c.MaxRequests)*slowPiece.Seconds()/d.typical.Seconds()), least))
}

const slowPiece = 1500 * time.Millisecond

// crossing is how many requests at other zones come before all else, of a zone's
// hosts together: they share one link, and a piece that is one of hundreds on it comes too late. It
// is no bound: what is a host's own to bring is asked for with requests that are
// left. To leave these out costs 5% of the time with two zones of 16.
const crossing = 16

// fill asks ordinary peers until the requests are used up.
func (d *Download) fill() {
	limit, per := d.maxRequests(), d.perPeer()
	for _, p := range d.up {
		if p.source() && p.usable() {
			limit-- // its own place
			break
		}
	}
	// What is ours to bring into the zone comes first: all of it waits for us.
	far := 0
	if d.zone.shared() {
		far = max(1, min(d.c.MaxRequests/4, crossing/d.zone.sharers())) - d.farRequests()
	}
	for d.openN > 0 && !d.broke() && d.peerRequests() < max(limit, 1) {
		p := d.nextPeer(per, far > 0)
		if p == nil && far > 0 {
			far = 0
			continue
		}
		if p == nil {
			return
		}
		far--
		pieces, window := d.pick(p, d.batch(p))
		if pieces == nil {
			p.dry = true
			continue
		}
		r := d.ask(p, pieces, false, false)
		if window {
			r.window = true
			d.windowOut++
		}
	}
}

// peerRequests counts the requests under way at ordinary peers, without the
// stalled ones.
func (d *Download) peerRequests() int {
	n := 0
	for _, r := range d.reqs {
		if r.peer != nil && !r.peer.source() && !r.stalled {
			n++
		}
	}
	return n
}

// farRequests counts the requests under way at peers in other zones.
func (d *Download) farRequests() int {
	n := 0
	for _, r := range d.reqs {
		if r.peer != nil && !r.peer.near && !r.any {
			n++
		}
	}
	return n
}

// nextPeer returns the best ordinary peer that may be asked now: same zone
// first, then those that give, then the lowest round trip; ties at random.
// With far set, only those of other zones.
func (d *Download) nextPeer(per int, far bool) *peer {
	if len(d.up) == 0 {
		return nil
	}
	var best *peer
	start := d.rng.IntN(len(d.up))
	for k := range d.up {
		p := d.up[(start+k)%len(d.up)]
		if p.source() || p.dry || p.haveN == 0 || p.out >= per || p.bad || far && p.near || p.shun && p.out > 0 {
			continue
		}
		if p.wait.until > d.now {
			d.at(p.wait.until)
			continue
		}
		if best == nil || p.out < best.out || p.out == best.out && p.rank() < best.rank() {
			best = p
		}
	}
	return best
}

// rank orders peers; lower is better.
func (p *peer) rank() int {
	n := 0
	if !p.near {
		n += 16
	}
	if p.shun {
		n += 64
	}
	if p.slow {
		n += 8
	}
	for t := 4 * time.Millisecond; p.rtt > t && t < time.Second; t *= 4 {
		n++
	}
	return n
}

// askSeeders keeps one request of "any of these" with every seeder. Nothing
// is reserved for it: the seeder gives what nobody has been given yet.
func (d *Download) askSeeders() {
	if d.openN == 0 {
		return
	}
	per := d.perPeer()
	for _, p := range d.up {
		if !p.source() || p.bad {
			continue
		}
		if d.lazy() {
			d.askRuns(p)
			continue
		}
		out := 0
		for _, r := range d.reqs {
			if r.peer == p && r.any {
				out++
			}
		}
		for ; out < per && p.out <= per && !d.broke(); out++ {
			if p.wait.until > d.now {
				d.at(p.wait.until)
				break
			}
			if !d.askAny(p) {
				break
			}
		}
	}
}

// portion narrows s to what p is to give where several sources choose
// themselves: else they would choose the same. Where that is nothing, p helps
// with the rest.
func (d *Download) portion(s set, p *peer) set {
	var others []uint64
	for _, q := range d.up {
		if q != p && q.source() && q.usable() && !q.shun && q.near == p.near {
			others = append(others, q.name())
		}
	}
	if len(others) == 0 {
		return s
	}
	own := newSet(d.n)
	for i := s.next(0); i >= 0; i = s.next(i + 1) {
		top := score(p.name(), i)
		mine := true
		for _, o := range others {
			mine = mine && score(o, i) < top
		}
		if mine {
			own.add(i)
		}
	}
	if own.empty() {
		return s
	}
	return own
}

// name is p's key, or what stands for it where that is unknown.
func (p *peer) name() uint64 {
	if p.key != 0 {
		return p.key
	}
	return uint64(p.id)
}

// askAny asks p for any of the open pieces; it tells whether there are any.
func (d *Download) askAny(p *peer) bool {
	s := d.open
	if p.root {
		s = s.and(p.have)
	}
	if !p.near {
		s = s.clone()
		for w := range s {
			s[w] &^= d.nearH[w]
		}
	}
	if s = d.portion(s, p); s.empty() {
		return false
	}
	r := d.begin(p, nil)
	r.any = true
	most := d.batch(p)
	d.charge(r, int64(most)*d.c.Geometry.PieceSize())
	d.touch(r)
	// Hungry: next to nothing comes from anybody else, or far less than did.
	r.urgent = !d.spend.on && (d.peerRequests() < 2 || d.speed.low)
	d.emit(RequestPieces{Request: r.id, Peer: p.id, Any: s.bitfield(d.n), Max: most, Urgent: r.urgent})
	return true
}
