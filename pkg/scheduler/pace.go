package scheduler

import "time"

// pace finds how many uploads may share an uplink. Many even out whose downlinks
// they run into; but on a slow link each of many takes long, and whoever reads in
// order waits for it. So there are as many as take about long each, between least
// and most, and more only where that makes the uplink carry more:
//
//   - While uploads end sooner than long, one more is let in at a time.
//   - When they take much longer, fewer are tried; when they take a little
//     longer, more. A trial is measured over uploads that begin under it, against
//     those before. It is kept if the uplink carries as much with fewer, or
//     much more with more; else it is taken back, and the next one waits for
//     twice as long.
//
// That tells a full uplink from slow receivers: where those are slow, fewer
// uploads carry less and more of them carry more, while a full uplink carries the
// same with any number.
type pace struct {
	least, most int
	long        time.Duration

	n      int
	opened time.Duration // n last changed
	ended  int           // uploads since then
	took   time.Duration // each, moving average

	// The measurement under way. What began before n was changed does not count.
	since time.Duration
	count int
	full  int // of them while as many as may were under way
	with  int // under way meanwhile, in sum
	sum   time.Duration
	bytes int64

	up     bool          // more are tried first, rather than fewer
	before int           // n before the trial under way; 0 = none is
	rate   float64       // bytes/s then
	rest   time.Duration // no trial before this
	pause  time.Duration // and after the next that is taken back, for twice as long
}

const (
	paceTime  = 100 * time.Millisecond // one more after so long
	paceEnded = 8                      // or after so many uploads
	paceBlind = time.Second            // and while none has ended after so long
	pauseFrom = 15 * time.Second
	pauseTo   = 4 * time.Minute
)

// begin starts anew, with n uploads.
func (p *pace) begin(now time.Duration, n int) {
	*p = pace{least: p.least, most: p.most, long: p.long}
	p.set(now, n)
}

func (p *pace) set(now time.Duration, n int) {
	p.n, p.opened, p.ended = n, now, 0
	p.measure(now)
}

// measure starts a measurement.
func (p *pace) measure(now time.Duration) {
	p.since, p.count, p.full, p.with, p.sum, p.bytes = now, 0, 0, 0, 0, 0
}

// grow lets one more in where it is time for that; it tells when to look
// again, or never.
func (p *pace) grow(now time.Duration) time.Duration {
	due := p.opened + paceTime
	switch {
	case p.n >= p.most || p.before > 0:
		return never
	case p.ended >= paceEnded:
		due = now
	case p.n < p.least && p.ended == 0:
		due = p.opened + paceBlind
	case p.n < p.least:
	case p.ended <= p.n/4:
		return never
	}
	if p.n >= p.least && p.took*time.Duration(p.n+1)/time.Duration(p.n) > p.long {
		return never
	}
	if due > now {
		return due
	}
	p.set(due, p.n+1)
	return due + paceTime
}

// end notes that an upload of bytes ended that began at start, while with it
// active were under way.
func (p *pace) end(now, start time.Duration, bytes int64, active int) {
	p.ended++
	dt := now - start
	if p.took == 0 {
		p.took = dt
	}
	p.took += (dt - p.took) / 8
	if start < p.since {
		return
	}
	p.count++
	p.sum += dt
	p.bytes += bytes
	p.with += active
	if active >= min(p.n, p.most) {
		p.full++
	}
	if p.count >= max(p.n, 6) {
		p.judge(now)
	}
}

// judge looks at a measurement.
func (p *pace) judge(now time.Duration) {
	if 4*p.full < 3*p.count { // asks were missing, not slots
		if p.before > 0 {
			p.back(now)
		}
		p.measure(now)
		return
	}
	took := p.sum / time.Duration(p.count)
	rate := float64(p.bytes) / p.sum.Seconds() * float64(p.with) / float64(p.count)
	if p.before > 0 {
		// Half of what the change would do to a link with room to spare.
		if rate < p.rate*float64(p.before+p.n)/float64(2*p.before) {
			p.back(now)
			return
		}
		p.before, p.pause = 0, 0
	}
	n := p.n
	fewer := n > p.least && took > p.long*3/2
	switch {
	case now < p.rest || took <= p.long:
	case fewer && (!p.up || n >= p.most):
		n = max(p.least, n/2, int(float64(n)*p.long.Seconds()/took.Seconds()))
	default:
		n = max(n, min(p.most, n+(n+1)/2))
	}
	if n == p.n {
		p.measure(now)
		return
	}
	p.up = n > p.n
	p.before, p.rate = p.n, rate
	p.set(now, n)
}

// back takes the trial back.
func (p *pace) back(now time.Duration) {
	n := p.before
	p.before, p.up = 0, !p.up
	p.pause = min(max(2*p.pause, pauseFrom), pauseTo)
	p.rest = now + p.pause
	p.set(now, n)
}
