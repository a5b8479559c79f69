// Command sim runs the scheduler in virtual time and prints what came of it:
//
//	go run ./test/sim                     the scenarios, 1,000 hosts, the DHT
//	go run ./test/sim -large              and 10,000 hosts (half an hour)
//	go run ./test/sim -short              what CI runs, within a minute
//	go run ./test/sim burst-8 'cold-*'    some scenarios
//	go run ./test/sim -hosts 500 -mib 64  a burst of one's own
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler/sim"
)

type options struct {
	seed    uint64
	wires   []string
	verbose bool
	adapt   func(*sim.Config)
}

func main() {
	large := flag.Bool("large", false, "also run 10,000 hosts")
	short := flag.Bool("short", false, "only 1,000 hosts, a small image, and the DHT")
	seed := flag.Uint64("seed", 1, "seed of all random choices")
	wire := flag.String("wire", "both", "ideal: links and nothing else; lab: with TCP and handshakes; both")
	verbose := flag.Bool("v", false, "print every figure")
	onlyDHT := flag.Bool("dht", false, "only the DHT")
	hosts := flag.Int("hosts", 0, "run a burst of so many hosts instead")
	mib := flag.Int64("mib", 256, "its blob, in MiB")
	zones := flag.Int("zones", 1, "its zones")
	near := flag.Float64("near", 0, "share of the neighbours that are of the same zone; 0 = 0.75")
	rate := flag.Float64("rate", 100, "its links, in Mbit/s")
	seeder := flag.Float64("seeder", 0, "its seeder's link, in Mbit/s; 0 = as the others")
	curve := flag.Duration("curve", 0, "print how well the links are used in each such step")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	debug.SetGCPercent(400) // a third of the time were spent on collecting
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			fail(err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			fail(err)
		}
		defer pprof.StopCPUProfile()
	}

	o := options{seed: *seed, verbose: *verbose, wires: []string{*wire}, adapt: func(c *sim.Config) { c.Curve = *curve }}
	if *wire == "both" {
		o.wires = []string{"ideal", "lab"}
	}
	switch {
	case *onlyDHT:
		dht(os.Stdout, *seed)
	case *hosts > 0:
		c := sim.Config{Hosts: *hosts, Blobs: []int64{*mib << 20}, Zones: *zones, NearShare: *near, Link: sim.Symmetric(*rate)}
		if *seeder > 0 {
			c.SeederLink = sim.Symmetric(*seeder)
		}
		o.scale(os.Stdout, []sim.Scenario{{Name: fmt.Sprintf("hosts-%d", *hosts), About: fmt.Sprintf("%d MiB", *mib), Config: c}})
	case flag.NArg() > 0:
		o.named(os.Stdout, flag.Args())
	case *short:
		o.wires = []string{"ideal"}
		o.scale(os.Stdout, []sim.Scenario{sim.Short()})
		fmt.Println()
		dht(os.Stdout, *seed)
	default:
		o.scenarios(os.Stdout, sim.Scenarios())
		var scale []sim.Scenario
		for _, s := range sim.Scale() {
			if s.Hosts <= 1000 || *large {
				scale = append(scale, s)
			}
		}
		fmt.Println()
		o.wires = []string{"ideal"}
		o.scale(os.Stdout, scale)
		fmt.Println()
		dht(os.Stdout, *seed)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "sim:", err)
	os.Exit(1)
}

// named runs the scenarios of these names; a name may end with a *.
func (o options) named(out io.Writer, names []string) {
	match := func(s sim.Scenario) bool {
		return slices.ContainsFunc(names, func(a string) bool {
			return s.Name == a || strings.HasSuffix(a, "*") && strings.HasPrefix(s.Name, a[:len(a)-1])
		})
	}
	var some, large []sim.Scenario
	for _, s := range sim.Scenarios() {
		if match(s) {
			some = append(some, s)
		}
	}
	for _, s := range append(sim.Scale(), sim.Short()) {
		if match(s) {
			large = append(large, s)
		}
	}
	if len(some)+len(large) == 0 {
		fmt.Fprintln(os.Stderr, "sim: no scenario of that name; the names are:")
		for _, s := range append(append(sim.Scenarios(), sim.Scale()...), sim.Short()) {
			fmt.Fprintf(os.Stderr, "  %-20s %s\n", s.Name, s.About)
		}
		os.Exit(2)
	}
	if len(some) > 0 {
		o.scenarios(out, some)
	}
	if len(large) > 0 {
		o.scale(out, large)
	}
}

