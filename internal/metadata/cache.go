package metadata

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Content is where manifests are kept (*fetch.Engine).
type Content interface {
	// Held returns content that is here whole, with its media type; any error
	// means that it is not.
	Held(d digest.Digest, limit int64) (content []byte, mediaType string, err error)
	// Keep stores content. Its only error is that the digest is another.
	Keep(d digest.Digest, content []byte, mediaType string, src fetch.Source) error
	// SizeOf is the size of a blob that is here, at least in part.
	SizeOf(d digest.Digest) (int64, bool)
}

// Options of a Cache. Content, Tags, Catalog and Sources are required.
type Options struct {
	Content Content
	Tags    *registry.Tags
	Catalog *registry.Catalog
	// Sources are whom to ask about content of an upstream, the best first;
	// there may be none. It is called for every question.
	Sources func(upstream string) []*Source

	// Ages are how old answers about an upstream's names may be.
	Ages func(upstream string) Ages
	// Permit tells why a repository of an upstream, or a blob of this size in
	// it, may not be had (*upstream.Client.Permit); size is below 0 where it
	// does not matter yet. nil: all may.
	Permit func(upstream, repository string, size int64) error

	// How long a question may take. Zero values mean the defaults.
	Decide   time.Duration // where a source is at work: 10 s
	Recheck  time.Duration // where a remembered tag could answer, or every source failed the last time: 2 s
	Glance   time.Duration // where both is true: 300 ms
	Patience time.Duration // without a sign of life, until the next source is asked too: 1 s
	Limit    time.Duration // without a sign of life of anybody, and for a digest that no manifest has named: Decide
	Memory   time.Duration // a source that cost patience is passed over for so long: 5 s
	// Brisk gives up at once when every source was silent a moment ago; else
	// they are asked once more, within Recheck.
	Brisk bool

	Now        func() time.Time // of tags; default time.Now
	Log        *zap.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
}

// Ages are how old answers about names may be. Zero: not at all.
type Ages struct {
	TTL      time.Duration // a tag checked less than this ago is not checked again
	Stale    time.Duration // a tag checked less than this ago may stand in for failing sources
	NotFound time.Duration // what a source does not have is not asked for again for so long
}

