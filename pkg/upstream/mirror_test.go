package upstream

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// Mirrors are asked first, in order; what they do not give the upstream is
// asked for.
func TestMirrors(t *testing.T) {
	virtually(t, func(o *Options) {
		o.Keychain = keys{"up.test": authn.AuthConfig{Username: "u", Password: "p"}}
	}, func(t *testing.T, b *bench) {
		one, two := upstreamtest.New(), upstreamtest.New()
		t.Cleanup(one.Close)
		t.Cleanup(two.Close)
		b.serve("one.test:80", one)
		b.serve("two.test:80", two)
		b.up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "p"})
		if err := b.client.Update([]Registry{{Name: "up", URL: "http://up.test", Mirrors: []string{"http://one.test", "http://two.test"}}}); err != nil {
			t.Fatal(err)
		}
		b.up.AddImage("a/b", "v1", 10)
		large, content := b.up.AddRandomBlob(1000)
		if _, err := b.client.Manifest(t.Context(), "up", "a/b", "v1", nil); err != nil {
			t.Errorf("only the upstream has it: %v", err)
		}
		if got, err := readAll(t, b, large, 0, -1); err != nil || string(got) != string(content) {
			t.Errorf("blob: %v", err)
		}
		for who, s := range map[string]*upstreamtest.Server{"one": one, "two": two} {
			if n := s.Count(http.MethodGet, "/v2/a/b"); n != 2 {
				t.Errorf("%s was asked %d times, want 2", who, n)
			}
			for _, r := range s.Requests() {
				if r.Authorization != "" {
					t.Errorf("%s was sent the upstream's credentials", who)
				}
			}
		}
		b.up.ResetCounts()
		two.AddImage("a/b", "v2", 10)
		if _, err := b.client.Head(t.Context(), "up", "a/b", "v2"); err != nil || len(b.up.Requests()) != 0 {
			t.Errorf("the second mirror has it: %v, %d requests to the upstream", err, len(b.up.Requests()))
		}
		_, err := b.client.Manifest(t.Context(), "up", "a/b", "none", nil)
		wantKind(t, err, NotFound)

		// One that hangs is passed over once its breaker is open.
		one.SetFault("*", fault{Hang: true})
		one.SetFault("v2", fault{Hang: true})
		for i, want := range []time.Duration{10 * time.Second, 0} {
			began := time.Now()
			if _, err := b.client.Manifest(t.Context(), "up", "a/b", "v1", nil); err != nil || time.Since(began) != want {
				t.Errorf("request %d: %v after %v, want %v", i, err, time.Since(began), want)
			}
		}
		if s := b.client.Stats(); len(s) != 3 || s[0].URL != "http://one.test" || s[0].Breaker != "open" || s[2].Breaker != "closed" {
			t.Errorf("%+v", s)
		}
	})
}
