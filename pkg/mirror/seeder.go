package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// How often the seeders are asked who they are: soon again after a failure,
// now and then afterwards, since upstreams may be added.
const (
	refreshMin   = time.Second
	refreshMax   = 30 * time.Second
	refreshEvery = 5 * time.Minute
)

// acquaintance is what this peerd knows of its seeders: whose signatures it
// believes, where they are, which upstreams they stand for. It is kept in
// DATA/seeder.json for the day no seeder answers.
type acquaintance struct {
	c      config.Peerd
	d      *daemon.Daemon
	seeder *upstream.Client
	file   string

	mu   sync.Mutex
	urls map[string]*known
}

// known is one seeder.
type known struct {
	Introduction *daemon.Introduction `json:"introduction"`
	err          error                // of the last attempt
	said         string               // the error that was logged last
}

func newAcquaintance(c config.Peerd) *acquaintance {
	a := &acquaintance{c: c, urls: make(map[string]*known)}
	for _, u := range c.Seeders {
		a.urls[u] = &known{}
	}
	a.file = filepath.Join(c.Data, "seeder.json")
	a.load()
	return a
}

// load reads what an earlier process learned. It runs before anything else,
// since the store asks whose signatures count.
func (a *acquaintance) load() {
	b, err := os.ReadFile(a.file)
	if err != nil {
		return // the first start, or the data directory is reported unreadable later
	}
	var saved map[string]*known
	if json.Unmarshal(b, &saved) != nil {
		return // asked for anew
	}
	for u, k := range saved {
		if cur := a.urls[u]; cur != nil && k != nil && k.Introduction != nil {
			cur.Introduction = k.Introduction
		}
	}
}

func (a *acquaintance) open(d *daemon.Daemon, seeder *upstream.Client) error {
	a.d, a.seeder = d, seeder
	return a.apply()
}

// trusts tells whether p is one of our seeders.
func (a *acquaintance) trusts(p peer.ID) bool {
	if a.c.SeederID != "" {
		return p.String() == a.c.SeederID
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.urls {
		if k.Introduction != nil && k.Introduction.PeerID == p.String() {
			return true
		}
	}
	return false
}

// any tells whether a seeder is known, from now or from earlier.
func (a *acquaintance) any() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.urls {
		if k.Introduction != nil {
			return true
		}
	}
	return false
}

// keepFresh asks the seeders again and again until ctx ends.
func (a *acquaintance) keepFresh(ctx context.Context) {
	pause := refreshMin
	for len(a.c.Seeders) > 0 {
		if a.allFine() {
			pause = refreshEvery
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if a.refresh(ctx) != nil {
			pause = min(2*pause, refreshMax)
		}
	}
}

func (a *acquaintance) allFine() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.urls {
		if k.err != nil || k.Introduction == nil {
			return false
		}
	}
	return true
}

