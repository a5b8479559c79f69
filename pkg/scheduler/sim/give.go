package sim

import (
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
)

// give steps h's Giver and does what it says.
func (h *host) give(ev scheduler.GiverEvent) {
	w := h.w
	if h.frozen {
		return
	}
	w.steps++
	for _, act := range h.giver.Step(w.clock.now, ev) {
		switch act := act.(type) {
		case scheduler.Give:
			if a := w.asks[act.ID]; a != nil {
				h.send(a, act.Pieces)
			}
		case scheduler.Busy:
			if a := w.asks[act.ID]; a != nil {
				a.refuse(act.After, act.Try)
			}
		case scheduler.NotHeld:
			if a := w.asks[act.ID]; a != nil {
				a.reply(func() { a.end(scheduler.ResultNotHeld, 0) })
			}
		case scheduler.WakeAt:
			epoch := h.epoch
			h.giverTimer.arm(&w.clock, act.At, func() bool { return h.alive && h.epoch == epoch }, func() { h.give(scheduler.Tick{}) })
		}
	}
}

// arm has tick called at t, unless it is armed for earlier: then it looks again.
func (t *timer) arm(c *clock, at time.Duration, live func() bool, tick func()) {
	t.want = at
	if t.set > c.now && t.set <= at {
		return
	}
	t.set = at
	var fire func()
	fire = func() {
		if !live() || t.set != c.now {
			return
		}
		if t.want > c.now {
			t.set = t.want
			c.at(t.set, fire)
			return
		}
		t.set = 0
		tick()
	}
	c.at(at, fire)
}

// send moves the pieces given to a.
func (h *host) send(a *ask, pieces []int) {
	w := h.w
	b := a.from.blob
	sizes := make([]int, len(pieces))
	for k, i := range pieces {
		sizes[k] = w.geo[b].Len(i)
	}
	a.pieces = pieces
	a.reply(func() { a.from.step(scheduler.Granted{Request: a.req, Pieces: append([]int(nil), pieces...)}) })
	k := 0
	a.flow = w.net.start(w.path(h, a.from.h), sizes, func(last bool) {
		i := pieces[k]
		k++
		if last {
			delete(w.asks, a.id)
			h.give(scheduler.Sent{ID: a.id, OK: true})
		}
		a.reply(func() {
			a.from.arrive(a, h, i)
			if last {
				a.end(scheduler.ResultOK, 0)
			}
		})
	})
	w.watch(a)
}

// watch reports the progress of slow transfers.
func (w *world) watch(a *ask) {
	w.clock.after(time.Second, func() {
		if a.closed || a.flow.dead {
			return
		}
		switch {
		case a.flow.rate > 0:
			a.still = 0
			if a.from.h.epoch == a.epoch && a.from.h.alive {
				a.from.step(scheduler.Progress{Request: a.req, Bytes: int64(a.flow.total)})
			}
		case a.still < 5:
			a.still++
		default: // the giver's own deadline for a write
			delete(w.asks, a.id)
			w.net.stop(a.flow)
			if a.to.alive && a.to.epoch == a.toEpoch {
				a.to.give(scheduler.Sent{ID: a.id})
			}
			a.reply(func() { a.finish(scheduler.ResultFailed, 0) })
			return
		}
		w.watch(a)
	})
}

// reply runs do at the asker, one way later, unless it is gone or closed by then.
func (a *ask) reply(do func()) {
	w := a.to.w
	w.clock.after(w.lag(a.to, a.from.h), func() {
		if !a.closed && a.from.h.alive && a.from.h.epoch == a.epoch {
			do()
		}
	})
}

// refuse tells the asker to come back, and of others to try.
func (a *ask) refuse(after time.Duration, try []scheduler.Peer) {
	w := a.to.w
	delete(w.asks, a.id)
	a.reply(func() {
		for _, p := range try {
			if o := w.hostOf(p); o.alive && o != a.from.h && !a.from.h.met[o] {
				epoch, oe := a.epoch, o.epoch
				w.clock.after(4*w.lag(a.from.h, o), func() {
					if a.from.h.alive && a.from.h.epoch == epoch && o.alive && o.epoch == oe {
						a.from.h.meet(o)
					}
				})
			}
		}
		a.finish(scheduler.ResultBusy, after)
	})
}

// end ends the ask for the asker.
func (a *ask) end(r scheduler.Result, after time.Duration) {
	delete(a.to.w.asks, a.id)
	a.finish(r, after)
}

func (a *ask) finish(r scheduler.Result, after time.Duration) {
	a.closed = true
	a.from.step(scheduler.Done{Request: a.req, Result: r, After: after})
}

// close breaks the ask off: cancelled, or one of the two died.
func (a *ask) close() {
	if a.closed {
		return
	}
	a.closed = true
	w := a.to.w
	delete(w.asks, a.id)
	if a.flow != nil {
		w.net.stop(a.flow)
	}
	if to, epoch := a.to, a.toEpoch; to.alive && to.epoch == epoch {
		w.clock.after(w.lag(to, a.from.h), func() {
			if to.alive && to.epoch == epoch {
				to.give(scheduler.AskGone{ID: a.id})
			}
		})
	}
}
