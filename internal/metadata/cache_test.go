package metadata

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

var repo = registry.Name{Upstream: "up.test", Repository: "lab/app"}

const ociImage = "application/vnd.oci.image.manifest.v1+json"

// image is a manifest whose content differs by its name.
func image(name string) *registry.Manifest {
	content := []byte(fmt.Sprintf(`{"schemaVersion":2,"layers":[{"mediaType":"x/y","digest":%q,"size":%d}]}`, digest.FromString(name), 100+len(name)))
	return &registry.Manifest{Digest: digest.FromBytes(content), MediaType: ociImage, Content: content}
}

// content is a store in memory.
type content struct {
	mu   sync.Mutex
	held map[digest.Digest]*registry.Manifest
	from map[digest.Digest]fetch.Source
}

func (c *content) Held(d digest.Digest, _ int64) ([]byte, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.held[d]; m != nil {
		return m.Content, m.MediaType, nil
	}
	return nil, "", errors.New("not held")
}

func (c *content) Keep(d digest.Digest, b []byte, mediaType string, src fetch.Source) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[d], c.from[d] = &registry.Manifest{Digest: d, MediaType: mediaType, Content: b}, src
	return nil
}

func (c *content) SizeOf(d digest.Digest) (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.held[d]; m != nil {
		return int64(len(m.Content)), true
	}
	return 0, false
}

func (c *content) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.held)
}

// client is a registry that does as it is told: says maps a reference to what
// it answers, delay is how long that takes.
type client struct {
	mu     sync.Mutex
	says   map[string]*registry.Manifest
	err    error
	delay  time.Duration
	hang   bool
	asked  []string // "GET v1"
	spare  int      // of these, requests that nobody needs
	via    []string // of the last
	active int
	most   int
}

func (c *client) ask(ctx context.Context, method, ref string) (*registry.Manifest, error) {
	c.mu.Lock()
	c.asked = append(c.asked, method+" "+ref)
	if c.via = upstream.Via(ctx); upstream.IsSpare(ctx) {
		c.spare++
	}
	m, err, delay, hang := c.says[ref], c.err, c.delay, c.hang
	c.active++
	c.most = max(c.most, c.active)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.active--
	}()
	t := time.NewTimer(delay)
	defer t.Stop()
	if hang {
		t.Stop()
	}
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil, &upstream.Error{Op: "test", Kind: upstream.Canceled, Err: ctx.Err()}
	}
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, failure(upstream.NotFound)
	}
	return m, nil
}

func failure(k upstream.Kind) error {
	status := map[upstream.Kind]int{upstream.NotFound: 404, upstream.Denied: 403, upstream.RateLimited: 429}[k]
	return &upstream.Error{Op: "test", Upstream: "up.test", Kind: k, Status: status}
}

func (c *client) Head(ctx context.Context, _, _, ref string) (*upstream.Descriptor, error) {
	m, err := c.ask(ctx, "HEAD", ref)
	if err != nil {
		return nil, err
	}
	return &upstream.Descriptor{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Content)), Age: m.Age}, nil
}

func (c *client) Manifest(ctx context.Context, _, _, ref string, _ []string) (*upstream.Manifest, error) {
	m, err := c.ask(ctx, "GET", ref)
	if err != nil {
		return nil, err
	}
	return &upstream.Manifest{Digest: m.Digest, MediaType: m.MediaType, Content: m.Content, Age: m.Age}, nil
}

func (c *client) BlobSize(ctx context.Context, _, _ string, d digest.Digest) (int64, error) {
	m, err := c.ask(ctx, "SIZE", d.String())
	if err != nil {
		return 0, err
	}
	return int64(len(m.Content)), nil
}

func (c *client) Tags(ctx context.Context, _, _ string, _ int, _ string) ([]string, error) {
	if _, err := c.ask(ctx, "TAGS", "tags"); err != nil {
		return nil, err
	}
	return []string{"v1"}, nil
}

// set changes what the client does.
func (c *client) set(f func(*client)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

// requests are those since the last call.
func (c *client) requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.asked
	c.asked = nil
	return r
}

