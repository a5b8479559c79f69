// Command small measures what small blobs cost: an image of 1,000 blobs of 4 to
// 64 KiB. It needs root, iproute2, docker-registry and nginx.
//
//	go run ./test/bench/small                 make bench-small
//	go run ./test/bench/small --profile DIR   and CPU profiles of seeder and peerd
//
// Cold: a few hosts pull the image at once, through peerds and a seeder that
// know nothing yet, and straight from the upstream. Links are unshaped, so the
// work counts and nothing else. Cached: one host pulls what its peerd holds,
// and the same bytes from an nginx on the same loopback.
//
// It exits with 1 when a target is missed and 2 when a run could not be made.
package main

import (
	"context"
	"flag"
	"os"
	"time"

	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

// config is what the flags say.
type config struct {
	runs, hosts, blobs, rounds int
	large                      int64 // bytes of the cached large blob
	cold, cached               bool
	profile                    string // directory; "" = no profiles
}

func main() {
	var c config
	large := flag.Int64("large", 256, "size of the cached large blob in MiB")
	flag.IntVar(&c.runs, "runs", 3, "runs of each figure; the median counts")
	flag.IntVar(&c.hosts, "hosts", 4, "hosts that pull at once")
	flag.IntVar(&c.blobs, "blobs", 1000, "blobs of the image")
	flag.IntVar(&c.rounds, "rounds", 5, "times that a cached image is pulled in one run")
	flag.BoolVar(&c.cold, "cold", true, "measure the cold image")
	flag.BoolVar(&c.cached, "cached", true, "measure cached pulls")
	flag.StringVar(&c.profile, "profile", "", "directory for CPU profiles of a cold pull")
	jsonPath := flag.String("json", "", "write the report to this file")
	flag.Parse()
	c.large = *large << 20
	rep := report.New("bench-small")
	os.Exit(rep.Finish(os.Stdout, os.Stderr, *jsonPath, run(context.Background(), c, rep)))
}

func run(ctx context.Context, c config, rep *report.Report) error {
	for _, missing := range []func() error{lab.Missing, lab.MissingRegistry, func() error { _, err := lab.Nginx(); return err }} {
		if err := missing(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	dir, err := lab.TempDir("", "bin")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := lab.Build(ctx, dir)
	if err != nil {
		return err
	}
	b := &bench{config: c, bin: bin, rep: rep}
	return b.run(ctx)
}
