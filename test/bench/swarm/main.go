// Command swarm measures how long a whole swarm takes to get an image, against
// what its links allow. Every host is a network namespace with a shaped link; see
// docs/benchmarks.md for what the rows mean.
//
//	go run ./test/bench/swarm --list
//	go run ./test/bench/swarm --run '^burst-8$' --runs 1
//	go run ./test/bench/swarm --json result.json --svg plots/
//
// It needs root and iproute2, docker-registry as the upstream, and nginx for one
// of the comparisons. It exits with 1 when a target is missed and 2 when a run
// could not be made.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

// bench is one call of this program.
type bench struct {
	bin        lab.Binaries
	runs       int
	keep       string // directory for logs; "" = none are kept
	profile    string // directory for CPU profiles; "" = none
	json       string
	seederArgs []string // further flags of the daemons
	peerdArgs  []string

	rep  *report.Report
	done []*outcome
}

// logf prints a remark below the scenario's title.
func (b *bench) logf(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

func main() {
	list := flag.Bool("list", false, "print the scenarios and end")
	pattern := flag.String("run", "", "regular expression; only scenarios whose name matches")
	runs := flag.Int("runs", 3, "runs of each scenario; figures are medians")
	rate := flag.Float64("rate", 0, "a host's link in Mbit/s instead of the scenario's; its other links follow")
	hosts := flag.Int("hosts", 0, "number of hosts instead of the scenario's")
	size := flag.Int64("size", 0, "size of the image in MiB instead of the scenario's")
	b := &bench{rep: report.New("bench-swarm")}
	flag.StringVar(&b.json, "json", "", "write the results to this file, after each scenario")
	flag.StringVar(&b.keep, "keep", "", "directory for the logs of all runs")
	flag.StringVar(&b.profile, "profile", "", "directory for CPU profiles of the seeder and a peerd, of each scenario's first run")
	seederArgs := flag.String("seeder-flags", "", "further flags of the seeder, separated by spaces")
	peerdArgs := flag.String("peerd-flags", "", "further flags of every peerd, separated by spaces")
	flag.Parse()
	b.runs, b.seederArgs, b.peerdArgs = *runs, strings.Fields(*seederArgs), strings.Fields(*peerdArgs)

	re, err := regexp.Compile(*pattern)
	if err != nil {
		fail("--run: %v", err)
	}
	var chosen []scenario
	for _, s := range scenarios() {
		if !re.MatchString(s.name) {
			continue
		}
		if *rate > 0 {
			s.rate = lab.Rate(*rate * float64(lab.Mbit))
		}
		if *hosts > 0 {
			s.hosts = *hosts
		}
		if *size > 0 {
			s.resize(*size * mib)
		}
		chosen = append(chosen, s)
	}
	if len(chosen) == 0 {
		fail("no scenario matches %q", *pattern)
	}
	if *list {
		for _, s := range chosen {
			fmt.Printf("%-18s %3d Mbit/s, %4d MiB  %s\n", s.name, s.rate/lab.Mbit, s.bytes()/mib, s.doc)
		}
		return
	}
	os.Exit(b.all(context.Background(), chosen))
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-swarm: "+format+"\n", args...)
	os.Exit(2)
}

// all runs the scenarios and returns the exit status.
func (b *bench) all(ctx context.Context, chosen []scenario) int {
	if err := missing(); err != nil {
		fail("%v", err)
	}
	for _, dir := range []string{b.keep, b.profile} {
		if dir != "" {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				fail("%v", err)
			}
		}
	}
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		fail("%v", err)
	}
	defer os.RemoveAll(dir)
	if b.bin, err = lab.Build(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench-swarm:", err)
		return 2
	}
	fmt.Println(b.rep.Machine)
	status := 0
	for _, s := range chosen {
		fmt.Printf("\n== %s: %s; %d Mbit/s, %d MiB\n", s.name, s.doc, s.rate/lab.Mbit, s.bytes()/mib)
		if err := b.scenario(ctx, s); err != nil {
			b.logf("could not be carried out: %v", err)
			status = 2
		}
		if err := b.write(); err != nil {
			fmt.Fprintln(os.Stderr, "bench-swarm:", err)
			status = 2
		}
	}
	if len(chosen) > 1 {
		fmt.Println()
		b.rep.WriteTable(os.Stdout)
	}
	if status == 0 && b.rep.Failed() > 0 {
		status = 1
	}
	return status
}

// missing says what this machine lacks.
func missing() error {
	if err := lab.Missing(); err != nil {
		return fmt.Errorf("hosts are network namespaces with shaped links, which cannot be had here: %w", err)
	}
	if err := lab.MissingRegistry(); err != nil {
		return fmt.Errorf("the upstream cannot be started: %w", err)
	}
	return nil
}

// scenario makes all runs of one scenario and adds its rows.
func (b *bench) scenario(ctx context.Context, s scenario) error {
	share, err := b.calibrate(ctx, s)
	if err != nil {
		return err
	}
	b.logf("one host alone, plain HTTP: %.4f of the link's rate is payload; %.4f computed", share, payloadShare)
	var runs []*outcome
	failed := 0
	for n := range b.runs {
		o, err := b.run(ctx, s, samara, n+1)
		if err != nil {
			b.logf("run %d of %d: %v", n+1, b.runs, err)
			failed++
			b.done = append(b.done, o)
			continue
		}
		b.logf("run %d of %d: %s", n+1, b.runs, o)
		runs = append(runs, o)
		b.done = append(b.done, o)
	}
	var rows []report.Row
	if failed > 0 {
		rows = append(rows, report.Row{What: "runs that failed", Target: report.AtMost(0), Values: []float64{float64(failed)}})
	}
	if len(runs) > 0 {
		rows = append(append(rows, s.judge(s, runs)...), general(runs)...)
		rows = append(rows, report.Row{What: "one host alone, plain HTTP: payload / rate", Unit: "x", Values: []float64{share},
			Note: fmt.Sprintf("%.4f computed: 1448 of 1514 bytes of a frame", payloadShare)})
	}
	for i := range rows {
		rows[i].Scenario = s.name
		if rows[i].Target != (report.Target{}) {
			rows[i].Doubt = doubt(runs)
		}
	}
	b.rep.Add(os.Stdout, rows...)
	return nil
}

// write saves all that is known so far.
func (b *bench) write() error {
	if b.json == "" {
		return nil
	}
	b.rep.Detail("runs", b.done)
	return b.rep.WriteJSON(b.json)
}
