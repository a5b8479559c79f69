package sim

import (
	"slices"
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// pull is one host getting one blob: a Download and what drives it.
type pull struct {
	h         *host
	blob      int
	d         *scheduler.Download
	timer     timer
	asks      []*ask                       // under way
	fallbacks map[scheduler.Request]flowID // for look-up only
	order     []flowID
	begun     time.Duration
	read      int // the reader's position
	epoch     int
	done      bool
	stuck     int
}

// startPull begins the next blob.
func (h *host) startPull() {
	w := h.w
	if h.started == len(w.geo) {
		return
	}
	b := h.started
	h.started++
	c := w.c.Download
	c.Geometry, c.Have = w.geo[b], h.store[b]
	c.Seed = w.c.Seed*100003 + uint64(h.id)*31 + uint64(b)
	c.Key = h.key()
	c.NoFallback = c.NoFallback || w.upstream < 0
	p := &pull{h: h, blob: b, d: scheduler.New(c),
		fallbacks: map[scheduler.Request]flowID{}, begun: w.clock.now, epoch: h.epoch}
	h.pulls[b] = p
	for _, n := range h.neighbours {
		if n.told {
			p.peerUp(n)
		}
	}
	p.step(scheduler.Tick{})
	if p.d.Complete() {
		p.complete()
		return
	}
	if !w.c.NoReader {
		p.readOn()
	}
}

func (h *host) key() uint64 { return (uint64(h.id) + 1) * 0x9e3779b97f4a7c15 }

// peerUp introduces neighbour n.
func (p *pull) peerUp(n *neighbour) {
	w, o := p.h.w, n.h
	if p.done {
		return
	}
	if o.seeder {
		epoch := o.epoch
		w.clock.after(50*time.Millisecond, func() { // the upstream's own round trips
			if o.alive && o.epoch == epoch {
				o.fetch(p.blob)
			}
		})
	}
	ev := scheduler.PeerUp{Peer: n.handle, Seeder: o.seeder, SameZone: o.zone == p.h.zone, RTT: 2 * w.lag(p.h, o), Key: o.key(), Complete: !o.seeder && o.store[p.blob].Full()}
	if !o.seeder && p.h.hashes {
		ev.Have = o.store[p.blob].Clone()
	}
	p.step(ev)
}

// step steps the Download and does what it says.
func (p *pull) step(ev scheduler.Event) {
	w := p.h.w
	if p.done || !p.h.alive || p.h.frozen || p.h.epoch != p.epoch {
		return
	}
	w.steps++
	for _, act := range p.d.Step(w.clock.now, ev) {
		switch act := act.(type) {
		case scheduler.RequestPieces:
			p.ask(act)
		case scheduler.Cancel:
			for _, a := range p.asks {
				if a.req == act.Request {
					a.close()
					break
				}
			}
			w.net.stop(p.fallbacks[act.Request])
		case scheduler.Announce:
			p.h.hold(p.blob, act.Piece)
		case scheduler.Fallback:
			p.fallback(act)
		case scheduler.Stuck:
			p.stuck++
		case scheduler.WakeAt:
			p.timer.arm(&w.clock, act.At, func() bool { return p.h.alive && p.h.epoch == p.epoch && !p.done },
				func() { p.step(scheduler.Tick{}) })
		}
	}
}

// ask sends a request to its peer, by a connection that is free or a new one.
func (p *pull) ask(r scheduler.RequestPieces) {
	w, h := p.h.w, p.h
	n := h.handles[r.Peer]
	to := n.h
	w.lastAsk++
	a := &ask{id: w.lastAsk, req: r.Request, from: p, epoch: p.epoch, to: to, toEpoch: to.epoch, asker: n.back.handle}
	p.asks = append(p.asks, a)
	h.asking = append(h.asking, a)
	w.askCount++
	size := sizeAsk + pieceList(r.Pieces)
	if r.Any != nil {
		size += len(r.Any.Bytes())
	}
	var wait time.Duration
	for _, c := range n.conns {
		if !c.busy {
			a.conn = c
			break
		}
	}
	if a.conn == nil {
		a.conn = w.newConn(to, h)
		n.conns = append(n.conns, a.conn)
		if trips := w.c.Wire.DataTrips; trips > 0 {
			wait = w.trips(trips, h, to) + w.c.Wire.Crypto
			w.book(h, to, kindAsk, trips, sizeOpen)
			w.book(to, h, kindAsk, trips, sizeOpen)
		}
	}
	a.conn.busy = true
	w.book(h, to, kindAsk, 1, size)
	w.clock.after(wait+w.delay(h, to)+w.c.Wire.Handling, func() {
		switch {
		case a.closed || to.frozen:
		case !to.alive || to.epoch != a.toEpoch:
			a.reply(func() { a.finish(scheduler.ResultFailed, 0) })
		default:
			to.serving[a.id] = a
			to.give(scheduler.Ask{ID: a.id, Blob: scheduler.Blob(p.blob), Peer: a.asker,
				Pieces: r.Pieces, Any: r.Any, Max: r.Max, Urgent: r.Urgent})
		}
	})
}

// forget takes a out of what is under way.
func (p *pull) forget(a *ask) {
	if k := slices.Index(p.asks, a); k >= 0 {
		p.asks = slices.Delete(p.asks, k, k+1)
	}
	if k := slices.Index(p.h.asking, a); k >= 0 {
		p.h.asking = slices.Delete(p.h.asking, k, k+1)
	}
}

// drop closes a's connection.
func (p *pull) drop(a *ask) {
	n := p.h.known[a.to.id]
	if k := slices.Index(n.conns, a.conn); k >= 0 {
		n.conns = slices.Delete(n.conns, k, k+1)
	}
}

// arrive takes in piece i that from sent for a.
func (p *pull) arrive(a *ask, from *host, i int) {
	w := p.h.w
	size := w.geo[p.blob].Len(i)
	p.h.received += int64(size)
	if from.zone != p.h.zone {
		p.h.cross += int64(size)
	}
	peer := p.h.known[from.id].handle
	if from.liar {
		p.step(scheduler.PieceBad{Request: a.req, Peer: peer, Piece: i})
		return
	}
	p.got(scheduler.PieceOK{Request: a.req, Peer: peer, Piece: i, Bytes: size})
}

// got takes in a good piece, and lets the reader read on.
func (p *pull) got(ev scheduler.PieceOK) {
	w := p.h.w
	if p.h.store[p.blob].Has(ev.Piece) {
		w.dupBytes += int64(ev.Bytes)
	}
	p.step(ev)
	if ev.Piece == p.read {
		p.readOn()
	}
	if p.d.Complete() {
		p.complete()
	}
}

// readOn moves the reader to the next piece that is not there.
func (p *pull) readOn() {
	n := p.h.w.geo[p.blob].Count()
	from := p.read
	p.read = p.h.store[p.blob].NextMissing(p.read)
	if p.read > 0 && p.h.first < 0 {
		p.h.first = p.h.w.clock.now - p.h.arrived
	}
	if p.h.w.c.NoReader || p.done {
		return
	}
	if p.read == n {
		p.step(scheduler.Unwant{ID: 1})
		return
	}
	if p.read > from || from == 0 {
		p.step(scheduler.Want{ID: 1, First: p.read, End: n})
	}
}

// fallback takes a range from the upstream.
func (p *pull) fallback(r scheduler.Fallback) {
	w := p.h.w
	var sizes []int
	for i := r.First; i < r.End; i++ {
		sizes = append(sizes, w.geo[p.blob].Len(i))
	}
	w.clock.after(50*time.Millisecond, func() {
		if p.done || !p.h.alive || p.h.epoch != p.epoch {
			return
		}
		i := r.First
		f := w.net.start(w.path(nil, p.h), sizes, nil, func(last bool) {
			size := w.geo[p.blob].Len(i)
			p.h.upBytes += int64(size)
			p.h.received += int64(size)
			p.got(scheduler.PieceOK{Request: r.Request, Piece: i, Bytes: size})
			i++
			if last {
				p.step(scheduler.Done{Request: r.Request})
			}
		})
		p.fallbacks[r.Request] = f
		p.order = append(p.order, f)
	})
}

// stop breaks off what is under way at the upstream.
func (p *pull) stop() {
	for _, f := range p.order {
		p.h.w.net.stop(f)
	}
}

// complete ends the pull: the blob is whole.
func (p *pull) complete() {
	if p.done {
		return
	}
	p.done = true
	h := p.h
	h.give(scheduler.BlobDone{Blob: scheduler.Blob(p.blob)})
	h.startPull()
	for _, q := range h.pulls {
		if q == nil || !q.done {
			return
		}
	}
	if h.finished < 0 {
		h.finished = h.w.clock.now - h.arrived
		h.w.unfinished--
	}
}
