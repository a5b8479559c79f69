package mirror

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// recheckTimeout is how long a tag is asked for where a stale one could stand in.
const recheckTimeout = 3 * time.Second

// errNothingYet: somebody is at work on a blob, and the client cannot be promised
// what may never come.
var errNothingYet = errors.New("nothing of it has come in time, and this client would not go on after a body without a byte")

// within is the part of a deadline that is left for deciding, so that the answer
// has reached the client when it is over.
func within(deadline time.Duration) time.Duration { return deadline - deadline/20 }

// backend is peerd's registry.Backend.
type backend struct {
	engine     engine
	meta       *metadata.Cache
	refs       *metadata.Referrers
	catalog    *registry.Catalog
	gate       *gate
	deadlines  config.Deadlines
	refusals   *registry.Refusals
	log        *zap.Logger
	noPrefetch bool
	back       *heldBack                               // nil with --lazy whole
	pulled     func(registry.Name, *registry.Manifest) // told of each manifest that a client takes
}

// engine is what the backend asks of the downloads (*fetch.Engine).
type engine interface {
	// Prefetch starts to download the blobs of an image that are neither here
	// nor on their way.
	Prefetch(...fetch.Want)
	// Open returns a blob once a first piece proves a source, at the latest
	// when ctx ends. life bounds the reader.
	Open(ctx, life context.Context, w fetch.Want) (io.ReadSeekCloser, int64, error)
	// Arriving tells whether a piece of one of these blobs has come within the time given.
	Arriving(within time.Duration, ds ...digest.Digest) bool
	// OpenHeld opens a blob that is here whole; any error means that it is not.
	OpenHeld(d digest.Digest) (io.ReadSeekCloser, int64, error)
}

func newBackend(d *daemon.Daemon, c config.Peerd, s *seeders) *backend {
	log := d.Log.Named("mirror")
	direct := &metadata.Source{Name: "upstream", Client: d.Upstream}
	peers := &metadata.Source{Name: "peers", Peers: peersOf(d, c.LookupTimeout)}
	o := metadata.Options{
		Content: d.Engine, Tags: d.Tags, Catalog: d.Catalog,
		Sources: func(up string) []*metadata.Source {
			list := s.sources(up)
			if _, ok := d.Upstream.URL(up); ok {
				list = append(list, direct)
			}
			return append(list, peers)
		},
		Ages:   func(up string) metadata.Ages { return metadata.Ages(c.Ages(up)) },
		Permit: d.Upstream.Permit,
		Decide: within(c.ManifestTimeout), Recheck: recheckTimeout, Patience: c.LookupTimeout, Limit: within(c.LookupLimit), Brisk: true,
		Log: log, Registerer: d.Metrics, Namespace: "peerd",
	}
	b := &backend{
		engine: d.Engine, catalog: d.Catalog, gate: newGate(d, c, s), deadlines: c.Deadlines, log: log, refusals: registry.NewRefusals(c.RefuseCut), noPrefetch: c.NoPrefetch,
		meta: metadata.New(o), pulled: d.Pulled,
	}
	if c.Lazy.Lazy != config.LazyWhole {
		b.back = newHeldBack()
	}
	o.Tags = d.ReferrerTags
	b.refs = metadata.NewReferrers(o)
	return b
}

func (b *backend) close() {
	b.refs.Close()
	b.meta.Close()
	b.gate.close()
}

// peersOf has manifests from peers. A peerd that has just started waits for its
// place in the swarm first, for as long as for anybody who may know.
func peersOf(d *daemon.Daemon, wait time.Duration) func(context.Context, digest.Digest, int64) ([]byte, error) {
	join := joined(d)
	return func(ctx context.Context, dg digest.Digest, limit int64) ([]byte, error) {
		jctx, cancel := context.WithTimeout(ctx, 3*wait/4)
		err := join(jctx)
		cancel()
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		content, _, err := d.Engine.FromPeers(ctx, dg, limit)
		return content, err
	}
}

// Manifest implements registry.Backend.
func (b *backend) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	b.name(&r)
	m, err := b.admitted(ctx, r)
	if err != nil {
		unknown := registry.ManifestUnknown(r.Name, r.Reference, err)
		if errors.As(err, new(*refused)) {
			return nil, answer(err, unknown)
		}
		if ctx.Err() == nil {
			b.log.Info("cannot help with a manifest", zap.Stringer("repository", r.Name), zap.String("reference", r.Reference), zap.Error(err))
		}
		return nil, unknown
	}
	b.gate.learn(r.Name, m)
	if !r.Head { // who only looks may have it all
		b.pulled(r.Name, m)
		b.prefetch(ctx, r.Name, m)
	}
	if err := b.assured(ctx, r, m); err != nil {
		if ctx.Err() == nil {
			b.log.Info("cannot help with a manifest", zap.Stringer("repository", r.Name), zap.String("reference", r.Reference), zap.Error(err))
		}
		return nil, registry.ManifestUnknown(r.Name, r.Reference, err)
	}
	return m, nil
}

