package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/lab"
)

const idleBlob = 64 * mib

// idle measures a peerd that has pulled an image and is left alone with a swarm.
func (b *bench) idle(ctx context.Context) (u usage, err error) {
	w, err := b.world(ctx, idleBlob, true)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	client := w.peerd.Host.HTTPClient()
	puller := &lab.HTTPPuller{Client: client, Mirror: w.peerd.Mirror, NS: upstreamName}
	if _, err := puller.Pull(ctx, repository, tag); err != nil {
		return u, err
	}
	client.CloseIdleConnections()
	others, err := b.startCrowds(ctx, w, b.peers-2, false)
	if err != nil {
		return u, err
	}
	if err := gathered(ctx, w.peerd, others, b.peers-1); err != nil {
		return u, err
	}
	select {
	case <-time.After(b.settle):
	case <-ctx.Done():
		return u, ctx.Err()
	}
	u.Memory, err = proc.MemoryOf(w.peerd.Pid())
	b.heap(ctx, "idle-peerd", w.peerd.Heap)
	u.note = fmt.Sprintf("%d neighbours, %s after the last came", b.peers-1, b.settle)
	return u, err
}
