package mirror

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/seed"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const (
	upName = "up.test" // what the seeder calls its upstream
	mib    = 1 << 20
)

// bench is an upstream that misbehaves as told, a seeder in front of it, and
// peerds.
type bench struct {
	t      *testing.T
	up     *upstreamtest.Server
	sc     config.Seeder
	seeder *daemontest.Daemon
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, up: upstreamtest.New()}
	t.Cleanup(b.up.Close)
	b.configure()
	b.startSeeder()
	return b
}

// configure sets up the seeder.
func (b *bench) configure() {
	b.sc = config.DefaultSeeder()
	b.sc.Upstreams = []config.Upstream{{Name: upName, URL: b.up.URL()}, {Name: "docker.io", URL: b.up.URL()}}
	b.sc.DefaultUpstream = upName
	b.sc.TagTTL, b.sc.NotFoundTTL = 0, 0
	b.sc.Common = daemontest.Common(b.t, b.sc.Common)
}

// lock makes the swarm one with a key, whose members' word counts. Peers that are
// started from then on have it.
func (b *bench) lock() {
	b.t.Helper()
	if err := b.seeder.Stop(); err != nil {
		b.t.Fatal(err)
	}
	b.sc.OpenSwarm, b.sc.SwarmKey = false, filepath.Join(b.t.TempDir(), "swarm.key")
	if _, err := p2p.CreateSwarmKey(b.sc.SwarmKey); err != nil {
		b.t.Fatal(err)
	}
	b.startSeeder()
}

func (b *bench) startSeeder() {
	b.t.Helper()
	b.seeder = daemontest.Start(b.t, b.sc.Common, func(ctx context.Context) error { return seed.Run(ctx, b.sc, "test") })
}

// host is one with a peerd.
type host struct {
	b *bench
	t *testing.T
	c config.Peerd
	*daemontest.Daemon
}

// config is that of a peerd of this bench.
func (b *bench) config() config.Peerd {
	c := config.DefaultPeerd()
	c.Seeders = []string{b.seeder.URL}
	c.Common = daemontest.Common(b.t, c.Common)
	c.OpenSwarm, c.SwarmKey = b.sc.OpenSwarm, b.sc.SwarmKey
	return c
}

// peer starts a peerd and waits until it is connected with the seeder.
func (b *bench) peer(change func(*config.Peerd)) *host {
	b.t.Helper()
	c := b.config()
	if change != nil {
		change(&c)
	}
	p := &host{b: b, t: b.t, c: c}
	p.start()
	p.joined(1)
	return p
}

func (p *host) start() {
	p.t.Helper()
	p.Daemon = daemontest.Start(p.t, p.c.Common, func(ctx context.Context) error { return Run(ctx, p.c, "test") })
}

// joined waits for a number of peers in the DHT.
func (p *host) joined(n int) {
	p.t.Helper()
	p.Until("in the swarm", func() error {
		if st := p.Status(); st.Swarm.DHTPeers < n {
			return errNotYet
		}
		return nil
	})
}

// get fetches a path and wants a status.
func (p *host) get(path string, status int, header ...string) *daemontest.Response {
	p.t.Helper()
	r, err := daemontest.Get(p.URL+path, header...)
	if err != nil {
		p.t.Fatalf("GET %s: %v", path, err)
	}
	if r.Status != status {
		p.t.Fatalf("GET %s: status %d, want %d: %.200s", path, r.Status, status, r.Body)
	}
	return r
}

// blob fetches a blob of lab/app and checks its bytes.
func (p *host) blob(d digest.Digest) *daemontest.Response {
	p.t.Helper()
	r := p.get(blobPath(d), 200)
	if !bytes.Equal(r.Body, p.b.up.Blob(d)) {
		p.t.Fatalf("blob %s: wrong bytes", d)
	}
	return r
}

// image pulls one of lab/app, the way a client does.
func (p *host) image(ref string, img upstreamtest.Image) {
	p.t.Helper()
	if r := p.get(manifestPath(ref), 200); !bytes.Equal(r.Body, img.Manifest) {
		p.t.Fatalf("manifest %s: %.200s", ref, r.Body)
	}
	for _, d := range append(img.Layers, img.Config) {
		p.blob(d)
	}
}

func blobPath(d digest.Digest) string { return "/v2/lab/app/blobs/" + d.String() }

func manifestPath(ref string) string { return "/v2/lab/app/manifests/" + ref }
