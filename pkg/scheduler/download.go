package scheduler

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// Download decides how one blob's missing pieces are got. It is not safe for
// concurrent use. The zero value is of no use: call New.
type Download struct {
	c   Config
	n   int
	rng *rand.Rand
	now time.Duration

	have    set
	missing int
	arrived int      // pieces that came since New
	busy    []uint16 // requests under way, not stalled, that bring the piece
	open    set      // missing and busy == 0: to be asked for
	openN   int

	unneeded set // missing, and not to be had; nil = all are. See lazy.go

	peers   []*peer // by handle; nil where unknown
	sourceN int     // see sources
	up      []*peer // those up, in the order they came
	near    []uint16
	far     []uint16 // ordinary peers per zone class that hold the piece and count
	held    set      // near+far > 0
	nearH   set      // near > 0

	reqs      []*request // under way, in the order asked
	lastReq   Request
	windowOut int // requests under way that serve readers
	fallbacks int // requests under way at the upstream
	wants     []*want

	rivals int   // ordinary peers that are up and lack pieces
	zone   *duty // pieces to get from other zones
	all    *duty // pieces to get from the upstream where no seeder is

	typical   time.Duration // how long a piece takes, asked to arrived
	hedged    int           // pieces hedged so far
	started   bool
	grace     time.Duration // no fallback for want of sources before this
	upstream  backoff
	ownDone   time.Duration // nothing more is ours to get from the upstream, since
	lastPiece time.Duration // a piece came, from anywhere
	lastGiven time.Duration // any peer gave something
	lastLife  time.Duration // any source showed life
	stalls    int
	speed     speed
	spend     spend
	wide      bool // see widened
	stuck     bool

	stats Stats
	next  time.Duration // when to wake, gathered by at
	told  time.Duration // the last WakeAt
	out   []Action
}

// Stats counts what happened since New.
type Stats struct {
	Requests   int // asked of peers
	Busy       int // refused as busy
	Failed     int // failed, timed out or held nothing
	Hedges     int // pieces asked a second time while under way
	Duplicates int // pieces that arrived though held already
	Bad        int // pieces that did not match their hash
	Fallbacks  int // ranges asked of the upstream
}

// never is later than every time.
const never = time.Duration(math.MaxInt64)

// request is one ask under way.
type request struct {
	id      Request
	peer    *peer // nil = the upstream
	pieces  []int // still to come, as far as known
	any     bool
	granted bool
	window  bool
	urgent  bool
	stalled bool // its pieces may be asked of others; not counted in busy
	start   time.Duration
	mark    time.Duration // when its current piece began, for the rate
	stallAt time.Duration // unless it moves: its pieces are opened to others
	cutAt   time.Duration // unless it moves: it is cancelled
	got     int64
	charged int64 // of what was allowed, for what is still to come
}

// want is what one reader waits for.
type want struct {
	id, first, end int
	block          int           // first missing piece of it, -1 = none
	since          time.Duration // block is waited for since
	hurried        time.Duration // a second source was last looked for
}

// New returns a Download of the pieces that c.Have lacks.
func New(c Config) *Download {
	c = c.withDefaults()
	n := c.Geometry.Count()
	d := &Download{
		c: c, n: n, rng: rand.New(rand.NewPCG(c.Seed, 0x5a3a7a)),
		have: setOf(n, c.Have), busy: make([]uint16, n), open: newSet(n),
		near: make([]uint16, n), far: make([]uint16, n), held: newSet(n), nearH: newSet(n),
		zone: newDuty(n, 1, c.Key), all: newDuty(n, max(1, n/256), c.Key),
		next: never, told: never, ownDone: never, spend: spend{on: c.Paced},
	}
	for i := range n {
		if !d.have.has(i) {
			d.open.add(i)
			d.openN++
		}
	}
	d.missing = d.openN
	if c.Lazy && d.missing > 0 {
		d.unneeded, d.open, d.openN = d.open, newSet(n), 0
	}
	return d
}

// Complete tells whether every piece is held.
func (d *Download) Complete() bool { return d.missing == 0 }

// Missing is the number of pieces that are not held.
func (d *Download) Missing() int { return d.missing }

// Have returns a copy of the set of pieces held.
func (d *Download) Have() *piece.Bitfield { return d.have.bitfield(d.n) }

// Stalls is how many requests have stood still for Config.StallAfter so far.
func (d *Download) Stalls() int { return d.stalls }

// Stats returns the counts so far.
func (d *Download) Stats() Stats { return d.stats }

