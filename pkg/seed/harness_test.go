package seed

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	crashChild()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// upName is what the seeders of these tests call their upstream.
const upName = "up.test"

// bench is an upstream that misbehaves as told, and a seeder in front of it.
type bench struct {
	t  *testing.T
	up *upstreamtest.Server
	c  config.Seeder
	*daemontest.Daemon
}

func newBench(t *testing.T, change func(*config.Seeder)) *bench {
	t.Helper()
	b := &bench{t: t, up: upstreamtest.New()}
	t.Cleanup(b.up.Close)
	b.c = config.DefaultSeeder()
	b.c.Upstreams = []config.Upstream{{Name: upName, URL: b.up.URL()}, {Name: "docker.io", URL: b.up.URL()}}
	b.c.DefaultUpstream = upName
	b.c.TagTTL, b.c.NotFoundTTL = 0, 0
	b.c.Common = daemontest.Common(t, b.c.Common)
	if change != nil {
		change(&b.c)
	}
	b.start()
	return b
}

func (b *bench) start() {
	b.t.Helper()
	b.Daemon = daemontest.Start(b.t, b.c.Common, func(ctx context.Context) error { return Run(ctx, b.c, "test") })
}

func (b *bench) restart() {
	b.t.Helper()
	if err := b.Stop(); err != nil {
		b.t.Fatalf("stop: %v", err)
	}
	b.start()
}

// get fetches a path and wants a status.
func (b *bench) get(path string, status int, header ...string) *daemontest.Response {
	b.t.Helper()
	r, err := daemontest.Get(b.URL+path, header...)
	if err != nil {
		b.t.Fatalf("GET %s: %v", path, err)
	}
	if r.Status != status {
		b.t.Fatalf("GET %s: status %d, want %d: %.200s", path, r.Status, status, r.Body)
	}
	return r
}

// blob fetches a blob of lab/app and checks its bytes.
func (b *bench) blob(d digest.Digest) *daemontest.Response {
	b.t.Helper()
	r := b.get(blobPath(d), 200)
	if !bytes.Equal(r.Body, b.up.Blob(d)) {
		b.t.Fatalf("blob %s: wrong bytes", d)
	}
	return r
}

// wantMetrics waits until the metrics have these lines: requests are counted
// after their last byte.
func (b *bench) wantMetrics(lines ...string) {
	b.t.Helper()
	b.Until("counted", func() error {
		r, err := daemontest.Get(b.Admin + "/metrics")
		if err != nil {
			return err
		}
		for _, l := range lines {
			if !bytes.Contains(r.Body, []byte("\n"+l+"\n")) {
				return fmt.Errorf("no %s", l)
			}
		}
		return nil
	})
}

func blobPath(d digest.Digest) string { return "/v2/lab/app/blobs/" + d.String() }

func manifestPath(ref string) string { return "/v2/lab/app/manifests/" + ref }
