package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/bench/report"
	"github.com/samara-p2p/samara/test/lab"
)

const (
	upstreamName = "up.test"
	repository   = "lab/small"
	bigRepo      = "lab/large"
	tag          = "v1"
	kib          = 1 << 10
	mib          = 1 << 20
)

// bench is one run of the program.
type bench struct {
	config
	bin lab.Binaries
	rep *report.Report

	lab   *lab.Lab
	up    *lab.Upstream
	image *lab.Image // of small blobs
	big   *lab.Image // of one large blob
	hosts []*lab.Host
	at    *lab.Host // the seeder's
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.lab, err = lab.New(lab.Options{Rate: -1}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if b.cold {
		for _, parallel := range []int{3, 16} {
			if err := b.coldImage(ctx, parallel); err != nil {
				return err
			}
		}
	}
	if b.cached {
		return b.cachedPulls(ctx)
	}
	return nil
}

// prepare makes hosts and fills the upstream.
func (b *bench) prepare(ctx context.Context) (err error) {
	host := func(name string) *lab.Host {
		if err != nil {
			return nil
		}
		var h *lab.Host
		h, err = b.lab.NewHost(name, 0)
		return h
	}
	at := host("upstream")
	b.at = host("seeder")
	for i := range b.config.hosts {
		b.hosts = append(b.hosts, host(fmt.Sprintf("host%d", i+1)))
	}
	if err != nil {
		return err
	}
	spec := lab.ImageSpec{Seed: 1}
	random := rand.New(rand.NewPCG(1, 2))
	for range b.blobs {
		spec.Layers = append(spec.Layers, 4*kib+random.Int64N(60*kib))
	}
	if b.image, err = lab.NewImage(spec); err != nil {
		return err
	}
	if b.big, err = lab.NewImage(lab.ImageSpec{Seed: 2, Layers: []int64{b.large}}); err != nil {
		return err
	}
	if b.up, err = lab.StartUpstream(ctx, at, upstreamName); err != nil {
		return err
	}
	fmt.Printf("filling the upstream: %d blobs, %.1f MiB\n", b.blobs, float64(b.image.Size())/mib)
	if err := b.up.Push(ctx, b.image, repository, tag); err != nil {
		return err
	}
	return b.up.Push(ctx, b.big, bigRepo, tag)
}

// cluster is a seeder and a peerd on each host, with empty disks.
type cluster struct {
	seeder *lab.Seeder
	peerds []*lab.Peerd
}

func (b *bench) cluster(ctx context.Context) (c *cluster, err error) {
	c = &cluster{}
	defer func() {
		if err != nil {
			c.end()
		}
	}()
	c.seeder, err = lab.StartSeeder(ctx, b.bin, b.at, lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: upstreamName, URL: b.up.URL}}})
	if err != nil {
		return c, err
	}
	for _, h := range b.hosts {
		p, err := lab.StartPeerd(ctx, b.bin, h, lab.PeerdConfig{Seeder: c.seeder.URL, SwarmKey: c.seeder.SwarmKey})
		if err != nil {
			return c, err
		}
		c.peerds = append(c.peerds, p)
	}
	return c, nil
}

// end kills the daemons and removes all they know.
func (c *cluster) end() {
	for _, p := range c.peerds {
		p.Kill()
		_ = os.RemoveAll(p.Data) // goes with the lab
	}
	if c.seeder != nil {
		c.seeder.Kill()
		_ = os.RemoveAll(c.seeder.Data)
	}
}

// spent is what a herd cost.
type spent struct {
	wall time.Duration // of the last host
	cpu  []time.Duration
}

// sum is the processor time of all processes.
func (s spent) sum() (d time.Duration) {
	for _, c := range s.cpu {
		d += c
	}
	return d
}

