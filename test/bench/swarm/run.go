package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/test/lab"
)

// run carries out one run of a scenario on a system.
func (b *bench) run(ctx context.Context, s scenario, sys system, n int) (o *outcome, err error) {
	o = &outcome{Scenario: s.name, System: sys.name, Run: n, Rate: s.rate, Share: s.share()}
	defer func() {
		if err != nil {
			o.Error = err.Error()
		}
	}()
	sw := s.swarm()
	o.BoundRaw, o.BoundShare = seconds(sw.bound(1)), seconds(sw.bound(o.Share))
	limit := s.longest() * time.Duration(sys.longer(s))
	// What comes before the pulls goes over links without limits.
	ctx, cancel := context.WithTimeout(ctx, limit+3*time.Minute)
	defer cancel()
	w, err := b.newWorld(ctx, s)
	defer func() { w.close(fmt.Sprintf("%s-%s-%d", s.name, sys.name, n)) }()
	if err != nil {
		return o, fmt.Errorf("set up: %w", err)
	}
	o.Image = w.image.Size()
	if err := sys.start(ctx, w); err != nil {
		return o, fmt.Errorf("set up: %w", err)
	}
	return o, w.measure(ctx, o, limit)
}

// measure has the hosts pull and fills in the outcome.
func (w *world) measure(ctx context.Context, o *outcome, limit time.Duration) error {
	for _, p := range w.daemons() {
		if err := p.ResetPeak(); err != nil {
			return err
		}
	}
	before, err := w.read()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := w.startPulls(ctx)
	view := w.watch(p, before)
	var g errgroup.Group
	if w.s.fault != nil {
		g.Go(func() error { return w.s.fault(ctx, w, p) })
	}
	if o.Run == 1 {
		g.Go(func() error { w.profile(ctx, o.Scenario); return nil })
	}
	<-p.done
	after, rerr := w.read()
	merr := w.memory(o)
	<-view.done
	o.Curve, o.ForwardedWhileFetching = view.curve, view.forwarded
	w.fillIn(o, p, before, after)
	return errors.Join(p.wait(), g.Wait(), rerr, merr, view.err)
}

// fillIn turns counters into the outcome.
func (w *world) fillIn(o *outcome, p *pulling, before, after reading) {
	d := after.traffic.Since(before.traffic)
	o.Makespan = seconds(p.took)
	o.Upstream, o.Seeder = payload(d[w.upstream.Host.Name]), payload(d[w.source().Name])
	if c, ok := d[farZone]; ok {
		o.Crossed = payload(c)
	}
	for i, h := range p.hosts {
		host := hostOutcome{Name: w.hosts[i].Name, Rate: w.s.hostRate(i), Started: seconds(h.began), Took: seconds(h.took),
			Moved: payload(d[w.hosts[i].Name]), Tries: h.tries, Killed: h.killed.Load()}
		if h.err != nil {
			host.Error = h.err.Error()
		}
		if h.report != nil {
			host.FromUpstream = h.report.FromUpstream()
			for _, blob := range h.report.Blobs {
				host.FirstBytes = append(host.FirstBytes, seconds(blob.FirstByte))
			}
		}
		o.Hosts = append(o.Hosts, host)
	}
	cpu := after.cpu.since(before.cpu)
	o.CPU = cpuUse{
		Peerds: seconds(after.peerds - before.peerds), Seeder: seconds(after.seeder - before.seeder),
		Clients: seconds(after.own - before.own),
		Machine: cpu.used, SoftIRQ: cpu.softirq, Stolen: cpu.stolen, Busy: cpu.busy(),
	}
}

// daemons are those that take part: the source's and the hosts'.
func (w *world) daemons() []*lab.Process {
	var all []*lab.Process
	if p := w.sourceProcess(); p != nil {
		all = append(all, p)
	}
	for _, p := range w.peerds {
		all = append(all, p.Process)
	}
	return all
}

// memory reads the peaks.
func (w *world) memory(o *outcome) error {
	for _, p := range w.daemons() {
		u, err := p.Usage()
		if err != nil {
			return err
		}
		if p == w.sourceProcess() {
			o.Memory.Seeder = u.PeakRSS
		} else {
			o.Memory.Peerd = max(o.Memory.Peerd, u.PeakRSS)
		}
	}
	return nil
}

// profileFor is how long CPU profiles are taken for.
const profileFor = 15 * time.Second

// profile writes CPU profiles of the seeder and the first host's peerd.
func (w *world) profile(ctx context.Context, name string) {
	if w.b.profile == "" || len(w.peerds) == 0 {
		return
	}
	get := map[string]func(context.Context, time.Duration) ([]byte, error){"peerd": w.peerds[0].Profile}
	if w.seeder.Running() {
		get["seeder"] = w.seeder.Profile
	}
	var g errgroup.Group
	for role, f := range get {
		g.Go(func() error {
			text, err := f(ctx, profileFor)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(w.b.profile, name+"-"+role+".pprof"), text, 0o644)
		})
	}
	if err := g.Wait(); err != nil {
		w.b.logf("profile: %v", err)
	}
}
