package lab

import (
	"context"
	"testing"
	"time"
)

// What Samara is compared with must be what it is meant to be: a cache that asks
// the upstream for nothing it holds. docker-registry 2.8 fetches each blob twice at
// first, once for the client and once for its store, a moment later.
func TestCachesHold(t *testing.T) {
	for _, c := range []struct {
		name    string
		missing func() error
		start   func(context.Context, *Host, string) (*Cache, error)
	}{
		{"docker-registry", MissingRegistry, StartRegistryProxy},
		{"nginx", MissingNginx, StartNginxCache},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.missing(); err != nil {
				t.Skip(err)
			}
			if err := MissingRegistry(); err != nil {
				t.Skip(err)
			}
			l := ForTest(t, Options{Rate: -1})
			ctx := testContext(t, time.Minute)
			up, img := startUpstream(ctx, t, l)
			cache, err := c.start(ctx, newHost(t, l, "cache", 0), up.URL)
			if err != nil {
				t.Fatal(err)
			}
			client := newHost(t, l, "client", 0)
			const most = 5
			sent := 1.0 // images that left the upstream for one pull
			for i := 0; i < most && sent > 0.02; i++ {
				before, err := l.Traffic()
				if err != nil {
					t.Fatal(err)
				}
				p := &HTTPPuller{Client: client.HTTPClient(), Mirror: cache.URL}
				rep, err := p.Pull(ctx, "lab/app", "v1")
				p.Client.CloseIdleConnections()
				if err != nil {
					t.Fatalf("%v\n%s", err, cache.Tail(20))
				}
				if rep.Digest != img.Digest() {
					t.Fatalf("pulled %s, want %s", rep.Digest, img.Digest())
				}
				after, err := l.Traffic()
				if err != nil {
					t.Fatal(err)
				}
				sent = float64(after.Since(before)["upstream"].SentPayload()) / float64(img.Size())
			}
			if sent > 0.02 {
				t.Errorf("pull %d still took %.3f images from the upstream", most, sent)
			}
		})
	}
}
