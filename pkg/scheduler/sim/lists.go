package sim

import (
	"slices"
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// How signed hashes get to every host, as pkg/fetch does it: who lacks them
// asks two neighbours that have some, and two others, to pass on what they have
// and what they get; nobody passes them on to more than maxFed at once, the seeder
// neither; and who gets none for feedWait asks the seeder again, which then
// answers for certain.
const (
	feeders   = 2
	maxFed    = 16
	shortList = 64 // pieces up to which a list goes to all who ask
	feedWait  = time.Second
)

// signEvery is how often a seeder signs what came in.
func (h *host) signEvery() time.Duration {
	return min(max(30*time.Millisecond, time.Duration(len(h.neighbours))*time.Millisecond), 200*time.Millisecond)
}

// lists is what a host knows of signed hashes. Those of all blobs are taken
// together, and of a blob that the seeder still fetches those to come are
// charged, but not waited for.
type lists struct {
	hashes    bool     // it knows them, and may take pieces of others
	unchecked []func() // what waits for that
	feeding   bool     // the timer runs
}

// wantsRuns tells whether n is to be asked for signed hashes, and notes it.
func (h *host) wantsRuns(n *neighbour) bool {
	n.feeds = !h.hashes && (n.feeds || n.h.seeder || !n.tried && h.feeders(n.knows) < feeders)
	return n.feeds
}

// feeders counts the neighbours that were asked for signed hashes: those that
// are known to have some, or the others.
func (h *host) feeders(knows bool) int {
	k := 0
	for _, n := range h.neighbours {
		if n.feeds && n.knows == knows && !n.h.seeder {
			k++
		}
	}
	return k
}

// shows notes that n has signed hashes, and asks for them.
func (h *host) shows(n *neighbour) {
	if n.knows || h.hashes {
		return
	}
	n.knows = true
	if !n.feeds && !n.tried && h.feeders(true) < feeders {
		h.joinTo(n)
	}
}

// feed makes n one that h passes signed hashes on to, unless there are enough.
func (h *host) feed(n *neighbour) bool {
	final := h.hashes && !h.w.c.Cold // a list that is final is sent once
	if n.fed && !final {
		return true
	}
	now, k := h.w.clock.now, 0
	for _, m := range h.neighbours {
		if m.fed && (!final || now-m.fedAt < feedWait) {
			k++
		}
	}
	pieces := 0
	for _, g := range h.w.geo {
		pieces += g.Count()
	}
	if k >= maxFed && pieces > shortList {
		return false
	}
	n.fed, n.fedAt = true, now
	return true
}

// sendRuns sends n the signed hashes that h knows. Those of a blob that the
// seeder still fetches come with the pieces.
func (h *host) sendRuns(n *neighbour) {
	w := h.w
	if !h.hashes {
		return
	}
	size := 0
	for _, g := range w.geo {
		size += sizeRuns
		if !w.c.Cold {
			size += g.Count() * hashSize
		}
	}
	back := n.back
	w.say(h, n.h, kindRuns, size, func() { back.back.h.learn(back) })
}

// learn takes in the signed hashes, from a neighbour: now the pieces of others
// can be checked.
func (h *host) learn(from *neighbour) {
	if h.hashes {
		return
	}
	h.hashes = true
	for _, p := range h.pulls {
		if p == nil {
			continue
		}
		for _, n := range h.neighbours {
			if n.told && !n.h.seeder {
				p.step(scheduler.Have{Peer: n.handle, Pieces: slices.Collect(n.h.store[p.blob].All())})
			}
		}
	}
	for _, n := range h.neighbours {
		if n.fed && n != from {
			h.sendRuns(n)
		}
	}
	unchecked := h.unchecked
	h.unchecked = nil
	for _, f := range unchecked {
		f()
	}
}

// whenKnown runs f as soon as h knows the signed hashes.
func (h *host) whenKnown(f func()) {
	if !h.hashes {
		h.unchecked = append(h.unchecked, f)
		return
	}
	f()
}

// seek asks neighbours for signed hashes while fewer than two were asked.
func (h *host) seek() {
	if h.hashes || h.seeder || len(h.neighbours) == 0 {
		return
	}
	start := h.w.rng.IntN(len(h.neighbours))
	for i := range h.neighbours {
		n := h.neighbours[(start+i)%len(h.neighbours)]
		if n.told && !n.feeds && !n.tried && !n.h.seeder && h.feeders(n.knows) < feeders {
			h.joinTo(n)
		}
	}
}

// feedTimer sees to it that h does not wait in vain for signed hashes.
func (h *host) feedTimer() {
	if h.feeding || h.hashes {
		return
	}
	h.feeding = true
	h.feedAfter(feedWait)
}

func (h *host) feedAfter(wait time.Duration) {
	w, epoch := h.w, h.epoch
	w.clock.after(wait+time.Duration(w.rng.Int64N(int64(wait/2))), func() {
		if !h.alive || h.epoch != epoch || h.hashes {
			return
		}
		for _, n := range h.neighbours {
			if n.feeds && !n.h.seeder {
				n.feeds, n.tried = false, true
			}
		}
		for _, n := range h.neighbours {
			if n.h.seeder {
				w.say(h, n.h, kindJoin, sizeJoin, func() { n.h.sendRuns(n.back) })
			}
		}
		h.seek()
		h.feedAfter(min(2*wait, 8*feedWait))
	})
}

// relayRuns charges the signing of n hashes that the seeder just came to know,
// and their way from neighbour to neighbour.
func (w *world) relayRuns(n int) {
	for _, h := range w.hosts {
		if !h.alive || !h.hashes {
			continue
		}
		for _, m := range h.neighbours {
			if m.fed {
				w.book(h, m.h, kindRuns, 1, sizeRuns+n*hashSize)
			}
		}
	}
}
