package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

// bench is one call of this program.
type bench struct {
	bin         lab.Binaries
	systems     []system
	runs        int
	compareRuns int
	compareFor  float64 // seconds
	// calibrateFor is how long one host alone pulls before a scenario, at most.
	calibrateFor time.Duration
	keep         string // directory for logs; "" = none are kept
	profile      string // directory for CPU profiles; "" = none
	json         string
	svg          string   // file or directory
	seederArgs   []string // further flags of the daemons
	peerdArgs    []string
	out          io.Writer

	rep   *report.Report
	done  []*outcome
	plots plots
}

// plots are the figures so far, by the name of their scenario.
type plots struct {
	names   []string
	figures []figure
}

// logf prints a remark below the scenario's title.
func (b *bench) logf(format string, args ...any) { fmt.Fprintf(b.out, "   "+format+"\n", args...) }

// all runs the scenarios and returns the exit status: 1 when a target is missed, 2
// when a run could not be made.
func (b *bench) all(ctx context.Context, chosen []scenario) (int, error) {
	for _, dir := range []string{b.keep, b.profile, b.svg} {
		if dir != "" && filepath.Ext(dir) != ".svg" {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return 2, err
			}
		}
	}
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(dir)
	if b.bin, err = lab.Build(ctx, dir); err != nil {
		return 2, err
	}
	fmt.Fprintln(b.out, b.rep.Machine)
	status := 0
	for _, s := range chosen {
		fmt.Fprintf(b.out, "\n== %s: %s; %s\n", s.name, s.doc, s.size())
		if err := b.scenario(ctx, s); err != nil {
			b.logf("could not be carried out: %v", err)
			status = 2
		}
		if err := b.write(); err != nil {
			return 2, err
		}
	}
	if len(chosen) > 1 {
		fmt.Fprintln(b.out)
		b.rep.WriteTable(b.out)
	}
	if status == 0 && b.rep.Failed() > 0 {
		status = 1
	}
	return status, nil
}

// scenario makes all runs of one scenario and adds its rows.
func (b *bench) scenario(ctx context.Context, s scenario) error {
	var own []*outcome
	var others [][]*outcome
	for _, sys := range b.systems {
		if sys.name == samara {
			runs, err := b.ownRuns(ctx, s, sys)
			if err != nil {
				return err
			}
			own = runs
		} else if s.compare {
			if runs := b.compare(ctx, s, sys); len(runs) > 0 {
				others = append(others, runs)
			}
		}
	}
	if len(own) > 0 {
		b.plots.names = append(b.plots.names, s.name)
		b.plots.figures = append(b.plots.figures, newFigure(s, own, others))
	}
	return nil
}

// ownRuns puts Samara to the test.
func (b *bench) ownRuns(ctx context.Context, s scenario, sys system) ([]*outcome, error) {
	share, err := b.calibrate(ctx, s)
	exitIfInterrupted()
	if err != nil {
		return nil, err
	}
	b.logf("one host alone, plain HTTP: %.4f of the link's rate is payload; %.4f computed", share, s.share())
	runs, failed := b.repeat(ctx, s, sys, b.runs)
	var rows []report.Row
	if failed > 0 {
		rows = append(rows, report.Row{What: "runs that failed", Target: report.AtMost(0), Values: []float64{float64(failed)}})
	}
	if len(runs) > 0 {
		rows = append(append(rows, s.judge(runs)...), general(runs)...)
		rows = append(rows, report.Row{What: "one host alone, plain HTTP: payload / rate", Unit: "x", Values: []float64{share},
			Note: fmt.Sprintf("%.4f computed from the headers of a frame", s.share())})
	}
	for i := range rows {
		rows[i].Scenario = s.name
		if rows[i].Target != (report.Target{}) {
			rows[i].Doubt = doubt(runs)
		}
	}
	b.rep.Add(b.out, rows...)
	return runs, nil
}

// compare runs the scenario on another system; none of its runs may come off.
func (b *bench) compare(ctx context.Context, s scenario, sys system) []*outcome {
	if sys.missing != nil {
		if err := sys.missing(); err != nil {
			b.logf("%s is left out: %v", sys.name, err)
			return nil
		}
	}
	s = s.small(b.compareFor)
	runs, failed := b.repeat(ctx, s, sys, b.compareRuns)
	if len(runs) == 0 {
		b.logf("%s: none of %d runs succeeded", sys.name, failed)
		return nil
	}
	b.rep.Add(b.out, report.Row{Scenario: s.name, What: sys.name + ": time / lower bound", Unit: "x", Doubt: doubt(runs),
		Values: each(runs, func(o *outcome) float64 { return o.Makespan / o.BoundShare }),
		Note:   fmt.Sprintf("%s; image of %d MiB", sys.doc, s.bytes()/mib)})
	return runs
}

// repeat makes n runs and returns those that succeeded.
func (b *bench) repeat(ctx context.Context, s scenario, sys system, n int) (runs []*outcome, failed int) {
	for i := range n {
		o, err := b.run(ctx, s, sys, i+1)
		exitIfInterrupted()
		b.done = append(b.done, o)
		if err != nil {
			b.logf("%s, run %d of %d: %v", sys.name, i+1, n, err)
			failed++
		} else {
			b.logf("%s, run %d of %d: %s", sys.name, i+1, n, o)
			runs = append(runs, o)
		}
		if err := b.write(); err != nil {
			b.logf("%v", err)
		}
	}
	return runs, failed
}

// exitIfInterrupted waits for the end when a signal is closing the lab: what
// failed because of that means nothing.
func exitIfInterrupted() {
	if lab.Interrupted() {
		select {}
	}
}

// write saves all that is known so far.
func (b *bench) write() error {
	if b.svg != "" && len(b.plots.figures) > 0 {
		if err := writePlots(b.svg, b.plots.names, b.plots.figures); err != nil {
			return err
		}
	}
	if b.json == "" {
		return nil
	}
	b.rep.Detail("runs", b.done)
	return b.rep.WriteJSON(b.json)
}
