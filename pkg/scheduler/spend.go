package scheduler

// spend is what a paced download may still ask for. What is asked for is charged
// at once, and what does not come is paid back, so that a rate holds whatever
// number of requests is under way. Pieces that a reader waits for are asked for
// all the same.
type spend struct {
	on   bool
	left int64 // bytes; below 0 after the last request
	told bool  // a Pay is out
}

// broke tells whether nothing may be asked for now.
func (d *Download) broke() bool { return d.spend.on && d.spend.left <= 0 }

// charge takes n bytes for r; below 0 it gives back.
func (d *Download) charge(r *request, n int64) {
	if d.spend.on {
		r.charged += n
		d.spend.left -= n
	}
}

// pay asks for more where there is something to ask for.
func (d *Download) pay() {
	if d.broke() && d.openN > 0 && !d.spend.told {
		d.spend.told = true
		d.emit(Pay{})
	}
}

func (d *Download) allow(n int64) bool {
	if !d.spend.on {
		return false
	}
	d.rested()
	d.spend.told = false
	d.spend.left += n
	return true
}

func (d *Download) unpace() bool {
	if !d.spend.on {
		return false
	}
	d.rested()
	d.spend = spend{}
	return true
}

// rested has the time in which nothing was asked for count for nothing.
func (d *Download) rested() {
	if len(d.reqs) == 0 {
		d.lastGiven, d.lastLife, d.lastPiece = d.now, d.now, d.now
		d.stuck = false
	}
}
