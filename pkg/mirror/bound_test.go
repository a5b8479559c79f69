package mirror

import (
	"net/http"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

const (
	podman     = "User-Agent: containers/5.23.1 (github.com/containers/image)"
	containerd = "User-Agent: containerd/2.4.2"
)

// contract 10: a client that never leaves the mirror is given a manifest that is
// here only while what it names can be had.
func TestBoundClients(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(func(c *config.Peerd) {
		c.NoPrefetch, c.Private.Private, c.GapTimeout, c.SwitchTimeout = true, config.PrivateShared, 3*time.Second, time.Second
	})
	img := b.up.AddImage("lab/app", "v1", mib, 1000)
	byDigest := manifestPath(img.Digest.String())
	p.get(byDigest, 200, containerd)
	b.up.SetFault("*", upstreamtest.Fault{Status: 503})
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	p.get(byDigest, 200, containerd)
	p.get(byDigest, 404, podman)
	b.up.ClearFaults()
	p.Until("the upstream is asked again", func() error {
		if r, err := daemontest.Get(p.URL+byDigest, podman); err != nil || r.Status != 200 {
			return errNotYet
		}
		return nil
	})
	for _, d := range append(img.Layers, img.Config) {
		p.blob(d)
	}
	b.up.Close()
	p.get(byDigest, 200, podman)
}

// contract 10, 14: a manifest is not given to such a client while a blob that it
// names is refused; the blob itself is, as it would ask nobody else.
func TestBoundClientsAfterACut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	const size = 24 * mib // too large to be proved first
	img := b.up.AddImage("lab/app", "v1", size)
	layer := img.Layers[0]
	b.up.SetFault(layer.String(), upstreamtest.Fault{Corrupt: true, Rate: 24 * mib})
	if n, err := raw(t, p.c.Listen, blobPath(layer)); err != nil || n == 0 || n >= size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	b.up.ClearFaults()
	p.get(manifestPath("v1"), 404, podman)
	p.get(manifestPath("v1"), 200, containerd)
	p.get(blobPath(layer), 404, containerd)
	p.Until("the blob is fetched anew", func() error {
		if r, err := daemontest.Get(p.URL+blobPath(layer), podman); err != nil || r.Status != http.StatusOK {
			return errNotYet
		}
		return nil
	})
}
