package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

const mib = 1 << 20

// scenario is one way that hosts pull an image. Speeds are multiples of the rate of
// a host's link, so that a lower rate slows the whole scenario down alike.
type scenario struct {
	name, doc string
	hosts     int
	rate      lab.Rate // of a host's link, each way; low enough for two cores
	mtu       int      // of all links; 0 = 1500
	layers    []int64  // bytes

	seeder   float64                // its link / rate; 0 = 1
	link     func(host int) float64 // a host's link / rate; nil = 1
	zoneLink float64                // above 0: two halves, this link / rate between them
	cold     bool                   // the seeder has nothing yet
	holder   bool                   // one more host has the image; seeder and upstream are stopped before the pulls
	arrive   func(host int) time.Duration
	fault    func(ctx context.Context, w *world, p *pulling) error // runs beside the pulls
	pieces   int                                                   // of the image, for the bound; 0 = as many as layers make
	compare  bool                                                  // other systems run it too

	judge judge
}

// share is how much of its rate a link carries as payload.
func (s scenario) share() float64 { return lab.PayloadShare(cmp.Or(s.mtu, lab.DefaultMTU)) }

// seederRate is the speed of the seeder's link.
func (s scenario) seederRate() lab.Rate {
	if s.seeder == 0 {
		return s.rate
	}
	return times(s.rate, s.seeder)
}

// hostRate is the speed of a host's link.
func (s scenario) hostRate(host int) lab.Rate {
	if s.link == nil {
		return s.rate
	}
	return times(s.rate, s.link(host))
}

// arrival is when a host starts to pull.
func (s scenario) arrival(host int) time.Duration {
	if s.arrive == nil {
		return 0
	}
	return s.arrive(host)
}

// zoneOf is the zone that a host is in.
func (s scenario) zoneOf(host int) string {
	if s.zoneLink > 0 && host >= s.hosts/2 {
		return farZone
	}
	return nearZone
}

// The zones. Upstream and seeder are in the near one.
const (
	nearZone = "zone1"
	farZone  = "zone2"
)

// bytes is the sum of the layers.
func (s scenario) bytes() int64 { return lab.ImageSpec{Layers: s.layers}.Bytes() }

// size is "8 hosts, 100 Mbit/s, 256 MiB".
func (s scenario) size() string {
	return fmt.Sprintf("%d hosts, %g Mbit/s, %d MiB", s.hosts, float64(s.rate)/float64(lab.Mbit), s.bytes()/mib)
}

// swarm is what the scenario's lower bound follows from.
func (s scenario) swarm() swarm {
	b := swarm{bytes: s.bytes(), pieces: s.pieces, source: float64(s.seederRate()), zoneLink: s.zoneLink * float64(s.rate)}
	if b.pieces == 0 {
		b.pieces = pieces(s.layers)
	}
	if s.holder {
		b.source = float64(s.rate)
	}
	if s.cold {
		b.upstream = float64(s.rate)
	}
	for h := range s.hosts {
		b.hosts = append(b.hosts, float64(s.hostRate(h)))
	}
	return b
}

// longest is how long the last host may take before the run is given up.
func (s scenario) longest() time.Duration {
	return 6*s.swarm().bound(1) + s.arrival(s.hosts-1) + time.Minute
}

func times(r lab.Rate, x float64) lab.Rate { return lab.Rate(float64(r) * x) }

// resize makes the image size bytes large, every layer by the same factor.
func (s *scenario) resize(size int64) {
	layers, sum := make([]int64, len(s.layers)), s.bytes()
	for i, n := range s.layers {
		layers[i] = max(1, int64(float64(n)*float64(size)/float64(sum)))
	}
	s.layers = layers
}
