package canary

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// further fails a test when a request for a canary goes further.
type further struct{ asked []string }

var errFurther = errors.New("further")

func (f *further) note(n registry.Name) error {
	f.asked = append(f.asked, n.String())
	return errFurther
}
func (f *further) Manifest(_ context.Context, r registry.Request) (*registry.Manifest, error) {
	return nil, f.note(r.Name)
}
func (f *further) Blob(_ context.Context, r registry.Request) (registry.Blob, error) {
	return registry.Blob{}, f.note(r.Name)
}
func (f *further) Tags(_ context.Context, n registry.Name, _ int, _ string) ([]string, error) {
	return nil, f.note(n)
}
func (f *further) Referrers(_ context.Context, r registry.Request, _ string) ([]registry.Descriptor, error) {
	return nil, f.note(r.Name)
}

func call(t *testing.T, h http.Handler, method, path string, want int) Canary {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	if w.Code != want {
		t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, want)
	}
	var c Canary
	if want < 300 {
		if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// A canary is pulled from the mirror's handler at any upstream that it knows, and
// who asked is told.
func TestPull(t *testing.T) {
	var c Canaries
	next := &further{}
	resolver, err := registry.NewResolver([]string{"docker.io", "ghcr.io"}, "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	b := c.Wrap(next)
	mirror := httptest.NewServer(registry.NewHandler(b, registry.HandlerOptions{Resolver: resolver, NotFoundOnly: true, Referrers: b}))
	defer mirror.Close()
	h := c.Handler()
	made, other := call(t, h, "POST", Path, 201), call(t, h, "POST", Path, 201)
	if made.Digest == other.Digest {
		t.Fatal("two canaries are the same")
	}
	get := func(path string, want int) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, mirror.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("User-Agent", "containerd/9")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("GET %s: %d, %v; want %d", path, resp.StatusCode, err, want)
		}
		return body
	}
	base := "/v2/" + Repository
	for _, path := range []string{"/manifests/" + made.Digest.String() + "?ns=ghcr.io", "/manifests/" + made.Digest.String()} {
		var m ocispec.Manifest
		if err := json.Unmarshal(get(base+path, 200), &m); err != nil || len(m.Layers) != 1 {
			t.Fatalf("%+v, %v", m, err)
		}
		for _, d := range []ocispec.Descriptor{m.Config, m.Layers[0]} {
			if body := get(base+"/blobs/"+d.Digest.String()+"?ns=ghcr.io", 200); d.Digest.Algorithm().FromBytes(body) != d.Digest || int64(len(body)) != d.Size {
				t.Errorf("%s: other bytes", d.Digest)
			}
		}
	}
	got := call(t, h, "GET", Path+"/"+made.Digest.String(), 200)
	if len(got.Seen) != 6 || !got.Pulled() || got.Seen[0].Upstream != "ghcr.io" || got.Seen[3].Upstream != "docker.io" || got.Seen[0].UserAgent != "containerd/9" || got.Seen[1].What != "blob" {
		t.Errorf("seen %+v", got.Seen)
	}
	if got := call(t, h, "GET", Path+"/"+other.Digest.String(), 200); len(got.Seen) != 0 || got.Pulled() {
		t.Errorf("another canary was seen %+v", got.Seen)
	}
	call(t, h, "GET", Path+"/sha256:none", 404)

	// Nothing of the reserved repository goes further; all else does.
	none := other.Digest[:len(other.Digest)-4] + "0000"
	for _, path := range []string{"/manifests/latest", "/manifests/" + none.String(), "/blobs/" + none.String(), "/tags/list", "/referrers/" + made.Digest.String()} {
		get(base+path, 404)
	}
	if len(next.asked) != 0 {
		t.Errorf("asked for %v", next.asked)
	}
	get("/v2/library/alpine/manifests/latest", 404)
	if len(next.asked) != 1 {
		t.Errorf("asked for %v", next.asked)
	}
}

// Canaries are few, and forgotten.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Canaries
		h := c.Handler()
		for range maxLive {
			call(t, h, "POST", Path, 201)
		}
		call(t, h, "POST", Path, 429)
		timer := time.NewTimer(lifetime + time.Second)
		<-timer.C
		call(t, h, "POST", Path, 201)
		if len(c.list) != 1 {
			t.Errorf("%d left", len(c.list))
		}
	})
}
