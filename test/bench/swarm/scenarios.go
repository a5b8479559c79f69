package main

import (
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler/sim"
	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

// Rates at which two cores carry the swarm with room to spare.
const (
	rateOf8  = 50 * lab.Mbit
	rateOf16 = 25 * lab.Mbit
	rateOf32 = 10 * lab.Mbit
)

// mtuOf32 is the MTU of 32 hosts' links. On a fast link segmentation offload has
// the kernel handle dozens of segments as one; at 10 Mbit/s TCP sends one at a
// time, and that costs two cores more than all else. Frames of three segments do
// what offload does. The bound knows what their headers leave.
const mtuOf32 = 4000

// image is one layer; layered is the same size in nine.
var (
	image   = []int64{256 * mib}
	layered = []int64{120 * mib, 60 * mib, 32 * mib, 20 * mib, 12 * mib, 6 * mib, 4 * mib, 1536 << 10, 512 << 10}
)

// scenarios are all there are, in the order of the table of targets.
func scenarios() []scenario {
	return []scenario{
		{name: "burst-8", doc: "all at once, one layer", hosts: 8, rate: rateOf8, layers: image, compare: true, judge: judgeBurst(1.06)},
		{name: "burst-8-layers", doc: "all at once, nine layers", hosts: 8, rate: rateOf8, layers: layered, judge: judgeBurst(1.06)},
		{name: "burst-32", doc: "all at once, one layer", hosts: 32, rate: rateOf32, mtu: mtuOf32, layers: image, compare: true, judge: judgeBurst(1.10)},
		{name: "burst-32-layers", doc: "all at once, nine layers", hosts: 32, rate: rateOf32, mtu: mtuOf32, layers: layered, judge: judgeBurst(1.10)},
		{name: "cold-16", doc: "all at once, the seeder has nothing yet", hosts: 16, rate: rateOf16, layers: image, cold: true, judge: judgeCold},
		{name: "seeder-4x", doc: "all at once, the seeder's link is 4x theirs", hosts: 16, rate: rateOf16, layers: image, seeder: 4, judge: judgeSeeder4x},
		{name: "quarter-slow", doc: "all at once, every fourth host has a quarter of the rate", hosts: 16, rate: rateOf16, layers: image, link: quarterSlow, judge: judgeSlow},
		{name: "mixed-16", doc: "all at once, 40 layers of 1 KiB to 150 MiB", hosts: 16, rate: rateOf16, layers: mixed(), judge: judgeRatio(1.15)},
		{name: "zones-2x16", doc: "all at once in two zones, a link of 2x a host's between them", hosts: 32, rate: rateOf32, mtu: mtuOf32, layers: image, zoneLink: 2, judge: judgeZones},
		{name: "staggered-32", doc: "one more host each second", hosts: 32, rate: rateOf32, mtu: mtuOf32, layers: image, arrive: each1s, judge: judgeOwnTime(report.AtMost(1.15))},
		{name: "poisson-32", doc: "hosts start at random, one in 500 ms on average", hosts: 32, rate: rateOf32, mtu: mtuOf32, layers: image, arrive: poisson, judge: judgeOwnTime(report.Target{})},
		{name: "killed-32", doc: "all at once, a quarter killed at a random moment and restarted 5 s later", hosts: 32, rate: rateOf32, mtu: mtuOf32, layers: image, fault: killQuarter, judge: judgeKilled},
		{name: "seeder-killed-16", doc: "all at once, the seeder is killed after its first copy", hosts: 16, rate: rateOf16, layers: image, fault: killSeeder, judge: judgeSeederKilled},
		{name: "dht-only-15", doc: "all at once, seeder and upstream gone, one holder found in the DHT", hosts: 15, rate: rateOf16, layers: image, holder: true, judge: judgeRatio(1.20)},
	}
}

func quarterSlow(host int) float64 {
	if host%4 == 3 {
		return 0.25
	}
	return 1
}

func each1s(host int) time.Duration { return time.Duration(host) * time.Second }

// simulated is the simulator's scenario of that name: what both have is the same.
func simulated(name string) sim.Config {
	for _, s := range sim.Scenarios() {
		if s.Name == name {
			return s.Config
		}
	}
	panic("the simulator has no scenario " + name)
}

// poisson is a process of one arrival in 500 ms, the same in every run; the first
// host starts at once.
func poisson(host int) time.Duration { return simulated("poisson").Arrive(host) }

// mixed is an image of 40 layers, their sizes spread evenly in the logarithm, in an
// order like any.
func mixed() []int64 { return simulated("mixed").Blobs }
