package seed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

const mib = 1 << 20

// One fetch per digest, whoever asks and however many.
func TestOneFetch(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 6*mib, 1000)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			d := img.Layers[i%2]
			r, err := daemontest.Get(b.URL + blobPath(d))
			if err != nil || r.Status != 200 || !bytes.Equal(r.Body, b.up.Blob(d)) {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	for range 16 {
		wg.Go(func() {
			if r, err := daemontest.Get(b.URL + manifestPath("v1")); err != nil || r.Status != 200 {
				t.Errorf("manifest: %v", err)
			}
		})
	}
	wg.Wait()
	for i, d := range img.Layers {
		if n := b.up.BytesServed(d); n != int64(len(b.up.Blob(d))) {
			t.Errorf("layer %d: %d bytes left the upstream, want %d", i, n, len(b.up.Blob(d)))
		}
	}
}

// Answers say whether the content was here, and how a tag came about.
func TestXCache(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 2*mib)
	want := func(path, result, from string) {
		t.Helper()
		r := b.get(path, 200)
		if got, src := r.Header.Get("X-Cache"), r.Header.Get("X-Cache-Source"); got != result || src != from {
			t.Errorf("GET %s: X-Cache %q from %q, want %q from %q", path, got, src, result, from)
		}
	}
	want(manifestPath("v1"), "MISS", "upstream")
	want(manifestPath("v1"), "HIT", "")
	want(manifestPath(img.Digest.String()), "HIT", "")
	want(blobPath(img.Layers[0]), "MISS", "upstream")
	b.Until("complete", func() error {
		if in := b.Status().Store; in.Complete < 2 {
			return fmt.Errorf("%+v", in)
		}
		return nil
	})
	want(blobPath(img.Layers[0]), "HIT", "")
	for _, method := range []func(string, ...string) (*daemontest.Response, error){daemontest.Head, daemontest.Get} {
		r, err := method(b.URL + blobPath(digest.FromString("nobody has this")))
		if err != nil || r.Status != 404 || r.Header.Get("X-Cache") != "" {
			t.Errorf("what is not there: %d %q %v", r.Status, r.Header.Get("X-Cache"), err)
		}
	}
	b.up.Close()
	want(manifestPath("v1"), "STALE", "")
	b.wantMetrics(`seeder_cache_requests_total{kind="manifest",result="HIT",upstream="up.test"} 2`,
		`seeder_cache_requests_total{kind="manifest",result="STALE",upstream="up.test"} 1`,
		`seeder_cache_bytes_total{kind="blob",result="MISS",upstream="up.test"} 2.097152e+06`)
}

// A client that goes away does not stop the fetch.
func TestClientLeaves(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 4*mib)
	d := img.Layers[0]
	b.up.SetFault(d.String(), upstreamtest.Fault{Rate: 4 * mib, Times: 1})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+blobPath(d), nil)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Body.Read(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	b.Until("complete", func() error {
		if n := b.Status().Store.Complete; n == 0 {
			return fmt.Errorf("%d blobs complete", n)
		}
		return nil
	})
	b.blob(d)
	if n := b.up.BytesServed(d); n != 4*mib {
		t.Errorf("%d bytes left the upstream", n)
	}
}

// A connection that is cut again and again is resumed where it broke.
func TestCutResumes(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 3*mib)
	d := img.Layers[0]
	b.up.SetFault(d.String(), upstreamtest.Fault{Cut: 0.3})
	b.blob(d)
	if n := b.up.BytesServed(d); n < 3*mib || n > 3*mib+mib {
		t.Errorf("%d bytes left the upstream for %d", n, 3*mib)
	}
}

// A cold range answers 206 without waiting for the rest.
func TestColdRange(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 24*mib)
	d := img.Layers[0]
	b.up.SetFault(d.String(), upstreamtest.Fault{Rate: 6 * mib})
	r := b.get(blobPath(d), 206, fmt.Sprintf("Range: bytes=%d-%d", 20*mib, 20*mib+99))
	if !bytes.Equal(r.Body, b.up.Blob(d)[20*mib:20*mib+100]) {
		t.Error("wrong bytes")
	}
	if want := fmt.Sprintf("bytes %d-%d/%d", 20*mib, 20*mib+99, 24*mib); r.Header.Get("Content-Range") != want {
		t.Errorf("Content-Range %q, want %q", r.Header.Get("Content-Range"), want)
	}
	if r.Took > 2*time.Second {
		t.Errorf("took %v where the whole takes 4 s", r.Took)
	}
}

