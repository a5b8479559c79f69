package mirror

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/internal/visibility"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// forget stops a host and removes some of its data.
func (p *host) forget(what ...string) {
	p.t.Helper()
	if err := p.Stop(); err != nil {
		p.t.Fatal(err)
	}
	for _, w := range what {
		if err := os.RemoveAll(filepath.Join(p.c.Data, w)); err != nil {
			p.t.Fatal(err)
		}
	}
	p.start()
}

// contract 27: while neither the seeder nor the upstream can be asked, peers
// vouch for what was public; what is private stays so, and the first answer of
// somebody who can tell counts again.
func TestContract27PeersVouch(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	b.lock()
	holder, other, tagged := b.peer(nil), b.peer(nil), b.peer(nil)
	ops := holder.login(secretTag, "ops", secretPassword)
	holder.image("v1", b.open)
	for _, path := range paths(b.closed) {
		holder.get(path, 200, ops)
	}
	tagged.get(manifestPath("v1"), 200)
	other.joined(2)
	b.seeder.Stop()
	b.up.SetAuth(nil) // it does not get as far as that
	b.up.SetFault("*", upstreamtest.Fault{Drop: true})
	b.up.SetFault("v2", upstreamtest.Fault{Drop: true})

	other.image(b.open.Digest.String(), b.open)
	for _, path := range append(paths(b.closed), foreign(b.closed)...) {
		other.get(path, 404)
		other.get(path, 404, ops)
	}
	// A tag means what this host remembers; that it is public it does not.
	tagged.forget("visibility.json")
	tagged.joined(1)
	tagged.image("v1", b.open)

	// What was heard outlives who said it, and the process that heard it.
	holder.Stop()
	tagged.Stop()
	other.forget()
	other.image(b.open.Digest.String(), b.open)

	// Who can tell says that it is private now.
	b.up.ClearFaults()
	b.up.SetAuth(&upstreamtest.Auth{Bearer: true, Username: "ops", Password: secretPassword, Private: []string{"lab/app"}})
	b.startSeeder()
	other.Until("asked again", func() error {
		r, err := daemontest.Head(other.URL + blobPath(b.open.Layers[0]))
		if err == nil && r.Status != 401 {
			err = errNotYet
		}
		return err
	})
}

// contract 27: in an open swarm no peer's word counts.
func TestContract27OpenSwarm(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	img := b.up.AddImage("lab/app", "v1", 1000)
	holder, other := b.peer(nil), b.peer(nil)
	holder.image("v1", img)
	other.joined(2)
	b.seeder.Stop()
	b.up.Close()
	other.get(manifestPath(img.Digest.String()), 404)
	holder.image(img.Digest.String(), img)
}

// peersSay are peers by their word; a nil one does not answer.
type peersSay struct {
	near, far map[string]*p2p.Visibility
}

func (s *peersSay) Neighbours() (out []p2p.Neighbour) {
	for id := range s.near {
		out = append(out, p2p.Neighbour{ID: peer.ID(id)})
	}
	return out
}

func (s *peersSay) AddrInfo(p peer.ID) peer.AddrInfo { return peer.AddrInfo{ID: p} }

func (s *peersSay) Providers(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo, len(s.far))
	for id := range s.far {
		out <- peer.AddrInfo{ID: peer.ID(id)}
	}
	close(out)
	return out
}

func (s *peersSay) Visibility(ctx context.Context, to peer.AddrInfo, _ string, _ digest.Digest) (p2p.Visibility, error) {
	v, near := s.near[string(to.ID)]
	if !near {
		v = s.far[string(to.ID)]
	}
	if v == nil {
		<-ctx.Done()
		return p2p.Visibility{}, ctx.Err()
	}
	if *v == (p2p.Visibility{}) {
		return *v, errors.New("it does not know")
	}
	return *v, nil
}

// contract 27: the newest word counts, and nobody who is silent is waited for.
func TestContract27WhoseWordCounts(t *testing.T) {
	type says = map[string]*p2p.Visibility
	has := func(minutes int) *p2p.Visibility {
		return &p2p.Visibility{Public: true, Has: true, Age: time.Duration(minutes) * time.Minute}
	}
	not := func(minutes int) *p2p.Visibility { return &p2p.Visibility{Age: time.Duration(minutes) * time.Minute} }
	ignorant, silent := &p2p.Visibility{}, (*p2p.Visibility)(nil)
	lacks := &p2p.Visibility{Public: true}
	public, private := visibility.Word{Public: true, Has: true, Age: 5 * time.Minute}, visibility.Word{Age: 5 * time.Minute}
	for name, tt := range map[string]struct {
		near, far says
		want      visibility.Word
		ok        bool
	}{
		"nobody is there":                  {},
		"nobody knows":                     {near: says{"a": ignorant, "b": lacks}, far: says{"c": ignorant}},
		"a neighbour knows, one is silent": {near: says{"a": has(5), "b": silent, "c": ignorant}, want: public, ok: true},
		"who has it knows":                 {near: says{"a": ignorant, "b": lacks}, far: says{"c": has(5), "d": silent}, want: public, ok: true},
		"the newest is public":             {near: says{"a": has(5), "b": not(6)}, far: says{"c": has(7)}, want: public, ok: true},
		"the newest is private":            {near: says{"a": has(6), "b": not(5)}, far: says{"c": has(7)}, want: private, ok: true},
		"both as new":                      {near: says{"a": has(5), "b": not(5)}, want: private, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				w := &words{net: &peersSay{near: tt.near, far: tt.far}, join: func(context.Context) error { return nil }}
				got, ok := w.hear(t.Context(), registry.Name{Upstream: "up.test", Repository: "lab/app"}, digest.FromString("x"))
				if got != tt.want || ok != tt.ok || time.Since(began) > wordGrace {
					t.Errorf("%+v %v after %v", got, ok, time.Since(began))
				}
			})
		})
	}
}
