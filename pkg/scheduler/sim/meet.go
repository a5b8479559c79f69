package sim

import (
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// join asks the seeder for what it knows; its answer names others that are
// here. Where none answers the DHT does.
func (h *host) join() {
	w := h.w
	s := w.hosts[0]
	if h.seeder { // they redial their seeder
		for k, o := range w.others(h, len(w.hosts)) {
			d := w.trips(w.c.Wire.DialTrips, h, o) + w.c.Wire.Crypto
			if k >= w.c.Neighbours/2 {
				d += 500 * time.Millisecond
			}
			h.meetAfter(o, d)
		}
		return
	}
	h.feedTimer()
	if s.alive { // its control stream is up since the process began
		h.meetAfter(s, w.trips(2, h, s))
	}
	if s.alive && !w.c.NoHint {
		return
	}
	wait := 10 * time.Millisecond
	if w.c.NoHint {
		wait = time.Second
	}
	epoch := h.epoch
	w.clock.after(wait, func() {
		if h.alive && h.epoch == epoch {
			for _, o := range w.others(h, hinted) {
				h.dial(o)
			}
		}
	})
}

// others returns up to n of those that are here, at random; as pkg/fetch names
// members, Config.NearShare of them of h's zone where there are enough.
func (w *world) others(h *host, n int) []*host {
	var here []*host
	for _, o := range w.hosts[1:] {
		if o != h && o.alive {
			here = append(here, o)
		}
	}
	return w.some(here, h, n)
}

// hint returns up to n neighbours of h, for to.
func (h *host) hint(to *host, n int) []*host {
	if len(h.neighbours) >= hintAll {
		n = min(n, hintFew)
	}
	var here []*host
	for _, m := range h.neighbours {
		if m.h != to && !m.h.seeder {
			here = append(here, m.h)
		}
	}
	return h.w.some(here, to, n)
}

// some picks up to n of these for h.
func (w *world) some(from []*host, h *host, n int) []*host {
	w.rng.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	if w.c.Zones == 1 {
		return from[:min(n, len(from))]
	}
	var near, far []*host
	for _, o := range from {
		if o.zone == h.zone {
			near = append(near, o)
		} else {
			far = append(far, o)
		}
	}
	first := min(len(near), max(int(w.c.NearShare*float64(n)), n-len(far)))
	all := append(near[:first:first], far...)
	all = all[:min(n, len(all))]
	w.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// dial makes a peer that was named a neighbour while h seeks some, as in pkg/fetch.
func (h *host) dial(o *host) {
	w := h.w
	if h == o || !o.alive || h.isUp(o) || h.dialling[o.id] || !h.seeks() {
		return
	}
	h.dialling[o.id] = true
	epoch := h.epoch
	h.meetAfter(o, w.trips(w.c.Wire.DialTrips, h, o)+w.c.Wire.Crypto)
	w.clock.after(w.trips(w.c.Wire.DialTrips, h, o)+w.c.Wire.Crypto, func() {
		if h.epoch == epoch {
			delete(h.dialling, o.id)
		}
	})
}

// seeks tells whether h looks for more neighbours: until three quarters of the
// places are taken, of all and of those for its own zone. Which zone a peer is
// of that was named is not known before it is met.
func (h *host) seeks() bool {
	most := h.w.c.Neighbours
	return len(h.neighbours)+len(h.dialling) < most*3/4 && h.near()+len(h.dialling) < most*9/16
}

// near counts the neighbours of h's own zone.
func (h *host) near() int {
	n := 0
	for _, m := range h.neighbours {
		if m.h.zone == h.zone {
			n++
		}
	}
	return n
}

// roomFor tells whether o may be one more neighbour of h: three quarters of the
// places are for its own zone, fewer the more o has, the others for all other
// zones, as in pkg/fetch.
func (h *host) roomFor(o *host) bool {
	near, most := h.near(), h.w.c.Neighbours
	if o.zone == h.zone {
		return near < most*3/4-o.near()/2
	}
	return len(h.neighbours)-near < most/4
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

// isUp tells whether o is h's neighbour now.
func (h *host) isUp(o *host) bool {
	n := h.known[o.id]
	return n != nil && n.up
}

// meet makes h and o neighbours: each tells the other what it holds.
func (h *host) meet(o *host) {
	w := h.w
	if h.isUp(o) {
		return
	}
	if !h.seeder && !o.seeder {
		w.book(h, o, kindJoin, w.c.Wire.DialTrips, sizeDial)
		w.book(o, h, kindJoin, w.c.Wire.DialTrips, sizeDial)
		if !h.roomFor(o) || !o.roomFor(h) {
			if h.wantsNames() {
				h.inquiries++
				o.names(h)
			}
			return
		}
	}
	n, m := h.knows(o), o.knows(h)
	*n = neighbour{h: o, handle: n.handle, back: m, up: true}
	*m = neighbour{h: h, handle: m.handle, back: n, up: true}
	h.neighbours, o.neighbours = append(h.neighbours, n), append(o.neighbours, m)
	h.met, o.met = max(h.met, len(h.neighbours)), max(o.met, len(o.neighbours))
	h.joinTo(n)
	o.joinTo(m)
}

// joinTo sends n a Join for every blob. The answer is a State, peers to meet
// where h knows few, and signed hashes where it lacks them.
func (h *host) joinTo(n *neighbour) {
	w, o := h.w, n.h
	if h.seeder {
		return // it wants nothing; holders are in the swarm since they pulled
	}
	field := 0
	for _, f := range h.store {
		field += len(f.Bytes())
	}
	wantRuns := h.wantsRuns(n)
	wantPeers := o.seeder || h.wantsNames()
	if wantPeers && !o.seeder {
		h.inquiries++
	}
	knows := h.hashes
	w.say(h, o, kindJoin, len(w.geo)*sizeJoin+field, func() {
		if !n.up {
			return
		}
		for b := range w.geo {
			if o.store[b].Full() || o.seeder {
				o.give(scheduler.PeerHas{Blob: scheduler.Blob(b), Peer: n.back.handle, Bitfield: h.store[b].Clone()})
			}
		}
		elsewhere := wantRuns && !o.feed(n.back)
		known := o.hashes
		state := len(w.geo) * sizeState
		if !o.seeder { // it is asked for any piece, so it need not tell which it holds
			state += field
		}
		w.say(o, h, kindJoin, state, func() { h.hears(n, elsewhere, known) })
		if knows {
			o.shows(n.back)
		}
		if wantRuns && !elsewhere {
			o.sendRuns(n.back)
		}
		if !wantPeers || w.c.NoHint && o.seeder {
			return
		}
		o.names(h)
	})
}

// wantsNames tells whether h asks a neighbour for others.
func (h *host) wantsNames() bool {
	return h.near() < fewNeighbours && h.inquiries < maxInquiries
}

// names tells to of others to meet.
func (h *host) names(to *host) {
	if named := h.hint(to, hinted); len(named) > 0 {
		h.w.say(h, to, kindJoin, sizePeers+len(named)*sizePeer, func() {
			for _, x := range named {
				to.dial(x)
			}
		})
	}
}

// A seeder names fewer peers where it knows many, as in pkg/fetch.
const (
	hintFew = 5
	hintAll = 512
)

// A host with fewer neighbours of its zone asks so many for others, as in pkg/fetch.
const (
	fewNeighbours = 24
	maxInquiries  = 8
)

// hears takes in n's State.
func (h *host) hears(n *neighbour, elsewhere, knows bool) {
	if !n.up {
		return
	}
	if !n.told {
		n.told = true
		for b := range h.w.geo {
			if p := h.pulls[b]; p != nil {
				p.peerUp(n)
			}
		}
	}
	if elsewhere {
		n.feeds, n.tried = false, !n.h.seeder
	}
	if knows && !n.h.seeder {
		h.shows(n)
	}
	h.seek()
}

// lost forgets what n was to do for h: it is gone.
func (h *host) lost(n *neighbour) {
	n.told, n.feeds, n.fed = false, false, false
	h.seek()
}
