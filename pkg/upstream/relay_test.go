package upstream

import (
	"net/http"
	"testing"
	"time"
)

// That a seeder does not have something is the upstream's word; that whatever
// answers in its place does not is nobody's.
func TestRelayThatIsNone(t *testing.T) {
	for registry, kind := range map[bool]Kind{true: NotFound, false: Unavailable} {
		virtually(t, nil, func(t *testing.T, b *bench) {
			b.serve("front.test:80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if registry {
					w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
				}
				w.WriteHeader(http.StatusNotFound)
			}))
			if err := b.client.Update([]Registry{{Name: "up", URL: "http://front.test", NS: "up"}}); err != nil {
				t.Fatal(err)
			}
			_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
			wantKind(t, err, kind)
			if _, err := b.client.Blob(t.Context(), "up", "a/b", b.up.AddBlob([]byte("x")), 0, -1); KindOf(err) != kind {
				t.Errorf("blob: %v", err)
			}
		})
	}
}

// A seeder has tried already: its failures come back at once, and hold up
// nothing else.
func TestRelayFailuresAreFinal(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		img := b.up.AddImage("a/b", "1", 100)
		b.up.AddImage("a/b", "2", 100)
		if err := b.client.Update([]Registry{{Name: "up", URL: "http://up.test", NS: "up"}}); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			fault fault
			kind  Kind
		}{
			{fault{Status: 503, RetryAfter: "30"}, Unavailable},
			{fault{Status: 429, RetryAfter: "30"}, RateLimited},
			{fault{Status: 429}, RateLimited},
			{fault{Status: 502}, Unavailable},
		} {
			b.up.SetFault("1", test.fault)
			b.up.ResetCounts()
			began := time.Now()
			_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
			wantKind(t, err, test.kind)
			if _, err := b.client.Manifest(t.Context(), "up", "a/b", "2", nil); err != nil {
				t.Errorf("%+v: another tag: %v", test.fault, err)
			}
			if _, err := b.client.BlobSize(t.Context(), "up", "a/b", img.Config); err != nil {
				t.Errorf("%+v: a blob: %v", test.fault, err)
			}
			if n, took := len(b.up.Requests()), time.Since(began); n != 3 || took > 0 {
				t.Errorf("%+v: %d requests in %v, want 3 at once", test.fault, n, took)
			}
		}
	})
}
