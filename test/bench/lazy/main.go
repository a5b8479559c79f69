// Command lazy measures how long ranges of a cold blob take through a peerd, as
// lazy snapshotters ask for them, and what they cost: beside the registry itself,
// and docker-registry as a pull-through cache. As root hosts have links of --rate
// Mbit/s each; else everything is on loopback.
//
//	go run ./test/bench/lazy                  make bench-lazy
//	go run ./test/bench/lazy --ranges 100 --rate 1000
//
// Ratios compare ways in one run, on one machine; the times are those of its links.
// It exits with 1 when a target is missed and 2 when a run could not be made.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
	"github.com/samara-p2p/samara/test/lazy"
)

const (
	mib   = 1 << 20
	limit = 10 * time.Minute // of the whole run
	hosts = 4
	// floor is contract 28: a range of 64 KiB to 4 MiB, cold.
	floor = 2.0
)

// bench is one run of the program.
type bench struct {
	rep    *report.Report
	w      *lazy.World
	ranges int
	direct *lazy.Client // of the upstream, on a host of its own
	cache  *lazy.Client // of docker-registry as a cache; nil where it is not installed
}

func main() {
	b := bench{rep: report.New("bench-lazy")}
	flag.IntVar(&b.ranges, "ranges", 40, "ranges that are read of each blob")
	rate := flag.Int("rate", 100, "Mbit/s of each host's link")
	jsonPath := flag.String("json", "", "write the report to this file")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	err := b.run(ctx, lab.Rate(*rate)*1_000_000)
	cancel()
	os.Exit(b.rep.Finish(os.Stdout, os.Stderr, *jsonPath, err))
}

