package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Decision budgets of the mirror (contract 11 and 12). A manifest may need the
// seeder to ask its upstream; a blob's first byte must come while the most
// impatient readers still wait.
const (
	manifestTimeout = 10 * time.Second
	seederTimeout   = 8 * time.Second // of it, for the seeder
	blobTimeout     = 2 * time.Second
)

// backend is peerd's registry.Backend.
type backend struct {
	engine  *fetch.Engine
	seeder  *upstream.Client // the upstreams as seen through the seeder
	direct  *upstream.Client // the upstreams themselves
	tags    *registry.Tags
	catalog *registry.Catalog
	log     *zap.Logger
	now     func() time.Time
	tagTTL  time.Duration // a tag younger than this is not asked for again
	stale   time.Duration // how old a tag may be that stands in for a failing upstream

	noPrefetch bool

	life   context.Context // of work that outlives the client who caused it
	flight singleflight.Group
}

// Manifest implements registry.Backend.
func (b *backend) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	if !r.Named && r.Digest != "" {
		if k, ok := b.catalog.Find(r.Digest); ok && k.Name.Repository == r.Name.Repository {
			r.Name = k.Name // docker and podman do not say of which upstream (contract 20)
		}
	}
	d := r.Digest
	var m *registry.Manifest
	var err error
	if d == "" {
		m, err = b.byTag(ctx, r.Name, r.Reference)
	} else {
		m, err = b.byDigest(ctx, r.Name, d)
	}
	if err != nil {
		b.log.Info("cannot help with a manifest", zap.Stringer("repository", r.Name), zap.String("reference", r.Reference), zap.Error(err))
		return nil, registry.ManifestUnknown(r.Name, r.Reference, err)
	}
	b.prefetch(r.Name, m)
	return m, nil
}

// byTag asks the seeder, then the upstream; an old answer stands in for both.
func (b *backend) byTag(ctx context.Context, n registry.Name, tag string) (*registry.Manifest, error) {
	entry, known := b.tags.Get(n, tag)
	var cached *registry.Manifest
	if known {
		cached, known = b.held(n, entry.Digest)
	}
	age := b.now().Sub(entry.Checked)
	if known && age < b.tagTTL {
		return cached, nil
	}
	m, err := shared(ctx, b, "tag "+n.String()+":"+tag, func(ctx context.Context) (*registry.Manifest, error) {
		return b.resolve(ctx, n, tag)
	})
	if err == nil {
		return m, nil
	}
	kind := upstream.KindOf(err)
	if known && age < b.stale && kind != upstream.NotFound && kind != upstream.Denied {
		b.log.Warn("serving a stale tag: neither seeder nor upstream answers", zap.Stringer("repository", n),
			zap.String("tag", tag), zap.Duration("age", age), zap.Error(err))
		return cached, nil
	}
	return nil, err
}

// resolve asks what a tag means now, and has that manifest. The error is the
// last source's.
func (b *backend) resolve(ctx context.Context, n registry.Name, tag string) (*registry.Manifest, error) {
	var errs []error
	for _, c := range b.sources(n) {
		m, err := b.resolveAt(ctx, c, n, tag)
		if err == nil {
			if perr := b.tags.Put(n, tag, registry.TagEntry{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Content)), Checked: b.now()}); perr != nil {
				b.log.Warn("cannot remember a tag", zap.Stringer("repository", n), zap.Error(perr))
			}
			return m, nil
		}
		errs = append(errs, err)
		if c == b.seeder && upstream.KindOf(err) == upstream.NotFound {
			break // the seeder has asked the upstream
		}
	}
	return nil, last(n, errs)
}

func (b *backend) resolveAt(ctx context.Context, c *upstream.Client, n registry.Name, tag string) (*registry.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, seederTimeout)
	defer cancel()
	if entry, ok := b.tags.Get(n, tag); ok {
		if desc, err := c.Head(ctx, n.Upstream, n.Repository, tag); err != nil {
			return nil, err
		} else if desc.Digest == entry.Digest {
			if m, ok := b.held(n, desc.Digest); ok {
				return m, nil
			}
		}
	}
	m, err := c.Manifest(ctx, n.Upstream, n.Repository, tag, registry.ManifestTypes())
	if err != nil {
		return nil, err
	}
	return b.keep(n, m.Digest, m.MediaType, m.Content), nil
}

// byDigest takes a manifest from the store, the seeder, the upstream, or from
// peers when neither answers.
func (b *backend) byDigest(ctx context.Context, n registry.Name, d digest.Digest) (*registry.Manifest, error) {
	if m, ok := b.held(n, d); ok {
		return m, nil
	}
	return shared(ctx, b, "manifest "+n.String()+"@"+d.String(), func(ctx context.Context) (*registry.Manifest, error) {
		var errs []error
		for _, c := range b.sources(n) {
			sctx, cancel := context.WithTimeout(ctx, seederTimeout)
			m, err := c.Manifest(sctx, n.Upstream, n.Repository, d.String(), registry.ManifestTypes())
			cancel()
			if err == nil {
				return b.keep(n, d, m.MediaType, m.Content), nil
			}
			errs = append(errs, err)
		}
		content, mediaType, err := b.engine.FromPeers(ctx, d, registry.MaxManifestSize)
		if err != nil || mediaType == "" {
			return nil, last(n, append([]error{err}, errs...))
		}
		return b.keep(n, d, mediaType, content), nil
	})
}

