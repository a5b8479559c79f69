package scheduler

import "time"

// checkStalls looks at every request that does not move: first its pieces are
// opened to others, then it is cancelled.
func (d *Download) checkStalls() {
	for k := 0; k < len(d.reqs); {
		r := d.reqs[k]
		switch {
		case r.cutAt <= d.now:
			d.cancel(r) // d.reqs[k] is the next one now
			d.stats.Failed++
			if r.peer == nil {
				d.upstream.fail(d.now, time.Second)
			} else {
				r.peer.wait.fail(d.now, time.Second)
				d.demote(r.peer, true)
			}
			continue
		case r.stallAt <= d.now && !r.stalled:
			d.stall(r)
		}
		k++
	}
}

// wakeForStalls sees to it that the next stall is noticed.
func (d *Download) wakeForStalls() {
	for _, r := range d.reqs {
		if r.stalled {
			d.at(r.cutAt)
		} else {
			d.at(r.stallAt)
		}
	}
}

// touch notes that r moved, and sets its deadlines anew.
func (d *Download) touch(r *request) {
	stall, cut := d.patience(r)
	r.stallAt, r.cutAt = d.now+stall, d.now+cut
}

// patience is how long r may stand still before its pieces are opened to
// others, and before it is cancelled.
func (d *Download) patience(r *request) (stall, cut time.Duration) {
	stall, cut = d.c.StallAfter, d.c.IdleAfter
	switch {
	case r.peer == nil:
		return 2 * stall, 2 * cut // the upstream has its own deadlines
	case r.any && !r.granted:
		return stall, cut + stall // a seeder may have parked it
	case r.peer.rate > 0:
		expect := time.Duration(float64(d.c.Geometry.PieceSize()) / r.peer.rate * float64(time.Second))
		stall = max(stall, min(4*max(expect, d.typical), 2*stall))
	}
	return stall, max(cut, stall)
}

func (d *Download) stall(r *request) {
	r.stalled = true
	d.stalls++
	for _, i := range r.pieces {
		d.release(i)
	}
	if r.peer != nil {
		d.demote(r.peer, true)
	}
}

// hedge asks, once every missing piece is under way, a second peer for those
// that take too long.
func (d *Download) hedge() {
	if d.openN > 0 || d.hedged >= d.hedgeBudget() {
		return
	}
	slow := max(2*d.typical, 250*time.Millisecond)
	for _, r := range append([]*request(nil), d.reqs...) {
		if len(r.pieces) == 0 || r.stalled {
			continue
		}
		if t := r.mark + slow; t > d.now {
			d.at(t)
			continue
		}
		for _, i := range append([]int(nil), r.pieces...) {
			if d.busy[i] > 1 || d.hedged >= d.hedgeBudget() {
				continue
			}
			if p := d.second(i, r.peer, d.c.MaxPerPeer); p != nil {
				d.hedged++
				d.stats.Hedges++
				d.ask(p, []int{i}, false, true)
			}
		}
	}
}

// hedgeBudget is how many pieces may be asked twice in all.
func (d *Download) hedgeBudget() int {
	return max(2, int(d.c.HedgeShare*float64(d.n)))
}

// second returns an idle peer other than first that holds piece i, or nil.
func (d *Download) second(i int, first *peer, per int) *peer {
	var best *peer
	for _, p := range d.up {
		if p == first || p.source() || p.bad || p.shun || p.slow || p.out >= per || p.wait.until > d.now || !p.have.has(i) {
			continue
		}
		if best == nil || p.out < best.out || p.out == best.out && p.rank() < best.rank() {
			best = p
		}
	}
	return best
}

// checkStuck says so when nothing moved for GiveUp.
func (d *Download) checkStuck() {
	if d.stuck {
		return
	}
	if t := d.lastLife + d.c.GiveUp; t > d.now {
		d.at(t)
		return
	}
	d.stuck = true
	reason := "no source"
	switch {
	case d.fallbacks > 0 || d.upstream.fails > 0:
		reason = "the upstream fails and no peer gives"
	case len(d.up) > 0:
		reason = "the peers give nothing"
	}
	d.emit(Stuck{Reason: reason})
}
