package seed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// How long the seeder lets a client wait for a decision. Clients' own timers
// start at 30 s (CLIENTS section 2); a cached tag is not worth that long.
const (
	resolveTimeout = 20 * time.Second // an upstream that was never asked before
	recheckTimeout = 3 * time.Second  // a tag that could be served stale
	openTimeout    = 25 * time.Second // the first bytes of a blob
	failureMemory  = 10 * time.Second // a failing upstream is not asked about cached tags for so long
)

// backend is the seeder's registry.Backend.
type backend struct {
	engine   *fetch.Engine
	upstream *upstream.Client
	tags     *registry.Tags
	catalog  *registry.Catalog
	log      *zap.Logger
	now      func() time.Time

	tagTTL time.Duration // a tag younger than this is not revalidated
	stale  time.Duration // how long an old tag may stand in for a failing upstream

	life   context.Context // of work that outlives the client who caused it
	flight singleflight.Group

	mu     sync.Mutex
	failed map[string]time.Time // upstream -> when it failed last
}

func newBackend(d *daemon.Daemon, c config.Seeder, life context.Context) *backend {
	return &backend{
		engine: d.Engine, upstream: d.Upstream, tags: d.Tags, catalog: d.Catalog,
		log: d.Log.Named("seed"), now: time.Now, tagTTL: c.TagTTL, stale: c.StaleIfError,
		life: life, failed: make(map[string]time.Time),
	}
}

// Manifest implements registry.Backend.
func (b *backend) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	if r.Digest != "" {
		if !r.Named {
			r.Name = b.origin(r.Name, r.Digest)
		}
		return b.byDigest(ctx, r.Name, r.Digest)
	}
	return b.byTag(ctx, r.Name, r.Reference)
}

// origin is the repository that named a digest, for clients that do not say.
func (b *backend) origin(n registry.Name, d digest.Digest) registry.Name {
	if k, ok := b.catalog.Find(d); ok && k.Name.Repository == n.Repository {
		return k.Name
	}
	return n
}

// byDigest serves a manifest from the store, else from its upstream, once.
func (b *backend) byDigest(ctx context.Context, n registry.Name, d digest.Digest) (*registry.Manifest, error) {
	if m, ok := b.held(n, d); ok {
		return m, nil
	}
	return shared(ctx, b, "manifest "+n.String()+"@"+d.String(), func(ctx context.Context) (*registry.Manifest, error) {
		m, err := b.upstream.Manifest(ctx, n.Upstream, n.Repository, d.String(), registry.ManifestTypes())
		if err != nil {
			return nil, asRegistryError(err, registry.ManifestUnknown(n, d.String(), err))
		}
		return b.keep(n, m), nil
	})
}

// byTag serves a tag: from the cache within its TTL, else what the upstream
// says now, else what it said last.
func (b *backend) byTag(ctx context.Context, n registry.Name, tag string) (*registry.Manifest, error) {
	entry, known := b.tags.Get(n, tag)
	var cached *registry.Manifest
	if known {
		cached, known = b.held(n, entry.Digest)
	}
	age := b.now().Sub(entry.Checked)
	if known && (age < b.tagTTL || b.failing(n.Upstream) && age < b.stale) {
		return cached, nil
	}
	m, err := shared(ctx, b, "tag "+n.String()+":"+tag, func(ctx context.Context) (*registry.Manifest, error) {
		return b.revalidate(ctx, n, tag, cached)
	})
	if err == nil {
		return m, nil
	}
	kind := upstream.KindOf(err)
	if !known || kind == upstream.NotFound || kind == upstream.Denied {
		if kind == upstream.NotFound {
			if derr := b.tags.Delete(n, tag); derr != nil {
				b.log.Warn("cannot forget a tag", zap.Stringer("repository", n), zap.String("tag", tag), zap.Error(derr))
			}
		}
		return nil, asRegistryError(err, registry.ManifestUnknown(n, tag, err))
	}
	b.setFailing(n.Upstream)
	if age >= b.stale {
		return nil, asRegistryError(err, registry.ManifestUnknown(n, tag, err))
	}
	b.log.Warn("serving a stale tag: its upstream does not answer", zap.Stringer("repository", n),
		zap.String("tag", tag), zap.Duration("age", age), zap.Error(err))
	return cached, nil
}

// revalidate asks the upstream what a tag means now. Errors are the upstream's.
func (b *backend) revalidate(ctx context.Context, n registry.Name, tag string, cached *registry.Manifest) (*registry.Manifest, error) {
	if cached != nil {
		hctx, cancel := context.WithTimeout(ctx, recheckTimeout)
		defer cancel()
		desc, err := b.upstream.Head(hctx, n.Upstream, n.Repository, tag)
		if err != nil {
			return nil, err
		}
		if desc.Digest == cached.Digest {
			b.note(n, tag, cached)
			return cached, nil
		}
		if m, ok := b.held(n, desc.Digest); ok {
			b.note(n, tag, m)
			return m, nil
		}
	}
	m, err := b.upstream.Manifest(ctx, n.Upstream, n.Repository, tag, registry.ManifestTypes())
	if err != nil {
		return nil, err
	}
	kept := b.keep(n, m)
	b.note(n, tag, kept)
	return kept, nil
}

