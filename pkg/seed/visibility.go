package seed

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/visibility"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// openVisibility makes what peers ask whether anybody may have content: they
// get it with this seeder's credentials, and their clients have none.
func openVisibility(d *daemon.Daemon, c config.Seeder) *visibility.Public {
	return visibility.NewPublic(visibility.Options{
		Ask: func(ctx context.Context, n registry.Name, t upstream.Target) error {
			return d.Upstream.Public(ctx, n.Upstream, n.Repository, t)
		},
		Seen: func(n registry.Name) time.Time { return d.Upstream.PublicAt(n.Upstream, n.Repository) },
		Has: func(n registry.Name, dg digest.Digest) bool {
			in, err := d.Store.Stat(dg)
			k, named := d.Catalog.Find(dg)
			return err == nil && (slices.Contains(in.Meta.Sources, n.String()) || named && k.Name == n)
		},
		Stale: func(up string) time.Duration { return c.Ages(up).Stale },
		File:  filepath.Join(c.Data, "visibility.json"),
		Log:   d.Log.Named("visibility"), Registerer: d.Metrics, Namespace: "seeder",
	})
}

// tellPeers has peers told what is known of upstreams' repositories where this
// seeder's registry API is out of their reach. The seeder's own are what rules
// make them, and no peer's word is heard here: the seeder asks for itself.
func tellPeers(p *visibility.Public, d *daemon.Daemon) {
	if d.PSK == nil {
		return // nobody takes a word in an open swarm
	}
	d.Node.TellVisibility(func(repository string, dg digest.Digest) (p2p.Visibility, bool) {
		n, err := registry.ParseName(repository)
		if err != nil || d.Resolver.IsLocal(n) {
			return p2p.Visibility{}, false
		}
		word, ok := p.Vouch(n, dg)
		return p2p.Visibility(word), ok
	})
}

// tellVisibility answers HEADs that ask whether anybody may have something
// (upstream.VisibilityHeader), and passes on everything else. It stands behind
// the guard: who asks may pull it.
func tellVisibility(p *visibility.Public, d *daemon.Daemon, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead || r.Header.Get(upstream.VisibilityHeader) == "" {
			next.ServeHTTP(w, r)
			return
		}
		rt := registry.ParsePath(r.URL.Path)
		n, err := d.Resolver.Resolve(rt.Repository, r.URL.Query().Get("ns"))
		if err != nil {
			next.ServeHTTP(w, r) // it says what is wrong with the name
			return
		}
		var t upstream.Target
		switch rt.Endpoint {
		case registry.EndpointManifest:
			t.Manifest = rt.Reference
		case registry.EndpointBlob:
			t.Blob = digest.Digest(rt.Reference)
		case registry.EndpointTags:
		default:
			next.ServeHTTP(w, r)
			return
		}
		said := upstream.VisibilityPublic
		if d.Resolver.IsLocal(n) {
			if auth.Public(r.Context(), n.String()) {
				w.Header().Set(upstream.VisibilityHeader, said)
				next.ServeHTTP(w, r) // is it there?
				return
			}
			said = upstream.VisibilityPrivate
		} else if err := p.Check(r.Context(), n, t); upstream.KindOf(err) == upstream.Denied {
			said = upstream.VisibilityPrivate
		} else if err != nil {
			registry.WriteError(w, r, unsaid(err, n, rt.Reference))
			return
		}
		w.Header().Set(upstream.VisibilityHeader, said)
		w.WriteHeader(http.StatusOK)
	})
}

// unsaid is the answer where it cannot be told: there is no such thing, the
// rules forbid it, or nobody knows now.
func unsaid(err error, n registry.Name, reference string) *registry.Error {
	var e *registry.Error
	if upstream.KindOf(err) != upstream.Offline && errors.As(asRegistryError(err, registry.ManifestUnknown(n, reference, err)), &e) {
		return e
	}
	return &registry.Error{Status: http.StatusServiceUnavailable, Code: registry.CodeUnavailable, Message: "nobody can tell who may have it", Err: err}
}
