package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

var errNotYet = errors.New("not yet")

// contract 1: no redirect, no credentials, and nobody is asked.
func TestPing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	b.up.Close()
	b.seeder.Stop()
	for _, path := range []string{"/v2", "/v2/"} {
		for _, method := range []string{"GET", "HEAD"} {
			r, err := daemontest.Do(t.Context(), method, p.URL+path)
			if err != nil || r.Status != 200 || r.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" || r.Took > time.Second {
				t.Errorf("%s %s: %+v, %v", method, path, r, err)
			}
		}
	}
}

// contract 2, 3, 4, 5, 6: what the answers carry.
func TestHeaders(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	img := b.up.AddImage("lab/app", "v1", 2*mib)
	layer := img.Layers[0]
	for _, test := range []struct {
		rule, method, path string
		header             []string
		code, size         int
		want               map[string]string
	}{
		{"contract 3", "HEAD", manifestPath("v1"), nil, 200, 0, map[string]string{"Content-Type": ocispec.MediaTypeImageManifest,
			"Content-Length": fmt.Sprint(len(img.Manifest)), "Docker-Content-Digest": img.Digest.String()}},
		{"contract 3", "GET", manifestPath(img.Digest.String()), nil, 200, len(img.Manifest), map[string]string{"Content-Type": ocispec.MediaTypeImageManifest,
			"Content-Length": fmt.Sprint(len(img.Manifest)), "Docker-Content-Digest": img.Digest.String()}},
		{"contract 4", "HEAD", blobPath(layer) + "?ns=up.test", nil, 200, 0, map[string]string{"Content-Length": fmt.Sprint(2 * mib), "Accept-Ranges": "bytes",
			"Docker-Content-Digest": layer.String(), "Etag": `"` + layer.String() + `"`, "Oci-Namespace": "up.test", "Content-Type": "application/octet-stream"}},
		{"contract 5", "GET", blobPath(layer), []string{"Accept-Encoding: zstd;q=1.0, gzip;q=0.8"}, 200, 2 * mib, map[string]string{"Content-Encoding": "", "X-Cache": "MISS", "X-Cache-Source": "swarm"}},
		{"contract 6", "GET", blobPath(layer), []string{"Range: bytes=0-"}, 206, 2 * mib, map[string]string{"Content-Range": fmt.Sprintf("bytes 0-%d/%d", 2*mib-1, 2*mib)}},
		{"contract 6", "GET", manifestPath("v1"), []string{"Range: bytes=0-"}, 206, len(img.Manifest), nil},
		{"contract 6", "GET", blobPath(layer), []string{"Range: bytes=1000-1999"}, 206, 1000, nil},
		{"contract 6", "GET", blobPath(layer), []string{fmt.Sprintf("Range: bytes=%d-", 2*mib)}, 416, -1, nil},
		{"contract 2", "PUT", manifestPath("v1"), nil, 405, -1, nil},
		{"contract 2", "POST", "/v2/lab/app/blobs/uploads/", nil, 405, -1, nil},
		{"contract 2", "GET", "/v2/lab/app/referrers/" + img.Digest.String(), nil, 200, -1, map[string]string{"Content-Type": ocispec.MediaTypeImageIndex}},
	} {
		r, err := daemontest.Do(t.Context(), test.method, p.URL+test.path, test.header...)
		if err != nil || r.Status != test.code || test.size >= 0 && len(r.Body) != test.size {
			t.Fatalf("%s: %s %s: %+v, %v", test.rule, test.method, test.path, r, err)
		}
		for k, v := range test.want {
			if got := r.Header.Get(k); got != v {
				t.Errorf("%s: %s %s: %s is %q, want %q", test.rule, test.method, test.path, k, got, v)
			}
		}
	}
}

