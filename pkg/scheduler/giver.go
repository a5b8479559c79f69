package scheduler

import (
	"math/rand/v2"
	"time"
)

// GiverConfig sets up a Giver. Every zero value stands for the default named
// beside it.
type GiverConfig struct {
	Seed      uint64
	Slots     int           // uploads at once: 16, fewer at first and on a slow link (see pace)
	SeedSlots int           // uploads at once while peers ask for any of the pieces: 20
	PerPeer   int           // of them to one peer and of one blob: 1, and one that a reader waits for
	SeedQueue int           // asks of any pieces that wait for a slot: 4096; exact ones: half as many as there are slots
	QueueFor  time.Duration // an ask waits this long for a slot: 1 s
	ParkFor   time.Duration // and this long for a piece still to come: 1.5 s
	Retry     time.Duration // a refused second copy may be asked for again after: 200 ms
	Spread    time.Duration // or after so long for each peer of the blob, where that is more: 5 ms
	Starve    time.Duration // who gets nothing at all for this long, or for twice what an upload takes, gets a second copy: 500 ms
	Hungry    time.Duration // who gets too little for this long, or twice as above, gets one if the uplink idles: 250 ms
	MaxTry    int           // peers named in a Busy: 4
}

func (c GiverConfig) withDefaults() GiverConfig {
	c.Slots = or(c.Slots, 16)
	c.SeedSlots = or(c.SeedSlots, max(20, c.Slots))
	c.PerPeer = or(c.PerPeer, 1)
	c.SeedQueue = or(c.SeedQueue, 4096)
	c.QueueFor = or(c.QueueFor, time.Second)
	c.ParkFor = or(c.ParkFor, 1500*time.Millisecond)
	c.Retry = or(c.Retry, 200*time.Millisecond)
	c.Spread = or(c.Spread, 5*time.Millisecond)
	c.Starve = or(c.Starve, 500*time.Millisecond)
	c.Hungry = or(c.Hungry, 250*time.Millisecond)
	c.MaxTry = or(c.MaxTry, 4)
	return c
}

// Giver decides which asks of which peers this host serves, and with what;
// one per host, over all blobs, since they share its uplink. It is not safe
// for concurrent use. The zero value is of no use: call NewGiver.
type Giver struct {
	c       GiverConfig
	rng     *rand.Rand
	now     time.Duration
	blobs   map[Blob]*gblob // for look-up only; never ranged over
	order   []*gblob        // in the order they came
	waiting []*ask          // in the order they came
	active  []*ask          // being sent
	pace    pace
	idle    time.Duration          // no upload since, where none is under way
	sending time.Duration          // how long an upload takes, moving average
	fed     map[Peer]time.Duration // when others were last seen to feed a peer, with whatever blob; for look-up only
	next    time.Duration
	told    time.Duration
	out     []GiverAction
	stats   GiverStats
}

// GiverStats counts what happened since NewGiver.
type GiverStats struct {
	Asks, Given, Second, Busy, NotHeld int // Given, Second: pieces; Second of superseeded blobs only
}

// ask is one ask that waits or is being sent.
type ask struct {
	id      AskID
	blob    *gblob
	peer    *gpeer
	pieces  []int // exactly these; nil for any of
	any     set
	max     int
	urgent  bool
	spare   bool // for a second copy, while first ones leave slots free
	seen    bool // looked at before
	came    time.Duration
	given   []int
	started time.Duration
}

// bytes is what a's upload moves.
func (a *ask) bytes() int64 {
	n := int64(0)
	for _, i := range a.given {
		if i < a.blob.n {
			n += int64(a.blob.geo.Len(i))
		}
	}
	return n
}

// NewGiver returns a Giver without blobs.
func NewGiver(c GiverConfig) *Giver {
	c = c.withDefaults()
	p := pace{least: min(leastSlots, c.Slots), most: c.Slots, long: longUpload}
	p.begin(0, rampFrom)
	return &Giver{c: c, pace: p, idle: -rampReset, rng: rand.New(rand.NewPCG(c.Seed, 0x61e4)), blobs: map[Blob]*gblob{}, fed: map[Peer]time.Duration{}, next: never, told: never}
}

// Stats returns the counts so far.
func (g *Giver) Stats() GiverStats { return g.stats }

// Active is the number of uploads under way.
func (g *Giver) Active() int { return len(g.active) }

// Waiting is the number of asks that have no answer yet.
func (g *Giver) Waiting() int { return len(g.waiting) }

// Step takes one event that happened at time now and returns what to do. The
// caller owns the returned slice. Times count from any origin; one before the
// last is taken as the last.
func (g *Giver) Step(now time.Duration, ev GiverEvent) []GiverAction {
	g.now = max(g.now, now)
	g.out = nil
	if g.handle(ev) {
		g.serve()
	}
	return g.out
}

