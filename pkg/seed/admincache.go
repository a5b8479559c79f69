package seed

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/events"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// administrator is a seeder's admin.Cache and admin.Scrubber.
type administrator struct {
	d     *daemon.Daemon
	up    *backend
	local *local.Registry // nil: none
	hub   *events.Hub     // nil: none

	localName string // upstream of local repositories
}

// localName is the upstream of local repositories; "" where there are none.
func localName(c config.Seeder) string {
	if len(c.LocalRepositories) == 0 {
		return ""
	}
	return registry.CanonicalUpstream(c.LocalNames[0])
}

// Upstreams implements admin.Cache.
func (a *administrator) Upstreams() []status.Upstream { return a.d.Status().Upstreams }

// Scrub implements admin.Scrubber.
func (a *administrator) Scrub() status.Scrub { return a.d.Status().Scrub }

// ScrubNow implements admin.Scrubber.
func (a *administrator) ScrubNow() bool { return a.d.ScrubNow() }

// Events implements admin.Cache.
func (a *administrator) Events() []events.State {
	if a.hub == nil {
		return []events.State{}
	}
	return a.hub.States()
}

// Usage implements admin.Cache.
func (a *administrator) Usage(ctx context.Context, prefix string) (admin.Usage, error) {
	all := a.d.Store.Usage()
	u := admin.Usage{Store: admin.StoreUsage{Bytes: all.Used, Quota: all.Quota, Blobs: all.Blobs, Partial: all.Partial}, Upstreams: []admin.UpstreamUsage{}}
	prefix = a.prefix(prefix)
	repos, ups := map[string]*admin.RepositoryUsage{}, map[string]*admin.UpstreamUsage{}
	for _, in := range a.d.Store.Infos() {
		seen := map[string]bool{}
		for _, source := range a.sources(in) {
			n, err := registry.ParseName(source)
			if err != nil || !below(source, prefix) || a.d.Resolver.IsLocal(n) {
				continue
			}
			r, up := entry(repos, source), entry(ups, n.Upstream)
			r.Repository, up.Upstream = source, n.Upstream
			r.Bytes, r.Blobs, r.LastPull = r.Bytes+held(in), r.Blobs+1, later(r.LastPull, in.LastUse)
			if !seen[n.Upstream] {
				seen[n.Upstream] = true
				up.Bytes, up.Blobs, up.LastPull = up.Bytes+held(in), up.Blobs+1, later(up.LastPull, in.LastUse)
			}
		}
	}
	for name, r := range repos {
		if n, err := registry.ParseName(name); err == nil {
			r.Tags = len(a.d.Tags.List(n))
		}
		u.Repositories = append(u.Repositories, *r)
	}
	for _, up := range ups {
		u.Upstreams = append(u.Upstreams, *up)
	}
	if a.local != nil {
		list, err := a.local.Usage(ctx)
		if err != nil {
			return u, err
		}
		for _, l := range list {
			name := registry.Name{Upstream: a.localName, Repository: l.Repository}.String()
			if below(name, prefix) {
				u.Repositories = append(u.Repositories, admin.RepositoryUsage{Repository: name, Local: true, Bytes: l.Bytes,
					Blobs: l.Blobs + l.Manifests, Tags: l.Tags, LastPull: l.LastPull})
			}
		}
	}
	slices.SortFunc(u.Upstreams, func(x, y admin.UpstreamUsage) int {
		return cmp.Or(cmp.Compare(y.Bytes, x.Bytes), strings.Compare(x.Upstream, y.Upstream))
	})
	slices.SortFunc(u.Repositories, func(x, y admin.RepositoryUsage) int {
		return cmp.Or(cmp.Compare(y.Bytes, x.Bytes), strings.Compare(x.Repository, y.Repository))
	})
	if u.Repositories == nil {
		u.Repositories = []admin.RepositoryUsage{}
	}
	return u, nil
}

// prefix is the canonical name of a prefix of repositories: of one that begins
// with no upstream, what a client would mean by it.
func (a *administrator) prefix(prefix string) string {
	prefix = strings.TrimSuffix(prefix, "/")
	first, _, _ := strings.Cut(prefix, "/")
	if prefix == "" || first == a.localName || slices.Contains(a.d.Resolver.Names(), first) {
		return prefix
	}
	if n, err := named(a.d, prefix); err == nil {
		return n.String()
	}
	return prefix
}

