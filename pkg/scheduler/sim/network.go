package sim

import "time"

// network moves bytes: every flow crosses some links, and links share their
// rate max-min fairly among their flows. Rates are worked out once per
// quantum; a flow that begins within one moves from the next on.
type network struct {
	clock   *clock
	quantum time.Duration
	links   []*link
	flows   []*flow
	dirty   bool
	heap    []*link // of fill
}

// link is one direction of a host's wire, or of a wire between zones.
type link struct {
	rate  float64 // bytes/s
	sent  float64 // bytes that crossed it
	flows []*flow // those under way, in no meaning order
	// of one fill:
	left  float64
	count int
	share float64
}

// flow sends pieces one after another.
type flow struct {
	links   []*link
	at      []int // where the flow stands in each link's flows
	slot    int   // and in the network's
	sizes   []int // of the pieces still to be sent
	left    float64
	rate    float64
	total   float64 // bytes moved so far
	fixed   bool
	dead    bool
	onPiece func(last bool)
}

func (n *network) addLink(rate float64) *link {
	l := &link{rate: rate}
	n.links = append(n.links, l)
	return l
}

// start sends pieces of these sizes over links; onPiece is called as each has
// come out at the far end.
func (n *network) start(links []*link, sizes []int, onPiece func(last bool)) *flow {
	f := &flow{links: links, at: make([]int, len(links)), slot: len(n.flows), sizes: sizes, left: float64(sizes[0]), onPiece: onPiece}
	n.flows = append(n.flows, f)
	for k, l := range links {
		f.at[k] = len(l.flows)
		l.flows = append(l.flows, f)
	}
	n.dirty = true
	return f
}

func (n *network) stop(f *flow) {
	if f == nil || f.dead {
		return
	}
	f.dead = true
	n.dirty = true
	last := n.flows[len(n.flows)-1]
	n.flows[f.slot], last.slot = last, f.slot
	n.flows = n.flows[:len(n.flows)-1]
	for k, l := range f.links {
		last := l.flows[len(l.flows)-1]
		l.flows[f.at[k]] = last
		for j, m := range last.links {
			if m == l {
				last.at[j] = f.at[k]
			}
		}
		l.flows = l.flows[:len(l.flows)-1]
	}
}

// step moves the world on by one quantum, or to the next event where nothing flows.
func (n *network) step() {
	if len(n.flows) == 0 {
		if len(n.clock.heap) > 0 {
			n.clock.runUntil(n.clock.heap[0].at)
		}
		return
	}
	if n.dirty {
		n.fill()
		n.dirty = false
	}
	from := n.clock.now
	to := from + n.quantum
	for _, f := range n.flows {
		if f.rate <= 0 {
			continue
		}
		moved := f.rate * n.quantum.Seconds()
		f.total += moved
		for _, l := range f.links {
			l.sent += moved
		}
		f.left -= moved
		for over := f.left; over <= 0.5; over = f.left {
			at := to + time.Duration(over/f.rate*float64(time.Second))
			f.sizes = f.sizes[1:]
			last := len(f.sizes) == 0
			n.clock.at(at, func() {
				if f.dead {
					return
				}
				if last {
					n.stop(f)
				}
				f.onPiece(last)
			})
			if last {
				for _, l := range f.links {
					l.sent += over
				}
				f.rate = 0
				break
			}
			f.left += float64(f.sizes[0])
		}
	}
	n.clock.runUntil(to)
}

// fill shares the links' rates among the flows: again and again the link with
// the least for each of its flows fixes theirs.
func (n *network) fill() {
	h := n.heap[:0]
	for _, f := range n.flows {
		f.fixed = false
	}
	for _, l := range n.links {
		l.left, l.count = l.rate, len(l.flows)
		if l.count > 0 {
			l.share = l.left / float64(l.count)
			h = append(h, l)
		}
	}
	for k := len(h)/2 - 1; k >= 0; k-- {
		sift(h, k)
	}
	for len(h) > 0 {
		l := h[0]
		if l.count == 0 {
			h[0] = h[len(h)-1]
			h = h[:len(h)-1]
			sift(h, 0)
			continue
		}
		if share := max(l.left, 0) / float64(l.count); share > l.share*(1+1e-9) {
			l.share = share
			sift(h, 0)
			continue
		}
		for _, f := range l.flows {
			if f.fixed {
				continue
			}
			f.fixed, f.rate = true, l.share
			if len(f.sizes) == 0 {
				f.rate = 0
			}
			for _, m := range f.links {
				m.left -= l.share
				m.count--
			}
		}
	}
	n.heap = h
}

func sift(h []*link, k int) {
	for {
		best := k
		for j := 2*k + 1; j <= 2*k+2 && j < len(h); j++ {
			if h[j].share < h[best].share {
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
