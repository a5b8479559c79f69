package metadata

import (
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

const (
	pruneEvery = 6 * time.Hour
	pruneAfter = time.Hour // since the check: its manifest may still be on its way into the store
)

// prune forgets now and then the tags whose manifest the store has evicted:
// they can answer nothing. The others stay however old they are, since offline
// they are all there is.
func (c *Cache) prune() {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-t.C:
		}
		n, err := c.o.Tags.Prune(c.useful)
		switch {
		case err != nil:
			c.log.Warn("cannot forget tags whose manifests are gone", zap.Error(err))
		case n > 0:
			c.log.Info("forgot tags whose manifests are gone", zap.Int("tags", n))
		}
	}
}

func (c *Cache) useful(e registry.TagEntry) bool {
	if c.o.Now().Sub(e.Checked) < pruneAfter {
		return true
	}
	_, held := c.o.Content.SizeOf(e.Digest)
	return held || c.ctx.Err() != nil // at the end the store may be closed already
}