// rig is a Cache in a synctest bubble with a seeder, an upstream and peers, the
// way pkg/mirror has it; or the upstream alone, the way pkg/seed has it.
type rig struct {
	t       *testing.T
	cache   *Cache
	content *content
	tags    *registry.Tags
	catalog *registry.Catalog
	seeder  *client
	direct  *client
	relay   *Source
	alive   bool              // the seeder answers pings
	peers   map[string][]byte // digest -> content
	deaf    bool              // the peers do not answer
	wall    time.Duration     // what the wall clock is ahead
}

func newRig(t *testing.T, change func(*Options, *rig)) *rig {
	tags, err := registry.OpenTags(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, tags: tags, catalog: registry.NewCatalog(100), alive: true, peers: map[string][]byte{},
		content: &content{held: map[digest.Digest]*registry.Manifest{}, from: map[digest.Digest]fetch.Source{}},
		seeder:  &client{says: map[string]*registry.Manifest{}}, direct: &client{says: map[string]*registry.Manifest{}},
	}
	r.relay = &Source{Name: "seeder", Client: r.seeder, Relay: true, Ping: func(ctx context.Context) error {
		if r.alive {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	direct := &Source{Name: "upstream", Client: r.direct}
	peers := &Source{Name: "peers", Peers: func(ctx context.Context, d digest.Digest, _ int64) ([]byte, error) {
		if r.deaf {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if b := r.peers[d.String()]; b != nil {
			return b, nil
		}
		return nil, errors.New("nobody has it")
	}}
	o := Options{
		Content: r.content, Tags: tags, Catalog: r.catalog,
		Sources: func(string) []*Source { return []*Source{r.relay, direct, peers} },
		Ages:    ages(Ages{Stale: 24 * time.Hour}), Decide: 8 * time.Second, Recheck: 3 * time.Second, Limit: 2 * time.Second, Brisk: true,
		Now: func() time.Time { return time.Now().Add(r.wall) },
	}
	if change != nil {
		change(&o, r)
	}
	r.cache = New(o)
	return r
}

// seederOnly makes the rig that of a seeder.
func seederOnly(o *Options, r *rig) {
	up := &Source{Name: "upstream", Client: r.direct}
	o.Sources = func(string) []*Source { return []*Source{up} }
	o.Brisk, o.Limit, o.Recheck = false, 0, 2*time.Second
	o.Ages = ages(Ages{TTL: time.Minute, Stale: 24 * time.Hour})
}

func ages(a Ages) func(string) Ages { return func(string) Ages { return a } }

// later lets time pass.
func (r *rig) later(d time.Duration) { time.Sleep(d) }

func (r *rig) tag(tag string) (*registry.Manifest, error) {
	return r.cache.Manifest(r.t.Context(), registry.Request{Name: repo, Named: true, Reference: tag})
}

func (r *rig) digest(d digest.Digest) (*registry.Manifest, error) {
	return r.cache.Manifest(r.t.Context(), registry.Request{Name: repo, Named: true, Reference: d.String(), Digest: d})
}

// want checks an answer and how long it took to come.
func (r *rig) want(what string, f func() (*registry.Manifest, error), m *registry.Manifest, kind upstream.Kind, within time.Duration) {
	r.t.Helper()
	began := time.Now()
	got, err := f()
	switch took := time.Since(began); {
	case m != nil && (err != nil || got.Digest != m.Digest || got.MediaType != m.MediaType):
		r.t.Errorf("%s: %+v, %v", what, got, err)
	case m == nil && (err == nil || KindOf(err) != kind):
		r.t.Errorf("%s: %+v, error of kind %s: %v; want %s", what, got, KindOf(err), err, kind)
	case took > within:
		r.t.Errorf("%s: took %v, at most %v is allowed", what, took, within)
	}
}

// wantCached checks what an answer about a tag says of itself.
func (r *rig) wantCached(tag string, want registry.Cached) {
	r.t.Helper()
	if m, err := r.tag(tag); err != nil || m.Cached != want {
		r.t.Errorf("tag %s: %+v, %v; want it %+v", tag, m, err, want)
	}
}

func (r *rig) wantRequests(c *client, want ...string) {
	r.t.Helper()
	if got := c.requests(); !slices.Equal(got, want) {
		r.t.Errorf("requests %q, want %q", got, want)
	}
}

// in runs f in a bubble and waits for what the cache started.
func in(t *testing.T, change func(*Options, *rig), f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change)
		defer r.cache.Close()
		f(r)
	})
}

// A tag is believed for the TTL, then a HEAD is enough while it has not moved.
func TestTagTTL(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		v1, v2 := image("v1"), image("v2")
		r.direct.says["t"] = v1
		r.wantCached("t", registry.Cached{Result: registry.CacheMiss, From: "upstream"})
		r.wantRequests(r.direct, "GET t")
		r.wantCached("t", registry.Cached{Result: registry.CacheHit})
		r.want("within the TTL", func() (*registry.Manifest, error) { return r.tag("t") }, v1, 0, 0)
		r.wantRequests(r.direct)
		r.wall = time.Minute
		r.want("after it", func() (*registry.Manifest, error) { return r.tag("t") }, v1, 0, 0)
		r.wantRequests(r.direct, "HEAD t")
		r.direct.says["t"] = v2
		r.want("moved, within the TTL", func() (*registry.Manifest, error) { return r.tag("t") }, v1, 0, 0)
		r.wall = 2 * time.Minute
		r.want("moved, after it", func() (*registry.Manifest, error) { return r.tag("t") }, v2, 0, 0)
		r.wantRequests(r.direct, "HEAD t", "GET t")
		r.direct.says["t"] = v1
		r.wall = 3 * time.Minute
		r.want("moved to what is held", func() (*registry.Manifest, error) { return r.tag("t") }, v1, 0, 0)
		r.wantRequests(r.direct, "HEAD t")
		r.wall = 0
		r.want("the clock was set back", func() (*registry.Manifest, error) { return r.tag("t") }, v1, 0, 0)
		r.wantRequests(r.direct, "HEAD t")
		r.wantCached("t", registry.Cached{Result: registry.CacheHit})
		r.content.drop()
		r.want("its manifest was evicted", func() (*registry.Manifest, error) { return r.tag("t") }, v1, 0, 0)
		r.wantRequests(r.direct, "GET t")
	})
}

