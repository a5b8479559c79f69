package main

import (
	"math"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// swarm is what a lower bound follows from. Speeds are bits per second.
type swarm struct {
	bytes    int64
	pieces   int
	source   float64   // of the one that has the image at the start
	upstream float64   // that the source itself must fetch over; 0 = it has all
	hosts    []float64 // each way
	zoneLink float64   // between the halves; 0 = none
}

// bound is the least time in which all hosts can have the image when links carry
// this share of their rate (DESIGN section 5). With us the source's speed, d and u
// the hosts', F the image and N hosts,
//
//	T >= max(F/us, F/dmin, N F/(us + sum u)) (1 + log2(N)/K)
//
// since each byte must leave the source once, the slowest host must take in all,
// and all that arrives was sent by somebody; the last of K pieces needs log2(N)
// hops. A cold source adds F/upstream, and zones F over the link between them.
func (s swarm) bound(share float64) time.Duration {
	bits := 8 * float64(s.bytes)
	n := float64(len(s.hosts))
	slowest, all := math.Inf(1), s.source
	for _, u := range s.hosts {
		slowest = min(slowest, u)
		all += u
	}
	t := max(bits/s.source, bits/slowest, n*bits/all)
	if s.upstream > 0 {
		t = max(t, bits/s.upstream)
	}
	if s.zoneLink > 0 {
		t = max(t, bits/s.zoneLink)
	}
	t *= (1 + math.Log2(max(n, 1))/float64(s.pieces)) / share
	return time.Duration(t * float64(time.Second))
}

// pieces is how many pieces blobs of these sizes have.
func pieces(blobs []int64) int {
	n := 0
	for _, size := range blobs {
		if g, err := piece.GeometryOf(size); err == nil {
			n += g.Count()
		}
	}
	return n
}

// alone is how long size bytes take over a link that nobody shares.
func alone(size int64, rate, share float64) time.Duration {
	return time.Duration(8 * float64(size) / (rate * share) * float64(time.Second))
}
