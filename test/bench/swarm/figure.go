package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/samara-p2p/samara/test/bench/report"
)

// The styles of the plots' lines.
var (
	strong   = line{Color: "#0969da", Width: 2.4}
	other    = line{Color: "#0969da", Width: 1.2, Opacity: "0.35"}
	seeders  = line{Color: "#bc4c00", Width: 1.6}
	upstream = line{Color: "#1a7f37", Width: 1.6}
	busy     = line{Color: "#8c959f", Width: 1.2, Dash: "3 3"}
	arrivals = line{Color: "#8c959f", Width: 1.6}
)

// full is where axes of percents end: a line at 100 is to be seen.
const full = 104

// smooth is over how many samples (a second) curves are averaged.
const smooth = 5

// newFigure draws a scenario: what its links did in the median run, when hosts had
// the image in every run, and how other systems compare. It needs one run at least.
func newFigure(s scenario, runs []*outcome, others [][]*outcome) figure {
	median := medianRun(runs)
	f := figure{
		Title: fmt.Sprintf("%s: %s", s.name, s.doc),
		Subtitle: fmt.Sprintf("%s; run of median time: %.1f s, lower bound %.1f s; seeder egress %.3f images",
			s.size(), median.Makespan, median.BoundShare, median.images(median.Seeder.Sent)),
	}
	last := median.BoundShare
	for _, o := range runs {
		last = max(last, o.Makespan)
	}
	last *= 1.02
	f.Panels = []panel{linksPanel(s, median, last), hostsPanel(s, runs, median, last)}
	for i := range f.Panels {
		if s.arrive == nil {
			f.Panels[i].mark(median.BoundShare, "lower bound")
		}
		f.Panels[i].layLegend()
	}
	if len(others) > 0 {
		f.Bars = compareBars(runs, others)
		f.Bars.Top = headHeight + len(f.Panels)*panelStep
	}
	return f
}

func linksPanel(s scenario, o *outcome, last float64) panel {
	p := newPanel(0, "Links and processors in use", "% of what a link carries", last, full)
	curve := func(f func(sample) float64) []pair {
		points := make([]pair, 0, len(o.Curve))
		for i, at := range o.Curve {
			lo, hi := max(0, i-smooth/2), min(len(o.Curve), i+smooth/2+1)
			sum := 0.0
			for _, near := range o.Curve[lo:hi] {
				sum += f(near)
			}
			points = append(points, pair{at.At, 100 * sum / float64(hi-lo)})
		}
		return points
	}
	p.add("processors", busy, curve(func(x sample) float64 { return x.Busy }))
	if s.cold {
		p.add("upstream sends", upstream, curve(func(x sample) float64 { return x.Upstream }))
	}
	name := "seeder sends"
	if s.holder {
		name = "holder sends"
	}
	p.add(name, seeders, curve(func(x sample) float64 { return x.Seeder }))
	p.add("hosts receive, mean", strong, curve(func(x sample) float64 { return x.Receive }))
	return p
}

func hostsPanel(s scenario, runs []*outcome, median *outcome, last float64) panel {
	p := newPanel(1, "Hosts that have the image", "% of hosts", last, full)
	p.XUnit = "seconds after the first host's start"
	if s.arrive != nil {
		p.add("hosts that have started", arrivals, steps(median, last, func(h hostOutcome) float64 { return h.Started }))
	}
	done := func(h hostOutcome) float64 { return h.Started + h.Took }
	name := "other runs"
	for _, o := range runs {
		if o != median {
			p.add(name, other, steps(o, last, done))
			name = ""
		}
	}
	p.add("run of median time", strong, steps(median, last, done))
	return p
}

// steps is the share of hosts, in percent, whose moment is past.
func steps(o *outcome, last float64, moment func(hostOutcome) float64) []pair {
	var at []float64
	for _, h := range o.Hosts {
		if h.Error == "" {
			at = append(at, moment(h))
		}
	}
	slices.Sort(at)
	points := []pair{{0, 0}}
	share := 0.0
	for i, t := range at {
		points = append(points, pair{t, share})
		share = 100 * float64(i+1) / float64(len(o.Hosts))
		points = append(points, pair{t, share})
	}
	return append(points, pair{last, share})
}

// medianRun is the run whose time is in the middle.
func medianRun(runs []*outcome) *outcome {
	sorted := slices.Clone(runs)
	slices.SortStableFunc(sorted, func(a, b *outcome) int { return cmp.Compare(a.Makespan, b.Makespan) })
	return sorted[(len(sorted)-1)/2]
}

// compareBars shows all systems' time over the lower bound, each for its own image.
func compareBars(runs []*outcome, others [][]*outcome) *bars {
	b := &bars{Title: "Time / lower bound (dashed: 1)"}
	for _, of := range append([][]*outcome{runs}, others...) {
		color, note := "#8c959f", fmt.Sprintf("%d MiB", of[0].Image/mib)
		if of[0].System == samara {
			color = "#0969da"
		}
		b.Bars = append(b.Bars, bar{Name: of[0].System, Note: note, Color: color,
			value: report.Percentile(each(of, func(o *outcome) float64 { return o.Makespan / o.BoundShare }), 50)})
	}
	b.lay()
	return b
}
