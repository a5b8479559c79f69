package sim

import (
	"math/rand/v2"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// world is everything there is in one run.
type world struct {
	c     Config
	clock clock
	net   network
	rng   *rand.Rand
	geo   []piece.Geometry

	hosts    []*host // 0 is the seeder; absent (not alive) where there is none
	pullers  []*host
	upstream int32   // link; -1 = there is none
	zoneIn   []int32 // into each zone
	zoneOut  []int32
	lastAsk  scheduler.AskID
	mail     mail
	scratch  []int // of takeHave

	held    []*piece.Bitfield // by all pullers together
	covered func()            // called once that is everything

	curve   []float64
	upToNow float64 // bytes that the pullers' links took

	unfinished int
	steps      int64
	traffic    [kinds]traffic
	askCount   int64
	dupBytes   int64
}

// ask is one request for pieces under way.
type ask struct {
	id      scheduler.AskID
	req     scheduler.Request
	from    *pull
	epoch   int // of from's host
	to      *host
	toEpoch int
	asker   scheduler.Peer // from's host, as to knows it
	conn    *conn
	flow    flowID
	last    time.Duration // when the latest part of the answer arrives
	still   int           // seconds without a byte
	closed  bool
}

// path is what a flow from a to b crosses; a nil is the upstream.
func (w *world) path(a, b *host) []int32 {
	if a == nil {
		return []int32{w.upstream, b.down}
	}
	p := []int32{a.up, b.down}
	if a.zone != b.zone && w.zoneIn != nil {
		p = append(p, w.zoneOut[a.zone], w.zoneIn[b.zone])
	}
	return p
}

func newWorld(c Config) *world {
	w := &world{c: c, rng: rand.New(rand.NewPCG(c.Seed, 7)), upstream: -1}
	w.net = network{clock: &w.clock, quantum: c.Quantum, wire: c.Wire}
	w.mail.slots = make([][]*host, 2+(4*c.Wire.Queue+2*max(c.Far, c.Latency)+time.Second/4)/c.Quantum)
	for _, size := range c.Blobs {
		g, err := piece.GeometryOf(size)
		if err != nil {
			panic(err)
		}
		w.geo = append(w.geo, g)
		w.held = append(w.held, piece.NewBitfield(g.Count()))
	}
	if c.Upstream > 0 {
		w.upstream = w.net.addLink(c.Upstream)
	}
	if c.Zones > 1 && c.ZoneLink > 0 {
		for range c.Zones {
			in, out := w.net.addPair(c.ZoneLink, c.ZoneLink)
			w.zoneIn, w.zoneOut = append(w.zoneIn, in), append(w.zoneOut, out)
		}
	}
	for id := range c.Hosts + 1 {
		l := c.SeederLink
		if id > 0 {
			l = c.Links(id - 1)
		}
		h := &host{w: w, id: id, seeder: id == 0, rate: l}
		h.up, h.down = w.net.addPair(l.Up, l.Down)
		if id > 0 {
			h.zone = (id - 1) % c.Zones
			h.liar = id > c.Hosts-c.Liars
			h.holder = id <= c.Holders
		}
		for _, g := range w.geo {
			h.store = append(h.store, piece.NewBitfield(g.Count()))
		}
		if h.holder || h.seeder && !c.Cold {
			for b, g := range w.geo {
				h.store[b] = piece.FullBitfield(g.Count())
			}
		}
		w.hosts = append(w.hosts, h)
		if !h.seeder && !h.holder {
			w.pullers = append(w.pullers, h)
		}
	}
	w.unfinished = len(w.pullers)
	return w
}

func (w *world) run() {
	if !w.c.NoSeeder {
		w.hosts[0].boot()
	}
	k := 0
	for _, h := range w.hosts[1:] {
		if h.holder {
			h.boot()
			continue
		}
		h.arrived = w.c.Arrive(k)
		w.clock.at(h.arrived, h.boot)
		k++
	}
	for _, f := range w.c.Faults {
		if f.At == 0 {
			w.covered = func() { w.hosts[f.Host+1].fault(f.Kind) }
			continue
		}
		w.clock.at(f.At, func() { w.hosts[f.Host+1].fault(f.Kind) })
	}
	if w.c.Curve > 0 {
		w.clock.after(w.c.Curve, w.sample)
	}
	limit := w.c.Limit
	if limit == 0 {
		limit = 20*lowerBound(w.c) + time.Minute
	}
	for w.unfinished > 0 && w.clock.now < limit && (len(w.clock.heap) > 0 || w.net.live > 0) {
		w.net.step(w.mail.waiting > 0)
		w.deliver()
	}
}

// sample notes how well the pullers' links were used since the last time.
func (w *world) sample() {
	var moved, could float64
	for _, h := range w.pullers {
		moved += w.net.links[h.down].sent
		could += h.rate.Down * w.c.Curve.Seconds()
	}
	w.curve = append(w.curve, (moved-w.upToNow)/could)
	w.upToNow = moved
	w.clock.after(w.c.Curve, w.sample)
}

// fault applies a fault to h.
func (h *host) fault(k FaultKind) {
	switch k {
	case Kill:
		h.kill()
	case Restart:
		if !h.alive {
			h.boot()
		}
	case Freeze:
		h.frozen = true
		h.w.net.links[h.up].rate, h.w.net.links[h.down].rate = 0, 0
	}
}
