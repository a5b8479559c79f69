package sim

import (
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
	up     *link
	down   *link

	store      []*piece.Bitfield // by blob: survives a kill
	giver      *scheduler.Giver
	giverTimer timer
	pulls      []*pull // by blob; nil where not begun
	started    int     // pulls begun
	neighbours []*host // in the order met
	met        map[*host]bool
	fetching   []*flow // of the seeder, from the upstream

	batch   [][]int // haves to announce, by blob
	batched bool

	arrived  time.Duration
	first    time.Duration // first byte of its first blob, since arrived; -1 = not yet
	finished time.Duration // all blobs, since arrived; -1 = not yet
	received int64
	upBytes  int64 // from the upstream
	cross    int64 // from another zone
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
	h.pulls = make([]*pull, len(w.geo))
	h.started = 0
	h.neighbours, h.met = nil, map[*host]bool{}
	h.batch, h.batched = make([][]int, len(w.geo)), false
	for b, g := range w.geo {
		h.give(scheduler.BlobUp{Blob: scheduler.Blob(b), Geometry: g, Have: h.store[b],
			Superseed: h.seeder, Growing: !h.store[b].Full()})
	}
	h.join()
	if h.seeder || h.holder {
		return
	}
	for range min(w.c.Parallel, len(w.geo)) {
		h.startPull()
	}
}

// join meets the seeder and some of those that are here.
func (h *host) join() {
	w := h.w
	epoch := h.epoch
	meet := func(o *host, d time.Duration) {
		oe := o.epoch
		w.clock.after(d, func() {
			if h.alive && h.epoch == epoch && o.alive && o.epoch == oe {
				h.meet(o)
			}
		})
	}
	if s := w.hosts[0]; s != h && s.alive {
		meet(s, 4*w.lag(h, s))
		w.messages += 2
		w.control += 2 * bytesJoin
	}
	wait := 10 * time.Millisecond // the hint's way, and the handshakes
	if w.c.NoHint {
		wait = time.Second
	}
	var others []*host
	for _, o := range w.hosts[1:] {
		if o != h && o.alive {
			others = append(others, o)
		}
	}
	w.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	half := w.c.Neighbours / 2
	if len(w.hosts)-2 <= w.c.Neighbours {
		half = w.c.Neighbours
	}
	for k, o := range others {
		if k == half {
			break
		}
		meet(o, wait+4*w.lag(h, o))
	}
	if h.seeder {
		for _, o := range others[min(half, len(others)):] {
			meet(o, wait+4*w.lag(h, o)+500*time.Millisecond) // they redial their seeder
		}
	}
}

// meet makes h and o neighbours: each tells the other what it holds.
func (h *host) meet(o *host) {
	w := h.w
	if h.met[o] || !h.seeder && !o.seeder && (len(h.neighbours) >= w.c.Neighbours+4 || len(o.neighbours) >= w.c.Neighbours+4) {
		return
	}
	h.met[o], o.met[h] = true, true
	h.neighbours = append(h.neighbours, o)
	o.neighbours = append(o.neighbours, h)
	for b := range w.geo {
		h.introduce(b, o)
		o.introduce(b, h)
	}
}

// introduce tells h's engines of o, as to blob b.
func (h *host) introduce(b int, o *host) {
	w := h.w
	w.messages++
	w.control += bytesJoin + int64(len(o.store[b].Bytes()))
	if h.store[b].Full() || h.seeder {
		h.give(scheduler.PeerHas{Blob: scheduler.Blob(b), Peer: w.peerOf(o), Bitfield: o.store[b].Clone()})
	}
	if p := h.pulls[b]; p != nil {
		p.peerUp(o)
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
	for _, o := range h.neighbours {
		delete(o.met, h)
		for k, x := range o.neighbours {
			if x == h {
				o.neighbours = append(o.neighbours[:k], o.neighbours[k+1:]...)
				break
			}
		}
		epoch := o.epoch
		w.clock.after(w.lag(h, o), func() {
			if !o.alive || o.epoch != epoch || o.met[h] {
				return
			}
			o.give(scheduler.PeerGone{Peer: w.peerOf(h)})
			for _, p := range o.pulls {
				if p != nil {
					p.step(scheduler.PeerDown{Peer: w.peerOf(h)})
				}
			}
		})
	}
}

// openAsks returns what is under way from or to h, in the order asked.
func (h *host) openAsks() []*ask {
	var open []*ask
	for id := scheduler.AskID(1); id <= h.w.lastAsk; id++ {
		if a := h.w.asks[id]; a != nil && (a.to == h || a.from.h == h) {
			open = append(open, a)
		}
	}
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
	h.batch[b] = append(h.batch[b], i)
	if h.batched {
		return
	}
	h.batched = true
	epoch := h.epoch
	h.w.clock.after(h.w.c.HaveWait, func() {
		if h.alive && h.epoch == epoch {
			h.flush()
		}
	})
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

// flush sends the batched haves to the neighbours.
func (h *host) flush() {
	w := h.w
	h.batched = false
	for b, pieces := range h.batch {
		if len(pieces) == 0 {
			continue
		}
		h.batch[b] = nil
		epoch := h.epoch
		tell := func(far bool) {
			told := 0
			for _, o := range h.neighbours {
				if (o.zone != h.zone) != far || o.frozen {
					continue
				}
				if o.store[b].Full() || o.seeder {
					if w.c.TellAll {
						o.give(scheduler.PeerHas{Blob: scheduler.Blob(b), Peer: w.peerOf(h), Pieces: pieces})
					}
					continue // their asks tell what others lack
				}
				told++
				if p := o.pulls[b]; p != nil {
					p.step(scheduler.Have{Peer: w.peerOf(h), Pieces: pieces})
				}
			}
			w.messages += int64(told)
			w.control += int64(told * (bytesHave + 3*len(pieces)))
		}
		w.clock.after(w.c.Latency, func() {
			if h.alive && h.epoch == epoch {
				tell(false)
			}
		})
		if w.c.Zones > 1 {
			w.clock.after(w.c.Far, func() {
				if h.alive && h.epoch == epoch {
					tell(true)
				}
			})
		}
	}
}

// fetch makes the seeder get blob b from the upstream, once.
func (h *host) fetch(b int) {
	w := h.w
	if w.upstream == nil || h.store[b].Full() || h.fetching != nil && h.fetching[b] != nil {
		return
	}
	if h.fetching == nil {
		h.fetching = make([]*flow, len(w.geo))
	}
	var sizes, pieces []int
	for i := range h.store[b].Missing() {
		sizes = append(sizes, w.geo[b].Len(i))
		pieces = append(pieces, i)
	}
	h.fetching[b] = w.net.start(w.path(nil, h), sizes, func(last bool) {
		i := pieces[0]
		pieces = pieces[1:]
		h.upBytes += int64(w.geo[b].Len(i))
		h.hold(b, i)
		if last {
			h.give(scheduler.BlobDone{Blob: scheduler.Blob(b)})
		}
	})
}