// herd has every host pull the image at once and counts what these processes,
// this one with its clients among them, spend on it.
func (b *bench) herd(ctx context.Context, puller func(i int) *lab.HTTPPuller, pids []int) (spent, error) {
	before, err := cpuOf(pids)
	if err != nil {
		return spent{}, err
	}
	var g errgroup.Group
	began := time.Now()
	for i, h := range b.hosts {
		g.Go(func() error {
			p := puller(i)
			p.Client = h.HTTPClient()
			defer p.Client.CloseIdleConnections()
			_, err := p.Pull(ctx, repository, tag)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return spent{}, err
	}
	s := spent{wall: time.Since(began)}
	after, err := cpuOf(pids)
	if err != nil {
		return spent{}, err
	}
	for i := range after {
		s.cpu = append(s.cpu, after[i]-before[i])
	}
	return s, nil
}

func cpuOf(pids []int) ([]time.Duration, error) {
	all := make([]time.Duration, len(pids))
	for i, pid := range pids {
		var err error
		if all[i], err = proc.CPU(pid); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// coldImage compares herds on empty disks with herds at the upstream.
func (b *bench) coldImage(ctx context.Context, parallel int) error {
	var ratio, cpu, direct, samara []float64
	var parts [4]float64 // clients, upstream, seeder, peerds
	for i := range b.runs {
		d, s, err := b.coldRun(ctx, parallel, i)
		if err != nil {
			return err
		}
		direct, samara = append(direct, d.wall.Seconds()), append(samara, s.wall.Seconds())
		ratio = append(ratio, s.wall.Seconds()/d.wall.Seconds())
		cpu = append(cpu, s.sum().Seconds()/d.sum().Seconds())
		for k, t := range s.cpu {
			parts[min(k, 3)] += t.Seconds() / float64(b.runs)
		}
	}
	name := fmt.Sprintf("cold, %d at once", parallel)
	b.rep.Add(os.Stdout,
		report.Row{Scenario: name, What: fmt.Sprintf("time of the last of %d hosts / direct pulls", b.config.hosts), Unit: "x", Target: report.AtMost(1), Values: ratio},
		report.Row{Scenario: name, What: "direct pulls", Unit: "s", Values: direct},
		report.Row{Scenario: name, What: "through peerds and a cold seeder", Unit: "s", Values: samara},
		report.Row{Scenario: name, What: "CPU of all processes / direct pulls", Unit: "x", Values: cpu,
			Note: fmt.Sprintf("clients %.2f s, upstream %.2f s, seeder %.2f s, peerds %.2f s", parts[0], parts[1], parts[2], parts[3])})
	return nil
}

func (b *bench) coldRun(ctx context.Context, parallel, run int) (direct, samara spent, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	direct, err = b.herd(ctx, func(int) *lab.HTTPPuller {
		return &lab.HTTPPuller{Mirror: b.up.URL, Parallel: parallel}
	}, []int{os.Getpid(), b.up.Pid()})
	if err != nil {
		return direct, samara, fmt.Errorf("direct pulls: %w", err)
	}
	c, err := b.cluster(ctx)
	if err != nil {
		return direct, samara, err
	}
	defer c.end()
	pids := []int{os.Getpid(), b.up.Pid(), c.seeder.Pid()}
	for _, p := range c.peerds {
		pids = append(pids, p.Pid())
	}
	stop := b.profiles(ctx, c, parallel, run)
	served, err := b.up.Served()
	if err != nil {
		return direct, samara, err
	}
	samara, err = b.herd(ctx, func(i int) *lab.HTTPPuller {
		return &lab.HTTPPuller{Mirror: c.peerds[i].Mirror, NS: upstreamName, Parallel: parallel}
	}, pids)
	if perr := stop(); err == nil {
		err = perr
	}
	if err != nil {
		return direct, samara, fmt.Errorf("through peerds: %w", err)
	}
	after, err := b.up.Served()
	if err == nil && after.Since(served).BlobGets > b.blobs+1 {
		fmt.Printf("the upstream answered %d requests for %d blobs\n", after.Since(served).BlobGets, b.blobs+1)
	}
	return direct, samara, err
}

// profiles takes CPU profiles of the seeder and one peerd during a pull.
func (b *bench) profiles(ctx context.Context, c *cluster, parallel, run int) (stop func() error) {
	name := func(daemon string) string { return fmt.Sprintf("%s-%d-%d", daemon, parallel, run) }
	seeder, peerd := b.profileOf(ctx, name("seeder"), c.seeder.Profile), b.profileOf(ctx, name("peerd"), c.peerds[0].Profile)
	return func() error { return errors.Join(seeder(), peerd()) }
}

// profileOf takes a CPU profile of the next seconds, if profiles are wanted;
// stop waits for it.
func (b *bench) profileOf(ctx context.Context, name string, take func(context.Context, time.Duration) ([]byte, error)) (stop func() error) {
	if b.profile == "" {
		return func() error { return nil }
	}
	var g errgroup.Group
	g.Go(func() error {
		p, err := take(ctx, 5*time.Second)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(b.profile, name+".pprof"), p, 0o644)
	})
	return g.Wait
}