// contract 9: a body that has begun is finished, by the upstream where the
// seeder dies and no peer has the rest.
func TestSeederDiesInMidBody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	img := b.up.AddImage("lab/app", "v1", 8*mib)
	layer := img.Layers[0]
	p.get(manifestPath("v1")+"?ns=docker.io", 200) // another name, so that nothing is prefetched as lab/app
	b.up.SetFault(layer.String(), upstreamtest.Fault{Method: "GET", Rate: 3 * mib, Times: 1})
	resp := open(t, p.URL+blobPath(layer))
	head := make([]byte, mib)
	if _, err := io.ReadFull(resp.Body, head); err != nil {
		t.Fatal(err)
	}
	go b.seeder.Interrupt()
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(head, rest...), b.up.Blob(layer)) {
		t.Errorf("%d bytes, %v", len(head)+len(rest), err)
	}
	var direct int
	for _, r := range b.up.Requests() {
		if r.Method == "GET" && strings.HasPrefix(r.UserAgent, "samara-peerd/") && strings.Contains(r.Path, layer.String()) {
			direct++
		}
	}
	if direct == 0 {
		t.Error("the rest did not come from the upstream: the seeder gave it all")
	}
}

// contract 11: what nobody can give is 404, soon: whatever the reason.
func TestCannotHelp(t *testing.T) {
	t.Parallel()
	unknown := digest.FromString("nobody has this")
	for _, test := range []struct {
		name  string
		set   func(b *bench)
		first time.Duration // what the first request may take
	}{
		{"not there", func(*bench) {}, 2 * time.Second},
		{"denied", func(b *bench) { b.up.SetFault("*", upstreamtest.Fault{Status: 401}) }, 2 * time.Second},
		{"rate limited", func(b *bench) { b.up.SetFault("*", upstreamtest.Fault{Status: 429, RetryAfter: "60"}) }, 2 * time.Second},
		{"upstream fails", func(b *bench) { b.up.SetFault("*", upstreamtest.Fault{Status: 500}) }, 4 * time.Second},
		{"seeder and upstream gone", func(b *bench) { b.up.Close(); b.seeder.Stop() }, 3 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			p := b.peer(nil)
			test.set(b)
			for _, path := range []string{
				manifestPath("v1"), manifestPath(unknown.String()), blobPath(unknown), "/v2/lab/app/tags/list",
				"/v2/lab/app/manifests/v1?ns=evil.test", "/v2/nothing/here",
			} {
				if r := p.get(path, 404); r.Took > test.first {
					t.Errorf("%s: took %v", path, r.Took)
				}
			}
		})
	}
}

// contract 11, 12: a seeder that hangs costs the first client patience, and
// nobody after it.
func TestHangingSeeder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	img := b.up.AddImage("lab/app", "v1", 1000)
	b.up.AddImage("lab/app", "v2", 1000)
	hang := &silent{to: b.seeder.URL}
	front := hang.start(t)
	p := b.peer(func(c *config.Peerd) { c.Seeders = []string{front} })
	p.get(manifestPath("v1"), 200)
	hang.set(true)
	if r := p.get(manifestPath("v2"), 200); r.Took > 4*time.Second {
		t.Errorf("the first took %v", r.Took)
	}
	for _, ref := range []string{"v1", "v2", img.Digest.String()} {
		if r := p.get(manifestPath(ref), 200); r.Took > time.Second {
			t.Errorf("%s took %v", ref, r.Took)
		}
	}
	if st := p.Status(); len(st.Warnings) != 1 || st.Warnings[0].Code != "seeder-silent" || st.Seeders[0].Reachable {
		t.Errorf("status: %+v, %+v", st.Seeders, st.Warnings)
	}
}

// contract 11: a seeder that says yes to whatever it is asked, and then nothing,
// seems to be at work. It leaves time for the upstream all the same.
func TestSeederSaysYes(t *testing.T) {
	b := newBench(t)
	b.up.AddImage("lab/app", "v1", 1000)
	hang := &silent{to: b.seeder.URL, yes: true}
	front := hang.start(t)
	p := b.peer(func(c *config.Peerd) { c.Seeders = []string{front} })
	hang.set(true)
	p.get(manifestPath("v1"), 200)
}

// Several seeders: the second answers where the first is gone.
func TestSecondSeeder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.up.AddImage("lab/app", "v1", 1000)
	first := *b
	first.sc = b.sc
	first.sc.Common = daemontest.Common(t, b.sc.Common)
	first.startSeeder()
	p := b.peer(func(c *config.Peerd) { c.Seeders = []string{first.seeder.URL, b.seeder.URL} })
	first.seeder.Stop()
	b.up.ResetCounts()
	if r := p.get(manifestPath("v1"), 200); r.Took > time.Second {
		t.Errorf("took %v", r.Took)
	}
	for _, r := range b.up.Requests() {
		if !strings.HasPrefix(r.UserAgent, "samara-seeder/") {
			t.Errorf("the upstream was asked by %s", r.UserAgent)
		}
	}
}