// Cache answers questions about names. Safe for concurrent use.
type Cache struct {
	o      Options
	log    *zap.Logger
	flight singleflight.Group
	absent absent
	ailing ailing

	answers   *prometheus.CounterVec // upstream, result
	deadlines *prometheus.CounterVec // deadline

	ctx    context.Context // of work that outlives the client who caused it
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// New makes a Cache; it must be closed.
func New(o Options) *Cache {
	defaults(&o.Decide, 10*time.Second)
	defaults(&o.Recheck, 2*time.Second)
	defaults(&o.Glance, 300*time.Millisecond)
	defaults(&o.Patience, time.Second)
	defaults(&o.Limit, o.Decide)
	defaults(&o.Memory, 5*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Permit == nil {
		o.Permit = func(string, string, int64) error { return nil }
	}
	c := &Cache{o: o, log: o.Log, answers: newTagAnswers(o.Registerer, o.Namespace), deadlines: newDeadlines(o.Registerer, o.Namespace)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(c.prune)
	return c
}

func defaults(v *time.Duration, d time.Duration) {
	if *v <= 0 {
		*v = d
	}
}

// Close ends questions under way and waits for them.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// begin counts a goroutine; false after Close. It must call c.wg.Done.
func (c *Cache) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	return true
}

// Manifest returns the manifest that a request names by tag or digest. The
// error is an *Error, or the context's, or says that the rules forbid it.
func (c *Cache) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	n := r.Name
	if r.Digest != "" {
		n = c.origin(r)
	}
	if err := c.o.Permit(n.Upstream, n.Repository, -1); err != nil {
		return nil, err
	}
	if r.Digest != "" {
		return c.byDigest(ctx, n, r.Digest)
	}
	return c.byTag(ctx, n, r.Reference)
}

// Origin is the repository that a request is about.
func (c *Cache) Origin(r registry.Request) registry.Name {
	if r.Digest == "" {
		return r.Name
	}
	return c.origin(r)
}

// origin is the repository a digest is asked of. Clients that name no upstream
// (docker, podman) mean the one whose manifests named the digest (contract 20).
func (c *Cache) origin(r registry.Request) registry.Name {
	if k, ok := c.o.Catalog.Find(r.Digest); ok && !r.Named && k.Name.Repository == r.Name.Repository {
		return k.Name
	}
	return r.Name
}

// byDigest takes a manifest from the store, else from a source.
func (c *Cache) byDigest(ctx context.Context, n registry.Name, d digest.Digest) (*registry.Manifest, error) {
	if m, ok := c.held(n, d); ok {
		return m, nil
	}
	_, named := c.o.Catalog.Find(d)
	return shared(ctx, c, n, "manifest "+n.String()+"@"+d.String(), func(via []string) (*registry.Manifest, error) {
		return ask(c, question{n: n, what: d.String(), digest: true, guess: !named, via: via, span: trace.SpanFromContext(ctx)}, func(ctx context.Context, s *Source) (*registry.Manifest, error) {
			return c.get(ctx, s, n, d.String())
		})
	})
}

// byTag takes what a tag means from memory within its TTL, else from a source;
// while none answers, from memory until that is too old.
func (c *Cache) byTag(ctx context.Context, n registry.Name, tag string) (*registry.Manifest, error) {
	cached, age := c.remembered(n, tag)
	ages := c.o.Ages(n.Upstream)
	if cached != nil && age >= 0 && age < ages.TTL {
		c.answered(n, fresh, nil)
		return cached, nil
	}
	stand := cached != nil && age < ages.Stale
	m, err := shared(ctx, c, n, "tag "+n.String()+":"+tag, func(via []string) (*registry.Manifest, error) {
		m, err := ask(c, question{n: n, what: tag, stand: stand, via: via, span: trace.SpanFromContext(ctx)}, func(ctx context.Context, s *Source) (*registry.Manifest, error) {
			if stand {
				ctx = upstream.Spare(ctx)
			}
			return c.resolve(ctx, s, n, tag, cached)
		})
		if KindOf(err) == upstream.NotFound {
			c.forget(n, tag)
		}
		return m, err
	})
	switch kind := KindOf(err); {
	case err == nil:
		c.answered(n, checked, nil)
	case kind == upstream.NotFound:
		c.answered(n, missing, nil)
	case cached != nil && kind == upstream.Offline, stand && kind != upstream.Denied && kind != upstream.Refused && ctx.Err() == nil:
		c.answered(n, stale, err)
		cached.Cached.Result = registry.CacheStale
		return cached, nil
	case kind != upstream.Canceled:
		c.answered(n, failed, nil)
	}
	return m, err
}

// Forget drops the memory of what a repository does not have.
func (c *Cache) Forget(n registry.Name) { c.absent.forget(n) }

func (c *Cache) forget(n registry.Name, tag string) {
	if err := c.o.Tags.Delete(n, tag); err != nil {
		c.log.Warn("cannot forget a tag", zap.Stringer("repository", n), zap.String("tag", tag), zap.Error(err))
	}
}

// remembered is what a tag meant when it was checked last, and how long ago
// that was; nil where that is not known, or its manifest is gone. A check in
// the future (a clock that was set back) has a negative age.
func (c *Cache) remembered(n registry.Name, tag string) (*registry.Manifest, time.Duration) {
	e, ok := c.o.Tags.Get(n, tag)
	if !ok {
		return nil, 0
	}
	m, ok := c.held(n, e.Digest)
	if !ok {
		return nil, 0
	}
	age := c.o.Now().Sub(e.Checked)
	m.Age = max(0, age)
	return m, age
}

// resolve asks one source what a tag means now, and has that manifest. With a
// remembered one a HEAD is enough as long as the tag has not moved.
func (c *Cache) resolve(ctx context.Context, s *Source, n registry.Name, tag string, cached *registry.Manifest) (*registry.Manifest, error) {
	if cached != nil {
		desc, err := s.Client.Head(ctx, n.Upstream, n.Repository, tag)
		if err != nil {
			return nil, err
		}
		if m, ok := c.held(n, desc.Digest); ok {
			m.Age = desc.Age
			c.note(n, tag, m)
			return m, nil
		}
	}
	m, err := c.get(ctx, s, n, tag)
	if err == nil {
		c.note(n, tag, m)
	}
	return m, err
}

// get has a manifest from one source and keeps it.
func (c *Cache) get(ctx context.Context, s *Source, n registry.Name, ref string) (*registry.Manifest, error) {
	if s.Client == nil {
		return c.fromPeers(ctx, s, n, digest.Digest(ref))
	}
	m, err := s.Client.Manifest(ctx, n.Upstream, n.Repository, ref, registry.ManifestTypes())
	if err != nil {
		return nil, err
	}
	return c.keep(n, &registry.Manifest{Digest: m.Digest, MediaType: m.MediaType, Content: m.Content, Age: m.Age, Cached: s.missed()}), nil
}

// fromPeers has a manifest from peers. Its bytes have the digest; its type is
// what they say themselves: nobody vouches for the one that a peer names.
func (c *Cache) fromPeers(ctx context.Context, s *Source, n registry.Name, d digest.Digest) (*registry.Manifest, error) {
	content, err := s.Peers(ctx, d, registry.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	p, err := registry.Parse("", content)
	if err != nil {
		return nil, fmt.Errorf("what peers have as %s: %w", d, err)
	}
	if p.Kind == registry.KindUnknown {
		return nil, fmt.Errorf("what peers have as %s is no manifest", d)
	}
	return c.keep(n, &registry.Manifest{Digest: d, MediaType: p.MediaType, Content: content, Cached: s.missed()}), nil
}

// note remembers what a tag means. A seeder that answered from memory says how
// old that is: the TTLs of a chain do not add up.
func (c *Cache) note(n registry.Name, tag string, m *registry.Manifest) {
	e := registry.TagEntry{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Content)), Checked: c.o.Now().Add(-m.Age)}
	if err := c.o.Tags.Put(n, tag, e); err != nil {
		c.log.Warn("cannot remember a tag", zap.Stringer("repository", n), zap.String("tag", tag), zap.Error(err))
	}
}

