package main

import (
	"fmt"

	"github.com/samara-p2p/samara/test/bench/report"
)

// judge gives the rows that are a scenario's own. There is at least one run.
type judge func(runs []*outcome) []report.Row

// each takes a figure from every run.
func each(runs []*outcome, f func(*outcome) float64) []float64 {
	values := make([]float64, 0, len(runs))
	for _, o := range runs {
		values = append(values, f(o))
	}
	return values
}

// judgeRatio holds the time of the whole swarm.
func judgeRatio(limit float64) judge {
	return func(runs []*outcome) []report.Row {
		return append(overBound(runs, report.AtMost(limit)), seederEgress(runs, report.Target{}), upstreamEgress(runs, report.Target{}))
	}
}

// judgeBurst holds time, seeder and upstream. The seeder is warm: of the 1.005
// images that an upstream may give for a herd it has had one.
func judgeBurst(limit float64) judge {
	return func(runs []*outcome) []report.Row {
		return append(overBound(runs, report.AtMost(limit)),
			seederEgress(runs, report.AtMost(1.05)), upstreamEgress(runs, report.AtMost(0.005)))
	}
}

// judgeCold asks too whether the seeder forwards while it fetches: had it given
// less than half when it held all, it would have waited.
func judgeCold(runs []*outcome) []report.Row {
	return append(overBound(runs, report.AtMost(1.12)),
		upstreamEgress(runs, report.AtMost(1.005)), seederEgress(runs, report.Target{}),
		report.Row{What: "forwarded when the seeder has all / image", Unit: "x", Target: report.AtLeast(0.5),
			Values: each(runs, func(o *outcome) float64 { return o.ForwardedWhileFetching })})
}

func judgeSeeder4x(runs []*outcome) []report.Row {
	return append(overBound(runs, report.AtMost(1.05)), seederEgress(runs, report.AtMost(1.25)), upstreamEgress(runs, report.Target{}))
}

// judgeSlow looks at the hosts with a whole link.
func judgeSlow(runs []*outcome) []report.Row {
	fast := func(o *outcome) func(hostOutcome) bool {
		return func(h hostOutcome) bool { return h.Rate == o.Rate }
	}
	worst := func(o *outcome, share float64) float64 {
		return report.Percentile(o.took(fast(o)), 100) / seconds(alone(o.Image, float64(o.Rate), share))
	}
	return append([]report.Row{
		{What: "slowest fast host / what it needs alone", Unit: "x", Target: report.AtMost(1.15),
			Values: each(runs, func(o *outcome) float64 { return worst(o, o.Share) })},
		{What: "the same at the raw link rate", Unit: "x", Values: each(runs, func(o *outcome) float64 { return worst(o, 1) })},
	}, append(overBound(runs, report.Target{}), seederEgress(runs, report.Target{}))...)
}

func judgeZones(runs []*outcome) []report.Row {
	return append(overBound(runs, report.AtMost(1.15)),
		report.Row{What: "into the far zone / image", Unit: "x", Target: report.AtMost(1.10),
			Values: each(runs, func(o *outcome) float64 { return o.images(o.Crossed.Received) })},
		report.Row{What: "into the seeder's zone / image", Unit: "x", Target: report.AtMost(1.10),
			Values: each(runs, func(o *outcome) float64 { return o.images(o.Crossed.Sent) })},
		seederEgress(runs, report.Target{}))
}

// judgeOwnTime looks at every host's own time, against the image over its link.
func judgeOwnTime(target report.Target) judge {
	return func(runs []*outcome) []report.Row {
		worst := func(o *outcome, share float64) float64 {
			return report.Percentile(o.took(nil), 100) / seconds(alone(o.Image, float64(o.Rate), share))
		}
		return []report.Row{
			{What: "slowest host's own time / image over its link", Unit: "x", Target: target,
				Values: each(runs, func(o *outcome) float64 { return worst(o, o.Share) }),
				Note:   fmt.Sprintf("image over its link: %.1f s", seconds(alone(runs[0].Image, float64(runs[0].Rate), runs[0].Share)))},
			{What: "the same at the raw link rate", Unit: "x", Values: each(runs, func(o *outcome) float64 { return worst(o, 1) })},
			seederEgress(runs, report.Target{}), upstreamEgress(runs, report.Target{}),
		}
	}
}

// judgeKilled holds the hosts that were not killed to their time, and the others to
// what they fetch again: what they receive beyond the image, less what the
// survivors do (headers, control messages, duplicates).
func judgeKilled(runs []*outcome) []report.Row {
	killed := func(h hostOutcome) bool { return h.Killed }
	survived := func(h hostOutcome) bool { return !h.Killed }
	last := func(o *outcome) float64 { return report.Percentile(o.took(survived), 100) }
	return []report.Row{
		{What: "slowest survivor / lower bound", Unit: "x", Target: report.AtMost(1.20),
			Values: each(runs, func(o *outcome) float64 { return last(o) / o.BoundShare })},
		{What: "the same at the raw link rate", Unit: "x", Values: each(runs, func(o *outcome) float64 { return last(o) / o.BoundRaw })},
		{What: "fetched again by restarted hosts, mean", Unit: "%", Target: report.AtMost(2),
			Values: each(runs, func(o *outcome) float64 { return 100 * (o.beyond(killed) - o.beyond(survived)) }),
			Note:   fmt.Sprintf("survivors received %.2f%% beyond the image", report.Percentile(each(runs, func(o *outcome) float64 { return 100 * o.beyond(survived) }), 50))},
		{What: "slowest restarted host's own time", Unit: "s", Values: each(runs, func(o *outcome) float64 { return report.Percentile(o.took(killed), 100) })},
		seederEgress(runs, report.Target{}), upstreamEgress(runs, report.Target{}),
	}
}

// judgeSeederKilled promises that all finish, which a run that failed has not.
func judgeSeederKilled(runs []*outcome) []report.Row {
	return append(overBound(runs, report.Target{}), seederEgress(runs, report.Target{}), upstreamEgress(runs, report.Target{}))
}

// overBound is the time of the whole swarm against its lower bound: judged by what
// links carry as payload, with the raw rate beside it.
func overBound(runs []*outcome, target report.Target) []report.Row {
	note := fmt.Sprintf("%.1f s / %.1f s", report.Percentile(each(runs, func(o *outcome) float64 { return o.Makespan }), 50), runs[0].BoundShare)
	return []report.Row{
		{What: "time / lower bound", Unit: "x", Target: target, Note: note,
			Values: each(runs, func(o *outcome) float64 { return o.Makespan / o.BoundShare })},
		{What: "time / lower bound at the raw link rate", Unit: "x", Note: fmt.Sprintf("bound %.1f s", runs[0].BoundRaw),
			Values: each(runs, func(o *outcome) float64 { return o.Makespan / o.BoundRaw })},
	}
}

func seederEgress(runs []*outcome, target report.Target) report.Row {
	return report.Row{What: "seeder egress / image", Unit: "x", Target: target,
		Values: each(runs, func(o *outcome) float64 { return o.images(o.Seeder.Sent) })}
}

func upstreamEgress(runs []*outcome, target report.Target) report.Row {
	return report.Row{What: "upstream egress / image", Unit: "x", Target: target,
		Values: each(runs, func(o *outcome) float64 { return o.images(o.Upstream.Sent) })}
}
