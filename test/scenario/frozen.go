package scenario

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// A frozen process is worse than a dead one: its connections stay open.
var (
	peersFrozen = Scenario{
		Name: "peers-frozen", Doc: "2 of 8 peerds freeze (SIGSTOP) mid-pull",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.frozen(ctx, false) },
	}
	seederFrozen = Scenario{
		Name: "seeder-frozen", Doc: "the seeder freezes (SIGSTOP) mid-pull",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.frozen(ctx, true) },
	}
)

func (e *Env) frozen(ctx context.Context, seeder bool) error {
	c, err := e.newCluster(ctx, clusterSpec{})
	if err != nil {
		return err
	}
	victims := c.peers[len(c.peers)-2:]
	if seeder {
		victims = nil
	}
	isVictim := func(host string) bool {
		return slices.ContainsFunc(victims, func(p *lab.Peerd) bool { return p.Host.Name == host })
	}
	var gap silence
	pullers := make(map[string]lab.Puller)
	for _, p := range c.peers {
		// A mirror that slept past its own deadlines may say so: containerd then goes
		// to the upstream, and so may the clients of the frozen hosts.
		hp := c.puller(p, isVictim(p.Host.Name))
		if !isVictim(p.Host.Name) {
			hp.OnBytes = gap.watch()
		}
		pullers[p.Host.Name] = hp
	}
	pl := c.pull(ctx, tag, pullers)
	if err := c.waitFetched(ctx, 0.35, pl); err != nil {
		return err
	}
	for _, p := range victims {
		p.Pause()
	}
	if seeder {
		c.seeder.Pause()
	}
	// The frozen hosts' own clients wait; they are looked at after the thaw.
	err = pl.waitFor(ctx, func(host string) bool { return !isVictim(host) }, len(c.peers)-len(victims))
	took := time.Since(pl.start)
	for _, p := range victims {
		p.Resume()
	}
	if seeder {
		c.seeder.Resume()
	}
	e.expect("the other hosts finish while they are frozen", "yes", err)
	// Contract 13 of the clients' page: no gap of more than 10 s, a source that
	// stalls is left within 2 s.
	longest := gap.longest()
	e.row("longest silence of any client's pull", "<= 10 s", longest <= 10*time.Second, "%.1f s; pulls took %.1f s", longest.Seconds(), took.Seconds())
	if !seeder {
		e.expect("the frozen hosts finish after the thaw", "yes", pl.wait(isVictim))
	}
	return nil
}

// silence keeps the longest time between two chunks of bytes of the same client.
type silence struct{ max atomic.Int64 }

// watch returns an OnBytes for one client.
func (s *silence) watch() func(int) {
	var last atomic.Int64
	return func(int) {
		now := time.Now().UnixNano()
		if before := last.Swap(now); before != 0 {
			for d := now - before; ; {
				old := s.max.Load()
				if d <= old || s.max.CompareAndSwap(old, d) {
					break
				}
			}
		}
	}
}

func (s *silence) longest() time.Duration { return time.Duration(s.max.Load()) }
