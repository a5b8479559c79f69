package mirror

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// Seeder and upstream gone, the image held by one host: another has it from
// there, found by the DHT; also when it was started only then.
func TestEverythingGone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.lock()
	holder := b.peer(nil)
	other := b.peer(nil)
	img := b.up.AddImage("lab/app", "v1", 3*mib, 1000)
	holder.image("v1", img)
	other.joined(2)
	b.seeder.Stop()
	b.up.Close()
	other.get(manifestPath("v1"), 404) // what a tag means, no peer can tell
	other.image(img.Digest.String(), img)

	late := other.c
	if err := other.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"store", "tags"} {
		if err := os.RemoveAll(filepath.Join(late.Data, dir)); err != nil {
			t.Fatal(err)
		}
	}
	other.start()
	other.image(img.Digest.String(), img) // it has seeder.json and its peers of before
}

// A peerd that is started before its seeder is not ready, and becomes so.
func TestSeederComesLater(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.up.AddImage("lab/app", "v1", 1000)
	b.seeder.Stop()
	c := b.config()
	h := &host{b: b, t: t, c: c}
	h.Daemon = daemontest.Launch(t, c.Common, func(ctx context.Context) error { return Run(ctx, c, "test") })
	h.Until("up", func() error {
		r, err := daemontest.Get(h.Admin + "/readyz")
		if err == nil && !strings.Contains(string(r.Body), "nothing can be pulled") {
			err = errNotYet
		}
		return err
	})
	h.get(manifestPath("v1"), 404)
	if st := h.Status(); len(st.Warnings) != 1 || st.Warnings[0].Code != "seeder-unreachable" || st.Seeders[0].Reachable {
		t.Errorf("%+v, %+v", st.Seeders, st.Warnings)
	}
	b.startSeeder()
	h.Until("ready", func() error {
		r, err := daemontest.Get(h.Admin + "/readyz")
		if err == nil && r.Status != 200 {
			err = errNotYet
		}
		return err
	})
	h.get(manifestPath("v1"), 200)
	if st := h.Status(); len(st.Warnings) != 0 || !st.Seeders[0].Reachable || st.Seeders[0].ID != b.seeder.Status().PeerID {
		t.Errorf("%+v, %+v", st.Seeders, st.Warnings)
	}
}

// A seeder that comes back with other upstreams: peers learn it soon.
func TestUpstreamsChange(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	h := b.peer(nil)
	b.up.AddImage("lab/app", "v1", 1000)
	h.get("/v2/lab/app/manifests/v1?ns=new.test", 404)
	b.seeder.Stop()
	b.sc.Upstreams = append(b.sc.Upstreams, config.Upstream{Name: "new.test", URL: b.up.URL()})
	b.startSeeder()
	h.Until("learned", func() error {
		r, err := daemontest.Get(h.URL + "/v2/lab/app/manifests/v1?ns=new.test")
		if err == nil && r.Status != 200 {
			err = errNotYet
		}
		return err
	})
	h.Until("remembered", func() error { // it is used first, saved then
		var saved map[string]*remembered
		content, err := os.ReadFile(filepath.Join(h.c.Data, "seeder.json"))
		if err == nil {
			err = json.Unmarshal(content, &saved)
		}
		if err == nil && len(saved[b.seeder.URL].Introduction.Upstreams) != 3 {
			err = errNotYet
		}
		return err
	})
}

// A first start that cannot work ends, and says why.
func TestStartsThatEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	key := filepath.Join(t.TempDir(), "swarm.key")
	if _, err := p2p.CreateSwarmKey(key); err != nil {
		t.Fatal(err)
	}
	b.up.AddImage("lab/app", "v1", 10)
	for _, test := range []struct {
		name   string
		change func(*config.Peerd)
		says   string
	}{
		{"a registry is no seeder", func(c *config.Peerd) { c.Seeders = []string{b.up.URL()} }, "is --seeder the URL of a seeder's registry API?"},
		{"a swarm key where the seeder has none", func(c *config.Peerd) { c.OpenSwarm, c.SwarmKey = false, key }, "or both with --open-swarm"},
		{"another seeder than pinned", func(c *config.Peerd) { c.SeederID = idA }, "as --seeder-id says"},
		{"neither key nor open swarm", func(c *config.Peerd) { c.OpenSwarm = false }, "neither --swarm-key nor --open-swarm"},
		{"no swarm key in the file", func(c *config.Peerd) { c.OpenSwarm, c.SwarmKey = false, os.Args[0] }, "swarm key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := b.config()
			test.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := Run(ctx, c, "test")
			if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}