// refresh asks every seeder once. The error is that of the last one that did
// not answer as it should.
func (a *acquaintance) refresh(ctx context.Context) error {
	var last error
	changed := false
	for _, u := range a.c.Seeders {
		in, err := daemon.Introduce(ctx, u)
		if err == nil {
			err = a.check(u, in)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.mu.Lock()
		k := a.urls[u]
		k.err = err
		if err == nil {
			changed = changed || k.Introduction == nil || !same(k.Introduction, in)
			k.Introduction, k.said = in, ""
			a.mu.Unlock()
			continue
		}
		fresh := k.said != err.Error()
		k.said = err.Error()
		a.mu.Unlock()
		last = err
		if fresh && a.d != nil {
			a.d.Log.Error("a seeder cannot be used; trying again", zap.String("url", u), zap.Error(err),
				zap.String("remedy", "check that --seeder is the URL of a running seeder's registry API and that this host reaches it"))
		}
	}
	if changed {
		if err := a.apply(); err != nil {
			a.d.Log.Error("what the seeder said cannot be used", zap.Error(err))
			return err
		}
		a.save()
	}
	return last
}

// check compares an introduction with what this peerd was told to expect.
func (a *acquaintance) check(url string, in *daemon.Introduction) error {
	if a.c.SeederID != "" && in.PeerID != a.c.SeederID {
		return fmt.Errorf("the seeder at %s is %s, not %s as --seeder-id says; if it was set up anew, give its new ID", url, in.PeerID, a.c.SeederID)
	}
	ours := ""
	if a.d.PSK != nil {
		ours = p2p.Fingerprint(a.d.PSK)
	}
	switch {
	case ours == in.SwarmKey:
		return nil
	case ours == "":
		return fmt.Errorf("the seeder at %s is in a swarm with a key (fingerprint %s), this peerd in an open one; copy the seeder's swarm.key here and name it with --swarm-key", url, in.SwarmKey)
	case in.SwarmKey == "":
		return fmt.Errorf("the seeder at %s is in an open swarm, this peerd in one with a key (fingerprint %s); start both with the same --swarm-key or both with --open-swarm", url, ours)
	}
	return fmt.Errorf("wrong swarm key: the seeder at %s has the one with fingerprint %s, this peerd %s; copy the seeder's swarm.key here and name it with --swarm-key", url, in.SwarmKey, ours)
}

func same(a, b *daemon.Introduction) bool {
	x, errx := json.Marshal(a)
	y, erry := json.Marshal(b)
	return errx == nil && erry == nil && string(x) == string(y)
}

// apply puts what is known to use: peers to connect to, upstreams to serve.
// Upstreams given by --upstream go before those of a seeder.
func (a *acquaintance) apply() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := append([]config.Upstream(nil), a.c.Upstreams...)
	have := make(map[string]bool)
	for _, u := range list {
		have[u.Name] = true
	}
	def := a.c.DefaultUpstream
	var via []upstream.Registry
	viaHave := make(map[string]bool)
	var errs []error
	for _, url := range a.c.Seeders {
		in := a.urls[url].Introduction
		if in == nil {
			continue
		}
		if ai, err := in.AddrInfo(); err == nil {
			a.d.Node.AddBootstrap(ai)
		}
		if def == "" {
			def = in.Default
		}
		for _, u := range in.Upstreams {
			if !have[u.Name] {
				have[u.Name] = true
				list = append(list, config.Upstream{Name: u.Name, URL: u.URL})
			}
			if !viaHave[u.Name] {
				viaHave[u.Name] = true
				via = append(via, upstream.Registry{Name: u.Name, URL: url, NS: u.Name})
			}
		}
	}
	var direct []upstream.Registry
	var names []string
	for _, u := range list {
		direct = append(direct, upstream.Registry{Name: u.Name, URL: u.URL})
		names = append(names, u.Name)
	}
	errs = append(errs, a.d.Upstream.Update(direct), a.seeder.Update(via),
		a.d.Resolver.Update(names, config.DefaultOf(list, def)))
	return errors.Join(errs...)
}

// save keeps what is known for the next start.
func (a *acquaintance) save() {
	a.mu.Lock()
	b, err := json.MarshalIndent(a.urls, "", "  ")
	a.mu.Unlock()
	if err == nil {
		err = renameio.WriteFile(a.file, append(b, '\n'), 0o600)
	}
	if err != nil {
		a.d.Log.Warn("cannot keep what the seeder said; without it this peerd needs the seeder at its next start",
			zap.String("file", a.file), zap.Error(err))
	}
}

// status adds the seeders to the status page.
func (a *acquaintance) status(st *status.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, u := range a.c.Seeders {
		k := a.urls[u]
		s := status.Seeder{URL: u, Reachable: k.err == nil && k.Introduction != nil}
		if k.Introduction != nil {
			s.ID = k.Introduction.PeerID
		}
		if k.err != nil {
			s.LastError = k.err.Error()
			st.Warnings = append(st.Warnings, status.Warning{Code: "seeder-unreachable", Text: k.err.Error(),
				Remedy: "pulls go on from peers and upstreams; start the seeder, or mend --seeder"})
		}
		st.Seeders = append(st.Seeders, s)
	}
}