// contract 14: bytes that cannot be had in mid-body end it with a FIN short of
// its length, and the digest is 404 for a while.
func TestCutBody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	const size = 24 * mib // too large to be proved first
	img := b.up.AddImage("lab/app", "v1", size)
	layer := img.Layers[0]
	b.up.SetFault(layer.String(), upstreamtest.Fault{Corrupt: true, Rate: 24 * mib})
	n, err := raw(t, p.c.Listen, blobPath(layer))
	if err != nil {
		t.Errorf("the body ended with %v, not with a FIN", err)
	}
	if n >= size {
		t.Errorf("%d bytes came", n)
	}
	if n == 0 {
		t.Error("not a byte came: nothing was cut")
	}
	b.up.ClearFaults()
	r, err := daemontest.Get(p.URL+blobPath(layer), "Range: bytes=1000-")
	if err != nil || r.Status != 404 {
		t.Errorf("the resume after %d bytes: %+v, %v", n, r, err)
	}
}

// contract 15: requests under way may finish; after the grace they are cut with
// a FIN.
func TestShutdown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		grace time.Duration
		whole bool
	}{{"within the grace", 10 * time.Second, true}, {"cut", 200 * time.Millisecond, false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			p := b.peer(func(c *config.Peerd) { c.ShutdownGrace = test.grace })
			img := b.up.AddImage("lab/app", "v1", 16*mib)
			p.get(manifestPath("v1"), 200)
			b.up.SetFault(img.Layers[0].String(), upstreamtest.Fault{Rate: 8 * mib})
			type result struct {
				n   int64
				err error
			}
			got := make(chan result, 1)
			asked := p.Status().Clients.Requests
			go func() {
				n, err := raw(t, p.c.Listen, blobPath(img.Layers[0]))
				got <- result{n, err}
			}()
			p.Until("reading", func() error {
				for _, bl := range p.Status().Blobs {
					if bl.Readers > 0 && bl.Have > 0 {
						return nil
					}
				}
				if asked != p.Status().Clients.Requests {
					return nil // it was too fast
				}
				return errNotYet
			})
			p.Interrupt()
			r := <-got
			if r.err != nil || (r.n == 16*mib) != test.whole {
				t.Errorf("%d bytes, then %v", r.n, r.err)
			}
			if err := p.Wait(); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
}

// contract 18: verified pieces survive a client that leaves, and a restart.
func TestPiecesSurvive(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	img := b.up.AddImage("lab/app", "v1", 4*mib)
	p.image("v1", img)
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	b.seeder.Stop()
	b.up.Close()
	p.start()
	p.image("v1", img) // a stale tag, and blobs from the store
}

// contract 19: layers are fetched on first sight of their manifest; of an index
// nothing is, and who only looks has nothing fetched.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	amd := b.up.AddPlatformImage("lab/app", "amd", "linux", "amd64", 2*mib, 1000)
	arm := b.up.AddPlatformImage("lab/app", "", "linux", "arm64", 2000)
	b.up.AddIndex("lab/app", "v1", amd, arm)
	p.get(manifestPath("v1"), 200)
	if r, err := daemontest.Head(p.URL + manifestPath("amd")); err != nil || r.Status != 200 {
		t.Fatalf("%+v, %v", r, err)
	}
	if st := p.Status(); st.Store.Complete+st.Store.Partial > 2 { // index and manifest
		t.Errorf("looking has fetched something: %+v", st.Store)
	}
	if n := b.up.Count("", "/blobs/"); n != 0 {
		t.Errorf("%d blob requests", n)
	}
	p.get(manifestPath(amd.Digest.String()), 200)
	p.Until("prefetched", func() error {
		if n := p.Status().Store.Complete; n < 5 { // and two layers and the config
			return fmt.Errorf("%d blobs", n)
		}
		return nil
	})
	if n := b.up.Count("", arm.Digest.String()) + b.up.Count("", arm.Layers[0].String()); n != 0 {
		t.Errorf("%d requests for the other platform", n)
	}
	b.up.ResetCounts()
	for _, d := range append(amd.Layers, amd.Config) {
		p.blob(d)
	}
	if n := len(b.up.Requests()); n != 0 {
		t.Errorf("%d requests to the upstream after the prefetch", n)
	}
}

