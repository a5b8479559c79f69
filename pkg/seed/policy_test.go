package seed

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// What the rules forbid is DENIED, cached or not, before a byte flows.
func TestRules(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 2*mib, 1000)
	secret := b.up.AddImage("lab/secret", "v1", 1000)
	b.get(manifestPath("v1"), 200)
	b.get("/v2/lab/secret/manifests/v1", 200)
	for _, d := range img.Layers {
		b.blob(d)
	}
	b.c.Upstreams[0].Deny = []string{"lab/secret"}
	b.c.Upstreams[0].MaxBlob = config.ByteSize(mib)
	b.restart()
	b.up.ResetCounts()
	for _, path := range []string{
		"/v2/lab/secret/manifests/v1", "/v2/lab/secret/manifests/" + secret.Digest.String(),
		"/v2/lab/secret/blobs/" + secret.Layers[0].String(), "/v2/lab/secret/tags/list",
	} {
		if r := b.get(path, 403); !strings.Contains(string(r.Body), `"DENIED"`) || !strings.Contains(string(r.Body), "lab/secret is denied here") {
			t.Errorf("%s: %s", path, r.Body)
		}
	}
	cold := b.up.AddImage("lab/app", "v2", 3*mib)
	b.get(manifestPath("v2"), 200)
	for _, d := range []string{img.Layers[0].String(), cold.Layers[0].String()} {
		if r := b.get("/v2/lab/app/blobs/"+d, 403); !strings.Contains(string(r.Body), `"DENIED"`) || !strings.Contains(string(r.Body), "more than 1048576 are denied here") {
			t.Errorf("%s: %s", d, r.Body)
		}
	}
	b.blob(img.Layers[1])
	if n := b.up.Count("GET", "/blobs/") + b.up.Count("", "lab/secret"); n != 0 {
		t.Errorf("%d requests for what is denied", n)
	}
}

// Offline, what is held is served with no connection made, and what is missing
// says why.
func TestOffline(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) { c.StaleIfError = time.Nanosecond })
	img := b.up.AddImage("lab/app", "v1", 2*mib, 1000)
	b.up.AddImage("lab/app", "v2", 1000)
	b.get(manifestPath("v1"), 200)
	for _, d := range img.Layers {
		b.blob(d)
	}
	b.c.Offline = true
	b.restart()
	b.up.ResetCounts()
	b.get(manifestPath("v1"), 200)
	b.get(manifestPath(img.Digest.String()), 200)
	for _, d := range img.Layers {
		b.blob(d)
	}
	for _, path := range []string{manifestPath("v2"), blobPath(img.Config), "/v2/lab/none/tags/list"} {
		if r := b.get(path, 404); !strings.Contains(string(r.Body), "the seeder is offline and serves only what it holds") {
			t.Errorf("%s: %s", path, r.Body)
		}
	}
	if n := len(b.up.Requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// Each upstream has a tag TTL of its own, and a 404 is asked for once.
func TestAges(t *testing.T) {
	hour := time.Hour
	b := newBench(t, func(c *config.Seeder) {
		c.Upstreams[0].TagTTL = &hour
		c.NotFoundTTL = time.Hour
	})
	b.up.AddImage("lab/app", "v1", 1000)
	for range 3 {
		b.get(manifestPath("v1"), 200)
		b.get("/v2/docker.io/lab/app/manifests/v1", 200)
		b.get(manifestPath("none"), 404)
	}
	for what, want := range map[string]int{"/manifests/v1": 1 + 3, "/manifests/none": 1} {
		if n := b.up.Count("", what); n != want {
			t.Errorf("%s: %d requests, want %d", what, n, want)
		}
	}
}

// A dead upstream: what was pulled is answered at once, what was not fails
// fast, and the status page says since when.
func TestBreaker(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 1000)
	b.get(manifestPath("v1"), 200)
	b.up.SetFault("*", upstreamtest.Fault{Status: 502})
	b.up.SetFault("v2", upstreamtest.Fault{Status: 502})
	for range 3 {
		b.get(manifestPath("v1"), 200)
	}
	for _, path := range []string{manifestPath("other"), blobPath(img.Layers[0]), "/v2/lab/none/tags/list"} {
		r := b.get(path, 503)
		if !strings.Contains(string(r.Body), "is not asked: it has failed since") || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s: Retry-After %q, %s", path, r.Header.Get("Retry-After"), r.Body)
		}
	}
	for _, u := range b.Status().Upstreams {
		if u.Breaker == "closed" || u.ProbeAt.IsZero() {
			t.Errorf("%+v", u)
		}
	}
	if w := b.Status().Warnings; len(w) == 0 || w[0].Code != "upstream-failing" {
		t.Errorf("warnings %+v", w)
	}
	b.up.ClearFaults()
	b.Until("closed again", func() error {
		if s := b.Status().Upstreams[0].Breaker; s != "closed" {
			return fmt.Errorf("breaker %s", s)
		}
		return nil
	})
	b.blob(img.Layers[0])
}

// A seeder starts whatever its upstreams do.
func TestStartsWithoutUpstream(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	b := newBench(t, func(c *config.Seeder) {
		c.Upstreams = []config.Upstream{{Name: upName, URL: "http://" + silent.Addr().String()}, {Name: "dead.test", URL: "http://127.0.0.1:1"}}
	})
	b.get("/v2/", 200)
	b.get("/v2/dead.test/lab/app/manifests/v1", 503)
}

