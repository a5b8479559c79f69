package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// What happens when daemons die in the middle.
var (
	peersKilled = Scenario{
		Name: "peers-killed", Doc: "3 of 8 peerds are killed (-9) mid-pull and restarted later",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.peersKilled(ctx) },
	}
	seederKilledEarly = Scenario{
		Name: "seeder-killed-early", Doc: "the seeder is killed when it has given a fifth: its pieces do not cover the image",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.seederKilled(ctx, 0.2) },
	}
	seederKilledLate = Scenario{
		Name: "seeder-killed-late", Doc: "the seeder is killed once each piece has left it: the peers together hold the image",
		Needs: []Need{lab.Missing, lab.MissingRegistry},
		run:   func(ctx context.Context, e *Env) error { return e.seederKilled(ctx, 1.0) },
	}
)

func (e *Env) peersKilled(ctx context.Context) error {
	c, err := e.newCluster(ctx, clusterSpec{})
	if err != nil {
		return err
	}
	before, err := c.lab.Traffic()
	if err != nil {
		return err
	}
	victims := c.peers[len(c.peers)-3:]
	isVictim := func(host string) bool {
		return slices.ContainsFunc(victims, func(p *lab.Peerd) bool { return p.Host.Name == host })
	}
	pl := c.pull(ctx, tag, c.httpPullers(c.peers, false))
	if err := c.waitFetched(ctx, 0.4, pl); err != nil {
		return err
	}
	for _, p := range victims {
		p.Kill()
	}
	err = pl.wait(func(host string) bool { return !isVictim(host) })
	e.expect("the other hosts finish", "yes", err)
	died := 0
	for _, o := range pl.outcomes {
		if isVictim(o.host) && o.err != nil {
			died++
		}
	}
	e.info("pulls cut off by the kills", "%d of %d", died, len(victims))

	for _, p := range victims {
		if err := p.Restart(ctx); err != nil {
			return err
		}
	}
	var kept int64
	for _, p := range victims {
		st, err := p.Status(ctx)
		if err != nil {
			return err
		}
		kept += st.Store.Used
	}
	again := c.pull(ctx, tag, c.httpPullers(victims, false))
	err = again.wait(nil)
	e.expect("the restarted hosts finish", "yes", err)
	after, terr := c.lab.Traffic()
	if terr != nil {
		return terr
	}
	d := after.Since(before)
	var worst int64
	for _, p := range victims {
		worst = max(worst, d[p.Host.Name].ReceivedPayload()-c.size)
	}
	// In flight: at most 24 requests (pkg/scheduler) of one piece (256 KiB at these
	// sizes), and what the swarm says beside the pieces: 2%.
	limit := int64(24*256*kib) + c.size/50
	e.row("bytes that a restarted host received beyond the image", "<= pieces in flight ("+mb(limit)+")", worst <= limit,
		"%s; on disk after the restart: %s per host", mb(worst), mb(kept/int64(len(victims))))
	e.row("bytes out of the upstream / image", atMost(e.Size.MaxUpstream), images(d["upstream"].SentPayload(), c.size) <= e.Size.MaxUpstream,
		"%.4f", images(d["upstream"].SentPayload(), c.size))
	return nil
}

func (e *Env) seederKilled(ctx context.Context, given float64) error {
	c, err := e.newCluster(ctx, clusterSpec{})
	if err != nil {
		return err
	}
	before, err := c.lab.Traffic()
	if err != nil {
		return err
	}
	// As containerd does, clients go to the upstream themselves where the mirror
	// says 404: a blob of which nothing had come when the seeder died cannot be
	// promised within the time that a header may take.
	pl := c.pull(ctx, tag, c.httpPullers(c.peers, true))
	err = lab.Eventually(ctx, func() error {
		select {
		case <-pl.done:
			return nil
		default:
		}
		now, err := c.lab.Traffic()
		if err != nil {
			return err
		}
		if got := images(now.Since(before)["seeder"].SentPayload(), c.size); got < given {
			return fmt.Errorf("seeder has given %.2f of the image", got)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.seeder.Kill()
	select {
	case <-pl.done:
		e.info("the kill", "came after the last pull had ended: the seeder gave less than %.2f images", given)
	default:
	}
	killed := time.Since(pl.start)
	err = pl.wait(nil)
	e.expect("all pulls finish, from peers and else the upstream", "yes", err)
	after, terr := c.lab.Traffic()
	if terr != nil {
		return terr
	}
	src, serr := c.sources(ctx)
	if serr != nil {
		return serr
	}
	var past int64
	for _, o := range pl.outcomes {
		if o.report != nil {
			past += o.report.FromUpstream()
		}
	}
	e.info("after the kill", "killed at %.1f s, last host done at %.1f s; upstream sent %.2f images in all, %s of it to peers, %s to clients past their mirrors",
		killed.Seconds(), pl.took.Seconds(), images(after.Since(before)["upstream"].SentPayload(), c.size), mb(src.FromUpstream), mb(past))
	return nil
}

// allGone: the seeder and the upstream are dead, one host has the image.
var allGone = Scenario{
	Name: "all-gone", Doc: "seeder and upstream are gone, one host has the image; the others pull it from there, by digest",
	Needs: []Need{lab.Missing, lab.MissingRegistry},
	run:   func(ctx context.Context, e *Env) error { return e.allGone(ctx) },
}

func (e *Env) allGone(ctx context.Context) error {
	c, err := e.newCluster(ctx, clusterSpec{hosts: 5})
	if err != nil {
		return err
	}
	holder, others, fresh := c.peers[0], c.peers[1:4], c.peers[4]
	if err := c.pull(ctx, tag, c.httpPullers(c.peers[:1], false)).wait(nil); err != nil {
		return fmt.Errorf("the first host's pull: %w", err)
	}
	c.seeder.Kill()
	c.stopUp()
	pl := c.pull(ctx, c.digest, c.httpPullers(others, false))
	e.expect("hosts that joined earlier pull from the holder", "yes", pl.wait(nil))

	// A host that restarts now has only what it remembers.
	fresh.Kill()
	if err := fresh.Restart(ctx); err != nil {
		e.expect("a peerd starts while its seeder is gone", "yes", err)
		return nil
	}
	pl = c.pull(ctx, c.digest, c.httpPullers([]*lab.Peerd{fresh}, false))
	e.expect("a host that was restarted meanwhile pulls too", "yes", pl.wait(nil))

	if status, err := holder.Stop(30 * time.Second); err != nil || status != 0 {
		return fmt.Errorf("stop %s: status %d, %w", holder.Host.Name, status, err)
	}
	body, err := fetch(ctx, others[0].Host, others[0].Mirror+"/v2/"+repo+"/manifests/"+c.digest+"?ns="+upstreamName)
	if err == nil && !strings.Contains(string(body), "layers") {
		err = errors.New("not a manifest")
	}
	e.expect("a manifest by digest comes from the own store with everybody gone", "yes", err)
	for _, p := range c.peers[1:] {
		p.Kill()
	}
	p := others[0]
	if err := p.Restart(ctx); err != nil {
		return err
	}
	pl = c.pull(ctx, c.digest, c.httpPullers([]*lab.Peerd{p}, false))
	e.expect("a lone restarted host serves the image it has", "yes", pl.wait(nil))
	return nil
}
