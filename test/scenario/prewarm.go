package scenario

import (
	"context"
	"fmt"

	"github.com/samara-p2p/samara/test/lab"
)

// Prewarm: an order to all hosts, then pulls.
var prewarmed = Scenario{
	Name: "prewarm", Doc: "the seeder has every host fetch an image ahead; then every host pulls it, and again with seeder and upstream gone",
	Needs: []Need{lab.Missing, lab.MissingRegistry},
	run:   func(ctx context.Context, e *Env) error { return e.prewarmed(ctx) },
}

func (e *Env) prewarmed(ctx context.Context) error {
	c, err := e.newCluster(ctx, clusterSpec{})
	if err != nil {
		return err
	}
	before, err := c.lab.Traffic()
	if err != nil {
		return err
	}
	image := upstreamName + "/" + repo + ":" + tag
	said, err := c.seeder.Host.Run(ctx, e.Bin.Seeder, "prewarm", image, "--hosts", fmt.Sprint(len(c.peers)), "--by", "5m", "--wait", "--data", c.seeder.Data)
	e.expect("`seeder prewarm --wait` says that every host has the image", "yes", err)
	if err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	between, err := c.lab.Traffic()
	if err != nil {
		return err
	}
	sent := between.Since(before)["seeder"].SentPayload()
	e.row("prewarm: bytes out of the seeder / image", atMost(e.Size.MaxSeeder), images(sent, c.size) <= e.Size.MaxSeeder, "%.4f by its link", images(sent, c.size))

	had, err := c.sources(ctx)
	if err != nil {
		return err
	}
	served, err := c.upstream.Served()
	if err != nil {
		return err
	}
	given, err := c.seeder.Status(ctx)
	if err != nil {
		return err
	}
	err = c.pull(ctx, tag, c.httpPullers(c.peers, false)).wait(nil)
	e.expect("all pulls finish with the right bytes", "yes", err)
	if err != nil {
		return nil
	}
	have, err := c.sources(ctx)
	if err != nil {
		return err
	}
	now, err := c.upstream.Served()
	if err != nil {
		return err
	}
	gave, err := c.seeder.Status(ctx)
	if err != nil {
		return err
	}
	after, err := c.lab.Traffic()
	if err != nil {
		return err
	}
	fromUpstream := now.BlobBytes - served.BlobBytes + have.FromUpstream - had.FromUpstream
	fromSeeder := gave.Bytes.ToPeers - given.Bytes.ToPeers + gave.Bytes.ToClients - given.Bytes.ToClients + have.FromSeeder - had.FromSeeder
	e.row("pull: bytes of content from the upstream", "0", fromUpstream == 0, "%d", fromUpstream)
	e.row("pull: bytes of content from the seeder", "0", fromSeeder == 0, "%d", fromSeeder)
	e.row("pull: bytes of content from other peers", "0", have.FromPeers == had.FromPeers, "%d", have.FromPeers-had.FromPeers)
	e.info("pull: bytes out of the seeder by its link", "%.1f KiB: what the tag means, and the swarm's pings", float64(after.Since(between)["seeder"].SentPayload())/kib)

	c.stopUp()
	c.seeder.Kill()
	err = c.pull(ctx, tag, c.httpPullers(c.peers, false)).wait(nil)
	e.expect("seeder and upstream killed: all pulls by tag finish", "yes", err)
	return nil
}
