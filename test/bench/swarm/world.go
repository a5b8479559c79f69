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

// What the image is called.
const (
	upstreamName = "registry.lab.test"
	repo         = "bench/image"
	tag          = "v1"
)

// world is a lab with an upstream that has the image, a host for the seeder (or
// for the system that stands in its place) and the hosts that will pull.
type world struct {
	s   scenario
	b   *bench
	lab *lab.Lab

	image      *lab.Image
	upstream   *lab.Upstream
	seederHost *lab.Host
	helper     *lab.Host // with a link that nothing limits: warms caches
	hosts      []*lab.Host
	holderHost *lab.Host // where the scenario has one

	seeder  *lab.Seeder // of Samara only
	peerds  []*lab.Peerd
	holder  *lab.Peerd
	pullers []*lab.HTTPPuller // one for each host
	logs    []*lab.Process
}

// newWorld makes the lab, the links and the upstream. Close it, also after an error.
func (b *bench) newWorld(ctx context.Context, s scenario) (w *world, err error) {
	w = &world{s: s, b: b}
	if w.lab, err = lab.New(lab.Options{Rate: s.rate, MTU: s.mtu}); err != nil {
		return w, err
	}
	if err := w.dataInMemory(); err != nil {
		return w, err
	}
	far := (*lab.Zone)(nil)
	if s.zoneLink > 0 {
		if far, err = w.lab.NewZone(farZone, times(s.rate, s.zoneLink)); err != nil {
			return w, err
		}
	}
	upHost, err := w.lab.NewHost("upstream", 0)
	if err != nil {
		return w, err
	}
	if w.seederHost, err = w.lab.NewHost("seeder", s.seederRate()); err != nil {
		return w, err
	}
	if w.helper, err = w.lab.NewHost("helper", -1); err != nil {
		return w, err
	}
	if s.holder {
		if w.holderHost, err = w.lab.NewHost("holder", 0); err != nil {
			return w, err
		}
	}
	for i := range s.hosts {
		spec := lab.HostSpec{Name: fmt.Sprintf("host%02d", i+1), Up: s.hostRate(i), Down: s.hostRate(i)}
		if s.zoneOf(i) == farZone {
			spec.Zone = far
		}
		h, err := w.lab.AddHost(spec)
		if err != nil {
			return w, err
		}
		w.hosts = append(w.hosts, h)
	}
	if err := w.lab.Introduce(); err != nil {
		return w, err
	}
	if w.image, err = lab.NewImage(lab.ImageSpec{Layers: s.layers, Seed: 1}); err != nil {
		return w, err
	}
	if w.upstream, err = lab.StartUpstream(ctx, upHost, upstreamName); err != nil {
		return w, err
	}
	w.logs = append(w.logs, w.upstream.Process)
	return w, w.upstream.Push(ctx, w.image, repo, tag)
}

// dataInMemory mounts a tmpfs for what the hosts store, where there is room: real
// hosts have a disk each, here all would share one.
func (w *world) dataInMemory() error {
	copies := int64(w.s.hosts + 4)
	need := copies*(w.s.bytes()+16*mib) + w.s.bytes()/4
	if have := lab.MemAvailable(); have < need*5/4 {
		w.b.logf("no memory for %d copies of the image (%d MiB free): all hosts share the disk", copies, have/mib)
		return nil
	}
	_, err := w.lab.MountTmpfs("hosts", need)
	return err
}

