package lazy

import (
	"context"
	"fmt"
	"os"

	"github.com/samara-p2p/samara/test/lab"
)

// World is an upstream, a seeder before it, and peerds.
type World struct {
	Lab    *lab.Lab
	Up     *Upstream
	Seeder *lab.Seeder
	Peers  []*lab.Peerd
}

// Start makes a world of so many peerds. args are further flags of the seeder.
// Close ends it; the lab is the caller's.
func Start(ctx context.Context, l *lab.Lab, bin lab.Binaries, peers int, args ...string) (w *World, err error) {
	w = &World{Lab: l}
	defer func() {
		if err != nil {
			_ = w.Close()
		}
	}()
	h, err := l.NewHost("up", 0)
	if err != nil {
		return w, err
	}
	if w.Up, err = StartUpstream(h); err != nil {
		return w, err
	}
	if h, err = l.NewHost("seeder", 0); err != nil {
		return w, err
	}
	if w.Seeder, err = lab.StartSeeder(ctx, bin, h, lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: Name, URL: w.Up.URL}}, Args: args}); err != nil {
		return w, err
	}
	for i := range peers {
		if h, err = l.NewHost(fmt.Sprint("peer", i+1), 0); err != nil {
			return w, err
		}
		p, err := lab.StartPeerd(ctx, bin, h, lab.PeerdConfig{Seeder: w.Seeder.URL, SwarmKey: w.Seeder.SwarmKey, Args: []string{"--private", "shared"}})
		if err != nil {
			return w, err
		}
		w.Peers = append(w.Peers, p)
		if err := lab.Eventually(ctx, func() error {
			if st, err := p.Status(ctx); err != nil || st.Swarm.DHTPeers < 1 {
				return fmt.Errorf("%s is not in the swarm: %w", h.IP, os.ErrNotExist)
			}
			return nil
		}); err != nil {
			return w, err
		}
	}
	return w, nil
}

// Close ends the upstream.
func (w *World) Close() error {
	if w.Up == nil {
		return nil
	}
	return w.Up.Close()
}

// Client is a client on a peerd's host.
func (w *World) Client(p *lab.Peerd) *Client {
	return &Client{HTTP: p.Host.HTTPClient(), URL: p.Mirror}
}

// Bytes is what has moved so far: out of the upstream, and into the peerds from
// the seeder and from one another.
type Bytes struct{ Upstream, Seeder, Peers int64 }

// Bytes counts.
func (w *World) Bytes(ctx context.Context) (b Bytes, err error) {
	b.Upstream = w.Up.Sent()
	for _, p := range w.Peers {
		st, err := p.Status(ctx)
		if err != nil {
			return b, err
		}
		b.Seeder += st.Bytes.FromSeeder
		b.Peers += st.Bytes.FromPeers
	}
	return b, nil
}