// name settles which repository a request is about, for all that follows.
func (b *backend) name(r *registry.Request) {
	r.Name, r.Named = b.meta.Origin(*r), true
}

// admitted is a manifest that the client may be given. What a tag means is
// looked up meanwhile; by digest, what is not the repository's is not even asked
// for, as it would be remembered as its own.
func (b *backend) admitted(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	if _, named := b.catalog.Find(r.Digest); r.Digest != "" && !named { // promised to nobody: all of it within the limit (contract 11)
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, within(b.deadlines.LookupLimit))
		defer done()
	}
	actx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	t := upstream.Target{Manifest: r.Reference}
	if r.Digest != "" {
		if err := b.gate.admit(actx, r.Name, t); err != nil {
			return nil, err
		}
		return b.meta.Manifest(ctx, r)
	}
	var verdict error
	var wg sync.WaitGroup
	wg.Go(func() { verdict = b.gate.admit(actx, r.Name, t) })
	m, err := b.meta.Manifest(ctx, r)
	if err != nil {
		cancel() // what cannot be had need not be allowed
	}
	wg.Wait()
	if err != nil {
		return nil, err
	}
	if err = verdict; unsure(err) { // whoever gave the manifest may know by now, and peers may know it by its digest
		err = b.gate.admit(actx, r.Name, upstream.Target{Manifest: m.Digest.String()})
	}
	if err != nil {
		return nil, err
	}
	b.gate.public.Prove(r.Name, m.Digest)
	return m, nil
}

// prefetch joins the swarms of the blobs that a manifest names, before the
// client asks for them (contract 19). Of an index nothing is fetched: the
// client chooses the platform.
func (b *backend) prefetch(ctx context.Context, n registry.Name, m *registry.Manifest) {
	if b.noPrefetch {
		return
	}
	wants := b.wants(n, m)
	for i := range wants {
		wants[i].Span = trace.SpanFromContext(ctx)
	}
	if p, err := registry.Parse(m.MediaType, m.Content); err == nil {
		wants = b.back.hold(p, wants)
	}
	b.engine.Prefetch(wants...)
}

// Blob implements registry.Backend.
func (b *backend) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	b.name(&r)
	limit := b.deadlines.HeaderTimeout
	if r.Bound() { // nowhere else does it go
		limit = b.deadlines.GapTimeout
	}
	dctx, cancel := context.WithTimeout(ctx, within(limit))
	defer cancel()
	if err := b.gate.admit(dctx, r.Name, upstream.Target{Blob: r.Digest}); err != nil {
		return registry.Blob{}, answer(err, registry.BlobUnknown(r.Digest, err))
	}
	if !r.Head {
		if c, size, err := b.engine.OpenHeld(r.Digest); err == nil {
			return registry.Blob{Digest: r.Digest, Size: size, Content: c, Cached: registry.Cached{Result: registry.CacheHit}}, nil
		}
	}
	w, err := b.meta.Blob(dctx, r)
	if err == nil && r.Head {
		return registry.Blob{Digest: r.Digest, Size: w.Size}, nil
	}
	if err == nil {
		if !w.Lazy {
			b.engine.Prefetch(b.back.release(r.Digest)...)
		}
		out := registry.Blob{Digest: r.Digest, Cached: registry.Cached{Result: registry.CacheMiss, From: "swarm"}}
		if out.Content, out.Size, err = b.engine.Open(dctx, ctx, w); err == nil {
			if !r.NeedsByte() || dctx.Err() == nil || b.engine.Arriving(b.deadlines.GapTimeout, r.Digest) {
				return out, nil
			}
			out.Content.Close()
			err = errNothingYet
		}
	}
	if ctx.Err() == nil {
		if dctx.Err() != nil {
			b.meta.Passed(metadata.PassedHeader)
		}
		b.log.Info("cannot help with a blob", zap.Stringer("repository", r.Name), zap.Stringer("digest", r.Digest), zap.Error(err))
	}
	return registry.Blob{}, registry.BlobUnknown(r.Digest, err)
}

// Referrers implements registry.ReferrerLister.
func (b *backend) Referrers(ctx context.Context, r registry.Request, _ string) ([]registry.Descriptor, error) {
	actx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	if err := b.gate.admit(actx, r.Name, upstream.Target{Manifest: r.Digest.String()}); err != nil {
		return nil, answer(err, registry.ManifestUnknown(r.Name, r.Reference, err))
	}
	list, err := b.refs.List(ctx, r)
	if err != nil {
		return nil, registry.ManifestUnknown(r.Name, r.Reference, err)
	}
	return list, nil
}

// Tags implements registry.Backend.
func (b *backend) Tags(ctx context.Context, n registry.Name, limit int, last string) ([]string, error) {
	actx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	if err := b.gate.admit(actx, n, upstream.Target{}); err != nil {
		return nil, answer(err, registry.NameUnknown(n, err))
	}
	tags, err := b.meta.Tags(ctx, n, limit, last)
	if err != nil {
		return nil, registry.NameUnknown(n, err)
	}
	return tags, nil
}
