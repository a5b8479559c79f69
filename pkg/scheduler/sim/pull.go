package sim

import (
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// pull is one host getting one blob: a Download and what drives it.
type pull struct {
	h         *host
	blob      int
	d         *scheduler.Download
	timer     timer
	byReq     map[scheduler.Request]*ask  // for look-up only
	fallbacks map[scheduler.Request]*flow // for look-up only
	order     []*flow
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
	c.NoFallback = c.NoFallback || w.upstream == nil
	p := &pull{h: h, blob: b, d: scheduler.New(c), byReq: map[scheduler.Request]*ask{},
		fallbacks: map[scheduler.Request]*flow{}, begun: w.clock.now, epoch: h.epoch}
	h.pulls[b] = p
	for _, o := range h.neighbours {
		p.peerUp(o)
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

// peerUp introduces neighbour o.
func (p *pull) peerUp(o *host) {
	w := p.h.w
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
	ev := scheduler.PeerUp{Peer: w.peerOf(o), Seeder: o.seeder, SameZone: o.zone == p.h.zone, RTT: 2 * w.lag(p.h, o), Key: o.key()}
	if !o.seeder {
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
			if a := p.byReq[act.Request]; a != nil {
				a.close()
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

// ask sends a request to its peer.
func (p *pull) ask(r scheduler.RequestPieces) {
	w := p.h.w
	w.lastAsk++
	to := w.hostOf(r.Peer)
	a := &ask{id: w.lastAsk, req: r.Request, from: p, epoch: p.epoch, to: to, toEpoch: to.epoch}
	w.asks[a.id] = a
	p.byReq[r.Request] = a
	w.askCount++
	w.control += bytesAsk
	w.messages++
	w.clock.after(w.lag(p.h, to)+w.c.Overhead, func() {
		switch {
		case a.closed || to.frozen:
		case !to.alive || to.epoch != a.toEpoch:
			a.reply(func() { a.end(scheduler.ResultFailed, 0) })
		default:
			to.give(scheduler.Ask{ID: a.id, Blob: scheduler.Blob(p.blob), Peer: w.peerOf(p.h),
				Pieces: r.Pieces, Any: r.Any, Max: r.Max, Urgent: r.Urgent})
		}
	})
}

// arrive takes in piece i that from sent for a.
func (p *pull) arrive(a *ask, from *host, i int) {
	w := p.h.w
	size := w.geo[p.blob].Len(i)
	p.h.received += int64(size)
	if from.zone != p.h.zone {
		p.h.cross += int64(size)
	}
	if from.liar {
		p.step(scheduler.PieceBad{Request: a.req, Peer: w.peerOf(from), Piece: i})
		return
	}
	p.got(scheduler.PieceOK{Request: a.req, Peer: w.peerOf(from), Piece: i, Bytes: size})
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
		f := w.net.start(w.path(nil, p.h), sizes, func(last bool) {
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
