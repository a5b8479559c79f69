package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/internal/prewarm"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// prewarmer does what seeders order: it fetches images through the swarm as a pull
// would, one order after the other.
type prewarmer struct {
	*orders
	b *backend
	d *daemon.Daemon
}

const (
	retryFirst = 10 * time.Second // after a failure; then twice as long, up to
	retryLast  = 5 * time.Minute
	// favourFor is how long after its deadline an image is evicted last: whoever
	// wants it there at 6 pulls it after 6.
	favourFor = 24 * time.Hour
)

var errTooLarge = errors.New("too large")

// newPrewarmer has the node take orders.
func newPrewarmer(d *daemon.Daemon, c config.Peerd, s *seeders, b *backend) *prewarmer {
	p := &prewarmer{b: b, d: d, orders: &orders{file: ordersFile(c.Data), share: c.PrewarmShare, log: d.Log.Named("prewarm"), trusts: s.trusts}}
	p.holds = func(dg digest.Digest) int64 {
		in, err := d.Store.Stat(dg)
		switch {
		case err != nil:
			return 0
		case in.Complete:
			return in.Size
		}
		return in.Size * int64(in.Have) / int64(max(in.Pieces, 1))
	}
	p.open()
	prewarm.RegisterTaken(d.Metrics, "peerd", p.counts)
	d.Node.TakeOrders(p.take)
	return p
}