// Everything that was pulled is served with the upstream down, also after a
// restart; what was not pulled is an error, soon.
func TestUpstreamDown(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 2*mib, 1000)
	other := b.up.AddImage("lab/app", "v2", 2000)
	b.get(manifestPath("v1"), 200)
	for _, d := range append(img.Layers, img.Config) {
		b.blob(d)
	}
	b.up.Close()
	for _, when := range []string{"running", "restarted"} {
		t.Run(when, func(t *testing.T) {
			for _, ref := range []string{"v1", img.Digest.String()} {
				r := b.get(manifestPath(ref), 200)
				if !bytes.Equal(r.Body, img.Manifest) || r.Header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
					t.Errorf("%s: %s %.100s", ref, r.Header.Get("Content-Type"), r.Body)
				}
			}
			for _, d := range append(img.Layers, img.Config) {
				b.blob(d)
				if r, err := daemontest.Head(b.URL + blobPath(d)); err != nil || r.Header.Get("Content-Length") != fmt.Sprint(len(b.up.Blob(d))) {
					t.Errorf("HEAD %s: %v", d, err)
				}
			}
			r := b.get("/v2/lab/app/tags/list", 200)
			if !strings.Contains(string(r.Body), `"tags":["v1"]`) {
				t.Errorf("tags: %s", r.Body)
			}
			if when == "running" {
				return // each of these is a second of retries
			}
			b.get("/v2/lab/nothing/tags/list", 503)
			b.get(manifestPath("v2"), 503)
			b.get(manifestPath(other.Digest.String()), 503)
			b.get(blobPath(other.Layers[0]), 503)
		})
		if when == "running" {
			b.restart()
		}
	}
}

// What a failure means to a client.
func TestAnswers(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 2*mib)
	unknown := digest.FromString("nobody has this")
	for _, test := range []struct {
		name  string
		fault upstreamtest.Fault
		of    string
		path  string
		code  int
		says  string
		retry string
	}{
		{name: "tag not found", path: manifestPath("nope"), code: 404, says: "MANIFEST_UNKNOWN"},
		{name: "manifest not found", path: manifestPath(unknown.String()), code: 404, says: "MANIFEST_UNKNOWN"},
		{name: "blob not found", path: blobPath(unknown), code: 404, says: "BLOB_UNKNOWN"},
		{name: "repository not found", path: "/v2/lab/nope/tags/list", code: 404, says: "NAME_UNKNOWN"},
		{name: "no referrers", path: "/v2/lab/app/referrers/" + img.Digest.String(), code: 200, says: `"manifests":[]`},
		{name: "referrers of no digest", path: "/v2/lab/app/referrers/v1", code: 400, says: "DIGEST_INVALID"},
		{name: "denied", of: "manifests", fault: upstreamtest.Fault{Status: 403}, path: manifestPath("v1"), code: 403, says: "DENIED"},
		{name: "rate limited", of: "manifests", fault: upstreamtest.Fault{Status: 429, RetryAfter: "60", Times: 1}, path: manifestPath("v1"), code: 429, says: "TOOMANYREQUESTS", retry: "60"},
		{name: "no tag and no digest", path: manifestPath(".x"), code: 400, says: "MANIFEST_INVALID"},
		{name: "bad digest", path: "/v2/lab/app/blobs/sha256:12", code: 400, says: "DIGEST_INVALID"},
		{name: "catalogue", path: "/v2/_catalog", code: 404, says: "UNSUPPORTED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.up.ClearFaults()
			if test.of != "" {
				b.up.SetFault(test.of, test.fault)
			}
			r := b.get(test.path, test.code)
			if !strings.Contains(string(r.Body), test.says) || r.Header.Get("Retry-After") != test.retry {
				t.Errorf("Retry-After %q, %s", r.Header.Get("Retry-After"), r.Body)
			}
		})
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		r, err := daemontest.Do(t.Context(), method, b.URL+manifestPath("v1"))
		if err != nil || r.Status != 405 {
			t.Errorf("%s: %+v, %v", method, r, err)
		}
	}
}

