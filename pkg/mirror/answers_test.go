package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// contract 7: the clients of a chunked pull ask to the end and leave after their
// chunk. What they left is not fetched again, nor twice.
//
// It runs beside no other test: with a seeder that is slow to answer, peerd asks the
// upstream as well, as it should.
func TestChunkedPull(t *testing.T) {
	const size, chunk = 24 * mib, 2 * mib
	b := newBench(t)
	p := b.peer(func(c *config.Peerd) { c.NoPrefetch = true })
	img := b.up.AddImage("lab/app", "v1", size)
	layer, want := img.Layers[0], b.up.Blob(img.Layers[0])
	p.get(manifestPath("v1"), 200)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 3) // as containerd has them
	for at := 0; at < size; at += chunk {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			got, err := part(p.URL+blobPath(layer), at, chunk)
			if err != nil || !bytes.Equal(got, want[at:at+chunk]) {
				t.Errorf("at %d: %d bytes, %v", at, len(got), err)
			}
		})
	}
	wg.Wait()
	st := p.Status()
	if in := st.Bytes.FromSeeder + st.Bytes.FromPeers + st.Bytes.FromUpstream; in > size*105/100 {
		t.Errorf("%d bytes came for a blob of %d", in, size)
	}
	if n := b.up.BytesServed(layer); n > size*105/100 {
		t.Errorf("%d bytes left the upstream for a blob of %d", n, size)
	}
}

// part reads n bytes of an open-ended range, and leaves.
func part(url string, at, n int) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return nil, errors.New(resp.Status)
	}
	got := make([]byte, n)
	_, err = io.ReadFull(resp.Body, got)
	return got, err
}