// handle takes the event in and tells whether waiting asks may move by it.
func (g *Giver) handle(ev GiverEvent) bool {
	switch ev := ev.(type) {
	case BlobUp:
		return g.blobUp(ev)
	case BlobGrew:
		return g.grew(ev)
	case BlobShrank:
		return g.shrank(ev)
	case BlobDone:
		b := g.blobs[ev.Blob]
		if b == nil {
			return false
		}
		b.growing = false
		g.look(b)
		return true
	case BlobDown:
		return g.blobDown(ev.Blob)
	case PeerHas:
		return g.peerHas(ev)
	case PeerGone:
		return g.peerGone(ev.Peer)
	case Ask:
		return g.ask(ev)
	case AskGone:
		return g.gone(ev.ID)
	case Sent:
		return g.sent(ev.ID, ev.OK)
	default:
		return true
	}
}

func (g *Giver) emit(a GiverAction) { g.out = append(g.out, a) }

func (g *Giver) at(t time.Duration) { g.next = min(g.next, max(t, g.now+time.Millisecond)) }

func (g *Giver) ask(ev Ask) bool {
	g.stats.Asks++
	b := g.blobs[ev.Blob]
	if b == nil || ev.Peer <= Upstream || ev.Peer > MaxPeer {
		g.notHeld(ev.ID)
		return false
	}
	a := &ask{id: ev.ID, blob: b, peer: b.peer(ev.Peer), max: max(ev.Max, 1), urgent: ev.Urgent, came: g.now}
	if ev.Any != nil {
		a.any = setOf(b.n, ev.Any)
		b.asked = g.now
		if a.peer.hungry != never && !ev.Urgent && g.now-a.peer.hungry > 2*time.Second {
			a.peer.hungry = never
		}
		g.feeds(b.learn(a.peer, a.any, g.now), a.peer)
	} else {
		for _, i := range ev.Pieces {
			if i >= 0 && i < b.n && !contains(a.pieces, i) {
				a.pieces = append(a.pieces, i)
			}
		}
		a.max = len(a.pieces)
	}
	g.waiting = append(g.waiting, a)
	return true
}

// look has all waiting asks for b looked at again.
func (g *Giver) look(b *gblob) {
	for _, a := range g.waiting {
		if a.blob == b {
			a.seen = false
		}
	}
}

// serve answers what can be answered: first the urgent asks for exact pieces,
// which a reader waits for, then the others in the order they came.
func (g *Giver) serve() {
	g.next = never
	g.paceSlots()
	for _, urgent := range []bool{true, false} {
		for k := 0; k < len(g.waiting); {
			a := g.waiting[k]
			if (a.urgent && a.any == nil) != urgent || !g.answer(a) {
				k++
				continue
			}
			g.waiting = append(g.waiting[:k], g.waiting[k+1:]...)
		}
	}
	if g.next != g.told {
		g.told = g.next
		if g.next != never {
			g.emit(WakeAt{At: g.next})
		}
	}
}

// answer answers a now, or tells that it has to wait.
func (g *Giver) answer(a *ask) bool {
	if a.peer.gone {
		a.peer = a.blob.peer(a.peer.id) // it left the swarm and yet asks
	}
	if t := a.came + g.c.QueueFor; a.seen && t > g.now && g.full(a) {
		g.at(t) // nothing new for it
		return false
	}
	a.seen = true
	give, verdict := g.choose(a)
	switch verdict {
	case verdictNotHeld:
		g.notHeld(a.id)
		return true
	case verdictElsewhere:
		a.peer.refused = min(a.peer.refused, g.now)
		if a.urgent {
			a.peer.hungry = min(a.peer.hungry, g.now)
		}
		g.busy(a, max(g.c.Retry, g.spread(a.blob)), a.blob.try(g.rng, a, g.c.MaxTry))
		return true
	case verdictPark:
		if t := a.came + g.c.ParkFor; t > g.now {
			g.at(t)
			return false
		}
		g.busy(a, max(0, g.spread(a.blob)-g.c.ParkFor), a.blob.try(g.rng, a, g.c.MaxTry))
		return true
	}
	if g.full(a) {
		return g.queue(a)
	}
	a.given, a.started = give, g.now
	g.active = append(g.active, a)
	a.peer.active++
	for _, i := range give {
		if a.blob.superseed && a.blob.copies[i] > 0 {
			g.stats.Second++
		}
		a.blob.sendTo(a.peer, i)
	}
	g.stats.Given += len(give)
	g.emit(Give{ID: a.id, Pieces: append([]int(nil), give...)})
	return true
}

// The slots open up from rampFrom when the uplink has idled for rampReset: a herd
// spreads its first pieces the faster the fewer uploads share an uplink; later
// more of them even out whose downlinks they run into.
const (
	rampFrom  = 2
	rampReset = time.Second
)

// paceSlots finds how many uploads may run now.
func (g *Giver) paceSlots() {
	if len(g.active) == 0 && g.now-g.idle >= rampReset {
		g.pace.begin(g.now, rampFrom)
		g.idle = g.now
	}
	g.pace.least, g.pace.most = min(leastSlots, g.c.Slots), g.c.Slots
	for _, b := range g.order {
		if b.scarce(g.now) {
			g.pace.least, g.pace.most = min(leastSeedSlots, g.c.SeedSlots), g.c.SeedSlots
			break
		}
	}
	t := g.pace.grow(g.now)
	for t <= g.now {
		t = g.pace.grow(g.now)
	}
	if t != never && len(g.waiting) > 0 {
		g.at(t)
	}
}