// Bytes that do not match the digest: a clear error, and nothing of it kept.
func TestCorruptUpstream(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 2*mib, 1000)
	b.up.SetFault("blobs", upstreamtest.Fault{Corrupt: true})
	b.get(manifestPath("v1"), 200)
	if r := b.get(blobPath(img.Layers[1]), 502); !strings.Contains(string(r.Body), "do not match this digest") {
		t.Errorf("%s", r.Body)
	}
	if r, err := daemontest.Get(b.URL + blobPath(img.Layers[0])); err == nil && (r.Status == 200 && len(r.Body) == 2*mib) {
		t.Errorf("the client got it all: status %d", r.Status)
	}
	b.up.SetFault("v1", upstreamtest.Fault{Corrupt: true})
	b.up.SetFault("manifests", upstreamtest.Fault{Corrupt: true})
	b.get("/v2/lab/app/manifests/"+b.up.AddImage("lab/app", "v2", 10).Digest.String(), 502)
	b.up.ClearFaults()
	for _, d := range img.Layers {
		b.blob(d)
	}
}

// The upstream is named by ns, by the path, or not at all (contract 20, 21).
func TestNaming(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 1000)
	b.up.AddImage("library/nginx", "v1", 1000)
	for _, test := range []struct {
		path string
		code int
	}{
		{"/v2/lab/app/manifests/v1", 200},
		{"/v2/lab/app/manifests/v1?ns=up.test", 200},
		{"/v2/lab/app/manifests/v1?ns=UP.TEST:443", 200},
		{"/v2/up.test/lab/app/manifests/v1", 200},
		{"/v2/up.test/lab/app/manifests/v1?ns=up.test", 200},
		{"/v2/nginx/manifests/v1?ns=docker.io", 200},
		{"/v2/nginx/manifests/v1?ns=registry-1.docker.io", 200},
		{"/v2/index.docker.io/library/nginx/manifests/v1", 200},
		{"/v2/nginx/manifests/v1", 404},
		{"/v2/lab/app/manifests/v1?ns=evil.test", 404},
		{"/v2/127.0.0.1:5000/lab/app/manifests/v1", 404},
		{"/v2/lab/app/blobs/" + img.Layers[0].String(), 200},
		{"/v2/up.test/lab/app/blobs/" + img.Layers[0].String(), 200},
	} {
		b.get(test.path, test.code)
	}
}

// contract 1: no redirect, no credentials.
func TestPing(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/v2", "/v2/"} {
		for _, method := range []string{"GET", "HEAD"} {
			r, err := daemontest.Do(t.Context(), method, b.URL+path)
			if err != nil || r.Status != 200 || r.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
				t.Errorf("%s %s: %+v, %v", method, path, r, err)
			}
		}
	}
}

// Of an index, only what is asked for is fetched.
func TestIndex(t *testing.T) {
	b := newBench(t, nil)
	amd := b.up.AddPlatformImage("lab/app", "", "linux", "amd64", 2000)
	arm := b.up.AddPlatformImage("lab/app", "", "linux", "arm64", 2000)
	index, content := b.up.AddIndex("lab/app", "v1", amd, arm)
	r := b.get(manifestPath("v1"), 200)
	if !bytes.Equal(r.Body, content) || r.Header.Get("Docker-Content-Digest") != index.String() {
		t.Errorf("%.100s", r.Body)
	}
	b.get(manifestPath(amd.Digest.String()), 200)
	b.blob(amd.Layers[0])
	for _, d := range []digest.Digest{arm.Digest, arm.Config, arm.Layers[0], amd.Config} {
		if n := b.up.Count("", d.String()); n != 0 {
			t.Errorf("%s: %d requests", d, n)
		}
	}
}