// Foreign layers are left to the client.
func TestForeignLayer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	foreign := digest.FromString("somewhere else")
	config := b.up.AddBlob([]byte("{}"))
	b.up.AddManifest("lab/app", "win", ocispec.MediaTypeImageManifest, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},
		"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":5}]}`, ocispec.MediaTypeImageManifest, config, foreign))
	p.get(manifestPath("win"), 200)
	p.blob(config)
	if n := b.up.Count("", foreign.String()); n != 0 {
		t.Errorf("%d requests for a foreign layer", n)
	}
	p.get(blobPath(foreign), 404)
}

// contract 20: three ways to name an upstream. docker and podman name none for
// blobs and manifests by digest. contract 21: none of them is dialled.
func TestNaming(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	img := b.up.AddImage("lab/app", "v1", 1000)
	nginx := b.up.AddImage("library/nginx", "v1", 2000)
	dialled := &silent{}
	evil := strings.TrimPrefix(dialled.start(t), "http://")
	for _, test := range []struct {
		path string
		code int
	}{
		{"/v2/lab/app/manifests/v1", 200},
		{"/v2/lab/app/manifests/v1?ns=up.test", 200},
		{"/v2/up.test/lab/app/manifests/v1", 200},
		{"/v2/UP.test:443/lab/app/manifests/v1", 200},
		{"/v2/up.test/lab/app/blobs/" + img.Layers[0].String(), 200},
		{"/v2/nginx/manifests/v1?ns=registry-1.docker.io", 200},
		{"/v2/library/nginx/manifests/" + nginx.Digest.String(), 200}, // of docker.io, which is not the default
		{"/v2/library/nginx/blobs/" + nginx.Layers[0].String(), 200},
		{"/v2/lab/app/manifests/v1?ns=" + evil, 404},
		{"/v2/" + evil + "/lab/app/manifests/v1", 404},
	} {
		p.get(test.path, test.code)
	}
	if n := dialled.count(); n != 0 {
		t.Errorf("%d connections to a host that a client named", n)
	}
}

// contract 22: no tag without asking, but while nobody answers.
func TestTags(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(nil)
	v1 := b.up.AddImage("lab/app", "latest", 1000)
	tag := func(want digest.Digest) {
		t.Helper()
		if got := p.get(manifestPath("latest"), 200).Header.Get("Docker-Content-Digest"); got != want.String() {
			t.Errorf("latest is %s, want %s", got, want)
		}
	}
	tag(v1.Digest)
	v2 := b.up.AddImage("lab/app", "latest", 2000)
	tag(v2.Digest)
	b.up.SetFault("latest", upstreamtest.Fault{Status: 404})
	p.get(manifestPath("latest"), 404)
	b.up.ClearFaults()
	tag(v2.Digest)
	b.seeder.Stop()
	b.up.AddImage("lab/app", "latest", 3000)
	b.up.SetFault("*", upstreamtest.Fault{Status: 401}) // a peerd has no credentials of its own
	tag(v2.Digest)
}

// open begins a request whose body the test reads.
func open(t *testing.T, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 {
		t.Fatalf("GET %s: %s", url, resp.Status)
	}
	return resp
}

// raw reads a response on a bare connection and counts the bytes of its body;
// err is nil for a FIN.
func raw(t *testing.T, addr, path string) (int64, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(daemontest.Patience)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n", path); err != nil {
		return 0, err
	}
	var n int64
	var head []byte
	buf := make([]byte, 64<<10)
	inBody := false
	for {
		k, err := c.Read(buf)
		if inBody {
			n += int64(k)
		} else if head = append(head, buf[:k]...); bytes.Contains(head, []byte("\r\n\r\n")) {
			inBody = true
			line, _, _ := strings.Cut(string(head), "\r\n")
			_, body, _ := bytes.Cut(head, []byte("\r\n\r\n"))
			if !strings.HasPrefix(line, "HTTP/1.1 200") {
				t.Logf("%s: %s", path, line)
				body = nil
			}
			n = int64(len(body))
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
