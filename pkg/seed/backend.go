package seed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// How long the seeder lets a client wait. Clients' own timers start at 30 s
// (docs/mirror-contract.md); a tag that could be served stale is not worth that long.
const (
	resolveTimeout = 15 * time.Second
	recheckTimeout = 2 * time.Second
	openTimeout    = 25 * time.Second // the first bytes of a blob
)

// backend is the seeder's registry.Backend.
type backend struct {
	engine *fetch.Engine
	meta   *metadata.Cache
	refs   *metadata.Referrers
	tags   *registry.Tags
	log    *zap.Logger
	store  *store.Store

	// pulled is told of each manifest that a client takes.
	pulled func(registry.Name, *registry.Manifest)
	// proves asks the upstream whether it has the content that a request names
	// by digest.
	proves func(ctx context.Context, r registry.Request) error
}

func newBackend(d *daemon.Daemon, c config.Seeder, kept *bucket) *backend {
	up := &metadata.Source{Name: "upstream", Client: d.Upstream}
	o := metadata.Options{
		Content: kept.content(d), Tags: d.Tags, Catalog: d.Catalog,
		Sources: func(string) []*metadata.Source { return []*metadata.Source{up} },
		Ages:    func(up string) metadata.Ages { return metadata.Ages(c.Ages(up)) },
		Permit:  d.Upstream.Permit,
		Decide:  resolveTimeout, Recheck: recheckTimeout,
		Log: d.Log.Named("seed"), Registerer: d.Metrics, Namespace: "seeder",
	}
	b := &backend{engine: d.Engine, tags: d.Tags, store: d.Store, log: d.Log.Named("seed"), meta: metadata.New(o), pulled: d.Pulled}
	b.proves = func(ctx context.Context, r registry.Request) error {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		_, err := d.Upstream.BlobSize(ctx, r.Name.Upstream, r.Name.Repository, r.Digest)
		if upstream.KindOf(err) == upstream.NotFound {
			_, err = d.Upstream.Head(ctx, r.Name.Upstream, r.Name.Repository, r.Digest.String())
		}
		return err
	}
	o.Tags = d.ReferrerTags
	b.refs = metadata.NewReferrers(o)
	return b
}

func (b *backend) close() {
	b.refs.Close()
	b.meta.Close()
}

// Manifest implements registry.Backend.
func (b *backend) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	m, err := b.meta.Manifest(ctx, r)
	if err != nil {
		return nil, asRegistryError(err, registry.ManifestUnknown(r.Name, r.Reference, err))
	}
	if !r.Head {
		b.pulled(r.Name, m)
	}
	return m, nil
}

// Blob implements registry.Backend.
func (b *backend) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	w, err := b.meta.Blob(ctx, r)
	if err != nil {
		return registry.Blob{}, asRegistryError(err, registry.BlobUnknown(r.Digest, err))
	}
	out := registry.Blob{Digest: r.Digest, Size: w.Size, Cached: registry.Cached{Result: registry.CacheMiss, From: "upstream"}}
	if in, err := b.store.Stat(r.Digest); err == nil && in.Complete {
		out.Cached = registry.Cached{Result: registry.CacheHit}
	}
	if r.Head {
		return out, nil
	}
	octx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	out.Content, out.Size, err = b.engine.Open(octx, ctx, w)
	if err != nil {
		return registry.Blob{}, asRegistryError(err, registry.BlobUnknown(r.Digest, err))
	}
	return out, nil
}

// Referrers implements registry.ReferrerLister.
func (b *backend) Referrers(ctx context.Context, r registry.Request, _ string) ([]registry.Descriptor, error) {
	list, err := b.refs.List(ctx, r)
	if err != nil {
		return nil, asRegistryError(err, registry.ManifestUnknown(r.Name, r.Reference, err))
	}
	return list, nil
}

// Tags implements registry.Backend: the upstream's list, else the tags that
// were pulled through here.
func (b *backend) Tags(ctx context.Context, n registry.Name, limit int, last string) ([]string, error) {
	tags, err := b.meta.Tags(ctx, n, limit, last)
	if err == nil {
		return tags, nil
	}
	known := b.tags.List(n)
	if k := metadata.KindOf(err); len(known) == 0 || k == upstream.NotFound || k == upstream.Denied || k == upstream.Refused {
		return nil, asRegistryError(err, registry.NameUnknown(n, err))
	}
	b.log.Warn("listing the tags pulled through here: their upstream does not answer", zap.Stringer("repository", n), zap.Error(err))
	page := []string{}
	for _, t := range known {
		if t > last && (limit <= 0 || len(page) < limit) {
			page = append(page, t)
		}
	}
	return page, nil
}

// asRegistryError chooses the answer for an error: unknown is what a client is
// told when the thing does not exist.
func asRegistryError(err error, unknown *registry.Error) error {
	kind := metadata.KindOf(err)
	var ue *upstream.Error
	retry := time.Duration(0)
	if errors.As(err, &ue) {
		retry = ue.RetryAfter
	}
	switch {
	case ue != nil && ue.Status == http.StatusLoopDetected:
		return &registry.Error{Status: ue.Status, Code: registry.CodeUnsupported, Message: err.Error(), Err: err}
	case kind == upstream.Refused:
		return &registry.Error{Status: http.StatusForbidden, Code: registry.CodeDenied, Message: err.Error(), Err: err}
	case kind == upstream.Offline:
		return &registry.Error{Status: http.StatusNotFound, Code: unknown.Code,
			Message: unknown.Message + ": the seeder is offline and serves only what it holds", Err: err}
	case kind == upstream.NotFound || errors.Is(err, fetch.ErrNotFound):
		return unknown
	case kind == upstream.Invalid: // such as a schema 1 manifest: no retry will help
		return &registry.Error{Status: http.StatusNotFound, Code: unknown.Code, Message: fmt.Sprintf("%s: %v", unknown.Message, err), Err: err}
	case kind == upstream.Denied:
		return &registry.Error{Status: http.StatusForbidden, Code: registry.CodeDenied,
			Message: "the upstream denies the seeder access: " + err.Error(), Err: err}
	case kind == upstream.RateLimited:
		return &registry.Error{Status: http.StatusTooManyRequests, Code: registry.CodeTooManyRequests,
			Message: "the upstream limits the rate of requests", RetryAfter: retry, Err: err}
	case errors.Is(err, fetch.ErrCorrupt) || kind == upstream.Corrupt:
		return &registry.Error{Status: http.StatusBadGateway, Code: registry.CodeUnavailable, Message: err.Error(), Err: err}
	case errors.Is(err, store.ErrFull):
		return &registry.Error{Status: http.StatusInsufficientStorage, Code: registry.CodeUnavailable, Message: err.Error(), Err: err}
	case errors.Is(err, context.Canceled):
		return err
	}
	if retry == 0 {
		retry = 5 * time.Second
	}
	return &registry.Error{Status: http.StatusServiceUnavailable, Code: registry.CodeUnavailable,
		Message: fmt.Sprintf("%s: %v", unknown.Message, err), RetryAfter: retry, Err: err}
}