// Digests are never asked for twice.
func TestDigestIsKept(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		m := image("v1")
		r.direct.says[m.Digest.String()] = m
		byDigest := func() (*registry.Manifest, error) { return r.digest(m.Digest) }
		r.want("first", byDigest, m, 0, 0)
		r.wall = 1000 * time.Hour
		r.direct.set(func(c *client) { c.err = failure(upstream.Unavailable) })
		r.want("ever after", byDigest, m, 0, 0)
		r.wantRequests(r.direct, "GET "+m.Digest.String())
		if src := r.content.from[m.Digest]; src.String() != "up.test/lab/app" {
			t.Errorf("kept with source %s", src)
		}
	})
}

// An old tag stands in for an upstream that fails, until it is too old.
func TestStaleIfError(t *testing.T) {
	for _, test := range []struct {
		name   string
		breaks func(*client)
		age    time.Duration
		stale  bool
		kind   upstream.Kind
		first  time.Duration // the first answer takes
		next   time.Duration // those that follow
	}{
		{name: "refuses", breaks: func(c *client) { c.err = failure(upstream.Unavailable) }, age: time.Hour, stale: true},
		{name: "fails after a while", breaks: func(c *client) { c.err, c.delay = failure(upstream.Unavailable), time.Second }, age: time.Hour, stale: true, first: time.Second},
		{name: "hangs", breaks: func(c *client) { c.hang = true }, age: time.Hour, stale: true, first: 2 * time.Second},
		{name: "limits the rate", breaks: func(c *client) { c.err = failure(upstream.RateLimited) }, age: time.Hour, stale: true},
		{name: "sends nonsense", breaks: func(c *client) { c.err = failure(upstream.Corrupt) }, age: time.Hour, stale: true},
		{name: "too old", breaks: func(c *client) { c.err = failure(upstream.Unavailable) }, age: 25 * time.Hour, kind: upstream.Unavailable},
		{name: "denies", breaks: func(c *client) { c.err = failure(upstream.Denied) }, age: time.Hour, kind: upstream.Denied},
		{name: "has deleted it", breaks: func(c *client) { clear(c.says) }, age: time.Hour, kind: upstream.NotFound},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, seederOnly, func(r *rig) {
				m := image("v1")
				r.direct.says["t"] = m
				byTag := func() (*registry.Manifest, error) { return r.tag("t") }
				r.want("cold", byTag, m, 0, 0)
				r.wall = test.age
				r.direct.set(test.breaks)
				want := m
				if !test.stale {
					want = nil
				}
				r.want("failing", byTag, want, test.kind, test.first)
				for range 3 {
					r.want("failing still", byTag, want, test.kind, test.next)
				}
				if test.stale {
					r.wantCached("t", registry.Cached{Result: registry.CacheStale})
				}
				if _, known := r.tags.Get(repo, "t"); known != (test.kind != upstream.NotFound) {
					t.Errorf("tag remembered: %v", known)
				}
				r.direct.set(func(c *client) { c.says["t"], c.err, c.hang, c.delay = m, nil, false, 0 })
				r.later(6 * time.Second)
				r.direct.requests()
				r.want("back", byTag, m, 0, 0)
				if len(r.direct.requests()) == 0 {
					t.Error("the upstream was not asked again")
				}
			})
		})
	}
}

