package registry

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// contract 14: refused for a while, then asked again; memory is bounded.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewRefusals(60 * time.Second)
		d := digest.FromString("cut")
		if f.Has(d) {
			t.Error("refused before it was cut")
		}
		f.add(d)
		time.Sleep(59 * time.Second)
		if !f.Has(d) {
			t.Error("not refused after 59 s")
		}
		time.Sleep(time.Second)
		if f.Has(d) {
			t.Error("refused after 60 s")
		}
		for i := range maxRefusals + 10 {
			f.add(digest.FromString(fmt.Sprint(i)))
			time.Sleep(time.Millisecond)
		}
		if len(f.until) > maxRefusals || f.Has(digest.FromString("0")) || !f.Has(digest.FromString(fmt.Sprint(maxRefusals+9))) {
			t.Errorf("%d remembered", len(f.until))
		}
	})
}

// contract 14: a blob whose body was cut is 404 for as long as is set, and then
// served again. contract 10: whoever never goes to another host is not refused.
func TestRefusedAfterCut(t *testing.T) {
	for _, keep := range []time.Duration{time.Minute, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			broken := true
			b := blobBackend(func(context.Context) Blob {
				if broken {
					return Blob{Digest: emptyDigest, Size: 100, Content: &growing{content: []byte("x"), size: 100}}
				}
				return Blob{Digest: emptyDigest, Size: 100, Content: &growing{content: bytes.Repeat([]byte("x"), 100), size: 100}}
			})
			reg := prometheus.NewRegistry()
			h := NewHandler(b, HandlerOptions{Resolver: newTestResolver(t, "docker.io", "docker.io"), NotFoundOnly: true, Refusals: NewRefusals(keep),
				Cause: func(error) string { return "unavailable" }, Registerer: reg, Namespace: "peerd"})
			get := func(when, agent string, status int) {
				t.Helper()
				w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, somePath, nil)
				r.Header.Set("User-Agent", agent)
				h.ServeHTTP(w, r)
				if w.Code != status {
					t.Errorf("%s, %s: status %d, want %d", when, agent, w.Code, status)
				}
			}
			get("cut", "containerd/2.4.2", 200)
			broken = false
			for range 4 {
				get("within", "containerd/2.4.2", 404)
				get("within", "docker/20.10.24", 404)
				get("within", "containers/5.24 (github.com/containers/image)", 200)
				time.Sleep(keep/4 - time.Millisecond)
			}
			time.Sleep(4 * time.Millisecond)
			get("after", "containerd/2.4.2", 200)
			wantMetric(t, reg, `peerd_http_refused_total 8`)
			wantMetric(t, reg, `peerd_http_bodies_cut_causes_total{cause="unavailable"} 1`)
		})
	}
}

// contract 10: who never leaves a mirror is known by what it calls itself.
func TestBound(t *testing.T) {
	for agent, want := range map[string]bool{
		"containers/5.23.1 (github.com/containers/image)": true, "skopeo/1.9.3": true, "cri-o/1.31 go/1.23 os/linux arch/amd64": true, "Buildah/1.28": true, "podman/4.3.1": true, "libpod/4.3.1": true,
		"containerd/v2.4.2": false, "docker/20.10.24 go/1.19": false, "regclient/regctl": false, "Go-http-client/1.1": false, "containersd/1": false, "": false,
	} {
		if r := (&Request{UserAgent: agent}); r.Bound() != want {
			t.Errorf("%q: %v", agent, !want)
		}
	}
}

// contract 20, 21: a header names the upstream where neither ns nor the path
// does; it is looked up as they are.
func TestUpstreamHeader(t *testing.T) {
	var got Request
	b := &fakeBackend{manifest: func(_ context.Context, r Request) (*Manifest, error) {
		got = r
		return nil, ManifestUnknown(r.Name, r.Reference, nil)
	}}
	for _, test := range []struct {
		path, header, value string
		want                string // "" where no backend is asked
	}{
		{"/v2/a/manifests/v1", "X-Upstream", "ghcr.io", "ghcr.io/a"},
		{"/v2/a/manifests/v1", "X-Upstream", "https://ghcr.io", "ghcr.io/a"},
		{"/v2/a/manifests/v1", "X-Upstream", "https://GHCR.io:443/v2/", "ghcr.io/a"},
		{"/v2/a/manifests/v1", "X-Upstream", "https://index.docker.io/v1/", "docker.io/library/a"},
		{"/v2/a/manifests/v1?ns=docker.io", "X-Upstream", "ghcr.io", "docker.io/library/a"},
		{"/v2/docker.io/a/manifests/v1", "X-Upstream", "ghcr.io", "docker.io/library/a"},
		{"/v2/a/manifests/v1", "X-Upstream", "", "docker.io/library/a"},
		{"/v2/a/manifests/v1", "X-Other", "ghcr.io", "docker.io/library/a"},
		{"/v2/a/manifests/v1", "X-Upstream", "http://169.254.169.254/", ""},
	} {
		got = Request{}
		s := serve(t, b, func(o *HandlerOptions) { o.UpstreamHeaders = []string{"X-Upstream"} })
		r := do(t, s, "GET", test.path, test.header, test.value).want(t, 404)
		if test.want == "" && got.Reference != "" || test.want != "" && got.Name.String() != test.want {
			t.Errorf("%s with %s: %q is %+v", test.path, test.header, test.value, got)
		}
		if ns := r.Header.Get("OCI-Namespace"); (ns != "") != (test.path == "/v2/a/manifests/v1?ns=docker.io") {
			t.Errorf("%s: OCI-Namespace %q", test.path, ns)
		}
	}
}
