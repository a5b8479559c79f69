package sim

import "time"

// clock is the world's event queue: what happens when, and in the order it
// was put in where times are equal.
type clock struct {
	now  time.Duration
	seq  uint64
	heap []event
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

func (e event) before(f event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

// after runs do when d has passed.
func (c *clock) after(d time.Duration, do func()) { c.at(c.now+d, do) }

// at runs do at time t, or now where that has passed.
func (c *clock) at(t time.Duration, do func()) {
	c.seq++
	c.heap = append(c.heap, event{max(t, c.now), c.seq, do})
	for k := len(c.heap) - 1; k > 0; {
		up := (k - 1) / 4
		if !c.heap[k].before(c.heap[up]) {
			break
		}
		c.heap[k], c.heap[up] = c.heap[up], c.heap[k]
		k = up
	}
}

func (c *clock) pop() event {
	top := c.heap[0]
	last := len(c.heap) - 1
	c.heap[0] = c.heap[last]
	c.heap[last] = event{}
	c.heap = c.heap[:last]
	for k := 0; ; {
		best := k
		for j := 4*k + 1; j <= 4*k+4 && j < last; j++ {
			if c.heap[j].before(c.heap[best]) {
				best = j
			}
		}
		if best == k {
			return top
		}
		c.heap[k], c.heap[best] = c.heap[best], c.heap[k]
		k = best
	}
}

// runUntil runs everything that is due up to and at t.
func (c *clock) runUntil(t time.Duration) {
	for len(c.heap) > 0 && c.heap[0].at <= t {
		e := c.pop()
		c.now = e.at
		e.do()
	}
	c.now = t
}