func (b *bench) run(ctx context.Context, rate lab.Rate) error {
	dir, err := os.MkdirTemp("", "samara-lazy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := lab.Build(ctx, dir)
	if err != nil {
		return err
	}
	l, err := lab.New(lab.Options{Rate: rate, Loopback: lab.Missing() != nil})
	if err != nil {
		return err
	}
	defer l.Close()
	if b.w, err = lazy.Start(ctx, l, bin, hosts, "--lazy", "needed"); err != nil {
		return err
	}
	defer b.w.Close()
	if err := b.others(ctx, l); err != nil {
		return err
	}
	for _, f := range []func(context.Context) error{b.cold, b.herd, b.huge, b.end} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// others starts what peerd is compared with.
func (b *bench) others(ctx context.Context, l *lab.Lab) error {
	h, err := l.NewHost("direct", 0)
	if err != nil {
		return err
	}
	b.direct = &lazy.Client{HTTP: h.HTTPClient(), URL: b.w.Up.URL}
	if lab.MissingRegistry() != nil {
		return nil
	}
	c, err := l.NewHost("cache", 0)
	if err != nil {
		return err
	}
	proxy, err := lab.StartRegistryProxy(ctx, c, b.w.Up.URL)
	if err != nil {
		return err
	}
	b.cache = &lazy.Client{HTTP: h.HTTPClient(), URL: proxy.URL}
	return nil
}

// image has a peerd know an image of one layer that says that it can be read in parts.
func (b *bench) image(ctx context.Context, tag string, blob *lazy.Blob, peers ...*lab.Peerd) error {
	blob.Annotations = map[string]string{"containerd.io/snapshot/stargz/toc.digest": "sha256:0"}
	if _, err := b.w.Up.Image(tag, b.w.Up.Content(ocispec.MediaTypeImageConfig, []byte("{}")), blob); err != nil {
		return err
	}
	for _, p := range peers {
		c := b.w.Client(p)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/v2/"+lazy.Repository+"/manifests/"+tag, nil)
		if err != nil {
			return err
		}
		resp, err := c.HTTP.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("manifest %s: %s", tag, resp.Status)
		}
	}
	return nil
}

// times reads ranges one after another.
func times(ctx context.Context, c *lazy.Client, blob *lazy.Blob, ranges []lazy.Range) (seconds []float64, err error) {
	for _, r := range ranges {
		t, err := c.Time(ctx, blob, r)
		if err != nil {
			return nil, err
		}
		seconds = append(seconds, t.Total.Seconds())
	}
	return seconds, nil
}

func (b *bench) row(scenario, what, unit string, target report.Target, value float64, note string) {
	b.rep.Add(os.Stdout, report.Row{Scenario: scenario, What: what, Unit: unit, Target: target, Values: []float64{value}, Note: note})
}

func spread(s []float64) string {
	return fmt.Sprintf("p50 %.3f s, p99 %.3f s, max %.3f s", report.Percentile(s, 50), report.Percentile(s, 99), report.Percentile(s, 100))
}

// cold: one host reads a blob that nobody has, then reads it again, and a second
// host reads the same.
func (b *bench) cold(ctx context.Context) error {
	blob := b.w.Up.Endless(1<<30, 1)
	if err := b.image(ctx, "cold", blob, b.w.Peers[:2]...); err != nil {
		return err
	}
	ranges := lazy.Draw(blob, b.ranges, 4*mib, 1)
	direct, err := times(ctx, b.direct, blob, ranges)
	if err != nil {
		return err
	}
	before := blob.Sent()
	var by [3][]float64
	for i, p := range []*lab.Peerd{b.w.Peers[0], b.w.Peers[0], b.w.Peers[1]} {
		if by[i], err = times(ctx, b.w.Client(p), blob, ranges); err != nil {
			return err
		}
	}
	sent := blob.Sent() - before
	p50 := report.Percentile(direct, 50)
	b.row("cold", "longest range, nobody has it", "s", report.AtMost(floor), report.Percentile(by[0], 100), spread(by[0]))
	b.row("cold", "the same / straight from the registry, p50", "x", report.Target{}, report.Percentile(by[0], 50)/p50, spread(direct))
	b.row("cold", "read again on this host / registry, p50", "x", report.AtMost(1), report.Percentile(by[1], 50)/p50, spread(by[1]))
	b.row("cold", "read on a second host / registry, p50", "x", report.Target{}, report.Percentile(by[2], 50)/p50, spread(by[2]))
	return b.traffic("cold", blob, sent, ranges)
}

// traffic compares what left the upstream with the pieces that were touched.
func (b *bench) traffic(scenario string, blob *lazy.Blob, sent int64, ranges []lazy.Range) error {
	g, err := piece.GeometryOf(blob.Size)
	if err != nil {
		return err
	}
	touched, pieces, read := piece.NewBitfield(g.Count()), int64(0), int64(0)
	for _, r := range ranges {
		read += r.Length
		for i := g.Index(r.Offset); i <= g.Index(r.Offset+r.Length-1); i++ {
			if touched.Set(i) {
				pieces += int64(g.Len(i))
			}
		}
	}
	b.row(scenario, "bytes out of the upstream / pieces that were read", "x", report.AtMost(1.01), float64(sent)/float64(pieces),
		fmt.Sprintf("%d MiB for %d MiB read, of %d MiB", sent/mib, read/mib, blob.Size/mib))
	return nil
}

// herd: all hosts mount the same image at once and read the same, each in an order of its own.
func (b *bench) herd(ctx context.Context) error {
	blob := b.w.Up.Endless(1<<30, 2)
	if err := b.image(ctx, "herd", blob, b.w.Peers...); err != nil {
		return err
	}
	ranges := lazy.Draw(blob, b.ranges/2, mib, 2)
	got := make([][]float64, len(b.w.Peers))
	g, gctx := errgroup.WithContext(ctx)
	for i, p := range b.w.Peers {
		k := i * len(ranges) / len(b.w.Peers)
		own := append(append([]lazy.Range(nil), ranges[k:]...), ranges[:k]...)
		g.Go(func() (err error) {
			got[i], err = times(gctx, b.w.Client(p), blob, own)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var all []float64
	for _, s := range got {
		all = append(all, s...)
	}
	b.row("herd", fmt.Sprintf("longest range, %d hosts at once", len(got)), "s", report.AtMost(floor), report.Percentile(all, 100), spread(all))
	return b.traffic("herd", blob, blob.Sent(), ranges)
}

// huge: a layer of 10 GiB, from its end on.
func (b *bench) huge(ctx context.Context) error {
	blob := b.w.Up.Endless(10<<30, 3)
	if err := b.image(ctx, "huge", blob, b.w.Peers[0]); err != nil {
		return err
	}
	ranges := append([]lazy.Range{{Offset: blob.Size - 64<<10, Length: 64 << 10}}, lazy.Draw(blob, b.ranges/4, 4*mib, 3)...)
	got, err := times(ctx, b.w.Client(b.w.Peers[0]), blob, ranges)
	if err != nil {
		return err
	}
	b.row("huge", "last 64 KiB of 10 GiB, cold", "s", report.AtMost(floor), got[0], "")
	b.row("huge", "longest range of 10 GiB, cold", "s", report.AtMost(floor), report.Percentile(got, 100), spread(got))
	return b.traffic("huge", blob, blob.Sent(), ranges)
}

// end: the end of a blob that nobody has, the first thing that a snapshotter
// reads, through each way.
func (b *bench) end(ctx context.Context) error {
	took := func(c *lazy.Client, seed uint64, peers ...*lab.Peerd) (float64, error) {
		blob, err := b.w.Up.Noise(64*mib, seed)
		if err == nil {
			err = b.image(ctx, fmt.Sprint("end", seed), blob, peers...)
		}
		if err != nil {
			return 0, err
		}
		return c.Reach(ctx, blob, lazy.Range{Offset: blob.Size - 256<<10, Length: 256 << 10})
	}
	direct, err := took(b.direct, 11)
	if err != nil {
		return err
	}
	peerd, err := took(b.w.Client(b.w.Peers[0]), 12, b.w.Peers[0])
	if err != nil {
		return err
	}
	b.row("end", "last 256 KiB of 64 MiB, cold / straight from the registry", "x", report.Target{}, peerd/direct, fmt.Sprintf("%.3f s / %.3f s", peerd, direct))
	if b.cache == nil {
		return nil
	}
	cache, err := took(b.cache, 13)
	if err != nil {
		return err
	}
	b.row("end", "docker-registry as a cache, the same / peerd", "x", report.AtLeast(1), cache/peerd, fmt.Sprintf("%.3f s: it answers with the whole blob", cache))
	return nil
}