// slots is how many uploads may run now. A seeder's are more: they are the
// source of all, and compete for the receivers' links with everybody else's.
func (g *Giver) slots(seed bool) int {
	if seed {
		return min(g.pace.n, g.c.SeedSlots)
	}
	return min(g.pace.n, g.c.Slots)
}

const (
	leastSlots = 4 // of however slow an uplink
	// A seeder's, for some of them may go to a zone behind a slow link: four such
	// would keep what all others wait for.
	leastSeedSlots = 8
	longUpload     = 2 * time.Second // see pace
)

// full tells whether a has to wait for a slot.
func (g *Giver) full(a *ask) bool {
	if a.spare && len(g.active) >= g.c.Slots/2 {
		return true
	}
	per := g.c.PerPeer
	if a.urgent && a.any == nil && !a.underWay() { // what a reader waits for goes beside what its peer is being sent
		per++
	}
	return len(g.active) >= g.slots(a.any != nil) || a.peer.active >= per
}

// underWay tells whether a's peer is being sent one of its pieces already: by an
// ask for any, whose choice it did not know when it asked.
func (a *ask) underWay() bool {
	for _, i := range a.pieces {
		if i < a.blob.n && a.peer.flight.has(i) {
			return true
		}
	}
	return false
}

// queue lets a wait for a slot, or refuses it; it tells whether it did.
func (g *Giver) queue(a *ask) bool {
	limit, ahead := g.slots(false)/2, len(g.waiting)
	switch {
	case a.any != nil:
		limit = g.c.SeedQueue
	case a.peer.active >= g.c.PerPeer: // it follows the one that its peer is being sent
		limit = g.c.SeedQueue
	case a.urgent: // whoever it was given to before can soon give it on
		limit, ahead = g.slots(false), g.urgentWaiting()
	}
	t := a.came + g.c.QueueFor
	newest := a == g.waiting[len(g.waiting)-1]
	if t <= g.now || newest && ahead > limit {
		if a.peer.active >= g.c.PerPeer {
			// It may ask again at once: else it would miss its turn when what it is
			// being sent has ended, and a seeder whose peers all do idles.
			g.busy(a, askAgain, nil)
			return true
		}
		// Longer than the queue takes: most askers find another giver meanwhile.
		after := 4 * g.sending * time.Duration(len(g.waiting)) / time.Duration(g.slots(false))
		g.busy(a, min(max(after, askAgain), max(time.Second, g.spread(a.blob))), nil)
		return true
	}
	g.at(t)
	return false
}

// askAgain is the shortest time that anybody is sent away for.
const askAgain = 20 * time.Millisecond

// spread is how long b's peers are to stay away so that they do not come back
// faster than answers are worth their bytes: a refusal costs half a kilobyte,
// and 10,000 hosts that ask five times a second would fill a seeder's uplink.
func (g *Giver) spread(b *gblob) time.Duration {
	return min(time.Duration(len(b.peers))*g.c.Spread, maxSpread)
}

// maxSpread bounds how long anybody is sent away for the swarm's size.
const maxSpread = 10 * time.Second

// urgentWaiting counts the urgent asks for exact pieces that wait.
func (g *Giver) urgentWaiting() int {
	n := 0
	for _, a := range g.waiting {
		if a.urgent && a.any == nil {
			n++
		}
	}
	return n
}

func (g *Giver) notHeld(id AskID) {
	g.stats.NotHeld++
	g.emit(NotHeld{ID: id})
}

// busy refuses a. Others are named to who was refused for good reason: whoever
// finds a queue full knows them by their haves, and names cost bytes.
func (g *Giver) busy(a *ask, after time.Duration, try []Peer) {
	g.stats.Busy++
	g.emit(Busy{ID: a.id, After: after, Try: try})
}

// gone: the asker is no longer interested.
func (g *Giver) gone(id AskID) bool {
	for k, a := range g.waiting {
		if a.id == id {
			g.waiting = append(g.waiting[:k], g.waiting[k+1:]...)
			return false
		}
	}
	return g.sent(id, false)
}

func (g *Giver) sent(id AskID, ok bool) bool {
	for k, a := range g.active {
		if a.id != id {
			continue
		}
		if ok {
			g.pace.end(g.now, a.started, a.bytes(), len(g.active))
		}
		g.active = append(g.active[:k], g.active[k+1:]...)
		a.peer.active--
		g.idle = g.now
		for _, i := range a.given {
			a.blob.sentTo(a.peer, i, ok, g.now)
		}
		if ok {
			dt := (g.now - a.started) / time.Duration(max(len(a.given), 1))
			if g.sending == 0 {
				g.sending = dt
			}
			g.sending += (dt - g.sending) / 8
		}
		return true
	}
	return false
}