// startSamara runs the seeder and a peerd on every host, and waits until they know
// each other and hold what the scenario says.
func (w *world) startSamara(ctx context.Context) (err error) {
	cfg := lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: upstreamName, URL: w.upstream.URL}}, Args: w.b.seederArgs}
	if w.s.zoneLink > 0 {
		cfg.Zone = nearZone
	}
	if w.seeder, err = lab.StartSeeder(ctx, w.b.bin, w.seederHost, cfg); err != nil {
		return err
	}
	w.logs = append(w.logs, w.seeder.Process)
	start := w.hosts
	if w.holderHost != nil {
		start = append([]*lab.Host{w.holderHost}, start...)
	}
	peerds := make([]*lab.Peerd, len(start))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, h := range start {
		zone := nearZone
		if w.holderHost == nil {
			zone = w.s.zoneOf(i)
		}
		g.Go(func() (err error) {
			peerds[i], err = lab.StartPeerd(gctx, w.b.bin, h, lab.PeerdConfig{
				Seeder: w.seeder.URL, SwarmKey: w.seeder.SwarmKey, Zone: zone, Args: w.b.peerdArgs})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, p := range peerds {
		w.logs = append(w.logs, p.Process)
	}
	if w.holderHost != nil {
		w.holder, peerds = peerds[0], peerds[1:]
	}
	w.peerds = peerds
	if err := w.waitJoined(ctx); err != nil {
		return err
	}
	for _, p := range w.peerds {
		hp := &lab.HTTPPuller{Client: p.Host.HTTPClient(), Mirror: p.Mirror, NS: upstreamName}
		if w.s.fault == nil && w.holder == nil {
			hp.Upstream = w.upstream.URL // where containerd goes when its mirror fails
		}
		w.pullers = append(w.pullers, hp)
	}
	return w.fill(ctx)
}

// waitJoined waits until every peerd has a neighbour.
func (w *world) waitJoined(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, p := range w.peerds {
		err := lab.Eventually(ctx, func() error {
			st, err := p.Status(ctx)
			if err == nil && st.Swarm.Neighbours == 0 {
				err = errors.New("no neighbours")
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s has not joined: %w", p.Host.Name, err)
		}
	}
	return nil
}

// fill gives the image to who has it at the start, over links that nothing limits.
func (w *world) fill(ctx context.Context) error {
	if w.s.cold {
		return nil
	}
	from := &lab.HTTPPuller{Client: w.helper.HTTPClient(), Mirror: w.seeder.URL, NS: upstreamName}
	unlimited := []*lab.Host{w.upstream.Host, w.seederHost}
	if w.holder != nil {
		from = &lab.HTTPPuller{Client: w.holderHost.HTTPClient(), Mirror: w.holder.Mirror, NS: upstreamName}
		unlimited = append(unlimited, w.holderHost)
	}
	if err := w.unlimited(unlimited, func() error { return warm(ctx, from) }); err != nil {
		return err
	}
	if w.holder == nil {
		return nil
	}
	// Whoever is found now is found in the DHT.
	w.seeder.Kill()
	w.upstream.Kill()
	return nil
}

// unlimited runs f while these hosts' links carry what the machine can.
func (w *world) unlimited(hosts []*lab.Host, f func() error) error {
	for _, h := range hosts {
		if err := h.SetRate(-1); err != nil {
			return err
		}
	}
	err := f()
	for _, h := range hosts {
		rate := w.s.rate
		if h == w.seederHost {
			rate = w.s.seederRate()
		}
		err = errors.Join(err, h.SetRate(rate))
	}
	return err
}

// warm has a client pull the image, so that whoever serves it holds it.
func warm(ctx context.Context, p *lab.HTTPPuller) error {
	defer p.Client.CloseIdleConnections()
	if _, err := p.Pull(ctx, repo, tag); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return nil
}

// close ends the lab; with --keep the logs stay.
func (w *world) close(name string) {
	if w.b.keep != "" {
		for _, p := range w.logs {
			path := filepath.Join(w.b.keep, name+"-"+p.Title()+".log")
			if err := os.WriteFile(path, []byte(p.Log()), 0o644); err != nil {
				w.b.logf("keep logs: %v", err)
				break
			}
		}
	}
	if w.lab == nil {
		return
	}
	if err := w.lab.Close(); err != nil {
		w.b.logf("close lab: %v", err)
	}
}