// sources are where manifests come from, best first.
func (b *backend) sources(n registry.Name) []*upstream.Client {
	var out []*upstream.Client
	if _, ok := b.seeder.URL(n.Upstream); ok {
		out = append(out, b.seeder)
	}
	if _, ok := b.direct.URL(n.Upstream); ok {
		out = append(out, b.direct)
	}
	return out
}

// last joins the errors of all sources; policy looks at the last one's kind.
func last(n registry.Name, errs []error) error {
	if len(errs) == 0 {
		return fmt.Errorf("%s: neither a seeder nor the upstream %q is configured", n, n.Upstream)
	}
	for i, j := 0, len(errs)-1; i < j; i, j = i+1, j-1 {
		errs[i], errs[j] = errs[j], errs[i]
	}
	return errors.Join(errs...)
}

// held returns a manifest of the store.
func (b *backend) held(n registry.Name, d digest.Digest) (*registry.Manifest, bool) {
	content, mediaType, err := b.engine.Held(d, registry.MaxManifestSize)
	if err != nil || mediaType == "" {
		return nil, false
	}
	return &registry.Manifest{Digest: d, MediaType: mediaType, Content: content}, true
}

// keep stores a manifest. A store that is full does not stop the client.
func (b *backend) keep(n registry.Name, d digest.Digest, mediaType string, content []byte) *registry.Manifest {
	if err := b.engine.Keep(d, content, mediaType, source(n)); err != nil {
		b.log.Warn("cannot keep a manifest", zap.Stringer("repository", n), zap.Error(err))
	}
	return &registry.Manifest{Digest: d, MediaType: mediaType, Content: content}
}

func source(n registry.Name) fetch.Source {
	return fetch.Source{Upstream: n.Upstream, Repository: n.Repository}
}

// prefetch learns what a manifest names and joins the swarms of its blobs
// (contract 19). Of an index nothing is fetched: the client chooses the platform.
func (b *backend) prefetch(n registry.Name, m *registry.Manifest) {
	p, err := b.catalog.Learn(n, m.Digest, m.MediaType, m.Content)
	if err != nil {
		b.log.Warn("a manifest is not understood; it is passed on as it is", zap.Stringer("repository", n),
			zap.Stringer("digest", m.Digest), zap.Error(err))
		return
	}
	if p.Kind == registry.KindIndex || b.noPrefetch {
		return
	}
	for _, c := range p.Children {
		if registry.Foreign(c) || registry.IsManifestType(c.MediaType) {
			continue
		}
		b.engine.Prefetch(fetch.Want{Digest: c.Digest, Size: c.Size, Source: source(n)})
	}
}

// Blob implements registry.Backend.
func (b *backend) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	if k, ok := b.catalog.Find(r.Digest); ok && !r.Named {
		r.Name = k.Name // contract 20: found without ns
	}
	dctx, cancel := context.WithTimeout(ctx, blobTimeout)
	defer cancel()
	w, err := b.locate(dctx, r.Name, r.Digest)
	if err == nil && r.Head {
		return registry.Blob{Digest: r.Digest, Size: w.Size}, nil
	}
	if err == nil {
		var out registry.Blob
		out.Digest = r.Digest
		out.Content, out.Size, err = b.engine.Open(dctx, ctx, w)
		if err == nil {
			return out, nil
		}
	}
	if ctx.Err() == nil {
		b.log.Info("cannot help with a blob", zap.Stringer("repository", r.Name), zap.Stringer("digest", r.Digest), zap.Error(err))
	}
	return registry.Blob{}, registry.BlobUnknown(r.Digest, err)
}

// locate finds a blob's size: from the store, a manifest, the seeder or the upstream.
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
		var errs []error
		for _, c := range b.sources(n) {
			size, err := c.BlobSize(ctx, n.Upstream, n.Repository, d)
			if err == nil {
				return size, nil
			}
			errs = append(errs, err)
		}
		return 0, last(n, errs)
	})
	w.Size = size
	return w, err
}

// Tags implements registry.Backend.
func (b *backend) Tags(ctx context.Context, n registry.Name, limit int, after string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	var errs []error
	for _, c := range b.sources(n) {
		tags, err := c.Tags(ctx, n.Upstream, n.Repository, limit, after)
		if err == nil {
			return tags, nil
		}
		errs = append(errs, err)
	}
	return nil, registry.NameUnknown(n, last(n, errs))
}

// shared runs f once for all callers of a key. A caller that goes away does
// not stop it.
func shared[T any](ctx context.Context, b *backend, key string, f func(context.Context) (T, error)) (T, error) {
	ch := b.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(b.life, manifestTimeout)
		defer cancel()
		return f(ctx)
	})
	select {
	case r := <-ch:
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		var zero T
		return zero, fmt.Errorf("no source answered in time: %w", ctx.Err())
	}
}