// sources are the repositories that content is known to be of. Small content is
// cached without a note of that: it is of the image that named it last.
func (a *administrator) sources(in store.Info) []string {
	if len(in.Meta.Sources) > 0 {
		return in.Meta.Sources
	}
	if k, ok := a.d.Catalog.Find(in.Digest); ok {
		return []string{k.Name.String()}
	}
	return nil
}

func entry[T any](m map[string]*T, key string) *T {
	if m[key] == nil {
		m[key] = new(T)
	}
	return m[key]
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// held is how many bytes of a blob are here; of a partial one, by its pieces.
func held(in store.Info) int64 {
	if in.Complete || in.Pieces == 0 {
		return in.Size
	}
	return in.Size / int64(in.Pieces) * int64(in.Have+in.Raw)
}

// below tells whether a name is a prefix's, by whole path components.
func below(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (prefix == "" || rest == "" || rest[0] == '/')
}

// Purge implements admin.Cache.
func (a *administrator) Purge(_ context.Context, r admin.PurgeRequest) (admin.Purged, error) {
	n, err := a.proxied(r.Repository)
	if err != nil {
		return admin.Purged{}, err
	}
	out := admin.Purged{Repository: n.String()}
	var which map[digest.Digest]bool // nil: all
	switch {
	case r.Reference == "":
		tags := a.d.Tags.List(n)
		for _, t := range tags {
			err = cmp.Or(err, a.d.Tags.Delete(n, t))
		}
		for _, t := range a.d.ReferrerTags.List(n) {
			err = cmp.Or(err, a.d.ReferrerTags.Delete(n, t))
		}
		out.Tags = len(tags)
	case registry.IsDigest(r.Reference):
		d, derr := registry.ParseDigest(r.Reference)
		if derr != nil {
			return out, derr
		}
		which = map[digest.Digest]bool{}
		a.closure(d, which)
	default:
		e, ok := a.d.Tags.Get(n, r.Reference)
		if !ok {
			return out, &admin.Error{Status: 404, Message: n.String() + " has no tag " + r.Reference + " here"}
		}
		which = map[digest.Digest]bool{}
		a.closure(e.Digest, which)
		out.Tags, err = 1, a.d.Tags.Delete(n, r.Reference)
	}
	if err != nil {
		return out, err
	}
	a.up.meta.Forget(n)
	a.up.refs.Forget(n)
	err = a.drop(n, which, &out)
	return out, err
}

// proxied is the repository that a client means by a name.
func (a *administrator) proxied(name string) (registry.Name, error) {
	n, err := named(a.d, name)
	if err != nil {
		return n, err
	}
	if a.d.Resolver.IsLocal(n) {
		return n, &admin.Error{Status: 400, Message: n.String() + " is local: it is no cache, and what is in it is deleted by its own API"}
	}
	return n, nil
}

// named is the repository of a name as a client writes it, or of a canonical one:
// local ones may begin with what is no host.
func named(d *daemon.Daemon, name string) (registry.Name, error) {
	if n, err := registry.ParseName(name); err == nil && d.Resolver.IsLocal(n) {
		return n, nil
	}
	return d.Resolver.Resolve(name, "")
}

// closure adds a digest, and what it names if it is a manifest that is here.
func (a *administrator) closure(d digest.Digest, set map[digest.Digest]bool) {
	if set[d] {
		return
	}
	set[d] = true
	content, mediaType, err := a.d.Engine.Held(d, registry.MaxManifestSize)
	if err != nil || !registry.IsManifestType(mediaType) {
		return
	}
	children, _, err := registry.Children(mediaType, content)
	if err != nil {
		return // it names nothing that anybody could use
	}
	for _, c := range children {
		a.closure(c.Digest, set)
	}
}

// drop removes content that only this repository has, and nobody fetches now.
func (a *administrator) drop(n registry.Name, which map[digest.Digest]bool, out *admin.Purged) error {
	for _, in := range a.d.Store.Infos() {
		if which != nil && !which[in.Digest] || !slices.Contains(a.sources(in), n.String()) {
			continue
		}
		gone := false
		if !in.Kept && len(in.Meta.Sources) <= 1 {
			var err error
			if gone, err = a.d.Engine.Drop(in.Digest); err != nil {
				return err
			}
		}
		if !gone {
			out.Shared++
			continue
		}
		out.Blobs++
		out.Bytes += held(in)
	}
	return nil
}
