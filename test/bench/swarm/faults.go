package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

// restartAfter is how long a killed peerd stays away.
const restartAfter = 5 * time.Second

// killQuarter kills (-9) the peerds of a quarter of the hosts, each at a random
// moment of the time that the image takes alone, and restarts them. Host and moment
// follow from a seed, so that every run is the same.
func killQuarter(ctx context.Context, w *world, p *pulling) error {
	rng := rand.New(rand.NewPCG(9, 9))
	image := alone(w.s.bytes(), float64(w.s.rate), w.s.share())
	var g errgroup.Group
	for _, i := range rng.Perm(len(w.peerds))[:max(1, len(w.peerds)/4)] {
		at := image/20 + time.Duration(rng.Int64N(int64(image*8/10)))
		g.Go(func() error {
			if err := sleep(ctx, time.Until(p.start.Add(at))); err != nil {
				return err
			}
			p.hosts[i].killed.Store(true)
			w.peerds[i].Kill()
			if err := sleep(ctx, restartAfter); err != nil {
				return err
			}
			return w.peerds[i].Restart(ctx)
		})
	}
	return g.Wait()
}

// firstCopy is how many images have left a seeder, headers included, when each
// piece has left it.
const firstCopy = 1.005

// killSeeder kills (-9) the seeder when it has given one copy of the image.
func killSeeder(ctx context.Context, w *world, p *pulling) error {
	before, err := w.lab.Traffic()
	if err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return fmt.Errorf("all hosts were done before the seeder had given %.2f images: nothing was killed", firstCopy)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := w.lab.Traffic()
		if err != nil {
			return err
		}
		sent := now.Since(before)[w.seederHost.Name].SentPayload()
		if float64(sent) >= firstCopy*float64(w.image.Size()) {
			w.seeder.Kill()
			return nil
		}
	}
}