// contract 8: 96 requests for cold blobs at the same moment, half of them on a
// connection of their own, as the clients that have no bound send them.
func TestManyBlobsAtOnce(t *testing.T) {
	b := newBench(t)
	p := b.peer(nil)
	sizes := make([]int, 12)
	for i := range sizes {
		sizes[i] = 300<<10 + i
	}
	img := b.up.AddImage("lab/app", "v1", sizes...)
	p.get(manifestPath("v1"), 200)
	shared := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 4}, Timeout: daemontest.Patience}
	defer shared.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 96 {
		d := img.Layers[i%len(img.Layers)]
		wg.Go(func() {
			var got []byte
			var err error
			if i%2 == 0 {
				got, err = part(p.URL+blobPath(d), 0, sizes[i%len(sizes)])
			} else {
				var resp *http.Response
				if resp, err = shared.Get(p.URL + blobPath(d)); err == nil {
					defer resp.Body.Close()
					got, err = io.ReadAll(resp.Body)
				}
			}
			if err != nil || !bytes.Equal(got, b.up.Blob(d)) {
				t.Errorf("request %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	for _, d := range img.Layers {
		if n, size := b.up.BytesServed(d), len(b.up.Blob(d)); n > int64(size)*105/100 {
			t.Errorf("%d bytes left the upstream for %s of %d", n, d, size)
		}
	}
}

// contract 11: a digest that nobody knows is 404 in time, whoever is silent, also
// for those who ask at the same moment.
func TestUnknownDigest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.up.AddImage("lab/app", "v1", 1000)
	for name, set := range map[string]func(hang *silent){
		"all answer":         func(*silent) {},
		"seeder is frozen":   func(hang *silent) { hang.set(true) },
		"upstream is silent": func(*silent) { b.up.SetFault("*", upstreamtest.Fault{Hang: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			hang := &silent{to: b.seeder.URL}
			front := hang.start(t)
			p := b.peer(func(c *config.Peerd) { c.Seeders = []string{front} })
			p.get(manifestPath("v1"), 200)
			set(hang)
			defer b.up.ClearFaults()
			var wg sync.WaitGroup
			for i := range 20 {
				d := digest.FromString(fmt.Sprint(name, i))
				for _, path := range []string{manifestPath(d.String()), blobPath(d)} {
					wg.Go(func() {
						r, err := daemontest.Get(p.URL + path)
						if err != nil || r.Status != 404 {
							t.Errorf("%s: %+v, %v", path, r, err)
						} else if r.Took > 4*time.Second { // 2 s, and a machine that does other things
							t.Errorf("%s: took %v", path, r.Took)
						}
					})
				}
			}
			wg.Wait()
		})
	}
}

// contract 9, 14: a manifest is whole before its status line; an upstream that
// cuts it shows as 404 or not at all, never as a short body.
func TestCutManifest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	img := b.up.AddImage("lab/app", "v1", 1000)
	for name, fault := range map[string]upstreamtest.Fault{
		"cut": {Method: "GET", Cut: 0.5}, "wrong bytes": {Method: "GET", Corrupt: true}, "not a byte": {Method: "GET", Cut: -1},
	} {
		b.up.SetFault(img.Digest.String(), fault)
		b.up.SetFault("v1", fault)
		for _, path := range []string{manifestPath("v1"), manifestPath(img.Digest.String())} {
			if r := p.get(path, 404); !strings.Contains(string(r.Body), "MANIFEST_UNKNOWN") {
				t.Errorf("%s: GET %s: %s", name, path, r.Body)
			}
		}
	}
	b.up.ClearFaults()
	p.image("v1", img) // nothing of it is remembered
}

// contract 20: the names that each client has for the same image.
func TestNamesOfEachClient(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	hub := b.up.AddImage("library/nginx", "v1", 1000)
	other := b.up.AddImage("lab/app", "v1", 1000)
	const hubDigest = "/v2/library/nginx/manifests/"
	for _, test := range []struct {
		client, path string
		header       []string
		want         digest.Digest
	}{
		{"containerd", "/v2/library/nginx/manifests/v1?ns=docker.io", nil, hub.Digest},
		{"containerd", "/v2/lab/app/manifests/v1?ns=up.test", nil, other.Digest},
		{"regctl", "/v2/library/nginx/manifests/v1?ns=registry-1.docker.io", nil, hub.Digest},
		{"nydus", "/v2/library/nginx/manifests/v1?ns=index.docker.io", nil, hub.Digest},
		{"nydus with Dragonfly's header", "/v2/library/nginx/manifests/v1", []string{"X-Dragonfly-Registry: https://index.docker.io"}, hub.Digest},
		{"hosts.toml with a header", "/v2/library/nginx/manifests/v1", []string{"X-Samara-Upstream: docker.io"}, hub.Digest},
		{"podman with a prefix", "/v2/docker.io/library/nginx/manifests/v1", nil, hub.Digest},
		{"crane", "/v2/index.docker.io/library/nginx/manifests/v1", nil, hub.Digest},
		{"crane, a short name", "/v2/docker.io/nginx/manifests/v1", nil, hub.Digest},
		{"BuildKit with a prefix", "/v2/docker.io/library/nginx/manifests/v1?ns=docker.io", nil, hub.Digest},
		{"written otherwise", "/v2/library/nginx/manifests/v1?ns=Docker.IO:443", nil, hub.Digest},
		{"written otherwise", "/v2/Registry-1.Docker.io:443/nginx/manifests/v1", nil, hub.Digest},
		{"dockerd", hubDigest + hub.Digest.String(), nil, hub.Digest}, // by digest, after somebody's tag
		{"dockerd's blob", "/v2/library/nginx/blobs/" + hub.Layers[0].String(), nil, hub.Layers[0]},
		{"stargz", "/v2/library/nginx/blobs/" + hub.Config.String(), nil, hub.Config},
		{"the default", "/v2/lab/app/manifests/v1", nil, other.Digest},
	} {
		r := p.get(test.path, 200, test.header...)
		if got := r.Header.Get("Docker-Content-Digest"); got != test.want.String() {
			t.Errorf("%s: GET %s: %s, want %s", test.client, test.path, got, test.want)
		}
	}
}

// contract 28, 29: a range of a cold blob comes before the blob does; and after a
// restart, which is over in seconds, of what was here.
func TestRangeOfAColdBlob(t *testing.T) {
	t.Parallel()
	const size, n = 32 * mib, 64 << 10
	b := newBench(t)
	p := b.peer(func(c *config.Peerd) { c.NoPrefetch = true })
	img := b.up.AddImage("lab/app", "v1", size)
	layer, want := img.Layers[0], b.up.Blob(img.Layers[0])
	p.get(manifestPath("v1"), 200)
	b.up.SetFault(layer.String(), upstreamtest.Fault{Method: "GET", Rate: 2 * mib}) // 16 s for all of it
	ranged := func(at int) *daemontest.Response {
		t.Helper()
		r := p.get(blobPath(layer), 206, fmt.Sprintf("Range: bytes=%d-%d", at, at+n-1))
		if !bytes.Equal(r.Body, want[at:at+n]) {
			t.Errorf("at %d: %d wrong bytes", at, len(r.Body))
		}
		return r
	}
	if r := ranged(size - 3*mib); r.Took > 8*time.Second {
		t.Errorf("took %v", r.Took)
	}
	if st := p.Status(); st.Bytes.FromSeeder > size/2 {
		t.Errorf("%d bytes had to come for %d", st.Bytes.FromSeeder, n)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	b.up.Close()
	p.start()
	ranged(size - 3*mib)
}

// contract 30: a URL in the path is not dialled.
func TestURLsAreNotServed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	dialled := &silent{}
	to := dialled.start(t)
	for _, path := range []string{"/accelerator/" + to + "/blob", "/blobs/" + to + "/x", "/v2/blobs/" + to, "/" + to} {
		if r, err := daemontest.Get(p.URL + path); err != nil || r.Status < 300 {
			t.Errorf("%s: %+v, %v", path, r, err)
		}
	}
	if n := dialled.count(); n != 0 {
		t.Errorf("%d connections to a host that a client named", n)
	}
}
