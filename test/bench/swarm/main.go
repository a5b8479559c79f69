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
	"time"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

func main() {
	list := flag.Bool("list", false, "print the scenarios and systems and end")
	pattern := flag.String("run", "", "regular expression; only scenarios whose name matches")
	rate := flag.Float64("rate", 0, "a host's link in Mbit/s instead of the scenario's; its other links follow")
	mtu := flag.Int("mtu", 0, "of all links, instead of the scenario's")
	hosts := flag.Int("hosts", 0, "number of hosts instead of the scenario's")
	size := flag.Float64("size", 0, "size of the image in MiB instead of the scenario's")
	only := flag.String("only", strings.Join(systemNames(), ","), "systems to run; the others run where a scenario compares")
	seederFlags := flag.String("seeder-flags", "", "further flags of the seeder, separated by spaces")
	peerdFlags := flag.String("peerd-flags", "", "further flags of every peerd, separated by spaces")
	b := &bench{rep: report.New("bench-swarm"), out: os.Stdout, calibrateFor: 10 * time.Second}
	flag.IntVar(&b.runs, "runs", 3, "runs of each scenario; figures are medians")
	flag.IntVar(&b.compareRuns, "compare-runs", 1, "the same for the systems beside "+samara)
	flag.Float64Var(&b.compareFor, "compare-for", 80, "seconds that such a run may take; the image is made smaller to fit")
	flag.StringVar(&b.json, "json", "", "write the results to this file, after each run")
	flag.StringVar(&b.svg, "svg", "", "draw the results: into this file if its name ends in .svg, else one file for each scenario into this directory")
	flag.StringVar(&b.keep, "keep", "", "directory for the logs of all runs")
	flag.StringVar(&b.profile, "profile", "", "directory for CPU profiles of the seeder and a peerd, of each scenario's first run")
	flag.Parse()
	b.seederArgs, b.peerdArgs = strings.Fields(*seederFlags), strings.Fields(*peerdFlags)

	chosen, err := chooseScenarios(*pattern)
	if err != nil {
		fail(err)
	}
	for i := range chosen {
		if *rate > 0 {
			chosen[i].rate = lab.Rate(*rate * float64(lab.Mbit))
		}
		if *mtu > 0 {
			chosen[i].mtu = *mtu
		}
		if *hosts > 0 {
			chosen[i].hosts = *hosts
		}
		if *size > 0 {
			chosen[i].resize(int64(*size * mib))
		}
	}
	if *list {
		printList(chosen)
		return
	}
	if b.systems, err = chooseSystems(strings.Split(*only, ",")); err != nil {
		fail(err)
	}
	if err := missing(); err != nil {
		fail(err)
	}
	status, err := b.all(context.Background(), chosen)
	if err != nil {
		fail(err)
	}
	os.Exit(status)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench-swarm:", err)
	os.Exit(2)
}

// chooseScenarios returns those whose name matches.
func chooseScenarios(pattern string) ([]scenario, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("--run: %w", err)
	}
	var chosen []scenario
	for _, s := range scenarios() {
		if re.MatchString(s.name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("--run: no scenario matches %q; --list names them", pattern)
	}
	return chosen, nil
}

func printList(chosen []scenario) {
	for _, s := range chosen {
		fmt.Printf("%-18s %-32s %s\n", s.name, s.size(), s.doc)
	}
	fmt.Println("\nSystems, beside the first where a scenario compares (burst-8, burst-32):")
	for _, sys := range systems() {
		fmt.Printf("%-18s %s\n", sys.name, sys.doc)
	}
}

// missing says what this machine lacks for any run at all.
func missing() error {
	if err := lab.Missing(); err != nil {
		return fmt.Errorf("hosts are network namespaces with shaped links, which cannot be had here: %w", err)
	}
	if err := lab.MissingRegistry(); err != nil {
		return fmt.Errorf("the upstream cannot be started: %w", err)
	}
	return nil
}
