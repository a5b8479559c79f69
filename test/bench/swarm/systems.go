package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/samara-p2p/samara/test/lab"
)

// system serves the hosts of a scenario.
type system struct {
	name, doc string
	missing   func() error // what the machine lacks for it; nil = it needs nothing more
	// start makes it serve and gives w a puller for each host.
	start func(ctx context.Context, w *world) error
}

// samara is the system under test; the others stand beside it.
const samara = "samara"

// systems are all there are.
func systems() []system {
	return []system{
		{name: samara, doc: "seeder and peerds", start: func(ctx context.Context, w *world) error { return w.startSamara(ctx) }},
		{name: "direct", doc: "every host pulls from the upstream", start: func(_ context.Context, w *world) error {
			w.pullFrom(w.upstream.URL)
			return nil
		}},
		{name: "registry", doc: "docker-registry as pull-through proxy, warm", missing: lab.MissingRegistry, start: startCache(lab.StartRegistryProxy)},
		{name: "nginx", doc: "nginx proxy_cache in slices of 1 MiB, warm", missing: lab.MissingNginx, start: startCache(lab.StartNginxCache)},
	}
}

// longer is how many times as long as a swarm a system may take.
func (sys system) longer(s scenario) int {
	if sys.name == samara {
		return 1
	}
	return s.hosts
}

// startCache runs a cache in the seeder's place and fills it.
func startCache(start func(context.Context, *lab.Host, string) (*lab.Cache, error)) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		c, err := start(ctx, w.seederHost, w.upstream.URL)
		if err != nil {
			return err
		}
		w.logs = append(w.logs, c.Process)
		w.pullFrom(c.URL)
		return w.unlimited([]*lab.Host{w.upstream.Host, w.seederHost}, func() error { return w.fillCache(ctx, c) })
	}
}

// fillCache pulls through a cache until it asks the upstream for next to nothing:
// some store a blob only a moment after they first served it.
func (w *world) fillCache(ctx context.Context, c *lab.Cache) error {
	const most = 10
	for range most {
		before, err := w.lab.Traffic()
		if err != nil {
			return err
		}
		if err := warm(ctx, &lab.HTTPPuller{Client: w.helper.HTTPClient(), Mirror: c.URL}); err != nil {
			return err
		}
		after, err := w.lab.Traffic()
		if err != nil {
			return err
		}
		if sent := after.Since(before)[w.upstream.Host.Name].SentPayload(); sent < w.image.Size()/100 {
			return nil
		}
	}
	return fmt.Errorf("warm up: %s holds nothing after %d pulls", c.Title(), most)
}

// pullFrom has all hosts pull from one registry.
func (w *world) pullFrom(url string) {
	for _, h := range w.hosts {
		w.pullers = append(w.pullers, &lab.HTTPPuller{Client: h.HTTPClient(), Mirror: url})
	}
}

func systemNames() []string {
	var names []string
	for _, sys := range systems() {
		names = append(names, sys.name)
	}
	return names
}

// chooseSystems returns the systems of these names.
func chooseSystems(names []string) ([]system, error) {
	var chosen []system
	var errs []error
	for _, name := range names {
		known := false
		for _, sys := range systems() {
			if sys.name == name {
				chosen, known = append(chosen, sys), true
			}
		}
		if !known {
			errs = append(errs, fmt.Errorf("--only: no system is called %q; there are %s", name, strings.Join(systemNames(), ", ")))
		}
	}
	return chosen, errors.Join(errs...)
}

// small is the scenario with an image so small that the last of its hosts, which
// share one link, is done within limit seconds. Their ratio to the bound does not
// depend on the size, if the bound is that of as many pieces as before.
func (s scenario) small(limit float64) scenario {
	size := int64(limit * float64(s.rate) * s.share() / 8 / float64(s.hosts))
	size = max(mib, size/mib*mib)
	if size < s.bytes() {
		s.pieces = pieces(s.layers)
		s.resize(size)
	}
	return s
}
