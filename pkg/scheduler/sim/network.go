package sim

import (
	"cmp"
	"slices"
	"time"
)

// network moves bytes: every flow crosses some links, and links share their
// rate max-min fairly among their flows. Rates are worked out once per
// quantum; a flow that begins within one moves from the next on. Links and
// flows lie in slabs and name each other by index, since at 10,000 hosts all
// of them are walked in every quantum.
type network struct {
	clock   *clock
	quantum time.Duration
	wire    Wire
	links   []link
	flows   []flow
	moves   []move  // by flow
	free    []int32 // flows that ended
	live    int
	slow    []flowID // flows in slow start
	heap    []int32  // of fill
	capped  []int32  // of fill
}

// link is one direction of a host's wire, or of a wire between zones.
type link struct {
	rate  float64 // bytes/s on the wire
	sent  float64 // bytes of payload that crossed it
	owed  float64 // bytes on the wire that go before data: messages, acknowledgements; less than 0: left over
	back  int32   // the other direction; -1 = none
	queue float64 // seconds that what is sent now waits before it
	flows []int32 // those under way, in no meaning order
	// of one fill, as payload:
	room   float64 // bytes/s for data
	left   float64
	weight float64
	share  float64
}

// move is what changes of a flow in every quantum.
type move struct{ left, rate float64 }

// flow sends pieces one after another.
type flow struct {
	links   [4]int32
	at      [4]int32 // where the flow stands in each link's flows
	nlinks  int8
	live    bool
	fixed   bool
	slow    bool // in slow start
	weight  float64
	limit   float64 // bytes/s that the sender's window allows, in slow start
	sizes   []int   // of the pieces still to be sent, the one under way first
	done    float64 // bytes of those sent
	conn    *conn
	serial  int64
	onPiece func(last bool)
}

// flowID names a flow for good: a slot is used again, its serial is not.
type flowID struct {
	slot   int32
	serial int64
}

func (n *network) addLink(rate float64) int32 {
	n.links = append(n.links, link{rate: rate, back: -1})
	return int32(len(n.links) - 1)
}

// addPair adds a wire of two directions.
func (n *network) addPair(up, down float64) (int32, int32) {
	a, b := n.addLink(up), n.addLink(down)
	n.links[a].back, n.links[b].back = b, a
	return a, b
}

// start sends pieces of these sizes over links; onPiece is called as each has
// come out at the far end. conn is the connection they go by, nil where its
// window does not matter.
func (n *network) start(links []int32, sizes []int, c *conn, onPiece func(last bool)) flowID {
	if len(n.free) == 0 {
		n.flows = append(n.flows, flow{})
		n.moves = append(n.moves, move{})
		n.free = append(n.free, int32(len(n.flows)-1))
	}
	id := n.free[len(n.free)-1]
	n.free = n.free[:len(n.free)-1]
	f := &n.flows[id]
	*f = flow{nlinks: int8(len(links)), live: true, weight: 1, sizes: sizes, conn: c, serial: f.serial + 1, onPiece: onPiece}
	n.moves[id] = move{left: float64(sizes[0])}
	for k, l := range links {
		f.links[k], f.at[k] = l, int32(len(n.links[l].flows))
		n.links[l].flows = append(n.links[l].flows, id)
	}
	n.live++
	if c != nil {
		n.open(id, c)
	}
	return flowID{id, f.serial}
}

// get returns a flow that is under way, or nil.
func (n *network) get(id flowID) *flow {
	if id.serial == 0 || n.flows[id.slot].serial != id.serial || !n.flows[id.slot].live {
		return nil
	}
	return &n.flows[id.slot]
}

// progress returns what a flow has moved so far, and its rate.
func (n *network) progress(id flowID) (moved, rate float64) {
	f := n.get(id)
	if f == nil {
		return 0, 0
	}
	m := n.moves[id.slot]
	moved = f.done
	if len(f.sizes) > 0 {
		moved += float64(f.sizes[0]) - m.left
	}
	return moved, m.rate
}

func (n *network) stop(id flowID) {
	f := n.get(id)
	if f == nil {
		return
	}
	if f.conn != nil {
		f.conn.last = n.clock.now
	}
	f.live = false
	n.live--
	n.moves[id.slot] = move{}
	for k := range f.nlinks {
		l := &n.links[f.links[k]]
		last := l.flows[len(l.flows)-1]
		l.flows[f.at[k]] = last
		for j, m := range n.flows[last].links[:n.flows[last].nlinks] {
			if m == f.links[k] {
				n.flows[last].at[j] = f.at[k]
			}
		}
		l.flows = l.flows[:len(l.flows)-1]
	}
	f.sizes, f.conn, f.onPiece = nil, nil, nil
	n.free = append(n.free, id.slot)
}

// owe has a link carry bytes besides its flows.
func (n *network) owe(l int32, bytes float64) { n.links[l].owed += bytes }

// delay is how long what is sent over a link now waits before it.
func (n *network) delay(l int32) time.Duration {
	k := &n.links[l]
	t := k.queue
	if k.owed > 0 && k.rate > 0 {
		t += k.owed / k.rate
	}
	return time.Duration(t * float64(time.Second))
}

