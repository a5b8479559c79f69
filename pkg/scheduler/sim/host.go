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
	lists
	neighbours []*neighbour
	inquiries  int                // neighbours asked for others
	dialling   map[int]bool       // by id
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
	told   bool // what it holds is known
	knows  bool // it has signed hashes
	feeds  bool // it was asked to pass signed hashes on
	fed    bool // it is passed them on
	fedAt  time.Duration
	tried  bool    // it was asked, in vain
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
	h.lists = lists{hashes: h.hashes || h.seeder || h.holder} // they are on disk
	h.inquiries = 0
	h.neighbours, h.dialling, h.known, h.handles = nil, map[int]bool{}, map[int]*neighbour{}, make([]*neighbour, 1)
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
		if w.c.NoSeeder && w.c.Holders == 0 {
			h.hashes = true // nobody can sign: unsigned pieces are taken
		}
		for range min(w.c.Parallel, len(w.geo)) {
			h.startPull()
		}
		h.join()
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
			o.lost(m)
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
			w.relayRuns(w.geo[b].Count())
		}
	})
}
