package sim

import (
	"math"
	"sort"
	"time"
)

// Report is what came of a run. Bytes "per image" are divided by the sum of
// the blobs' sizes.
type Report struct {
	Hosts      int
	Unfinished int           // hosts that did not get everything
	Makespan   time.Duration // from the first arrival to the last host done
	Bound      time.Duration // no schedule is faster
	Ratio      float64       // Makespan / Bound
	P50, P95   time.Duration // of the hosts' own times
	Slowest    time.Duration
	FirstByte  time.Duration // of the host that waited longest
	Alone      float64       // the worst of (own time / time its own downlink needs) over hosts that were not killed
	AloneFast  float64       // the same over those with the fastest downlink
	Seeder     float64       // images that left the seeder
	Upstream   float64       // images that left the upstream
	Cross      float64       // images that came into a zone from others, the zone that took most
	Duplicates float64       // share of all bytes received that was held already
	Asks       float64       // per host and piece
	Neighbours float64       // of a host, the seeder apart: mean; and
	MostKnown  int           // of the host that had most
	Control    Control       // what was said besides pieces
	Stuck      int
	Curve      []float64 // what came in at all pullers / what their links could take, for each Config.Curve
	Steps      int64     // of all state machines
}

// Control is what hosts said to each other besides pieces, headers of TCP and
// IP left out.
type Control struct {
	Messages float64 // sent per host
	Share    float64 // bytes / bytes of pieces
	Joins    float64 // of that: dials, Join, State, Peers
	Runs     float64 // signed hashes
	Haves    float64
	Asks     float64 // asks and the heads of their answers
	Seeder   float64 // images' worth that the seeder said
	Asked    float64 // asks that the seeder answered, per second
}

// Run simulates c.
func Run(c Config) Report {
	w := newWorld(c.withDefaults())
	w.run()
	return w.report()
}

// lowerBound is DESIGN.md section 5's: T >= max(F/us, F/dmin, N F/(us+sum ui)),
// and F/upstream where all has to come from there; times 1 + log2(N)/K for K
// pieces. Hosts that arrive late are not taken into account.
func lowerBound(c Config) time.Duration {
	c = c.withDefaults()
	var size float64
	pieces := 0.0
	for _, s := range c.Blobs {
		size += float64(s)
		pieces += math.Ceil(float64(s) / (256 << 10))
	}
	us := c.SeederLink.Up
	if c.NoSeeder {
		us = 0
		for h := range c.Holders {
			us += c.Links(h).Up
		}
		if c.Holders == 0 {
			us = c.Upstream
		}
	}
	n := float64(c.Hosts - c.Holders)
	sum, dmin := us, math.Inf(1)
	for h := c.Holders; h < c.Hosts; h++ {
		sum += c.Links(h).Up
		dmin = min(dmin, c.Links(h).Down)
	}
	t := max(size/us, size/dmin, n*size/sum)
	if c.Cold && c.Upstream > 0 {
		t = max(t, size/c.Upstream)
	}
	if c.Zones > 1 && c.ZoneLink > 0 {
		t = max(t, size/c.ZoneLink)
	}
	t *= 1 + math.Log2(max(n, 1))/pieces
	return time.Duration(t * float64(time.Second))
}

func (w *world) report() Report {
	c := w.c
	r := Report{Hosts: len(w.pullers), Unfinished: w.unfinished, Bound: lowerBound(c), Steps: w.steps}
	var image float64
	pieces := 0
	for b, s := range c.Blobs {
		image += float64(s)
		pieces += w.geo[b].Count()
	}
	var times []time.Duration
	start, end := time.Duration(math.MaxInt64), time.Duration(0)
	var received, up float64
	cross := make([]float64, c.Zones)
	fastest := 0.0
	for _, h := range w.pullers {
		fastest = max(fastest, h.rate.Down)
	}
	for _, h := range w.pullers {
		start = min(start, h.arrived)
		received += float64(h.received)
		up += float64(h.upBytes)
		cross[h.zone] += float64(h.cross)
		r.FirstByte = max(r.FirstByte, h.first)
		for _, p := range h.pulls {
			if p != nil {
				r.Stuck += p.stuck
			}
		}
		if h.finished < 0 {
			continue
		}
		times = append(times, h.finished)
		if h.epoch == 1 {
			own := h.finished.Seconds() / (image / h.rate.Down)
			r.Alone = max(r.Alone, own)
			if h.rate.Down == fastest {
				r.AloneFast = max(r.AloneFast, own)
			}
		}
		end = max(end, h.arrived+h.finished)
	}
	up += float64(w.hosts[0].upBytes)
	if len(times) > 0 {
		sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
		r.P50, r.P95, r.Slowest = times[len(times)/2], times[len(times)*95/100], times[len(times)-1]
		r.Makespan = end - start
	}
	r.Ratio = float64(r.Makespan) / float64(r.Bound)
	r.Seeder = w.net.links[w.hosts[0].up].sent / image
	r.Upstream = up / image
	for _, x := range cross {
		r.Cross = max(r.Cross, x/image)
	}
	n := float64(len(w.pullers))
	if received > 0 {
		r.Duplicates = float64(w.dupBytes) / received
	}
	r.Asks = float64(w.askCount) / n / float64(pieces)
	for _, h := range w.pullers {
		r.Neighbours += float64(h.met) / n
		r.MostKnown = max(r.MostKnown, h.met)
	}
	r.Control = w.control(n, image)
	r.Curve = w.curve
	return r
}

// control sums up what was said, for n hosts that got the image.
func (w *world) control(n, image float64) Control {
	var c Control
	for _, t := range w.traffic {
		c.Messages += float64(t.messages) / n
		c.Share += float64(t.bytes) / n / image
	}
	part := func(k kind) float64 { return float64(w.traffic[k].bytes) / n / image }
	c.Joins, c.Runs, c.Haves, c.Asks = part(kindJoin), part(kindRuns), part(kindHave), part(kindAsk)
	for _, t := range w.hosts[0].out {
		c.Seeder += float64(t.bytes) / image
	}
	c.Asked = float64(w.hosts[0].out[kindAsk].messages) / w.clock.now.Seconds()
	return c
}