// run runs s on each wire and has each report printed.
func (o options) run(s sim.Scenario, print func(wire string, r sim.Report, took time.Duration)) {
	s.Seed = o.seed
	o.adapt(&s.Config)
	for _, wire := range o.wires {
		s.Wire = sim.LabWire
		if wire == "ideal" {
			s.Wire = sim.IdealWire
		}
		start := time.Now()
		r := sim.Run(s.Config)
		print(wire, r, time.Since(start))
		for k, u := range r.Curve {
			fmt.Fprintf(os.Stderr, "%s %s %s %.3f\n", s.Name, wire, time.Duration(k)*s.Curve, u)
		}
		if o.verbose {
			fmt.Fprintf(os.Stderr, "%s %s %+v\n", s.Name, wire, r)
		}
	}
}

// scenarios prints how well the scheduler does.
func (o options) scenarios(out io.Writer, all []sim.Scenario) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\twire\ttime/bound\tslowest\tof alone\tfast\tfirst byte\tseeder\tupstream\tacross\tduplicate\tasks/piece\tcontrol\tundone\tran")
	for _, s := range all {
		o.run(s, func(wire string, r sim.Report, took time.Duration) {
			fmt.Fprintf(t, "%s\t%s\t%.3f\t%.1fs\t%.3f\t%.3f\t%dms\t%.3f\t%.3f\t%.2f\t%.2f%%\t%.2f\t%.2f%%\t%d\t%.1fs\n",
				s.Name, wire, r.Ratio, r.Slowest.Seconds(), r.Alone, r.AloneFast, r.FirstByte.Milliseconds(), r.Seeder, r.Upstream, r.Cross,
				100*r.Duplicates, r.Asks, 100*r.Control.Share, r.Unfinished, took.Seconds())
		})
	}
	t.Flush()
}

// scale prints what grows with the number of hosts.
func (o options) scale(out io.Writer, all []sim.Scenario) {
	const format = "%-20s %-6s %9s %9s %10s %8s %8s %7s %11s %11s %9s  %-26s %9s %8s %6s %8s\n"
	fmt.Fprintf(out, format, "scenario", "wire", "time/bound", "of alone", "first byte", "seeder", "its talk", "across", "neighbours", "messages", "control", "joins+runs+haves+asks", "asks/s", "undone", "ran", "")
	for _, s := range all {
		o.run(s, func(wire string, r sim.Report, took time.Duration) {
			c := r.Control
			fmt.Fprintf(out, format, s.Name, wire, fmt.Sprintf("%.3f", r.Ratio), fmt.Sprintf("%.3f", r.Alone), fmt.Sprintf("%d ms", r.FirstByte.Milliseconds()),
				fmt.Sprintf("%.3f", r.Seeder), fmt.Sprintf("%.3f", c.Seeder), fmt.Sprintf("%.2f", r.Cross), fmt.Sprintf("%.1f/%d", r.Neighbours, r.MostKnown),
				fmt.Sprintf("%.0f", c.Messages), fmt.Sprintf("%.2f%%", 100*c.Share),
				fmt.Sprintf("%.2f %.2f %.2f %.2f %%", 100*c.Joins, 100*c.Runs, 100*c.Haves, 100*c.Asks),
				fmt.Sprintf("%.0f", c.Asked), fmt.Sprint(r.Unfinished), fmt.Sprintf("%.0fs", took.Seconds()), s.About)
		})
	}
}
