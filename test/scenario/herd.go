package scenario

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/test/lab"
)

// Herd: all hosts pull one image at the same moment.
var (
	herdHTTP = Scenario{
		Name: "herd-http", Doc: "every host pulls a cold image at once, with a plain HTTP client",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.herd(ctx, false) },
	}
	herdContainerd = Scenario{
		Name: "herd-containerd", Doc: "every host pulls a cold image at once, with a containerd of its own",
		Needs: []Need{lab.Missing, lab.MissingRegistry, lab.MissingContainerd},
		run:   func(ctx context.Context, e *Env) error { return e.herd(ctx, true) },
	}
)

func (e *Env) herd(ctx context.Context, containerd bool) error {
	c, err := e.newCluster(ctx, clusterSpec{})
	if err != nil {
		return err
	}
	pullers := c.httpPullers(c.peers, true)
	if containerd {
		if pullers, err = c.containerds(ctx); err != nil {
			return err
		}
	}
	before, err := c.lab.Traffic()
	if err != nil {
		return err
	}
	pl := c.pull(ctx, tag, pullers)
	c.profile(ctx)
	var fetchedAfter time.Duration
	if containerd {
		fetchedAfter = c.watchFetched(ctx, pl)
	}
	err = pl.wait(nil)
	after, terr := c.lab.Traffic()
	if terr != nil {
		return terr
	}
	e.expect("all pulls finish with the right bytes", "yes", err)
	if err != nil {
		return nil
	}
	d := after.Since(before)
	up, seed := d["upstream"].SentPayload(), d["seeder"].SentPayload()
	served, err := c.upstream.Served()
	if err != nil {
		return err
	}
	e.row("bytes out of the upstream / image", atMost(e.Size.MaxUpstream), images(up, c.size) <= e.Size.MaxUpstream,
		"%.4f by its link, %.4f by its log (%d blob requests)", images(up, c.size), images(served.BlobBytes, c.size), served.BlobGets)
	e.row("bytes out of the seeder / image", atMost(e.Size.MaxSeeder), images(seed, c.size) <= e.Size.MaxSeeder, "%.4f by its link", images(seed, c.size))
	bound := lowerBound(c.size, e.Size.Rate, len(c.peers))
	ratio := pl.took.Seconds() / bound.Seconds()
	e.timing("time until the last host is done / lower bound", "<= 1.30", ratio <= 1.30,
		"%.2f (%.1f s / %.1f s)", ratio, pl.took.Seconds(), bound.Seconds())
	if containerd {
		e.info("of that, until the last peerd had all bytes", "%.1f s; what follows is containerd's own work (verify, unpack), all hosts on one machine", fetchedAfter.Seconds())
	} else {
		fb := pl.firstByte()
		e.timing("longest wait for a blob's first byte", "<= 1 s", fb <= time.Second, "%.2f s", fb.Seconds())
	}
	src, err := c.sources(ctx)
	if err != nil {
		return err
	}
	total := src.FromPeers + src.FromSeeder + src.FromUpstream
	e.info("where the peers' bytes came from", "%.1f%% other peers, %.1f%% seeder, %.1f%% upstream; %s thrown away",
		share(src.FromPeers, total), share(src.FromSeeder, total), share(src.FromUpstream, total), mb(src.Wasted))
	return c.stopAll()
}

// watchFetched returns when all peers have fetched as many bytes as the image has,
// or the pulls have ended, and how long that took.
func (c *cluster) watchFetched(ctx context.Context, pl *pulling) time.Duration {
	_ = lab.Eventually(ctx, func() error {
		select {
		case <-pl.done:
			return nil
		default:
		}
		for _, p := range c.peers {
			st, err := p.Status(ctx)
			if err != nil {
				return err
			}
			// Manifest and config are not counted as pieces by every version.
			if fetched(st) < c.size-64*kib {
				return fmt.Errorf("%s is not done", p.Host.Name)
			}
		}
		return nil
	})
	return time.Since(pl.start)
}

// profile takes the first 15 s of a herd.
func (c *cluster) profile(ctx context.Context) {
	if c.env.Profile == "" {
		return
	}
	get := map[string]func(context.Context, time.Duration) ([]byte, error){
		"seeder": c.seeder.Profile, "peerd": c.peers[0].Profile,
	}
	var g errgroup.Group
	for name, f := range get {
		g.Go(func() error {
			b, err := f(ctx, 15*time.Second)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(c.env.Profile, c.env.name+"-"+name+".pprof"), b, 0o644)
		})
	}
	if err := g.Wait(); err != nil {
		c.env.Logf("profile: %v", err)
	}
}

// stopAll ends all daemons as an operator would and reports how that went.
func (c *cluster) stopAll() error {
	var g errgroup.Group
	stop := func(p *lab.Process) {
		g.Go(func() error {
			status, err := p.Stop(30 * time.Second)
			if err == nil && status != 0 {
				err = fmt.Errorf("%s: exit status %d after SIGTERM", p.Title(), status)
			}
			return err
		})
	}
	for _, p := range c.peers {
		stop(p.Process)
	}
	stop(c.seeder.Process)
	err := g.Wait()
	c.env.expect("daemons end with status 0 on SIGTERM", "yes", err)
	if err != nil {
		return nil
	}
	cpu, rss := c.seeder.CPU(), c.seeder.PeakRSS()
	for _, p := range c.peers {
		cpu += p.CPU()
		rss = max(rss, p.PeakRSS())
	}
	gb := float64(c.size) * float64(len(c.peers)) / 1e9
	c.env.info("processor time of all daemons and the virtual network", "%.1f CPU-s, %.2f per GB delivered; largest resident set %s",
		cpu.Seconds(), cpu.Seconds()/gb, mb(rss))
	return nil
}

// containerds starts a containerd on each peer's host.
func (c *cluster) containerds(ctx context.Context) (map[string]lab.Puller, error) {
	all := make([]*lab.Containerd, len(c.peers))
	g, gctx := errgroup.WithContext(ctx)
	for i, p := range c.peers {
		g.Go(func() (err error) {
			all[i], err = lab.StartContainerd(gctx, p.Host, upstreamName, c.upURL, p.Mirror)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	m := make(map[string]lab.Puller, len(all))
	for i, p := range c.peers {
		c.env.logs = append(c.env.logs, all[i].Process)
		m[p.Host.Name] = all[i]
	}
	return m, nil
}

// lowerBound is DESIGN section 5 for equal links: every byte must leave the
// seeder once, and the last of K pieces needs log2(N) hops. Headers are not in
// it: at 1500 bytes a frame they cost a further 4.6%.
func lowerBound(size int64, rate lab.Rate, hosts int) time.Duration {
	const pieces = 1024
	once := float64(size) * 8 / float64(rate)
	all := float64(hosts) * once / float64(hosts+1)
	t := math.Max(once, all) * (1 + math.Log2(float64(hosts))/pieces)
	return time.Duration(t * float64(time.Second))
}

func atMost(x float64) string { return fmt.Sprintf("<= %.2f", x) }

func share(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}
