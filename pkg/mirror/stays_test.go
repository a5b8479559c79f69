package mirror

import (
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// What clients of containers/image say of themselves.
const (
	skopeoAgent     = "skopeo/1.9.3"
	containerdAgent = "containerd/2.4.2"
	regctlAgent     = "regclient/regctl"
)

// Clients that never change the host after the manifest get none whose blobs
// cannot be had (contract 10). The others do: they ask the next host for what is
// missing.
func TestManifestIsAPromise(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.up.AddImage("lab/app", "v1", 2*mib, 300<<10)
	b.up.AddIndex("lab/app", "multi", one)
	b.up.SetFault(one.Layers[0].String(), upstreamtest.Fault{Status: 403})
	p := b.peer(nil)
	ask := func(what, agent string, status int) {
		t.Helper()
		t.Log(what, agent)
		p.get("/v2/lab/app/manifests/"+what, status, "User-Agent: "+agent)
	}
	for _, what := range []string{"v1", "multi", one.Digest.String()} {
		ask(what, skopeoAgent, 404)
		ask(what, containerdAgent, 200)
	}
	b.up.ClearFaults()
	p.Until("the blobs can be had again", func() error {
		r, err := daemontest.Get(p.URL+"/v2/lab/app/manifests/v1", "User-Agent: "+skopeoAgent)
		if err != nil || r.Status != 200 {
			return errNotYet
		}
		return nil
	})
	ask("multi", skopeoAgent, 200)
}

// Nor do they get one whose blobs have begun to come and stand still: every
// connection to the upstream brings less than a piece.
func TestManifestOfWhatStandsStill(t *testing.T) {
	b := newBench(t)
	one := b.up.AddImage("lab/app", "v1", 2*mib, 3*mib, 1000)
	for _, d := range one.Layers[:2] {
		b.up.SetFault(d.String(), upstreamtest.Fault{Method: "GET", Stall: 0.03})
	}
	p := b.peer(func(c *config.Peerd) { c.GapTimeout, c.SwitchTimeout = 4*time.Second, time.Second })
	p.get("/v2/lab/app/manifests/v1", 404, "User-Agent: "+skopeoAgent)
	p.get("/v2/lab/app/manifests/v1", 200, "User-Agent: "+containerdAgent)
}

// A client that fails after a body of which nothing came is promised none while
// nothing has come; another is.
func TestNothingYetForAClientThatNeedsAByte(t *testing.T) {
	b := newBench(t)
	one := b.up.AddImage("lab/app", "v1", 2*mib, 1000)
	release := make(chan struct{})
	for _, d := range one.Layers {
		b.up.SetFault(d.String(), upstreamtest.Fault{Method: "GET", Stall: -1, Release: release, Times: 1})
	}
	p := b.peer(nil)
	p.get("/v2/lab/app/manifests/v1", 200, "User-Agent: "+regctlAgent)
	for _, d := range one.Layers {
		p.get(blobPath(d), 404, "User-Agent: "+regctlAgent)
	}
	time.AfterFunc(3*time.Second, func() { close(release) })
	for _, d := range one.Layers {
		p.get(blobPath(d), 200, "User-Agent: "+containerdAgent)
		p.get(blobPath(d), 200, "User-Agent: "+regctlAgent)
	}
}

// A blob that is late is no reason to tell them 404.
func TestLateForAClientThatStays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.up.AddImage("lab/app", "v1", 2*mib)
	b.up.SetFault(one.Layers[0].String(), upstreamtest.Fault{Method: "GET", HeaderDelay: 3 * time.Second})
	p := b.peer(nil)
	p.get("/v2/lab/app/manifests/v1", 200, "User-Agent: "+skopeoAgent)
	p.get(blobPath(one.Layers[0]), 200, "User-Agent: "+skopeoAgent)
}
