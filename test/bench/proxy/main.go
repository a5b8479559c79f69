// Command proxy measures the seeder as a pull-through cache: what its upstream is
// spared, how soon clients get bytes, and what an upstream that fails costs them.
// Everything is on loopback; it needs no root. Cached blobs are compared with nginx,
// where that is installed.
//
//	go run ./test/bench/proxy                     make bench-proxy
//	go run ./test/bench/proxy --run abort         one scenario: pulls, range, abort, down, hanging, readers, cached
//	go run ./test/bench/proxy --size 32 --readers 50
//
// The upstream is pkg/upstream/upstreamtest, in this process, and sends each
// answer at a quarter of the blob per second, so that there is a time in which
// the blob is cold. The seeder is the real program.
//
// It exits with 1 when a target is missed and 2 when a run could not be made.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

const mib = 1 << 20

// bench is one run of the program.
type bench struct {
	size    int64 // of the blobs, in bytes
	clients int
	readers int
	slowFor time.Duration
	gets    int
	bin     lab.Binaries
	rep     *report.Report
}

// limit bounds one scenario.
const limit = 5 * time.Minute

func main() {
	var b bench
	size := flag.Int64("size", 200, "MiB of the blob")
	flag.IntVar(&b.clients, "clients", 8, "clients that pull at once")
	flag.IntVar(&b.readers, "readers", 200, "slow readers")
	flag.DurationVar(&b.slowFor, "slow", 20*time.Second, "how long the slow readers read")
	flag.IntVar(&b.gets, "gets", 60, "how often the cached blob is read from each server, in five runs")
	pattern := flag.String("run", "", "regular expression; only scenarios whose name matches")
	jsonPath := flag.String("json", "", "write the report to this file")
	flag.Parse()
	b.size = *size * mib
	b.rep = report.New("bench-proxy")
	os.Exit(b.rep.Finish(os.Stdout, os.Stderr, *jsonPath, b.main(context.Background(), *pattern)))
}

func (b *bench) main(ctx context.Context, pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("--run: %w", err)
	}
	dir, err := os.MkdirTemp("", "samara-proxy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if b.bin, err = lab.Build(ctx, dir); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		run  func(*bench, context.Context, *world) error
	}{
		{"pulls", (*bench).pulls},
		{"range", (*bench).coldRange},
		{"abort", (*bench).abort},
		{"down", (*bench).down},
		{"hanging", (*bench).hanging},
		{"readers", (*bench).slowReaders},
		{"cached", (*bench).cached},
	} {
		if !re.MatchString(s.name) {
			continue
		}
		if err := b.scenario(ctx, s.name, s.run); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// scenario runs one with an upstream and a seeder of its own.
func (b *bench) scenario(ctx context.Context, name string, run func(*bench, context.Context, *world) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w, err := newWorld(ctx, b.bin.Seeder)
	if err != nil {
		return err
	}
	defer w.close()
	if err := run(b, ctx, w); err != nil {
		return fmt.Errorf("%w; the seeder's log:\n%s", err, w.log())
	}
	return nil
}

func (b *bench) row(scenario, what, unit string, target report.Target, value float64, note string) {
	b.rep.Add(os.Stdout, report.Row{Scenario: scenario, What: what, Unit: unit, Target: target, Values: []float64{value}, Note: note})
}
