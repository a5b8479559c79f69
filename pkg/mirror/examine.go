package mirror

import (
	"context"
	"sync"

	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/status"
)

// examine asks each seeder for /v2/ as this peerd asks for manifests: with a proof
// that it has the swarm key.
func (s *seeders) examine(ctx context.Context, x *status.Examination) {
	x.Seeders = make([]status.Probe, len(s.list))
	var wg sync.WaitGroup
	for i, k := range s.list {
		x.Seeders[i].URL = k.url
		token := ""
		if s.token != nil {
			var err error
			if token, err = s.token(); err != nil {
				x.Seeders[i].Error = err.Error()
				continue
			}
		}
		wg.Go(func() { daemon.ProbeRegistry(ctx, s.client, token, &x.Seeders[i]) })
	}
	wg.Wait()
}
