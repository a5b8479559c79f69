package main

import (
	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

// Rates at which two cores carry the swarm with room to spare.
const (
	rateOf8  = 100 * lab.Mbit
	rateOf16 = 50 * lab.Mbit
	rateOf32 = 25 * lab.Mbit
)

// image is one layer; layered is the same size in nine.
var (
	image   = []int64{256 * mib}
	layered = []int64{120 * mib, 60 * mib, 32 * mib, 20 * mib, 12 * mib, 6 * mib, 4 * mib, 1536 << 10, 512 << 10}
)

// scenarios are all there are, in the order of the table of targets.
func scenarios() []scenario {
	return []scenario{
		{name: "burst-8", doc: "8 hosts at once, one layer", hosts: 8, rate: rateOf8, layers: image, compare: true, judge: burst(1.06)},
		{name: "burst-8-layers", doc: "8 hosts at once, nine layers", hosts: 8, rate: rateOf8, layers: layered, judge: burst(1.06)},
		{name: "burst-32", doc: "32 hosts at once, one layer", hosts: 32, rate: rateOf32, layers: image, compare: true, judge: burst(1.10)},
		{name: "burst-32-layers", doc: "32 hosts at once, nine layers", hosts: 32, rate: rateOf32, layers: layered, judge: burst(1.10)},
		{name: "cold-16", doc: "16 hosts at once, the seeder has nothing yet", hosts: 16, rate: rateOf16, layers: image, cold: true, judge: cold},
	}
}

// burst judges time, seeder and upstream.
func burst(limit float64) func(scenario, []*outcome) []report.Row {
	return func(_ scenario, runs []*outcome) []report.Row {
		return []report.Row{
			timeOverBound(runs, report.AtMost(limit)),
			seederEgress(runs, report.AtMost(1.05)),
			upstreamEgress(runs, report.AtMost(1.005)),
		}
	}
}

func cold(_ scenario, runs []*outcome) []report.Row {
	return []report.Row{
		timeOverBound(runs, report.AtMost(1.12)),
		upstreamEgress(runs, report.AtMost(1.005)),
		seederEgress(runs, report.Target{}),
		{What: "forwarded when the seeder has all / image", Unit: "x", Target: report.AtLeast(0.5),
			Values: each(runs, func(o *outcome) float64 { return o.ForwardedWhileFetching })},
	}
}
