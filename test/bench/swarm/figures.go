package main

import (
	"fmt"
	"math"

	"github.com/samara-p2p/samara/test/bench/report"
)

// cpuLimit is how busy the processors may be on average before a figure says more
// about them than about the links.
const cpuLimit = 0.85

// each takes a figure from every run.
func each(runs []*outcome, f func(*outcome) float64) []float64 {
	values := make([]float64, 0, len(runs))
	for _, o := range runs {
		values = append(values, f(o))
	}
	return values
}

// ratio is the row every scenario of one moment is judged by.
func ratio(limit float64) func(scenario, []*outcome) []report.Row {
	return func(_ scenario, runs []*outcome) []report.Row {
		return []report.Row{timeOverBound(runs, report.AtMost(limit))}
	}
}

func timeOverBound(runs []*outcome, target report.Target) report.Row {
	return report.Row{What: "time / lower bound", Unit: "x", Target: target,
		Values: each(runs, func(o *outcome) float64 { return o.Makespan / o.BoundShare }),
		Note:   fmt.Sprintf("%.1f s / %.1f s", report.Percentile(each(runs, func(o *outcome) float64 { return o.Makespan }), 50), runs[0].BoundShare)}
}

func seederEgress(runs []*outcome, target report.Target) report.Row {
	return report.Row{What: "seeder egress / image", Unit: "x", Target: target,
		Values: each(runs, func(o *outcome) float64 { return o.images(o.Seeder.Sent) })}
}

func upstreamEgress(runs []*outcome, target report.Target) report.Row {
	return report.Row{What: "upstream egress / image", Unit: "x", Target: target,
		Values: each(runs, func(o *outcome) float64 { return o.images(o.Upstream.Sent) })}
}

// general are the rows that every scenario has, after its own.
func general(runs []*outcome) []report.Row {
	percentile := func(p float64) []float64 {
		return each(runs, func(o *outcome) float64 { return report.Percentile(o.took(nil), p) })
	}
	rows := []report.Row{
		{What: "time / lower bound at the raw link rate", Unit: "x", Values: each(runs, func(o *outcome) float64 { return o.Makespan / o.BoundRaw }),
			Note: fmt.Sprintf("bound %.1f s", runs[0].BoundRaw)},
		{What: "host's own time, p50", Unit: "s", Values: percentile(50)},
		{What: "host's own time, p95", Unit: "s", Values: percentile(95)},
		{What: "host's own time, p99", Unit: "s", Values: percentile(99)},
		{What: "first byte of a blob, median", Unit: "s", Values: each(runs, func(o *outcome) float64 { return report.Percentile(o.firstBytes(), 50) })},
		{What: "first byte of a blob, worst", Unit: "s", Values: each(runs, func(o *outcome) float64 { return report.Percentile(o.firstBytes(), 100) })},
		{What: "received beyond the image, mean of hosts", Unit: "%", Values: each(runs, func(o *outcome) float64 { return 100 * o.beyond(nil) })},
		{What: "hosts' receiving links in use, mean", Unit: "%", Values: each(runs, (*outcome).utilization)},
	}
	if runs[0].System == samara {
		rows = append(rows, resources(runs)...)
	}
	return append(rows, report.Row{What: "machine's processors in use, mean", Unit: "%", Values: each(runs, func(o *outcome) float64 { return 100 * o.CPU.Busy }),
		Note: processors(runs)})
}

// resources are processor time and memory of the daemons.
func resources(runs []*outcome) []report.Row {
	return []report.Row{
		{What: "peerd CPU per GB received", Unit: "CPU-s/GB", Values: each(runs, func(o *outcome) float64 {
			var received int64
			for _, h := range o.Hosts {
				received += h.Moved.Received
			}
			return o.CPU.Peerds / gb(received)
		})},
		{What: "seeder CPU per GB sent", Unit: "CPU-s/GB", Values: each(runs, func(o *outcome) float64 { return o.CPU.Seeder / gb(o.Seeder.Sent) })},
		{What: "peerd peak memory, largest", Unit: "MiB", Values: each(runs, func(o *outcome) float64 { return float64(o.Memory.Peerd) / mib })},
		{What: "seeder peak memory", Unit: "MiB", Values: each(runs, func(o *outcome) float64 { return float64(o.Memory.Seeder) / mib })},
	}
}

// processors says where the machine's time went, in the run of median use.
func processors(runs []*outcome) string {
	mean := func(f func(cpuUse) float64) float64 {
		sum, all := 0.0, 0.0
		for _, o := range runs {
			sum += f(o.CPU)
			all += o.CPU.Machine
		}
		return 100 * sum / all
	}
	daemons := mean(func(c cpuUse) float64 { return c.Peerds + c.Seeder })
	clients := mean(func(c cpuUse) float64 { return c.Clients })
	soft := mean(func(c cpuUse) float64 { return c.SoftIRQ })
	return fmt.Sprintf("of that: daemons %.0f%%, pulling clients %.0f%%, the rest network and others; %.0f%% of all is softirq", daemons, clients, soft)
}

// beyond is the mean of what hosts received beyond the image: headers of HTTP and
// TLS, control messages, pieces that came twice.
func (o *outcome) beyond(which func(hostOutcome) bool) float64 {
	var sum, n float64
	for _, h := range o.Hosts {
		if which == nil || which(h) {
			sum += o.images(h.Moved.Received) - 1
			n++
		}
	}
	return sum / n
}

// utilization is the mean over hosts and time, in percent of what links carry.
func (o *outcome) utilization() float64 {
	if len(o.Curve) == 0 {
		return math.NaN()
	}
	sum := 0.0
	for _, s := range o.Curve {
		sum += s.Receive
	}
	return 100 * sum / float64(len(o.Curve))
}

// doubt says why a run's times are not those of its links.
func doubt(runs []*outcome) string {
	if len(runs) == 0 {
		return ""
	}
	busy := report.Percentile(each(runs, func(o *outcome) float64 { return o.CPU.Busy }), 50)
	if busy <= cpuLimit {
		return ""
	}
	return fmt.Sprintf("processors %.0f%% busy: they, not the links, were the limit; lower --rate", 100*busy)
}

func gb(bytes int64) float64 { return float64(bytes) / 1e9 }