// run works on orders until ctx ends.
func (p *prewarmer) run(ctx context.Context) {
	for ctx.Err() == nil {
		x, wait := p.next(time.Now())
		if x != nil {
			p.work(ctx, x)
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// work does an order, once.
func (p *prewarmer) work(ctx context.Context, x *order) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ctx, cancel := context.WithDeadlineCause(ctx, x.Until, errOrderLate)
	defer cancel()
	p.mu.Lock()
	x.phase, x.err, x.done, x.stop = p2p.OrderRunning, "", 0, stop
	p.mu.Unlock()
	began := time.Now()
	err := p.fetch(ctx, x)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x.stop = nil
	switch {
	case err == nil:
		x.phase, x.pause = p2p.OrderDone, 0
		p.log.Info("order done", zap.String("order", x.ID), zap.Duration("took", time.Since(began)))
		return
	case errors.Is(err, errTooLarge):
		x.phase = p2p.OrderRefused
	default:
		x.phase = p2p.OrderFailed
		x.pause = min(max(2*x.pause, retryFirst), retryLast)
		x.retry = time.Now().Add(x.pause)
	}
	x.err = firstLine(err)
	p.log.Warn("order not done", zap.String("order", x.ID), zap.Bool("again", x.phase == p2p.OrderFailed), zap.Error(err))
}

// fetch gets the images of an order. All are looked at before the first is
// fetched: what is too large for this host is refused as a whole.
func (p *prewarmer) fetch(ctx context.Context, x *order) error {
	platforms, err := registry.ParsePlatforms(x.Platforms)
	if err != nil {
		return err
	}
	images := make([]*metadata.ImageContents, len(x.Images))
	blobs := make(map[digest.Digest]int64)
	var failed error
	for i, im := range x.Images {
		images[i], err = p.look(ctx, im, platforms)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", im.Repository, err))
			continue
		}
		for _, b := range images[i].Blobs {
			blobs[b.Digest] = b.Size
		}
	}
	if err := p.fits(blobs); err != nil {
		return err
	}
	p.mu.Lock()
	x.blobs = blobs
	p.mu.Unlock()
	var w fetch.Want
	if x.Rate > 0 {
		w.Pace = fetch.NewPace(x.Rate)
	}
	for i, im := range x.Images {
		if images[i] == nil {
			continue
		}
		if err := p.d.Engine.Ahead(ctx, p.wants(im, images[i], w)...); err != nil {
			if ctx.Err() != nil {
				return err
			}
			failed = errors.Join(failed, fmt.Errorf("%s: %w", im.Repository, err))
			continue
		}
		p.mu.Lock()
		x.done++
		p.mu.Unlock()
		p.keep(x, im, images[i])
	}
	return failed
}

// look gets the manifests of an image, and notes whose they are: the seeder had
// them from their upstream by this name. Whether anybody may be given them is asked
// now, so that a pull need not wait for it, nor fail when nobody can tell; it opens
// nothing to anybody.
func (p *prewarmer) look(ctx context.Context, im orderedImage, platforms []registry.Platform) (*metadata.ImageContents, error) {
	n, err := im.name()
	if err != nil {
		return nil, err
	}
	r := registry.Request{Name: n, Named: true, Reference: im.Digest.String(), Digest: im.Digest}
	m, err := p.b.meta.Manifest(ctx, r)
	if err != nil {
		return nil, err
	}
	c, err := metadata.Contents(ctx, p.b.meta.Manifest, r, m, platforms)
	if err != nil {
		return nil, err
	}
	gate := p.b.gate
	if err := gate.public.Check(ctx, n, upstream.Target{Manifest: im.Digest.String()}); err != nil {
		p.log.Debug("prewarmed for those only who may have it", zap.Stringer("repository", n), zap.Error(err))
	}
	gate.public.Prove(n, im.Digest)
	for _, m := range c.Manifests {
		gate.learn(n, m)
	}
	return c, nil
}

// fits refuses what would take more of the store than prewarms may.
func (p *prewarmer) fits(blobs map[digest.Digest]int64) error {
	capacity, err := p.d.Store.Capacity()
	if err != nil {
		return err
	}
	need := int64(0)
	for _, size := range blobs {
		need += size
	}
	if most := capacity / 100 * int64(p.share); need > most {
		return fmt.Errorf("%w: the images have %s, and %d%% of this host's store are %s (--prewarm-share, --quota)", errTooLarge,
			config.ByteSize(need), p.share, config.ByteSize(most))
	}
	return nil
}

func (p *prewarmer) wants(im orderedImage, c *metadata.ImageContents, w fetch.Want) []fetch.Want {
	n, err := im.name()
	if err != nil {
		return nil // look would have failed
	}
	w.Source = fetch.Source{Upstream: n.Upstream, Repository: n.Repository}
	wants := make([]fetch.Want, len(c.Blobs))
	for i, b := range c.Blobs {
		w.Digest, w.Size = b.Digest, b.Size
		wants[i] = w
	}
	return wants
}

// keep has an image that is here evicted last, and its tag mean it while nobody
// can tell.
func (p *prewarmer) keep(x *order, im orderedImage, c *metadata.ImageContents) {
	n, err := im.name()
	if err != nil {
		return
	}
	for _, m := range c.Manifests {
		p.d.Pulled(n, m)
		p.d.Store.Favour(m.Digest, x.Until.Add(favourFor))
	}
	p.favour()
	if im.Tag == "" {
		return
	}
	if e, ok := p.d.Tags.Get(n, im.Tag); ok && e.Checked.After(im.Checked) {
		return
	}
	m := c.Manifests[0]
	if err := p.d.Tags.Put(n, im.Tag, registry.TagEntry{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Content)), Checked: im.Checked}); err != nil {
		p.log.Warn("cannot note what a prewarmed tag means", zap.Stringer("repository", n), zap.String("tag", im.Tag), zap.Error(err))
	}
}

// favour has the blobs of the latest orders evicted last, up to the share of the
// store that prewarms may take; those of earlier ones are like any other then.
func (p *prewarmer) favour() {
	capacity, err := p.d.Store.Capacity()
	if err != nil {
		return // fits has said so
	}
	left := capacity / 100 * int64(p.share)
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := make(map[digest.Digest]bool)
	for i := len(p.list) - 1; i >= 0; i-- {
		for d, size := range p.list[i].blobs {
			if seen[d] {
				continue
			}
			seen[d] = true
			until := p.list[i].Until.Add(favourFor)
			if left -= size; left < 0 {
				until = time.Time{}
			}
			p.d.Store.Favour(d, until)
		}
	}
}
