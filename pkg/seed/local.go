package seed

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/events"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// repositories answers for all names: the local ones, and those upstream.
type repositories struct {
	store *store.Store
	up    *backend
	local *local.Registry // nil: there are none
	names *registry.Resolver
	ruled bool // somebody said who may push
	// bucket keeps content for good; nil: the store does.
	bucket *bucket
}

// unruled takes nothing: to push without a login is for whom a rule allows it.
type unruled struct{ *local.Registry }

// Writable implements registry.Writer.
func (u unruled) Writable(n registry.Name) error {
	if err := u.Registry.Writable(n); err != nil {
		return err
	}
	return &registry.Error{Status: http.StatusForbidden, Code: registry.CodeDenied, Message: fmt.Sprintf(
		"nobody may push to %s or delete there: this seeder has no rules; its operator gives them with --allow, like --allow 'anyone pull+push+delete %s/**'", n, n.Upstream)}
}

// openRepositories opens the local repositories, if the configuration has any.
func openRepositories(d *daemon.Daemon, c config.Seeder, up *backend, kept *bucket, hub *events.Hub) (*repositories, error) {
	b := &repositories{store: d.Store, up: up, names: d.Resolver, ruled: c.Ruled(), bucket: kept}
	if len(c.LocalRepositories) == 0 {
		return b, nil
	}
	set := c.Repositories()
	if err := d.Resolver.SetLocal(set); err != nil {
		return nil, err
	}
	o, err := spaceOptions(local.Options{
		Dir: filepath.Join(c.Data, "registry"), Store: d.Store, UploadExpiry: c.UploadExpiry,
		Upstream: registry.CanonicalUpstream(set.Names[0]), IsLocal: d.Resolver.IsLocal,
		Named: func(n registry.Name, dg digest.Digest) bool {
			k, ok := d.Catalog.Find(dg)
			return ok && k.Name == n
		},
		Pushed: func(n registry.Name, m registry.Manifest, p *registry.Parsed) {
			if p != nil {
				_, _ = d.Catalog.Learn(n, m.Digest, m.MediaType, m.Content) // it was parsed before
			}
			d.Engine.Share(m.Digest)
		},
		MakeRoom: d.Engine.Shed, Removed: tellRemovals(registry.CanonicalUpstream(set.Names[0]), hub),
		Log: d.Log.Named("local"), Registerer: d.Metrics, Namespace: "seeder",
	}, c)
	if err != nil {
		return nil, err
	}
	if kept != nil {
		o.Durable = kept.of(d)
	}
	b.local, err = local.Open(o)
	return b, err
}

func (b *repositories) close() {
	if b.local != nil {
		b.local.Close()
	}
}

// options are those of the handler that depend on what there is.
func (b *repositories) options(o registry.HandlerOptions) registry.HandlerOptions {
	o.Referrers = b
	if b.local != nil {
		o.Writer, o.Cataloger = b.local, b.local
		if !b.ruled {
			o.Writer = unruled{b.local}
		}
	}
	return o
}

// of is who answers for a name.
func (b *repositories) of(n registry.Name) registry.Backend {
	if b.names.IsLocal(n) {
		return b.local
	}
	return b.up
}

// Manifest implements registry.Backend.
func (b *repositories) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	if err := b.prove(ctx, r); err != nil {
		return nil, asRegistryError(err, registry.ManifestUnknown(r.Name, r.Reference, err))
	}
	m, err := b.of(r.Name).Manifest(ctx, r)
	if err == nil && b.bucket != nil {
		b.bucket.learn(r.Name, m)
	}
	return m, err
}

// Blob implements registry.Backend.
func (b *repositories) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	if err := b.prove(ctx, r); err != nil {
		return registry.Blob{}, asRegistryError(err, registry.BlobUnknown(r.Digest, err))
	}
	if b.bucket != nil && b.bucket.redirects(r) {
		head := r
		head.Head = true
		blob, err := b.of(r.Name).Blob(ctx, head)
		if err != nil {
			return registry.Blob{}, err
		}
		if blob.Content != nil {
			_ = blob.Content.Close() // nothing was read
		}
		if blob.Redirect, err = b.bucket.url(ctx, r); err == nil {
			blob.Content = nil
			return blob, nil
		}
	}
	return b.of(r.Name).Blob(ctx, r)
}

// prove sees to it that nobody reads by the name of a proxied repository what
// was only ever pushed to local ones: its upstream must have it, too. That is
// noted with the content, and not asked again.
func (b *repositories) prove(ctx context.Context, r registry.Request) error {
	if r.Digest == "" || b.names.IsLocal(r.Name) {
		return nil
	}
	in, err := b.store.Stat(r.Digest)
	if err != nil || len(in.Meta.Sources) == 0 || slices.ContainsFunc(in.Meta.Sources, b.proxied) {
		return nil
	}
	if err := b.up.proves(ctx, r); err != nil {
		return err
	}
	vouch(b.store, r.Digest, r.Name)
	return nil
}

// vouch notes with content that a repository was seen to have it, too.
func vouch(s *store.Store, d digest.Digest, n registry.Name) {
	blob, err := s.Blob(d)
	if err != nil {
		return // gone meanwhile: it is fetched
	}
	defer blob.Release()
	m := blob.Meta()
	m.Sources = append([]string{n.String()}, m.Sources...)
	_ = blob.SetMeta(m) // a disk that is full costs no more than another question
}

// proxied tells whether a source of content is a proxied repository.
func (b *repositories) proxied(source string) bool {
	n, err := registry.ParseName(source)
	return err == nil && !b.names.IsLocal(n)
}

// Tags implements registry.Backend.
func (b *repositories) Tags(ctx context.Context, n registry.Name, limit int, last string) ([]string, error) {
	return b.of(n).Tags(ctx, n, limit, last)
}

// Referrers implements registry.ReferrerLister.
func (b *repositories) Referrers(ctx context.Context, r registry.Request, artifactType string) ([]registry.Descriptor, error) {
	if b.names.IsLocal(r.Name) {
		return b.local.Referrers(ctx, r, artifactType)
	}
	return b.up.Referrers(ctx, r, artifactType)
}