// held returns a manifest of the store. Where it came from stays as it was
// learned: a client can ask for any digest under any name.
func (c *Cache) held(n registry.Name, d digest.Digest) (*registry.Manifest, bool) {
	content, mediaType, err := c.o.Content.Held(d, registry.MaxManifestSize)
	if err != nil || mediaType == "" {
		return nil, false
	}
	if _, known := c.o.Catalog.Find(d); !known {
		_, _ = c.o.Catalog.Learn(n, d, mediaType, content) // it was looked at when it came
	}
	return &registry.Manifest{Digest: d, MediaType: mediaType, Content: content, Cached: registry.Cached{Result: registry.CacheHit}}, true
}

// keep stores a manifest and learns what it names. A disk that is full does
// not stop the client from having it.
func (c *Cache) keep(n registry.Name, m *registry.Manifest) *registry.Manifest {
	if _, err := c.o.Catalog.Learn(n, m.Digest, m.MediaType, m.Content); err != nil {
		c.log.Warn("a manifest is not understood; it is passed on as it is", zap.Stringer("repository", n),
			zap.Stringer("digest", m.Digest), zap.Error(err))
	}
	if err := c.o.Content.Keep(m.Digest, m.Content, m.MediaType, source(n)); err != nil {
		c.log.Warn("cannot keep a manifest", zap.Stringer("repository", n), zap.Error(err))
	}
	return m
}

// Blob describes the blob that a request names: where it comes from and its
// size, from the store, a manifest or a source. Errors are as Manifest's.
func (c *Cache) Blob(ctx context.Context, r registry.Request) (fetch.Want, error) {
	n := c.origin(r)
	if err := c.o.Permit(n.Upstream, n.Repository, -1); err != nil {
		return fetch.Want{}, err
	}
	w := fetch.Want{Digest: r.Digest, Source: source(n), Span: trace.SpanFromContext(ctx)}
	var err error
	w.Size, err = c.sizeOf(ctx, n, r.Digest)
	if err == nil {
		Narrow(&w, r)
		err = c.o.Permit(n.Upstream, n.Repository, w.Size)
	}
	return w, err
}

// Narrow limits what is wanted of a blob to what the request is for.
func Narrow(w *fetch.Want, r registry.Request) {
	w.First = r.First
	for _, p := range r.Parts(w.Size) {
		w.Lazy, w.Parts = true, append(w.Parts, fetch.Part(p))
	}
}

func (c *Cache) sizeOf(ctx context.Context, n registry.Name, d digest.Digest) (int64, error) {
	if size, ok := c.o.Content.SizeOf(d); ok {
		return size, nil
	}
	if k, ok := c.o.Catalog.Find(d); ok && k.Size >= 0 {
		return k.Size, nil
	}
	return shared(ctx, c, n, "size "+n.String()+"@"+d.String(), func(via []string) (int64, error) {
		return ask(c, question{n: n, what: d.String(), guess: true, via: via, span: trace.SpanFromContext(ctx)}, func(ctx context.Context, s *Source) (int64, error) {
			return s.Client.BlobSize(ctx, n.Upstream, n.Repository, d)
		})
	})
}

// Tags lists the tags of a repository as registry.Backend wants them. Errors
// are as Manifest's.
func (c *Cache) Tags(ctx context.Context, n registry.Name, limit int, last string) ([]string, error) {
	if err := c.o.Permit(n.Upstream, n.Repository, -1); err != nil {
		return nil, err
	}
	return shared(ctx, c, n, fmt.Sprintf("tags %s %d %q", n, limit, last), func(via []string) ([]string, error) {
		return ask(c, question{n: n, what: "tags", stand: len(c.o.Tags.List(n)) > 0, via: via, span: trace.SpanFromContext(ctx)}, func(ctx context.Context, s *Source) ([]string, error) {
			return s.Client.Tags(ctx, n.Upstream, n.Repository, limit, last)
		})
	})
}

func source(n registry.Name) fetch.Source {
	return fetch.Source{Upstream: n.Upstream, Repository: n.Repository}
}

// shared runs f once for all callers of a key at a time. A caller that leaves
// does not stop it. f is told which seeders the question has passed. That there
// is nothing such is remembered for a while.
func shared[T any](ctx context.Context, c *Cache, n registry.Name, key string, f func(via []string) (T, error)) (T, error) {
	var zero T
	if err := c.absent.get(key, c.o.Now()); err != nil {
		return zero, err
	}
	via := upstream.Via(ctx)
	ch := c.flight.DoChan(key, func() (any, error) {
		if !c.begin() {
			return zero, errClosed
		}
		defer c.wg.Done()
		v, err := f(via)
		if KindOf(err) == upstream.NotFound {
			c.absent.put(key, err, c.o.Now(), c.o.Ages(n.Upstream).NotFound)
		}
		return v, err
	})
	select {
	case r := <-ch:
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	}
}