// An upstream that takes connections and never answers: a tag is served stale
// after about 2 s, and at once while that lasts.
func TestHangingUpstream(t *testing.T) {
	b := newBench(t, nil)
	b.up.AddImage("lab/app", "v1", 1000)
	b.get(manifestPath("v1"), 200)
	b.up.SetFault("manifests", upstreamtest.Fault{Hang: true})
	if r := b.get(manifestPath("v1"), 200); r.Took > 3*time.Second {
		t.Errorf("took %v", r.Took)
	}
	for range 3 {
		if r := b.get(manifestPath("v1"), 200); r.Took > time.Second {
			t.Errorf("then took %v", r.Took)
		}
	}
}

// A tag that was deleted upstream is gone here, too.
func TestDeletedTag(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 1000)
	b.get(manifestPath("v1"), 200)
	b.up.SetFault("v1", upstreamtest.Fault{Status: 404})
	b.get(manifestPath("v1"), 404)
	b.get(manifestPath(img.Digest.String()), 200)
	b.up.Close()
	b.get(manifestPath("v1"), 503)
}

// What a peerd is told.
func TestIntroduction(t *testing.T) {
	for _, test := range []struct {
		name      string
		advertise []string
		host      string
		want      string // of the first address; PORT is the libp2p port
		addrs     int
	}{
		{name: "as it listens", want: "/ip4/127.0.0.1/tcp/PORT", addrs: 1},
		{name: "by name", host: "seeder.lab:5000", want: "/dns/seeder.lab/tcp/PORT", addrs: 2},
		{name: "IPv4", host: "10.1.2.3:5000", want: "/ip4/10.1.2.3/tcp/PORT", addrs: 2},
		{name: "IPv6", host: "[2001:db8::1]:5000", want: "/ip6/2001:db8::1/tcp/PORT", addrs: 2},
		{name: "nonsense", host: "a b", want: "/ip4/127.0.0.1/tcp/PORT", addrs: 1},
		{name: "advertised", advertise: []string{"2001:db8::2", "seeder.example.org"}, host: "10.1.2.3:5000", want: "/ip6/2001:db8::2/tcp/PORT", addrs: 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(c *config.Seeder) { c.Advertise = test.advertise })
			_, port, _ := strings.Cut(b.c.P2PListen[0], "/tcp/")
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL+"/samara/v1/seeder", nil)
			req.Host = test.host
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if test.name == "nonsense" && resp.StatusCode == http.StatusBadRequest {
				return // net/http has refused it
			}
			var in struct {
				PeerID    string
				Addrs     []string
				Upstreams []struct{ Name, URL string }
				Default   string `json:"defaultUpstream"`
				SwarmKey  string
			}
			if err := json.NewDecoder(resp.Body).Decode(&in); err != nil {
				t.Fatal(err)
			}
			if len(in.Addrs) != test.addrs || in.Addrs[0] != strings.Replace(test.want, "PORT", port, 1) {
				t.Errorf("addresses %q", in.Addrs)
			}
			if in.PeerID != b.Status().PeerID || in.Default != upName || in.SwarmKey != "" || len(in.Upstreams) != 2 {
				t.Errorf("%+v", in)
			}
		})
	}
}

// A page of tags, from the upstream and from memory.
func TestTagPages(t *testing.T) {
	b := newBench(t, nil)
	for _, tag := range []string{"a", "b", "c"} {
		b.up.AddImage("lab/app", tag, 10)
		b.get(manifestPath(tag), 200)
	}
	for _, from := range []string{"upstream", "memory"} {
		var got []string
		path := "/v2/lab/app/tags/list?n=2"
		for range 3 {
			r := b.get(path, 200)
			var list struct{ Tags []string }
			if err := json.Unmarshal(r.Body, &list); err != nil {
				t.Fatal(err)
			}
			got = append(got, list.Tags...)
			link := r.Header.Get("Link")
			if link == "" {
				break
			}
			path = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
		}
		if !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("from %s: %q", from, got)
		}
		b.up.Close()
	}
}
