package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/lab"
)

// mode is a way to run the swarm.
type mode struct {
	name   string
	args   []string
	target float64 // moved / minimal
}

var modes = []mode{
	{"identity TLS", nil, 2.5},
	{"trusted network", []string{"--trusted-network"}, 1.5},
}

// moved is what one run cost peerd A, per byte of the blob.
type moved struct {
	in, out     float64 // CPU-s/GB: until A has committed and its client has read all; until B has
	allocated   float64 // bytes of heap per byte
	collections float64
	asks        float64
	seconds     [2]float64
}

// swarm is a warm seeder and two peerds that have nothing yet.
type swarm struct {
	b      *bench
	m      mode
	n      int
	seeder *lab.Seeder
	x, y   *lab.Peerd
}

func (b *bench) newSwarm(ctx context.Context, m mode) (*swarm, error) {
	b.swarms++
	s := &swarm{b: b, m: m, n: b.swarms}
	host := func(role string) (*lab.Host, error) {
		return b.lab.NewHost(fmt.Sprintf("%s%d", role, s.n), -1)
	}
	hs, err := host("s")
	if err != nil {
		return nil, err
	}
	s.seeder, err = lab.StartSeeder(ctx, b.bin, hs, lab.SeederConfig{
		Upstreams: []lab.NamedURL{{Name: b.upstream.Name, URL: b.upstream.URL}}, Args: m.args})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	warm := func() error { return b.fetch(ctx, hs, s.seeder.URL) }
	if err := lab.Eventually(ctx, warm); err != nil {
		return nil, fmt.Errorf("warm the seeder: %w", err)
	}
	for _, p := range []struct {
		role string
		at   **lab.Peerd
	}{{"a", &s.x}, {"b", &s.y}} {
		h, err := host(p.role)
		if err != nil {
			return nil, err
		}
		*p.at, err = lab.StartPeerd(ctx, b.bin, h, lab.PeerdConfig{Seeder: s.seeder.URL, SwarmKey: s.seeder.SwarmKey,
			Args: append([]string{"--no-prefetch"}, m.args...)})
		if err != nil {
			return nil, err
		}
	}
	return s, lab.Eventually(ctx, func() error {
		for _, p := range []*lab.Peerd{s.x, s.y} {
			c, err := metricsOf(ctx, p)
			if err != nil {
				return err
			}
			if c["peerd_p2p_neighbours"] < 2 {
				return fmt.Errorf("%s has %.0f neighbours", p.Title(), c["peerd_p2p_neighbours"])
			}
		}
		return nil
	})
}

func (s *swarm) close() {
	s.seeder.Kill()
	for _, p := range []*lab.Peerd{s.x, s.y} {
		if p != nil {
			p.Kill()
			os.RemoveAll(p.Data)
		}
	}
	os.RemoveAll(s.seeder.Data)
}

// move lets A receive the blob and give it on, and measures A.
func (s *swarm) move(ctx context.Context) (m moved, err error) {
	b := s.b
	// B learns the manifest while there is a seeder, so that only A's pieces remain.
	if err := b.fetchManifest(ctx, s.y.Host, s.y.Mirror); err != nil {
		return m, err
	}
	if err := b.heat(); err != nil {
		return m, err
	}
	before, err := metricsOf(ctx, s.x)
	if err != nil {
		return m, err
	}
	cpu0, err := proc.CPU(s.x.Pid())
	if err != nil {
		return m, err
	}
	began := time.Now()
	if err := b.fetch(ctx, s.x.Host, s.x.Mirror); err != nil {
		return m, err
	}
	if err := b.committed(ctx, s.x); err != nil {
		return m, err
	}
	m.seconds[0] = time.Since(began).Seconds()
	cpu1, err := proc.CPU(s.x.Pid())
	if err != nil {
		return m, err
	}
	if _, err := s.seeder.Stop(30 * time.Second); err != nil {
		return m, err
	}
	began = time.Now()
	if err := b.fetch(ctx, s.y.Host, s.y.Mirror); err != nil {
		return m, err
	}
	if err := b.committed(ctx, s.y); err != nil {
		return m, err
	}
	m.seconds[1] = time.Since(began).Seconds()
	cpu2, err := proc.CPU(s.x.Pid())
	if err != nil {
		return m, err
	}
	after, err := metricsOf(ctx, s.x)
	if err != nil {
		return m, err
	}
	size := float64(b.size)
	diff := func(name string) float64 { return after[name] - before[name] }
	for name, want := range map[string]float64{"peerd_received_bytes_total": size, "peerd_given_bytes_total": size} {
		if got := diff(name); got < want*0.995 || got > want*1.01 {
			return m, fmt.Errorf("%s moved by %.0f where the blob has %.0f bytes: not what is to be measured", name, got, want)
		}
	}
	m.in, m.out = perGB(cpu1-cpu0, b.size), perGB(cpu2-cpu1, b.size)
	m.allocated = diff("go_memstats_alloc_bytes_total") / size
	m.collections = diff("go_gc_duration_seconds_count")
	m.asks = diff("peerd_piece_requests_total")
	return m, nil
}

// profiled writes A's CPU profile of one more run.
func (s *swarm) profiled(ctx context.Context, dir string, d time.Duration) error {
	type result struct {
		b   []byte
		err error
	}
	got := make(chan result, 1)
	go func() {
		p, err := s.x.Profile(ctx, d)
		got <- result{p, err}
	}()
	_, err := s.move(ctx)
	r := <-got
	if err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	name := "moved-tls.pprof"
	if len(s.m.args) > 0 {
		name = "moved-trusted.pprof"
	}
	return os.WriteFile(filepath.Join(dir, name), r.b, 0o644)
}

func metricsOf(ctx context.Context, p *lab.Peerd) (counters, error) {
	text, err := p.Metrics(ctx)
	return parseCounters(text), err
}

// committed waits until the peerd has the blob whole. It looks at the store: to
// ask the daemon would be part of what is measured.
func (b *bench) committed(ctx context.Context, p *lab.Peerd) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return lab.Eventually(ctx, func() error {
		_, err := contentFile(p.Data, b.size)
		return err
	})
}
