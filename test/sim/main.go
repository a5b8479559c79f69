// Command sim runs the scheduler's scenarios in virtual time and prints what
// came of them: go run ./test/sim [-large] [-seed N] [name ...].
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler/sim"
)

func main() {
	large := flag.Bool("large", false, "also run the scenarios of 1,000 hosts")
	seed := flag.Uint64("seed", 1, "seed of all random choices")
	ideal := flag.Bool("ideal", false, "links without TCP")
	verbose := flag.Bool("v", false, "print every figure")
	flag.Parse()

	scenarios := sim.Scenarios()
	if *large {
		scenarios = append(scenarios, sim.Large()...)
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "scenario\ttime/bound\tslowest\tof alone\tfast\tfirst byte\tseeder\tupstream\tacross\tduplicate\tasks/piece\tcontrol\tundone\tran")
	ran := 0
	for _, s := range scenarios {
		if flag.NArg() > 0 && !slices.ContainsFunc(flag.Args(), func(a string) bool {
			return s.Name == a || strings.HasSuffix(a, "*") && strings.HasPrefix(s.Name, a[:len(a)-1])
		}) {
			continue
		}
		ran++
		s.Seed = *seed
		if *ideal {
			s.Wire = sim.IdealWire
		}
		start := time.Now()
		r := sim.Run(s.Config)
		fmt.Fprintf(out, "%s\t%.3f\t%.1fs\t%.3f\t%.3f\t%dms\t%.3f\t%.3f\t%.2f\t%.2f%%\t%.2f\t%.2f%%\t%d\t%.1fs\n",
			s.Name, r.Ratio, r.Slowest.Seconds(), r.Alone, r.AloneFast, r.FirstByte.Milliseconds(), r.Seeder, r.Upstream, r.Cross,
			100*r.Duplicates, r.Asks, 100*r.Control.Share, r.Unfinished, time.Since(start).Seconds())
		if *verbose {
			fmt.Fprintf(out, "  %+v\n", r)
		}
		if !*verbose && flag.NArg() > 0 {
			out.Flush()
		}
	}
	if ran == 0 {
		fmt.Fprintln(os.Stderr, "sim: no scenario of that name; the names are:")
		for _, s := range append(sim.Scenarios(), sim.Large()...) {
			fmt.Fprintf(os.Stderr, "  %-20s %s\n", s.Name, s.About)
		}
		os.Exit(2)
	}
	out.Flush()
}