// Step takes one event that happened at time now and returns what to do. The
// caller owns the returned slice. Times count from any origin; one before the
// last is taken as the last.
func (d *Download) Step(now time.Duration, ev Event) []Action {
	d.now = max(d.now, now)
	d.out = nil
	if !d.started {
		d.started = true
		d.grace = d.now + d.c.Discovery
		d.lastGiven, d.lastLife = d.now, d.now
	}
	if d.handle(ev) {
		d.act()
	}
	return d.out
}

// handle takes the event in and tells whether it may call for action.
func (d *Download) handle(ev Event) bool {
	switch ev := ev.(type) {
	case PeerUp:
		return d.peerUp(ev)
	case PeerDown:
		return d.peerDown(ev.Peer)
	case Have:
		return d.peerHas(ev.Peer, ev.Pieces)
	case Granted:
		return d.granted(ev)
	case Progress:
		return d.progress(ev)
	case PieceOK:
		return d.pieceOK(ev)
	case PieceBad:
		return d.pieceBad(ev)
	case Done:
		return d.done(ev)
	case Want:
		return d.want(ev)
	case Need:
		return d.need(ev)
	case Unwant:
		return d.unwant(ev.ID)
	case Lost:
		return d.lost(ev.Pieces)
	case Allow:
		return d.allow(ev.Bytes)
	case Unpaced:
		return d.unpace()
	default:
		return true
	}
}

// act looks at everything that may be due.
func (d *Download) act() {
	d.next = never
	if d.missing == 0 {
		d.finish()
		return
	}
	if d.resting() {
		d.told = never
		return
	}
	d.speed.tick(d.now, d.typical)
	d.checkStalls()
	d.widen()
	d.serveReaders()
	if !d.broke() {
		d.fill()
		d.askSeeders()
		d.hedge()
		d.fallback()
		d.checkStuck()
	}
	d.pay()
	d.wakeForStalls()
	d.wakeForReaders()
	if d.next != d.told {
		d.told = d.next
		if d.next != never {
			d.emit(WakeAt{At: d.next})
		}
	}
}

// finish cancels what is still under way once everything is held.
func (d *Download) finish() {
	for len(d.reqs) > 0 {
		d.cancel(d.reqs[0])
	}
	d.told = never
}

func (d *Download) emit(a Action) { d.out = append(d.out, a) }

// at asks to be woken at t, or at once where t has passed.
func (d *Download) at(t time.Duration) { d.next = min(d.next, max(t, d.now+time.Millisecond)) }

func (d *Download) request(id Request) *request {
	for _, r := range d.reqs {
		if r.id == id {
			return r
		}
	}
	return nil
}

// take notes that piece i is under way once more.
func (d *Download) take(i int) {
	d.busy[i]++
	if d.open.del(i) {
		d.openN--
	}
}

// release notes that piece i is under way once less.
func (d *Download) release(i int) {
	d.busy[i]--
	if d.busy[i] == 0 {
		d.reopen(i)
	}
}

// reopen makes piece i one to be asked for, unless it is held.
func (d *Download) reopen(i int) {
	if d.have.has(i) || !d.needs(i) || !d.open.add(i) {
		return
	}
	d.openN++
	for _, p := range d.up {
		if p.dry && p.have.has(i) {
			p.dry = false
		}
	}
}

// begin registers a request for these pieces of p (nil: of the upstream).
func (d *Download) begin(p *peer, pieces []int) *request {
	d.lastReq++
	r := &request{id: d.lastReq, peer: p, pieces: append([]int(nil), pieces...), start: d.now, mark: d.now}
	d.touch(r)
	d.reqs = append(d.reqs, r)
	for _, i := range pieces {
		d.take(i)
		d.charge(r, int64(d.c.Geometry.Len(i)))
	}
	if p == nil {
		d.fallbacks++
		d.stats.Fallbacks++
	} else {
		p.out++
		d.stats.Requests++
	}
	return r
}

// end forgets a request; what it did not bring is open again.
func (d *Download) end(r *request) {
	for k, x := range d.reqs {
		if x == r {
			d.reqs = append(d.reqs[:k], d.reqs[k+1:]...)
			break
		}
	}
	if r.window {
		d.windowOut--
	}
	if r.peer == nil {
		d.fallbacks--
	} else {
		r.peer.out--
		r.peer.dry = false
	}
	if !r.stalled {
		for _, i := range r.pieces {
			d.release(i)
		}
	}
	r.pieces = nil
	d.charge(r, -r.charged)
}

func (d *Download) cancel(r *request) {
	d.end(r)
	d.emit(Cancel{Request: r.id})
}