// However many ask, the upstream is asked once; who leaves stops nothing.
func TestOneFlight(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		m := image("v1")
		r.direct.says["t"] = m
		r.direct.delay = time.Second
		ctx, cancel := context.WithCancel(r.t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := r.cache.Manifest(ctx, registry.Request{Name: repo, Reference: "t"})
			first <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if got, err := r.tag("t"); err != nil || got.Digest != m.Digest {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		wg.Wait()
		r.wantRequests(r.direct, "GET t")
	})
}

// Close ends questions and waits for them; later ones fail.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, seederOnly)
		r.direct.hang = true
		got := make(chan error, 1)
		go func() {
			_, err := r.tag("t")
			got <- err
		}()
		synctest.Wait()
		r.cache.Close()
		if err := <-got; err == nil {
			t.Error("an answer after Close")
		}
		if _, err := r.tag("t"); err == nil {
			t.Error("an answer after Close")
		}
	})
}

// contract 20: what a manifest named is found without its upstream's name, in
// the repository that named it and no other.
func TestOrigin(t *testing.T) {
	in(t, nil, func(r *rig) {
		other := registry.Name{Upstream: "other.test", Repository: "lab/app"}
		m := image("v1")
		if _, err := r.catalog.Learn(other, m.Digest, m.MediaType, m.Content); err != nil {
			t.Fatal(err)
		}
		layer := digest.FromString("v1")
		for _, test := range []struct {
			name  string
			named bool
			repo  string
			want  string
		}{
			{"un-named", false, "lab/app", "other.test/lab/app"},
			{"named", true, "lab/app", "up.test/lab/app"},
			{"another repository", false, "lab/other", "up.test/lab/other"},
		} {
			n := registry.Name{Upstream: "up.test", Repository: test.repo}
			w, err := r.cache.Blob(r.t.Context(), registry.Request{Name: n, Named: test.named, Reference: layer.String(), Digest: layer})
			if err != nil || w.Source.String() != test.want || w.Size != 102 {
				t.Errorf("%s: %+v, %v; want %s", test.name, w, err, test.want)
			}
		}
	})
}

// A size that manifests disagree on is asked for.
func TestBlobSize(t *testing.T) {
	in(t, nil, func(r *rig) {
		d := digest.FromString("v1")
		ask := func() (int64, error) {
			w, err := r.cache.Blob(r.t.Context(), registry.Request{Name: repo, Named: true, Reference: d.String(), Digest: d})
			return w.Size, err
		}
		if _, err := ask(); KindOf(err) != upstream.NotFound {
			t.Errorf("unknown to everybody: %v", err)
		}
		r.seeder.says[d.String()] = &registry.Manifest{Content: make([]byte, 77)}
		if size, err := ask(); size != 77 || err != nil {
			t.Errorf("size %d from the seeder, %v", size, err)
		}
		m := image("v1")
		_, _ = r.catalog.Learn(repo, m.Digest, m.MediaType, m.Content)
		if size, err := ask(); size != 102 || err != nil {
			t.Errorf("size %d from a manifest, %v", size, err)
		}
		liar := []byte(strings.Replace(string(m.Content), `"size":102`, `"size":1`, 1))
		_, _ = r.catalog.Learn(repo, digest.FromBytes(liar), m.MediaType, liar)
		if size, err := ask(); size != 77 || err != nil {
			t.Errorf("size %d where manifests disagree, %v", size, err)
		}
	})
}
