package mirror

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/internal/prewarm"
)

// orderer is what makes a bench's seeder reachable for operators.
func orderer(t *testing.T, c *config.Seeder) *admin.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // its path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c.AdminSocket = filepath.Join(dir, "admin.sock")
	return admin.AtSocket(c.AdminSocket)
}

// give gives an order and waits for it to be in a state.
func give(t *testing.T, c *admin.Client, r prewarm.Request, state string) prewarm.Order {
	t.Helper()
	var o prewarm.Order
	if err := c.Call(t.Context(), "POST", "/prewarm/orders", r, &o); err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "GET", "/prewarm/orders/"+o.ID+"?wait=30", nil, &o); err != nil || o.State != state {
		t.Fatalf("%+v, %v; want %s", o, err, state)
	}
	return o
}

// What is prewarmed is there for pulls when neither seeder nor upstream is. It
// opens nothing: a private image is still for those who show that they may have it.
func TestPrewarm(t *testing.T) {
	var ops *admin.Client
	b := newPrivateBench(t, func(c *config.Seeder) { ops = orderer(t, c) })
	h, other := b.peer(nil), b.peer(nil)
	o := give(t, ops, prewarm.Request{Images: []string{"lab/app:v1", upName + "/lab/secret:v1"}, Target: prewarm.Target{All: true}, Rate: 8 * mib}, prewarm.Done)
	if o.HostsDone != 2 || o.Images[0].Digest != b.open.Digest || o.Hosts[0].ImagesDone != 2 || o.Hosts[0].Bytes != o.Hosts[0].BytesTotal || o.Hosts[0].Bytes < 4*mib {
		t.Errorf("%+v", o)
	}
	for _, layer := range append(b.open.Layers, b.closed.Layers...) {
		if n := b.up.BytesServed(layer); n != int64(len(b.up.Blob(layer))) {
			t.Errorf("%d bytes of %s left the upstream", n, layer)
		}
	}
	login := h.login(secretTag, "ops", secretPassword)
	for _, p := range []*host{h, other} {
		for _, path := range append(paths(b.closed), foreign(b.closed)...) {
			if r, err := daemontest.Get(p.URL + path); err != nil || r.Status != 401 && r.Status != 404 {
				t.Errorf("%s without a token: %+v, %v", path, r, err)
			}
		}
	}
	h.get("/v2/lab/secret/blobs/"+b.closed.Layers[0].String(), 200, login)
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	b.up.Close()
	h.image("v1", b.open)
	other.image(b.open.Digest.String(), b.open)
}

// A host that must not, or has no room, says so; one that was away, or has
// forgotten, is told again.
func TestPrewarmRefused(t *testing.T) {
	b := newBench(t)
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	ops := orderer(t, &b.sc)
	b.startSeeder()
	img := b.up.AddImage("lab/app", "v1", 3*mib, 1000)
	b.peer(func(c *config.Peerd) { c.PrewarmShare = 0 })
	small := b.peer(func(c *config.Peerd) { c.Quota = 4 * mib })
	o := give(t, ops, prewarm.Request{Images: []string{"lab/app:v1", "lab/none:v1"}, Target: prewarm.Target{All: true}}, prewarm.Failed)
	if o.HostsFailed != 2 || o.Images[1].Error == "" {
		t.Errorf("%+v", o)
	}
	for _, h := range o.Hosts {
		if h.State != prewarm.Refused || h.Error == "" {
			t.Errorf("%+v", h)
		}
	}
	small.image("v1", img) // a pull is no prewarm

	late := b.config()
	p := &host{b: b, t: t, c: late}
	p.start()
	p.joined(1)
	p.Until("prewarmed late", func() error {
		var o prewarm.Order
		if err := ops.Call(t.Context(), "GET", "/prewarm/orders/1", nil, &o); err != nil {
			return err
		}
		if o.HostsDone != 1 || o.HostsTotal != 3 {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ordersFile(late.Data)); err != nil {
		t.Error(err)
	}
	p.start()
	p.joined(1)
	p.image("v1", img)
}

// What was prewarmed goes last, within the share of prewarms.
func TestPrewarmedGoesLast(t *testing.T) {
	var ops *admin.Client
	b := newBench(t)
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	ops = orderer(t, &b.sc)
	b.startSeeder()
	ahead := b.up.AddImage("lab/app", "ahead", 3*mib)
	h := b.peer(func(c *config.Peerd) { c.Quota = 10 * mib })
	give(t, ops, prewarm.Request{Images: []string{"lab/app:ahead"}, Target: prewarm.Target{Hosts: 1}, By: time.Now().Add(time.Hour)}, prewarm.Done)
	first := b.up.AddImage("lab/app", "v0", 3*mib+7)
	h.image("v0", first)
	for i := range 3 {
		tag := fmt.Sprintf("v%d", i+1)
		h.image(tag, b.up.AddImage("lab/app", tag, 3*mib+i+1))
	}
	before := h.Status().Bytes
	h.image("ahead", ahead)
	if after := h.Status().Bytes; after.FromSeeder != before.FromSeeder || after.FromUpstream != before.FromUpstream {
		t.Errorf("it had to be fetched again: %+v, before %+v", after, before)
	}
	h.image("v0", first)
	if after := h.Status().Bytes; after.FromSeeder == before.FromSeeder {
		t.Error("nothing was evicted: this test shows nothing")
	}
}
