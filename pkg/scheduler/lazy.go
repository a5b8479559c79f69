package scheduler

// A lazy download gets the pieces that are needed and leaves the others alone
// until they are, too. What nobody needs is not open: no rule that looks for
// work finds it. With everything needed it is a download like any other.

// runBytes bounds one ask for needed pieces, in bytes.
const runBytes = 8 << 20

// need takes in that pieces are needed.
func (d *Download) need(ev Need) bool {
	if d.unneeded == nil {
		return false
	}
	if d.resting() { // the time in which nobody wanted anything does not count
		d.rested()
	}
	for i := max(ev.First, 0); i < min(ev.End, d.n); i++ {
		if d.unneeded.del(i) && d.busy[i] == 0 {
			d.reopen(i)
		}
	}
	if d.unneeded.empty() {
		d.unneeded = nil
	}
	return true
}

// lazy tells whether there are pieces that nobody needs. Others who lack them
// may not need them either, so that nobody can be left to bring what we need.
func (d *Download) lazy() bool { return d.unneeded != nil }

// needs tells whether piece i is to be had at all.
func (d *Download) needs(i int) bool { return d.unneeded == nil || !d.unneeded.has(i) }

// resting tells whether everything that is needed is here.
func (d *Download) resting() bool { return d.lazy() && d.openN == 0 && len(d.reqs) == 0 }

// askRuns asks p, which chooses itself what it gives whom, for the very pieces
// that are needed and nobody else is known to hold: to wait for its choice
// would be to wait for a piece that it has no reason to get. Each ask is for
// pieces in a row, that a reader waits for first.
func (d *Download) askRuns(p *peer) {
	limit := max(1, int(runBytes/d.c.Geometry.PieceSize()))
	for p.out <= d.c.MaxPerPeer {
		if t := max(p.wait.until, p.urgent.until); t > d.now {
			d.at(t)
			return
		}
		var run []int
		for i := d.runStart(p); i >= 0 && i < d.n && len(run) < limit && d.only(p, i); i++ {
			run = append(run, i)
		}
		if run == nil {
			return
		}
		d.ask(p, run, true, false)
	}
}

// runStart is the first piece to ask p for, or -1.
func (d *Download) runStart(p *peer) int {
	for _, w := range d.wants {
		if w.block >= 0 && d.only(p, w.block) {
			return w.block
		}
	}
	for i := d.open.next(0); i >= 0; i = d.open.next(i + 1) {
		if d.only(p, i) {
			return i
		}
	}
	return -1
}

// only tells whether piece i is open and, of all, p can give it.
func (d *Download) only(p *peer, i int) bool {
	return d.open.has(i) && !d.held.has(i) && (!p.root || p.have.has(i))
}