func (b *backend) note(n registry.Name, tag string, m *registry.Manifest) {
	err := b.tags.Put(n, tag, registry.TagEntry{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Content)), Checked: b.now()})
	if err != nil {
		b.log.Warn("cannot remember a tag", zap.Stringer("repository", n), zap.String("tag", tag), zap.Error(err))
	}
}

// held returns a manifest of the store.
func (b *backend) held(n registry.Name, d digest.Digest) (*registry.Manifest, bool) {
	content, mediaType, err := b.engine.Held(d, registry.MaxManifestSize)
	if err != nil || mediaType == "" {
		return nil, false
	}
	if _, known := b.catalog.Find(d); !known {
		_, _ = b.catalog.Learn(n, d, mediaType, content) // it was understood when it came
	}
	return &registry.Manifest{Digest: d, MediaType: mediaType, Content: content}, true
}

// keep stores a manifest that came from its upstream. A store that is full
// does not stop the client from having it.
func (b *backend) keep(n registry.Name, m *upstream.Manifest) *registry.Manifest {
	if _, err := b.catalog.Learn(n, m.Digest, m.MediaType, m.Content); err != nil {
		b.log.Warn("a manifest is not understood; it is passed on as it is", zap.Stringer("repository", n),
			zap.Stringer("digest", m.Digest), zap.Error(err))
	}
	if err := b.engine.Keep(m.Digest, m.Content, m.MediaType, source(n)); err != nil {
		b.log.Warn("cannot keep a manifest", zap.Stringer("repository", n), zap.Error(err))
	}
	return &registry.Manifest{Digest: m.Digest, MediaType: m.MediaType, Content: m.Content}
}

func source(n registry.Name) fetch.Source {
	return fetch.Source{Upstream: n.Upstream, Repository: n.Repository}
}

// Blob implements registry.Backend.
func (b *backend) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	if !r.Named {
		r.Name = b.origin(r.Name, r.Digest)
	}
	w, err := b.locate(ctx, r.Name, r.Digest)
	if err != nil {
		return registry.Blob{}, err
	}
	if r.Head {
		return registry.Blob{Digest: r.Digest, Size: w.Size}, nil
	}
	octx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	content, size, err := b.engine.Open(octx, ctx, w)
	if err != nil {
		return registry.Blob{}, asRegistryError(err, registry.BlobUnknown(r.Digest, err))
	}
	return registry.Blob{Digest: r.Digest, Size: size, Content: content}, nil
}

// locate finds a blob's size: from a manifest, the store, or its upstream.
func (b *backend) locate(ctx context.Context, n registry.Name, d digest.Digest) (fetch.Want, error) {
	w := fetch.Want{Digest: d, Source: source(n), Size: -1}
	if size, ok := b.engine.SizeOf(d); ok {
		w.Size = size
		return w, nil
	}
	if k, ok := b.catalog.Find(d); ok {
		w.Size = k.Size
		return w, nil
	}
	size, err := shared(ctx, b, "size "+n.String()+"@"+d.String(), func(ctx context.Context) (int64, error) {
		return b.upstream.BlobSize(ctx, n.Upstream, n.Repository, d)
	})
	if err != nil {
		return w, asRegistryError(err, registry.BlobUnknown(d, err))
	}
	w.Size = size
	return w, nil
}

// Tags implements registry.Backend: the upstream's list, else the tags that
// were pulled through here.
func (b *backend) Tags(ctx context.Context, n registry.Name, limit int, last string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	tags, err := b.upstream.Tags(ctx, n.Upstream, n.Repository, limit, last)
	if err == nil {
		return tags, nil
	}
	if k := upstream.KindOf(err); k == upstream.NotFound || k == upstream.Denied {
		return nil, asRegistryError(err, registry.NameUnknown(n, err))
	}
	var known []string
	for _, t := range b.tags.List(n) {
		if t > last && (limit <= 0 || len(known) < limit) {
			known = append(known, t)
		}
	}
	if len(known) == 0 && last == "" {
		return nil, asRegistryError(err, registry.NameUnknown(n, err))
	}
	b.log.Warn("listing the tags pulled through here: their upstream does not answer", zap.Stringer("repository", n), zap.Error(err))
	return known, nil
}

func (b *backend) failing(up string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now().Sub(b.failed[up]) < failureMemory
}

func (b *backend) setFailing(up string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed[up] = b.now()
}

// shared runs f once for all callers of a key. A caller that goes away does
// not stop it.
func shared[T any](ctx context.Context, b *backend, key string, f func(context.Context) (T, error)) (T, error) {
	ch := b.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(b.life, resolveTimeout)
		defer cancel()
		return f(ctx)
	})
	select {
	case r := <-ch:
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// asRegistryError chooses the answer for an error: unknown is what a client is
// told when the thing does not exist.
func asRegistryError(err error, unknown *registry.Error) error {
	var re *registry.Error
	if errors.As(err, &re) {
		return err
	}
	var ue *upstream.Error
	retry := time.Duration(0)
	if errors.As(err, &ue) {
		retry = ue.RetryAfter
	}
	kind := upstream.KindOf(err)
	switch {
	case kind == upstream.NotFound || errors.Is(err, fetch.ErrNotFound):
		return unknown
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
	return &registry.Error{Status: http.StatusServiceUnavailable, Code: registry.CodeUnavailable,
		Message: fmt.Sprintf("%s: %v", unknown.Message, err), RetryAfter: 5 * time.Second, Err: err}
}
