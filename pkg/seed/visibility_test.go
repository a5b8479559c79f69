package seed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// asks has the seeder say whether anybody may have what a path names.
func (b *bench) asks(path string, status int, said string) {
	b.t.Helper()
	r, err := daemontest.Head(b.URL+path, upstream.VisibilityHeader+": "+upstream.AskVisibility)
	if err != nil {
		b.t.Fatal(err)
	}
	if got := r.Header.Get(upstream.VisibilityHeader); r.Status != status || got != said {
		b.t.Errorf("%s: %d %q, want %d %q", path, r.Status, got, status, said)
	}
}

// contract 27: peers learn from their seeder what is public at its upstream,
// however much it can read there itself, and through other seeders.
func TestContract27Visibility(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("ops:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	far := newBench(t, func(c *config.Seeder) { c.Upstreams[0].CredentialsFile = file })
	far.up.Scope()
	far.up.SetAuth(&upstreamtest.Auth{Bearer: true, Username: "ops", Password: "secret", Private: []string{"lab/secret"}})
	open, closed := far.up.AddImage("lab/app", "v1", 1000), far.up.AddImage("lab/secret", "v1", 1000)
	near := newBench(t, func(c *config.Seeder) {
		c.Upstreams = []config.Upstream{{Name: upName, URL: far.URL, Seeder: true}}
	})
	far.get("/v2/lab/secret/manifests/v1", 200)
	far.get("/v2/lab/secret/blobs/"+closed.Layers[0].String(), 200)
	for _, b := range []*bench{far, near} {
		for range 2 {
			b.asks("/v2/lab/app/manifests/v1", 200, "public")
			b.asks("/v2/lab/app/manifests/"+open.Digest.String(), 200, "public")
			b.asks("/v2/lab/app/blobs/"+open.Layers[0].String()+"?ns="+upName, 200, "public")
			b.asks("/v2/lab/app/tags/list", 200, "public")
			b.asks("/v2/lab/secret/manifests/v1", 200, "private")
			b.asks("/v2/lab/secret/blobs/"+closed.Layers[0].String(), 200, "private")
			b.asks("/v2/lab/app/blobs/"+closed.Layers[0].String(), 404, "")
			b.asks("/v2/lab/app/manifests/v2", 200, "public") // whoever asks for it will hear that it is not there
			b.asks("/v2/other.test/lab/app/manifests/v1", 404, "")
		}
	}
	// One question per repository, one per digest.
	anonymous := 0
	for _, r := range far.up.Requests() {
		if strings.HasPrefix(r.Path, "/v2/lab/app/manifests/v1") && r.Method == "HEAD" {
			anonymous++
		}
	}
	if anonymous > 3 { // 401, 200; and one of near's through far has none of its own
		t.Errorf("%d HEADs of a tag", anonymous)
	}
	far.up.Close()
	far.restart()
	far.asks("/v2/lab/app/manifests/v1", 200, "public") // it was lately
}

// contract 27: a seeder that serves only who logs in tells nobody else.
func TestVisibilityIsGuarded(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) { c.Allow = []string{"anyone pull up.test/lab/app"} })
	b.up.AddImage("lab/app", "v1", 1000)
	b.up.AddImage("lab/other", "v1", 1000)
	b.asks("/v2/lab/app/manifests/v1", 200, "public")
	b.asks("/v2/lab/other/manifests/v1", 401, "")
}

// What is offline is for everybody who may pull it here.
func TestVisibilityOffline(t *testing.T) {
	b := newBench(t, nil)
	b.up.Scope()
	img := b.up.AddImage("lab/app", "v1", 1000)
	b.get("/v2/lab/app/manifests/v1", 200)
	b.get("/v2/lab/app/blobs/"+img.Layers[0].String(), 200)
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.c.Data, "visibility.json")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	b.c.Offline = true
	b.start()
	b.asks("/v2/lab/app/manifests/v1", 200, "public")
	b.asks("/v2/lab/app/manifests/"+img.Digest.String(), 200, "public")
	b.asks("/v2/lab/app/blobs/"+img.Layers[0].String(), 200, "public")
	b.asks("/v2/lab/new/blobs/"+img.Layers[0].String(), 503, "")
}
