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
			if a := h.serving[act.ID]; a != nil {
				h.send(a, act.Pieces)
			}
		case scheduler.Busy:
			if a := h.serving[act.ID]; a != nil {
				a.refuse(act.After, act.Try)
			}
		case scheduler.NotHeld:
			if a := h.serving[act.ID]; a != nil {
				a.answer(sizeNotHeld, func() { a.finish(scheduler.ResultNotHeld, 0) })
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
	head := sizeGranted
	for k, i := range pieces {
		sizes[k] = w.geo[b].Len(i)
		head += digits(i) + digits(sizes[k]) + 2
	}
	w.book(h, a.from.h, kindAsk, 1, head)
	a.reply(func() { a.from.step(scheduler.Granted{Request: a.req, Pieces: append([]int(nil), pieces...)}) })
	k := 0
	a.flow = w.net.start(w.path(h, a.from.h), sizes, a.conn, func(last bool) {
		i := pieces[k]
		k++
		if last {
			delete(h.serving, a.id)
			h.give(scheduler.Sent{ID: a.id, OK: true})
		}
		a.reply(func() {
			w.clock.after(w.c.Wire.HandlePart, func() {
				a.from.h.whenKnown(func() {
					if a.closed || !a.from.h.alive || a.from.h.epoch != a.epoch {
						return
					}
					a.from.arrive(a, h, i)
					if last {
						a.finish(scheduler.ResultOK, 0)
					}
				})
			})
		})
	})
	w.watch(a)
}

// watch reports the progress of slow transfers.
func (w *world) watch(a *ask) {
	w.clock.after(time.Second, func() {
		if a.closed || w.net.get(a.flow) == nil {
			return
		}
		moved, rate := w.net.progress(a.flow)
		switch {
		case rate > 0:
			a.still = 0
			if a.from.h.epoch == a.epoch && a.from.h.alive {
				a.from.step(scheduler.Progress{Request: a.req, Bytes: int64(moved)})
			}
		case a.still < 5:
			a.still++
		default: // the giver's own deadline for a write
			delete(a.to.serving, a.id)
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

// reply runs do at the asker, one way later and after what was sent before,
// unless the asker is gone or the ask is closed by then.
func (a *ask) reply(do func()) {
	w := a.to.w
	a.last = max(a.last, w.clock.now+w.delay(a.to, a.from.h))
	w.clock.at(a.last, func() {
		if !a.closed && a.from.h.alive && a.from.h.epoch == a.epoch {
			do()
		}
	})
}

// answer ends the ask at the giver with a few bytes.
func (a *ask) answer(bytes int, do func()) {
	delete(a.to.serving, a.id)
	a.to.w.book(a.to, a.from.h, kindAsk, 1, bytes)
	a.reply(do)
}

// refuse tells the asker to come back, and of others to try.
func (a *ask) refuse(after time.Duration, try []scheduler.Peer) {
	h := a.from.h
	a.answer(sizeRefused+len(try)*sizePeer, func() {
		for _, p := range try {
			if o := a.to.handles[p].h; o != h {
				h.dial(o)
			}
		}
		a.finish(scheduler.ResultBusy, after)
	})
}

// finish ends the ask for the asker. The connection is free again.
func (a *ask) finish(r scheduler.Result, after time.Duration) {
	a.closed = true
	a.conn.busy = false
	a.from.forget(a)
	a.from.step(scheduler.Done{Request: a.req, Result: r, After: after})
}

// close breaks the ask off, and with it the connection: cancelled, or one of
// the two died.
func (a *ask) close() {
	if a.closed {
		return
	}
	a.closed = true
	a.from.forget(a)
	a.from.drop(a)
	w := a.to.w
	w.net.stop(a.flow)
	delete(a.to.serving, a.id)
	if to, epoch := a.to, a.toEpoch; to.alive && to.epoch == epoch {
		w.clock.after(w.lag(to, a.from.h), func() {
			if to.alive && to.epoch == epoch {
				to.give(scheduler.AskGone{ID: a.id})
			}
		})
	}
}
