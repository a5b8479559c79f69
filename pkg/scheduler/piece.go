package scheduler

import "time"

// granted: the giver of an Any request named its pieces.
func (d *Download) granted(ev Granted) bool {
	r := d.request(ev.Request)
	if r == nil || r.peer == nil {
		return false
	}
	d.life(r.peer, true)
	d.revive(r)
	r.mark = d.now
	first := r.any && !r.granted
	r.granted = true
	d.touch(r)
	if !first {
		return false
	}
	for _, i := range ev.Pieces {
		if i >= 0 && i < d.n && !d.have.has(i) && len(r.pieces) < d.n {
			r.pieces = append(r.pieces, i)
			d.take(i)
		}
	}
	d.charge(r, int64(len(r.pieces))*d.c.Geometry.PieceSize()-r.charged)
	return false
}

func (d *Download) progress(ev Progress) bool {
	r := d.request(ev.Request)
	if r == nil || ev.Bytes <= r.got {
		return false
	}
	r.got = ev.Bytes
	d.touch(r)
	d.life(r.peer, true)
	d.revive(r)
	return false
}

// revive takes a stalled request that moves again as a running one.
func (d *Download) revive(r *request) {
	if !r.stalled {
		return
	}
	r.stalled = false
	for _, i := range r.pieces {
		d.take(i)
	}
}

func (d *Download) pieceOK(ev PieceOK) bool {
	if ev.Piece < 0 || ev.Piece >= d.n {
		return false
	}
	r := d.request(ev.Request)
	if r != nil {
		d.life(r.peer, true)
		d.revive(r)
		d.measure(r, ev.Bytes)
		r.charged = max(0, r.charged-int64(ev.Bytes)) // it is spent
		d.speed.bytes += int64(ev.Bytes)
	} else if p := d.peer(ev.Peer, false); p != nil && p.up {
		d.life(p, true)
	}
	i := ev.Piece
	if !d.have.add(i) {
		d.stats.Duplicates++
		return false
	}
	d.missing--
	d.arrived++
	if d.unneeded != nil {
		d.unneeded.del(i)
	}
	d.lastPiece = d.now
	if d.open.del(i) {
		d.openN--
	}
	d.emit(Announce{Piece: i})
	d.drop(i, r)
	return true
}

// drop takes piece i, which is held now, out of all requests. One that has
// nothing else to bring is cancelled, but not from, which brought it.
func (d *Download) drop(i int, from *request) {
	for k := 0; k < len(d.reqs); {
		r := d.reqs[k]
		j := 0
		for j < len(r.pieces) && r.pieces[j] != i {
			j++
		}
		k++
		if j == len(r.pieces) {
			continue
		}
		r.pieces = append(r.pieces[:j], r.pieces[j+1:]...)
		if !r.stalled {
			d.busy[i]--
		}
		if r != from && len(r.pieces) == 0 {
			d.cancel(r)
			k--
		}
	}
}

// measure updates the rate of r's peer by a piece of size bytes.
func (d *Download) measure(r *request, size int) {
	defer d.touch(r) // by the new rate
	dt := max(d.now-r.mark, time.Millisecond)
	r.mark = d.now
	if r.peer == nil || size <= 0 {
		return
	}
	sample := float64(size) / dt.Seconds()
	if r.peer.rate == 0 {
		r.peer.rate = sample
	} else {
		r.peer.rate += 0.3 * (sample - r.peer.rate)
	}
	if r.any {
		return
	}
	if d.typical == 0 {
		d.typical = dt
	} else {
		d.typical += (dt - d.typical) / 8
	}
}

func (d *Download) pieceBad(ev PieceBad) bool {
	d.stats.Bad++
	p := d.peer(ev.Peer, false)
	if p == nil { // the upstream: its Done tells the rest
		return true
	}
	p.bad = true
	d.relied(p)
	d.count(p, false)
	d.rival(p, false)
	d.reroot()
	for k := 0; k < len(d.reqs); {
		if d.reqs[k].peer == p {
			d.cancel(d.reqs[k])
		} else {
			k++
		}
	}
	return true
}

func (d *Download) done(ev Done) bool {
	r := d.request(ev.Request)
	if r == nil {
		return false
	}
	p, asked := r.peer, r.pieces
	d.end(r)
	if p == nil {
		if ev.Result != ResultOK || len(asked) > 0 {
			d.stats.Failed++
			d.upstream.fail(d.now, time.Second)
		} else {
			d.life(nil, true)
		}
		return true
	}
	switch ev.Result {
	case ResultOK:
		if r.any && r.got == 0 && r.mark == r.start {
			// Nothing was sent: an empty gift must not become a tight loop.
			p.wait.until = d.now + 50*time.Millisecond
		}
	case ResultBusy:
		d.stats.Busy++
		d.life(p, false)
		d.refused(r, max(ev.After, 10*time.Millisecond))
	case ResultNotHeld:
		d.stats.Failed++
		d.notHeld(p, r, asked)
	case ResultFailed:
		d.stats.Failed++
		p.wait.fail(d.now, 250*time.Millisecond)
		d.demote(p, p.wait.fails >= 3)
	}
	return true
}

// refused backs off from r's peer for after, spread a little so that a herd
// does not come back as one.
func (d *Download) refused(r *request, after time.Duration) {
	t := d.now + after*3/4 + time.Duration(d.rng.Int64N(int64(after/2)+1))
	if r.urgent && !r.any {
		r.peer.urgent.until = t
		if r.peer.source() {
			return
		}
	}
	r.peer.wait.until = max(r.peer.wait.until, t)
}

func (d *Download) notHeld(p *peer, r *request, asked []int) {
	if r.any || p.source() {
		p.wait.fail(d.now, 250*time.Millisecond)
		d.demote(p, p.wait.fails >= 3)
		return
	}
	for _, i := range asked {
		if p.have.del(i) {
			p.haveN--
			p.whole = false
			if p.counts {
				d.holder(p, i, false)
			}
		}
	}
	d.relied(p)
	d.reroot()
	for _, q := range d.up {
		q.dry = false
	}
}

// lost: pieces that were held are gone again.
func (d *Download) lost(pieces []int) bool {
	for _, i := range pieces {
		if i >= 0 && i < d.n && d.have.del(i) {
			d.missing++
			if d.busy[i] == 0 {
				d.reopen(i)
			}
		}
	}
	return true
}
