package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/test/lab"
)

const (
	upstreamName = "registry.demo.test"
	repo         = "demo/app"
	tag          = "v1"
	image        = upstreamName + "/" + repo + ":" + tag
)

// stage is everything that runs.
type stage struct {
	o          options
	lab        *lab.Lab
	image      *lab.Image
	upstream   *lab.Upstream // or
	builtin    *lab.Builtin
	seeder     *lab.Seeder
	peers      []*lab.Peerd
	clients    []lab.Puller
	clientName string
}

func (s *stage) close() {
	if s.lab != nil {
		_ = s.lab.Close()
	}
}

// setUp starts all but the pulls. The stage is usable by close even with an error.
func setUp(ctx context.Context, o options, say func(string, ...any)) (*stage, error) {
	s := &stage{o: o}
	why := lab.Missing()
	loopback := o.loopback || why != nil
	l, err := lab.New(lab.Options{Rate: lab.Rate(o.mbit) * lab.Mbit, Loopback: loopback})
	if err != nil {
		return s, err
	}
	s.lab = l
	switch {
	case !loopback:
		say("Hosts     network namespaces on a bridge, each link %d Mbit/s both ways (tc tbf)", o.mbit)
	case why != nil:
		say("Hosts     loopback addresses, links unshaped, ports + 20000: %v", why)
	default:
		say("Hosts     loopback addresses, links unshaped, ports + 20000")
	}
	binDir := filepath.Join(l.Dir(), "bin")
	if err := os.Mkdir(binDir, 0o755); err != nil {
		return s, err
	}
	bin, err := lab.Build(ctx, binDir)
	if err != nil {
		return s, err
	}
	const kib, mib = 1 << 10, 1 << 20
	s.image, err = lab.NewImage(lab.ImageSpec{Seed: 1, Layers: []int64{
		int64(o.sizeMiB) * mib, 6 * mib, 2 * mib, 900 * kib, 300 * kib, 40 * kib}})
	if err != nil {
		return s, err
	}
	upURL, err := s.startUpstream(ctx, say)
	if err != nil {
		return s, err
	}
	if err := s.startDaemons(ctx, bin, upURL, say); err != nil {
		return s, err
	}
	return s, s.startClients(ctx, upURL, say)
}

func (s *stage) startUpstream(ctx context.Context, say func(string, ...any)) (url string, err error) {
	h, err := s.lab.NewHost("upstream", 0)
	if err != nil {
		return "", err
	}
	if missing := lab.MissingRegistry(); missing != nil {
		if s.builtin, err = lab.StartBuiltin(h, upstreamName, s.image, repo, tag); err != nil {
			return "", err
		}
		say("Upstream  built-in registry at %s: %v", s.builtin.URL, missing)
		return s.builtin.URL, nil
	}
	if s.upstream, err = lab.StartUpstream(ctx, h, upstreamName); err != nil {
		return "", err
	}
	if err := s.upstream.Push(ctx, s.image, repo, tag); err != nil {
		return "", err
	}
	say("Upstream  docker-registry at %s, named %s", s.upstream.URL, upstreamName)
	return s.upstream.URL, nil
}

func (s *stage) startDaemons(ctx context.Context, bin lab.Binaries, upURL string, say func(string, ...any)) error {
	h, err := s.lab.NewHost("seeder", 0)
	if err != nil {
		return err
	}
	s.seeder, err = lab.StartSeeder(ctx, bin, h, lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: upstreamName, URL: upURL}}})
	if err != nil {
		return err
	}
	say("Seeder    %s", s.seeder.URL)
	for i := range s.o.hosts {
		h, err := s.lab.NewHost(fmt.Sprintf("host%d", i+1), 0)
		if err != nil {
			return err
		}
		p, err := lab.StartPeerd(ctx, bin, h, lab.PeerdConfig{Seeder: s.seeder.URL, SwarmKey: s.seeder.SwarmKey, Zone: "demo"})
		if err != nil {
			return err
		}
		s.peers = append(s.peers, p)
		say("%-9s peerd, mirror %s", h.Name, p.Mirror)
	}
	return nil
}

// startClients gives each host the best client that the machine has.
func (s *stage) startClients(ctx context.Context, upURL string, say func(string, ...any)) error {
	kind := s.o.client
	if kind == "auto" {
		switch noContainerd, noSkopeo := lab.MissingContainerd(), lab.MissingSkopeo(); {
		case noContainerd == nil:
			kind = "containerd"
		case noSkopeo == nil:
			kind = "skopeo"
			say("Clients   not containerd: %v", noContainerd)
		default:
			kind = "http"
			say("Clients   not containerd: %v; not skopeo: %v", noContainerd, noSkopeo)
		}
	}
	for _, p := range s.peers {
		var c lab.Puller
		switch kind {
		case "containerd":
			s.clientName = "a containerd on each host (ctr images pull --hosts-dir)"
			ctrd, err := lab.StartContainerd(ctx, p.Host, upstreamName, upURL, p.Mirror)
			if err != nil {
				return err
			}
			c = ctrd
		case "skopeo":
			s.clientName = "skopeo on each host"
			c = &lab.Skopeo{Host: p.Host, Mirror: p.Mirror[len("http://"):], Upstream: upstreamName}
		case "http":
			s.clientName = "a built-in HTTP client on each host, which checks every digest"
			c = &lab.HTTPPuller{Client: p.Host.HTTPClient(), Mirror: p.Mirror, NS: upstreamName, Upstream: upURL}
		default:
			return fmt.Errorf("--client %q: want auto, containerd, skopeo or http", kind)
		}
		s.clients = append(s.clients, c)
	}
	return nil
}

// pull runs all clients at once and keeps the bars moving.
func (s *stage) pull(ctx context.Context, b *bars) *result {
	res := newResult(s)
	before, err := s.lab.Traffic()
	if err != nil {
		res.problem("read link counters: %v", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(s.clients))
	start := time.Now()
	for i, c := range s.clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rep, err := c.Pull(ctx, repo, tag)
			if err == nil && rep.Digest != "" && rep.Digest != s.image.Digest() {
				err = fmt.Errorf("got image %s, want %s", rep.Digest, s.image.Digest())
			}
			errs[i] = err
			b.finished(i, time.Since(start), err)
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	b.run(ctx, done)
	res.took(time.Since(start))
	after, err := s.lab.Traffic()
	if err != nil {
		res.problem("read link counters: %v", err)
	}
	if err := errors.Join(errs...); err != nil {
		res.problem("%v", err)
	}
	res.count(ctx, s, after.Since(before))
	return res
}

// statuses asks all peerds at once; a peerd that does not answer has none.
func (s *stage) statuses(ctx context.Context) []*status.Status {
	all := make([]*status.Status, len(s.peers))
	var wg sync.WaitGroup
	for i, p := range s.peers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if st, err := p.Status(ctx); err == nil {
				all[i] = st
			}
		}()
	}
	wg.Wait()
	return all
}

// showLogs prints the ends of the daemons' logs.
func (s *stage) showLogs(say func(string, ...any)) {
	say("\n-- %s\n%s", s.seeder.Title(), s.seeder.Tail(15))
	for _, p := range s.peers {
		say("\n-- %s\n%s", p.Title(), p.Tail(15))
	}
}
