package main

import (
	"fmt"
	"math"

	"github.com/samara-p2p/samara/test/bench/report"
)

// cpuLimit is how busy the processors may be on average before a figure says more
// about them than about the links.
const cpuLimit = 0.85

// general are the rows that every scenario has, after its own.
func general(runs []*outcome) []report.Row {
	percentile := func(p float64) []float64 {
		return each(runs, func(o *outcome) float64 { return report.Percentile(o.took(nil), p) })
	}
	rows := []report.Row{
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

// processors says where the machine's time went, over all runs.
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

// doubt says why a run's times may not be those of its links.
func doubt(runs []*outcome) string {
	if len(runs) == 0 {
		return ""
	}
	busy := report.Percentile(each(runs, func(o *outcome) float64 { return o.CPU.Busy }), 50)
	if busy <= cpuLimit {
		return ""
	}
	ours := report.Percentile(each(runs, func(o *outcome) float64 {
		return (o.CPU.Peerds + o.CPU.Seeder + o.CPU.Clients + o.CPU.SoftIRQ) / (o.CPU.Machine + o.CPU.Stolen)
	}), 50)
	return fmt.Sprintf("the CPU, not the link, was the limit: %.0f%% busy, %.0f%% of that by this run; lower --rate or stop what else runs", 100*busy, 100*ours)
}

func gb(bytes int64) float64 { return float64(bytes) / 1e9 }
