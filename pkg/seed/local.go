package seed

import (
	"context"
	"net/http"
	"path/filepath"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/pkg/registry"
)

// repositories answers for all names: the local ones, and those upstream.
type repositories struct {
	up    *backend
	local *local.Registry // nil: there are none
	names *registry.Resolver
}

// openRepositories opens the local repositories, if the configuration has any.
func openRepositories(d *daemon.Daemon, c config.Seeder, up *backend) (*repositories, error) {
	b := &repositories{up: up, names: d.Resolver}
	if len(c.LocalRepositories) == 0 {
		return b, nil
	}
	set := c.Repositories()
	if err := d.Resolver.SetLocal(set); err != nil {
		return nil, err
	}
	var err error
	b.local, err = local.Open(local.Options{
		Dir: filepath.Join(c.Data, "registry"), Store: d.Store, UploadExpiry: c.UploadExpiry,
		Upstream: registry.CanonicalUpstream(set.Names[0]), IsLocal: d.Resolver.IsLocal,
		Pushed: func(n registry.Name, m registry.Manifest, p *registry.Parsed) {
			if p != nil {
				_, _ = d.Catalog.Learn(n, m.Digest, m.MediaType, m.Content) // it was parsed before
			}
			d.Engine.Share(m.Digest)
		},
		Log: d.Log.Named("local"), Registerer: d.Metrics, Namespace: "seeder",
	})
	return b, err
}

func (b *repositories) close() {
	if b.local != nil {
		b.local.Close()
	}
}

// options are those of the handler that depend on what there is.
func (b *repositories) options(o registry.HandlerOptions) registry.HandlerOptions {
	if b.local != nil {
		o.Writer, o.Cataloger, o.Referrers = b.local, b.local, b
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
	return b.of(r.Name).Manifest(ctx, r)
}

// Blob implements registry.Backend.
func (b *repositories) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	return b.of(r.Name).Blob(ctx, r)
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
	return nil, &registry.Error{Status: http.StatusNotFound, Code: registry.CodeManifestUnknown, Message: "referrers are not listed here"}
}
