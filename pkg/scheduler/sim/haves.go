package sim

import (
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// Haves make up most of all messages: at 10,000 hosts half a billion. So they
// are no events of the clock: those that reach a host within one quantum are
// handed to it together, when the quantum ends.

// have is one message under way.
type have struct {
	from   *neighbour // the sender, as the receiver knows it
	blob   int
	pieces []int // shared by all receivers
}

// mail holds the haves under way, by the quantum in which they arrive.
type mail struct {
	slots   [][]*host // who gets some, in the order of the first
	waiting int
}

// flushEvery is how long haves are held back since the last were sent, as
// pkg/p2p does it: a millisecond for each neighbour.
func (h *host) flushEvery() time.Duration {
	if t := h.w.c.HaveWait; t > 0 {
		return t
	}
	return min(max(time.Duration(len(h.neighbours))*time.Millisecond, 10*time.Millisecond), 50*time.Millisecond)
}

// Few haves wait longer, as in pkg/p2p.
const (
	enoughHaves  = 16
	patientHaves = 5
)

// Those of pieces that few neighbours have wait least, as in pkg/fetch.
const (
	rareWait  = 10 * time.Millisecond
	rareShare = 8
)

func (h *host) rare(b, i int) bool {
	holders := 0
	for _, n := range h.neighbours {
		if n.h.store[b].Has(i) {
			holders++
		}
	}
	return holders*rareShare <= len(h.neighbours)
}

// announce has the neighbours told that h has piece i of blob b.
func (h *host) announce(b, i int) {
	h.batch[b] = append(h.batch[b], i)
	h.pending++
	wait := h.flushEvery()
	switch {
	case h.pending == 1 && h.seeder:
		wait = h.signEvery()
	case h.rare(b, i):
		wait = rareWait
	case h.pending == 1 && h.w.c.HaveWait == 0:
		wait *= patientHaves
	case h.pending != 1 && h.pending != enoughHaves:
		return
	}
	epoch, flushes := h.epoch, h.flushes
	h.w.clock.at(h.flushed+wait, func() {
		if h.alive && h.epoch == epoch && !h.frozen && h.flushes == flushes {
			h.flush()
		}
	})
}

// flush sends the batched haves to the neighbours; a seeder, the signed hashes
// of pieces that came in.
func (h *host) flush() {
	w := h.w
	h.pending, h.flushed = 0, w.clock.now
	h.flushes++
	for b, pieces := range h.batch {
		if len(pieces) == 0 {
			continue
		}
		h.batch[b] = nil
		if h.seeder {
			w.relayRuns(len(pieces))
			continue
		}
		for _, n := range h.neighbours {
			o := n.h
			switch {
			case o.frozen:
			case o.seeder || o.store[b].Full(): // their asks tell what others lack
			default:
				w.post(o, have{n.back, b, pieces}, w.delay(h, o))
			}
		}
	}
}

// post puts a have into o's mail, to arrive after d.
func (w *world) post(o *host, m have, d time.Duration) {
	now := int64(w.clock.now / w.net.quantum)
	slot := int64((w.clock.now + d) / w.net.quantum)
	slot = min(slot, now+int64(len(w.mail.slots))-1) % int64(len(w.mail.slots))
	if len(o.mail) == 0 {
		o.mail = make([][]have, len(w.mail.slots))
	}
	if len(o.mail[slot]) == 0 {
		w.mail.slots[slot] = append(w.mail.slots[slot], o)
	}
	o.mail[slot] = append(o.mail[slot], m)
	w.mail.waiting++
}

// deliver hands out what arrived in the quantum that just ended.
func (w *world) deliver() {
	if w.mail.waiting == 0 {
		return
	}
	slot := (int64(w.clock.now/w.net.quantum) - 1) % int64(len(w.mail.slots))
	for _, o := range w.mail.slots[slot] {
		for _, m := range o.mail[slot] {
			o.takeHave(m)
		}
		w.mail.waiting -= len(o.mail[slot])
		clear(o.mail[slot])
		o.mail[slot] = o.mail[slot][:0]
	}
	w.mail.slots[slot] = w.mail.slots[slot][:0]
}

// takeHave takes one message in. The sender left out what it knew h to hold,
// which is about what h does hold; where nothing is left, nothing was sent.
func (h *host) takeHave(m have) {
	if !m.from.up || !h.alive || h.frozen {
		return
	}
	w, held := h.w, h.store[m.blob]
	news := w.scratch[:0]
	for _, i := range m.pieces {
		if !held.Has(i) {
			news = append(news, i)
		}
	}
	w.scratch = news
	if len(news) == 0 {
		return
	}
	w.book(m.from.h, h, kindHave, 1, sizeHave+pieceList(news))
	h.shows(m.from)
	if p := h.pulls[m.blob]; p != nil && h.hashes {
		p.step(scheduler.Have{Peer: m.from.handle, Pieces: news})
	}
}