// step moves the world on to the next quantum's beginning, or to the next
// event where nothing flows and nothing is owed to anybody.
func (n *network) step(pending bool) {
	if n.live == 0 && !pending {
		if len(n.clock.heap) > 0 {
			n.clock.runUntil(n.clock.heap[0].at)
		}
		for k := range n.links {
			n.links[k].owed, n.links[k].queue = 0, 0
		}
		return
	}
	from := n.clock.now
	to := (from/n.quantum + 1) * n.quantum
	dt := (to - from).Seconds()
	n.fill(dt)
	n.carry(dt)
	for k := range n.moves {
		m := &n.moves[k]
		if m.rate <= 0 {
			continue
		}
		m.left -= m.rate * dt
		if m.left <= 0.5 {
			n.arrived(int32(k), to)
		}
	}
	n.windows(dt)
	n.clock.runUntil(to)
}

// arrived has the pieces that flow k finished within the quantum told.
func (n *network) arrived(k int32, to time.Duration) {
	f, m := &n.flows[k], &n.moves[k]
	id := flowID{k, f.serial}
	for m.left <= 0.5 {
		over := -m.left
		at := to - time.Duration(over/m.rate*float64(time.Second))
		f.done += float64(f.sizes[0])
		f.sizes = f.sizes[1:]
		last := len(f.sizes) == 0
		n.clock.at(at, func() {
			f := n.get(id)
			if f == nil {
				return
			}
			on := f.onPiece
			if last {
				n.stop(id)
			}
			on(last)
		})
		if last {
			for _, l := range f.links[:f.nlinks] { // what it could not use is there for others
				n.links[l].sent -= over
				n.links[l].owed -= over * n.wire.Framing
			}
			m.left, m.rate = 0, 0
			return
		}
		m.left += float64(f.sizes[0])
	}
}

// carry books what crosses each link in the quantum, and what it causes the
// other way; and follows the queues before the links.
func (n *network) carry(dt float64) {
	queue := n.wire.Queue.Seconds()
	for k := range n.links {
		l := &n.links[k]
		if len(l.flows) == 0 {
			l.owed = max(l.owed-l.rate*dt, 0)
			l.queue *= max(0, 1-dt/queueDrain)
			continue
		}
		l.owed = max(l.owed-max(l.rate-l.room*n.wire.Framing, 0)*dt, 0)
		moved := (l.room - l.left) * dt
		l.sent += moved
		if l.back >= 0 {
			n.links[l.back].owed += moved * n.wire.Ack
		}
		if full := l.left < 0.03*l.room; full {
			l.queue += (queue - l.queue) * min(1, dt/queueFill)
		} else {
			l.queue *= max(0, 1-dt/queueDrain)
		}
	}
}

// fill shares the links' rates among the flows: again and again the link with
// the least for each of its flows fixes theirs, but for those that their
// window holds to less.
func (n *network) fill(dt float64) {
	h := n.heap[:0]
	for k := range n.flows {
		n.flows[k].fixed = false
	}
	for k := range n.links {
		l := &n.links[k]
		if len(l.flows) == 0 {
			continue
		}
		l.room = max(l.rate-l.owed/dt, 0.02*l.rate) / n.wire.Framing
		l.left, l.weight = l.room, 0
		for _, f := range l.flows {
			l.weight += n.flows[f].weight
		}
		l.share = l.left / l.weight
		h = append(h, int32(k))
	}
	for k := len(h)/2 - 1; k >= 0; k-- {
		n.sift(h, k)
	}
	capped := n.capped[:0]
	for _, id := range n.slow {
		if n.get(id) != nil {
			capped = append(capped, id.slot)
		}
	}
	slices.SortFunc(capped, func(a, b int32) int {
		if c := cmp.Compare(n.flows[a].limit/n.flows[a].weight, n.flows[b].limit/n.flows[b].weight); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	n.capped = capped
	for len(h) > 0 {
		l := &n.links[h[0]]
		if l.weight < 1e-6 {
			h[0] = h[len(h)-1]
			h = h[:len(h)-1]
			n.sift(h, 0)
			continue
		}
		if share := max(l.left, 0) / l.weight; share > l.share*(1+1e-9) {
			l.share = share
			n.sift(h, 0)
			continue
		}
		if len(capped) > 0 {
			if f := &n.flows[capped[0]]; f.fixed {
				capped = capped[1:]
				continue
			} else if f.limit <= l.share*f.weight {
				n.fix(capped[0], f.limit)
				capped = capped[1:]
				continue
			}
		}
		for _, f := range l.flows {
			if !n.flows[f].fixed {
				n.fix(f, l.share*n.flows[f].weight)
			}
		}
		l.weight = 0
	}
	n.heap = h
}

func (n *network) fix(k int32, rate float64) {
	f := &n.flows[k]
	f.fixed = true
	if len(f.sizes) == 0 {
		rate = 0
	}
	n.moves[k].rate = rate
	for _, l := range f.links[:f.nlinks] {
		n.links[l].left -= rate
		n.links[l].weight -= f.weight
	}
}

func (n *network) sift(h []int32, k int) {
	for {
		best := k
		for j := 2*k + 1; j <= 2*k+2 && j < len(h); j++ {
			if n.links[h[j]].share < n.links[h[best]].share {
				best = j
			}
		}
		if best == k {
			return
		}
		h[k], h[best] = h[best], h[k]
		k = best
	}
}
