package mirror

import (
	"fmt"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// contract 13, 14: a body for which nothing comes any more, from anybody, ends
// with a FIN after --gap-timeout. The blob is 404 then for --refuse-cut, at any
// offset, and served again after it, with what had come.
func TestStalledBody(t *testing.T) {
	t.Parallel()
	const size = 8 * mib
	b := newBench(t)
	p := b.peer(func(c *config.Peerd) {
		c.GapTimeout, c.SwitchTimeout, c.RefuseCut = 3*time.Second, time.Second, 5*time.Second
	})
	layer := b.up.AddImage("lab/app", "v1", size).Layers[0]
	b.up.SetFault(layer.String(), upstreamtest.Fault{Method: "GET", Stall: 0.4})
	type result struct {
		n   int64
		err error
	}
	got := make(chan result, 1)
	go func() {
		n, err := raw(t, p.c.Listen, blobPath(layer))
		got <- result{n, err}
	}()
	p.Until("reading", func() error {
		for _, bl := range p.Status().Blobs {
			if bl.Readers > 0 && bl.Have > 0 {
				return nil
			}
		}
		return errNotYet
	})
	b.up.SetFault(layer.String(), upstreamtest.Fault{Method: "GET", Hang: true}) // whoever asks from now on
	r := <-got
	if r.err != nil || r.n == 0 || r.n >= size {
		t.Fatalf("%d bytes, then %v; want some of them and a FIN", r.n, r.err)
	}
	cut := time.Now()
	for _, header := range []string{fmt.Sprintf("Range: bytes=%d-", r.n), "Range: bytes=0-", "Accept: */*"} {
		p.get(blobPath(layer), 404, header)
	}
	b.up.ClearFaults()
	p.Until("served again", func() error {
		r, err := daemontest.Get(p.URL + blobPath(layer))
		if err != nil || r.Status != 200 {
			return errNotYet
		}
		return nil
	})
	if after := time.Since(cut); after < 4*time.Second {
		t.Errorf("served again after %v", after)
	}
	p.blob(layer)
	if st := p.Status(); st.Bytes.FromSeeder+st.Bytes.FromUpstream > size*13/10 {
		t.Errorf("%+v: what had come before was fetched again", st.Bytes)
	}
}
