package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/test/bench/proc"
)

// Slow readers begin while the seeder still fetches the blob, and go on after.
const (
	slowBlob = 1 * gib
	slowStep = 4 << 10 // bytes of a read
	slowTick = 250 * time.Millisecond
	slowFor  = 30 * time.Second
)

func (b *bench) slowReaders(ctx context.Context) (u usage, err error) {
	w, err := b.world(ctx, slowBlob, false)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	client := w.lab.Hosts()[2].HTTPClient()
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = b.readers
	defer client.CloseIdleConnections()
	url := w.seeder.URL + "/v2/" + repository + "/blobs/" + w.up.layer.String() + "?ns=" + upstreamName
	heap := time.AfterFunc(slowFor/2, func() { b.heap(ctx, "readers-seeder", w.seeder.Heap) })
	defer heap.Stop()
	g, gctx := errgroup.WithContext(ctx)
	for range b.readers {
		g.Go(func() error { return trickle(gctx, client, url) })
	}
	if err := g.Wait(); err != nil {
		return u, err
	}
	if u.Memory, err = proc.MemoryOf(w.seeder.Pid()); err != nil {
		return u, err
	}
	st, err := w.seeder.Status(ctx)
	if err == nil {
		u.note = fmt.Sprintf("it fetched %.0f MiB meanwhile", float64(st.Bytes.FromUpstream)/mib)
	}
	return u, err
}

// trickle reads a little of a body now and then.
func trickle(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	tick := time.NewTicker(slowTick)
	defer tick.Stop()
	buf := make([]byte, slowStep)
	for end := time.Now().Add(slowFor); time.Now().Before(end); {
		if _, err := io.ReadFull(resp.Body, buf); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