// chain is an upstream, a seeder in front of it, and another in front of that.
func chain(t *testing.T, change func(far, near *config.Seeder)) (far, near *bench) {
	t.Helper()
	far = &bench{t: t, up: upstreamtest.New()}
	near = &bench{t: t, up: far.up}
	t.Cleanup(far.up.Close)
	for _, b := range []*bench{far, near} {
		b.c = config.DefaultSeeder()
		b.c.DefaultUpstream = upName
		b.c.Common = daemontest.Common(t, b.c.Common)
	}
	far.c.Upstreams = []config.Upstream{{Name: upName, URL: far.up.URL()}, {Name: "docker.io", URL: far.up.URL()}}
	url := "http://" + far.c.Listen
	near.c.Upstreams = []config.Upstream{{Name: upName, URL: url, Seeder: true}, {Name: "docker.io", URL: url, Seeder: true}}
	if change != nil {
		change(&far.c, &near.c)
	}
	far.start()
	near.start()
	return far, near
}

// Through two seeders a blob leaves the upstream once, and names mean what they
// meant.
func TestChain(t *testing.T) {
	far, near := chain(t, nil)
	img := far.up.AddImage("lab/app", "v1", 6*mib, 1000)
	far.up.AddImage("library/nginx", "v1", 1000)
	near.get("/v2/docker.io/nginx/manifests/v1", 200)
	near.get("/v2/nginx/manifests/v1?ns=docker.io", 200)
	near.get(manifestPath("v1"), 200)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			b := []*bench{far, near}[i%2]
			for _, d := range img.Layers {
				b.blob(d)
			}
		})
	}
	wg.Wait()
	for i, d := range img.Layers {
		if n := far.up.BytesServed(d); n != int64(len(far.up.Blob(d))) {
			t.Errorf("layer %d: %d bytes left the upstream, want %d", i, n, len(far.up.Blob(d)))
		}
	}
	if r := near.get(manifestPath("none"), 404); !strings.Contains(string(r.Body), "MANIFEST_UNKNOWN") {
		t.Errorf("%s", r.Body)
	}
	far.Stop()
	near.get(manifestPath("v1"), 200)
	near.blob(img.Layers[0])
}

// The TTLs of a chain do not add up: the seeder in front counts from when the
// one behind it has asked.
func TestChainAge(t *testing.T) {
	far, near := chain(t, func(far, near *config.Seeder) { far.TagTTL, near.TagTTL = time.Hour, time.Second })
	far.up.AddImage("lab/app", "v1", 1000)
	near.get(manifestPath("v1"), 200)
	far.Until("2 s old", func() error {
		if age := far.get(manifestPath("v1"), 200).Header.Get("Age"); age != "2" && age != "3" {
			return fmt.Errorf("age %q", age)
		}
		return nil
	})
	// Asked again, the one behind answers from memory: 2 s old or more, which is
	// no news for the one in front.
	requests := func() int64 {
		for _, u := range near.Status().Upstreams {
			if u.Name == upName {
				return u.Requests
			}
		}
		return -1
	}
	asked := requests()
	for i := range 3 {
		r := near.get(manifestPath("v1"), 200)
		if age := r.Header.Get("Age"); age == "" || age == "0" || age == "1" {
			t.Errorf("request %d: age %q", i, age)
		}
	}
	if n := requests() - asked; n != 3 {
		t.Errorf("the one in front asked %d times, want 3", n)
	}
	if n := far.up.Count("", "/manifests/v1"); n != 1 {
		t.Errorf("%d requests reached the upstream, want 1", n)
	}
}

// Seeders that have one another as upstream say so, and soon.
func TestChainLoop(t *testing.T) {
	far, near := chain(t, func(far, near *config.Seeder) {
		far.Upstreams = []config.Upstream{{Name: upName, URL: "http://" + near.Listen, Seeder: true}}
	})
	for _, b := range []*bench{far, near} {
		for _, path := range []string{manifestPath("v1"), blobPath("sha256:" + digestOfNothing), "/v2/lab/app/tags/list"} {
			r := b.get(path, 508)
			if !strings.Contains(string(r.Body), "take one of them out") || r.Took > 3*time.Second {
				t.Errorf("%s: %v, %s", path, r.Took, r.Body)
			}
		}
	}
}

const digestOfNothing = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// A range of a blob of which nothing is here is where its fetch begins; the rest
// follows, and each byte comes once.
func TestColdRangeComesFirst(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 24*mib)
	d := img.Layers[0]
	b.get(manifestPath("v1"), 200)
	r := b.get(blobPath(d), 206, fmt.Sprintf("Range: bytes=%d-%d", 20*mib+5, 21*mib))
	if string(r.Body) != string(b.up.Blob(d)[20*mib+5:21*mib+1]) {
		t.Error("wrong bytes")
	}
	b.blob(d)
	var ranges []string
	for _, q := range b.up.Requests() {
		if strings.HasSuffix(q.Path, d.String()) {
			ranges = append(ranges, q.Range)
		}
	}
	if len(ranges) < 2 || !strings.HasPrefix(ranges[0], fmt.Sprintf("bytes=%d-", 20*mib)) {
		t.Errorf("asked for %q", ranges)
	}
	if n := b.up.BytesServed(d); n != 24*mib {
		t.Errorf("%d bytes left the upstream, asked for %q", n, ranges)
	}
}
