package sim

import (
	"slices"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// host is one machine: a seeder, or a peerd.
type host struct {
	w      *world
	id     int
	zone   int
	seeder bool
	holder bool
	liar   bool
	frozen bool
	alive  bool
	epoch  int // of its process: callbacks of an earlier one are void
	rate   Link
	up     int32 // links
	down   int32

	store      []*piece.Bitfield // by blob: survives a kill
	giver      *scheduler.Giver
	giverTimer timer
	serving    map[scheduler.AskID]*ask // for look-up only
	asking     []*ask
	pulls      []*pull // by blob; nil where not begun
	started    int     // pulls begun
	hashes     bool    // it knows the signed hashes, and may take pieces
	promised   bool    // they are on their way to it
	neighbours []*neighbour
	known      map[int]*neighbour // by id: everybody met by this process
	handles    []*neighbour       // by scheduler.Peer
	fetching   []flowID           // of the seeder, from the upstream, by blob

	batch   [][]int // haves to announce, by blob
	pending int     // haves in batch
	flushes uint64
	flushed time.Duration
	mail    [][]have // that come in, by slot

	arrived  time.Duration
	first    time.Duration // first byte of its first blob, since arrived; -1 = not yet
	finished time.Duration // all blobs, since arrived; -1 = not yet
	received int64
	upBytes  int64 // from the upstream
	cross    int64 // from another zone
	out      [kinds]traffic
	met      int // neighbours at most
}

// neighbour is a host as another one knows it.
type neighbour struct {
	h      *host
	handle scheduler.Peer
	back   *neighbour // the other one's view
	up     bool
	conns  []*conn // to ask it by
}

// timer sends the Ticks that WakeAt asks for.
type timer struct{ want, set time.Duration }

// boot starts h's process.
func (h *host) boot() {
	w := h.w
	h.alive, h.frozen = true, false
	h.epoch++
	if h.epoch == 1 {
		h.first, h.finished = -1, -1
	}
	gc := w.c.Giver
	gc.Seed = w.c.Seed*1000 + uint64(h.id)
	h.giver = scheduler.NewGiver(gc)
	h.giverTimer = timer{}
	h.serving, h.asking = map[scheduler.AskID]*ask{}, nil
	h.pulls = make([]*pull, len(w.geo))
	h.started = 0
	h.hashes, h.promised = h.seeder || h.holder, false
	h.neighbours, h.known, h.handles = nil, map[int]*neighbour{}, make([]*neighbour, 1)
	h.batch, h.pending, h.flushed = make([][]int, len(w.geo)), 0, -time.Second
	for b, g := range w.geo {
		h.give(scheduler.BlobUp{Blob: scheduler.Blob(b), Geometry: g, Have: h.store[b],
			Superseed: h.seeder, Growing: !h.store[b].Full()})
	}
	if h.seeder || h.holder {
		h.join()
		return
	}
	epoch := h.epoch
	w.clock.after(w.c.Wire.Start, func() {
		if !h.alive || h.epoch != epoch {
			return
		}
		h.join()
		if w.c.NoSeeder && w.c.Holders == 0 {
			h.learn() // nobody can sign: unsigned pieces are taken
		}
	})
}

// learn takes in the signed hashes: now the pieces of others can be checked.
func (h *host) learn() {
	if h.hashes {
		return
	}
	h.hashes = true
	for range min(h.w.c.Parallel, len(h.w.geo)) {
		h.startPull()
	}
	if h.w.c.LeanRuns {
		for _, n := range h.neighbours {
			h.tellRuns(n.h)
		}
	}
}

// leanFrom is the number of neighbours from which on a seeder with LeanRuns
// leaves it to them to pass signed hashes on.
const leanFrom = 64

// tellRuns sends o the signed hashes that h knows. Those of a blob that the
// seeder still fetches come with the pieces.
func (h *host) tellRuns(o *host) {
	w := h.w
	if !h.hashes || o.hashes || w.c.LeanRuns && (o.promised || h.seeder && len(h.neighbours) > leanFrom) {
		return
	}
	size := 0
	for _, g := range w.geo {
		size += sizeRuns
		if !w.c.Cold {
			size += g.Count() * hashSize
		}
	}
	o.promised = true
	w.say(h, o, kindRuns, size, o.learn)
}

// join meets the seeder and some of those that are here.
func (h *host) join() {
	w := h.w
	wait := 10 * time.Millisecond // the hint's way
	if s := w.hosts[0]; s != h && s.alive {
		// The control stream is up since the process began; the answer tells
		// the size, the hashes and other peers.
		h.meetAfter(s, w.trips(2, h, s))
		w.book(h, s, kindJoin, 2, sizeJoin+sizeFrame)
		w.book(s, h, kindJoin, 1, sizePeers+hinted*sizePeer)
		wait += w.trips(1, h, s)
	}
	if w.c.NoHint {
		wait = time.Second
	}
	half := w.c.Neighbours / 2
	if len(w.hosts)-2 <= w.c.Neighbours {
		half = w.c.Neighbours
	}
	if h.seeder {
		half = len(w.hosts) // they redial their seeder
	}
	for k, o := range w.others(h, half) {
		d := wait + w.trips(w.c.Wire.DialTrips, h, o) + w.c.Wire.Crypto
		if h.seeder && k >= w.c.Neighbours/2 {
			d += 500 * time.Millisecond
		}
		h.meetAfter(o, d)
	}
}

// others returns up to n of those that are here, at random; where zones are
// too large for everybody to know everybody, Config.NearShare of them of h's.
func (w *world) others(h *host, n int) []*host {
	var near, far []*host
	add := func(o *host) {
		switch {
		case o == h || !o.alive:
		case o.zone == h.zone:
			near = append(near, o)
		default:
			far = append(far, o)
		}
	}
	if all := w.hosts[1:]; len(all) > 4*n { // draw rather than shuffle
		drawn := map[int]bool{}
		for range 10 * n {
			if k := w.rng.IntN(len(all)); !drawn[k] {
				drawn[k] = true
				add(all[k])
			}
		}
	} else {
		for _, k := range w.rng.Perm(len(all)) {
			add(all[k])
		}
	}
	first := min(len(near), max(int(w.c.NearShare*float64(n)), n-len(far)))
	all := append(near[:first:first], far...)
	return all[:min(n, len(all))]
}

// meetAfter makes h and o neighbours when d has passed, if both still run.
func (h *host) meetAfter(o *host, d time.Duration) {
	epoch, oe := h.epoch, o.epoch
	h.w.clock.after(d, func() {
		if h.alive && h.epoch == epoch && o.alive && o.epoch == oe {
			h.meet(o)
		}
	})
}

// knows returns h's record of o.
func (h *host) knows(o *host) *neighbour {
	n := h.known[o.id]
	if n == nil {
		n = &neighbour{h: o, handle: scheduler.Peer(len(h.handles))}
		h.known[o.id] = n
		h.handles = append(h.handles, n)
	}
	return n
}

// isUp tells whether o is h's neighbour now.
func (h *host) isUp(o *host) bool {
	n := h.known[o.id]
	return n != nil && n.up
}

// meet makes h and o neighbours: each tells the other what it holds.
func (h *host) meet(o *host) {
	w := h.w
	if h.isUp(o) || !h.seeder && !o.seeder && (len(h.neighbours) >= w.c.Neighbours || len(o.neighbours) >= w.c.Neighbours) {
		return
	}
	if !h.seeder && !o.seeder {
		w.book(h, o, kindJoin, w.c.Wire.DialTrips, sizeDial)
		w.book(o, h, kindJoin, w.c.Wire.DialTrips, sizeDial)
	}
	n, m := h.knows(o), o.knows(h)
	n.back, m.back, n.up, m.up = m, n, true, true
	h.neighbours, o.neighbours = append(h.neighbours, n), append(o.neighbours, m)
	h.met, o.met = max(h.met, len(h.neighbours)), max(o.met, len(o.neighbours))
	for b := range w.geo {
		h.introduce(b, n)
		o.introduce(b, m)
	}
	h.tellRuns(o)
	o.tellRuns(h)
}

// introduce tells h's engines of neighbour n, as to blob b: by its Join, or its
// State.
func (h *host) introduce(b int, n *neighbour) {
	w, o := h.w, n.h
	field := len(o.store[b].Bytes())
	w.book(o, h, kindJoin, 2, sizeJoin+sizeState+2*field)
	if h.store[b].Full() || h.seeder {
		h.give(scheduler.PeerHas{Blob: scheduler.Blob(b), Peer: n.handle, Bitfield: o.store[b].Clone()})
	}
	if p := h.pulls[b]; p != nil {
		p.peerUp(n)
	}
}

// kill ends h's process. The connections are reset, so neighbours learn at once.
func (h *host) kill() {
	if !h.alive {
		return
	}
	w := h.w
	h.alive = false
	for _, a := range h.openAsks() {
		a.close()
	}
	for _, f := range h.fetching {
		w.net.stop(f)
	}
	h.fetching = nil
	for _, p := range h.pulls {
		if p != nil {
			p.stop()
		}
	}
	for _, n := range h.neighbours {
		o, m := n.h, n.back
		n.up, m.up = false, false
		m.conns = nil
		o.neighbours = slices.DeleteFunc(o.neighbours, func(x *neighbour) bool { return x == m })
		epoch := o.epoch
		w.clock.after(w.lag(h, o), func() {
			if !o.alive || o.epoch != epoch || m.up {
				return
			}
			o.give(scheduler.PeerGone{Peer: m.handle})
			for _, p := range o.pulls {
				if p != nil {
					p.step(scheduler.PeerDown{Peer: m.handle})
				}
			}
		})
	}
}

// openAsks returns what is under way from or to h, in the order asked.
func (h *host) openAsks() []*ask {
	open := slices.Clone(h.asking)
	for _, n := range h.neighbours {
		for _, a := range n.h.asking {
			if a.to == h {
				open = append(open, a)
			}
		}
	}
	slices.SortFunc(open, func(a, b *ask) int { return int(a.id - b.id) })
	return open
}

// hold notes that h has piece i of blob b now, and announces it.
func (h *host) hold(b, i int) {
	if !h.store[b].Set(i) {
		return
	}
	if !h.seeder && h.w.held[b].Set(i) {
		h.w.checkCovered()
	}
	h.give(scheduler.BlobGrew{Blob: scheduler.Blob(b), Piece: i})
	h.announce(b, i)
}

// checkCovered sets off what waits for the pullers to hold everything.
func (w *world) checkCovered() {
	if w.covered == nil {
		return
	}
	for _, f := range w.held {
		if !f.Full() {
			return
		}
	}
	w.clock.after(time.Millisecond, w.covered)
	w.covered = nil
}

// fetch makes the seeder get blob b from the upstream, once.
func (h *host) fetch(b int) {
	w := h.w
	if w.upstream < 0 || h.store[b].Full() || h.fetching != nil && h.fetching[b] != (flowID{}) {
		return
	}
	if h.fetching == nil {
		h.fetching = make([]flowID, len(w.geo))
	}
	var sizes, pieces []int
	for i := range h.store[b].Missing() {
		sizes = append(sizes, w.geo[b].Len(i))
		pieces = append(pieces, i)
	}
	h.fetching[b] = w.net.start(w.path(nil, h), sizes, nil, func(last bool) {
		i := pieces[0]
		pieces = pieces[1:]
		h.upBytes += int64(w.geo[b].Len(i))
		h.hold(b, i)
		if last {
			h.give(scheduler.BlobDone{Blob: scheduler.Blob(b)})
			for _, n := range h.neighbours { // the final list
				w.book(h, n.h, kindRuns, 1, sizeRuns+w.geo[b].Count()*hashSize)
			}
		}
	})
}
