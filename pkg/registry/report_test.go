package registry

import (
	"context"
	"io"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestResolverUpdate(t *testing.T) {
	r := newTestResolver(t, "", "ghcr.io")
	if err := r.Update([]string{"docker.io", "ghcr.io"}, "docker.io"); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Resolve("nginx", ""); err != nil || n.String() != "docker.io/library/nginx" {
		t.Errorf("got %v, %v", n, err)
	}
	if err := r.Update([]string{"a.b", "a.b"}, ""); err == nil {
		t.Error("no error")
	}
	if r.Default() != "docker.io" {
		t.Error("a failed update changed something")
	}
}

// What an operator sees of requests: metrics, the account, and a log line only
// where something is to be done.
func TestReports(t *testing.T) {
	reg := prometheus.NewRegistry()
	core, logs := observer.New(zap.InfoLevel)
	var requests, sent atomic.Int64 // requests may end side by side
	cut := digest.FromString("cut")
	b := oneBlob(testBlob)
	whole := b.blob
	b.blob = func(ctx context.Context, r Request) (Blob, error) {
		switch r.Digest {
		case cut:
			return Blob{Digest: cut, Size: 10, Content: &growing{content: []byte("abc"), size: 10}}, nil
		case digest.FromString("broken"):
			return Blob{}, io.ErrClosedPipe
		}
		return whole(ctx, r)
	}
	s := serve(t, b, func(o *HandlerOptions) {
		o.Registerer, o.Namespace, o.Log = reg, "seeder", zap.New(core)
		o.Account = func(n int64) { requests.Add(1); sent.Add(n) }
	})
	do(t, s, "GET", "/v2/")
	do(t, s, "GET", "/nothing")
	do(t, s, "GET", "/v2/a/blobs/"+digest.FromString(testBlob).String())
	do(t, s, "HEAD", "/v2/a/blobs/"+digest.FromString(testBlob).String())
	do(t, s, "GET", "/v2/a/manifests/latest")
	do(t, s, "GET", "/v2/a/blobs/"+emptyDigest)
	do(t, s, "WHATEVER", "/v2/a/blobs/"+emptyDigest)
	if n := logs.Len(); n != 0 {
		t.Errorf("%d log lines for ordinary requests: %v", n, logs.All())
	}
	do(t, s, "GET", "/v2/a/blobs/"+digest.FromString("broken").String()).want(t, 500)
	_, resp := get(t, s, "/v2/a/blobs/"+cut.String())
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("no error")
	}
	s.Close()
	for _, want := range []string{"request failed", "body cut short: content could not be had"} {
		found := logs.FilterMessage(want).FilterField(zap.String("kind", "blob")).All()
		if len(found) != 1 || found[0].Level != zap.WarnLevel {
			t.Errorf("%q: %v", want, found)
		}
	}
	for _, line := range []string{
		`seeder_http_requests_total{code="200",kind="ping",method="GET"} 1`,
		`seeder_http_requests_total{code="404",kind="other",method="GET"} 1`,
		`seeder_http_requests_total{code="200",kind="blob",method="GET"} 2`,
		`seeder_http_requests_total{code="200",kind="blob",method="HEAD"} 1`,
		`seeder_http_requests_total{code="200",kind="manifest",method="GET"} 1`,
		`seeder_http_requests_total{code="404",kind="blob",method="GET"} 1`,
		`seeder_http_requests_total{code="500",kind="blob",method="GET"} 1`,
		`seeder_http_requests_total{code="405",kind="blob",method="other"} 1`,
		`seeder_http_bodies_cut_total{by="source",kind="blob"} 1`,
		`seeder_http_time_to_first_byte_seconds_count{kind="blob"} 2`,
		`seeder_http_time_to_first_byte_seconds_count{kind="manifest"} 1`,
		`seeder_http_requests_in_flight{kind="blob"} 0`,
	} {
		wantMetric(t, reg, line)
	}
	if requests.Load() != 7 || sent.Load() < int64(len(testBlob)+len(testManifest)+3) {
		t.Errorf("account: %d requests, %d bytes", requests.Load(), sent.Load())
	}
}
