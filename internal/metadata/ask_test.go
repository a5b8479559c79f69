package metadata

import (
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// contract 11, 12: who is silent costs patience once, and the next source
// answers meanwhile.
func TestSilentSources(t *testing.T) {
	m := image("v1")
	frozen := func(r *rig) { r.seeder.hang, r.alive = true, false }
	for _, test := range []struct {
		name        string
		set         func(r *rig)
		kind        upstream.Kind // of the error; 0: there is an answer
		first, next time.Duration // longest time of the first answer, and of those that follow
		direct      int           // requests to the upstream by the first
	}{
		{name: "seeder answers", set: func(r *rig) { r.seeder.says["t"] = m }},
		{name: "seeder is slow but alive", set: func(r *rig) { r.seeder.says["t"], r.seeder.delay = m, 7*time.Second }, first: 7 * time.Second, next: 7 * time.Second},
		{name: "seeder is frozen", set: func(r *rig) { frozen(r); r.direct.says["t"] = m }, first: 2 * time.Second, direct: 1},
		{name: "seeder refuses", set: func(r *rig) { r.seeder.err = failure(upstream.Unavailable); r.direct.says["t"] = m }, direct: 1},
		{name: "seeder has no credentials", set: func(r *rig) { r.seeder.err = failure(upstream.Denied); r.direct.says["t"] = m }, direct: 1},
		{name: "the seeder's not found is final", set: func(r *rig) { r.direct.says["t"] = m }, kind: upstream.NotFound},
		{name: "frozen seeder, nothing at the upstream", set: frozen, kind: upstream.NotFound, first: 2 * time.Second, direct: 1},
		{name: "frozen seeder, black-holed upstream", set: func(r *rig) { frozen(r); r.direct.hang = true }, kind: upstream.Unavailable, first: 2 * time.Second, direct: 1},
		{name: "dead seeder, black-holed upstream", set: func(r *rig) { r.seeder.err = failure(upstream.Unavailable); r.direct.hang = true },
			kind: upstream.Unavailable, first: 2 * time.Second, direct: 1},
		{name: "both refuse", set: func(r *rig) {
			r.seeder.err, r.direct.err = failure(upstream.Unavailable), failure(upstream.Unavailable)
		},
			kind: upstream.Unavailable, direct: 1},
		{name: "both deny", set: func(r *rig) { r.seeder.err, r.direct.err = failure(upstream.Denied), failure(upstream.Denied) },
			kind: upstream.Denied, direct: 1},
		{name: "seeder alive, its upstream hangs", set: func(r *rig) { r.seeder.hang = true }, kind: upstream.Unavailable, first: 8 * time.Second, next: 8 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, nil, func(r *rig) {
				test.set(r)
				want := m
				if test.kind != 0 {
					want = nil
				}
				byTag := func() (*registry.Manifest, error) { return r.tag("t") }
				r.want("first", byTag, want, test.kind, test.first)
				if n := len(r.direct.requests()); n != test.direct {
					t.Errorf("%d requests to the upstream, want %d", n, test.direct)
				}
				// Another tag: nothing remembered stands in.
				if want != nil {
					r.seeder.set(func(c *client) { c.says["u"] = c.says["t"] })
					r.direct.set(func(c *client) { c.says["u"] = c.says["t"] })
				}
				for range 3 {
					r.want("next", func() (*registry.Manifest, error) { return r.tag("u") }, want, test.kind, test.next)
				}
			})
		})
	}
}

// contract 22: a remembered tag is served when nobody can be asked, and the
// seeder is asked again once it is back.
func TestFrozenSeederWithRememberedTag(t *testing.T) {
	in(t, nil, func(r *rig) {
		m, moved := image("v1"), image("v2")
		r.seeder.says["t"] = m
		byTag := func() (*registry.Manifest, error) { return r.tag("t") }
		r.want("cold", byTag, m, 0, 0)
		r.seeder.set(func(c *client) { c.hang = true })
		r.direct.set(func(c *client) { c.hang = true })
		r.alive = false
		r.want("everything hangs", byTag, m, 0, 3*time.Second)
		for range 3 {
			r.want("everything hangs still", byTag, m, 0, 0)
		}
		r.later(6 * time.Second)
		r.want("and for long", byTag, m, 0, 300*time.Millisecond)
		r.seeder.set(func(c *client) { c.hang = false; c.says["t"] = moved })
		r.later(6 * time.Second)
		r.want("the seeder is back", byTag, moved, 0, 0)
	})
}

// A seeder's upstream that hangs for long: who asks for a remembered tag never
// waits again, and learns soon that the upstream is back, however slow.
func TestLongOutage(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		m, moved := image("v1"), image("v2")
		r.direct.says["t"] = m
		byTag := func() (*registry.Manifest, error) { return r.tag("t") }
		r.want("cold", byTag, m, 0, 0)
		r.wall = time.Hour
		r.direct.set(func(c *client) { c.hang = true })
		r.want("first", byTag, m, 0, 2*time.Second)
		for range 20 {
			r.later(3 * time.Second)
			r.want("later", byTag, m, 0, 300*time.Millisecond)
		}
		r.direct.set(func(c *client) { c.hang, c.delay = false, time.Second; c.says["t"] = moved })
		r.later(6 * time.Second)
		r.want("back, but slow", byTag, m, 0, 300*time.Millisecond)
		r.later(3 * time.Second)
		r.want("its answer came late", byTag, moved, 0, 2*time.Second)
	})
}

// A seeder that is back is used although the upstream cannot be reached at all.
func TestSeederIsBackBehindAFirewall(t *testing.T) {
	in(t, nil, func(r *rig) {
		m := image("v1")
		r.seeder.hang, r.alive = true, false
		r.direct.err = failure(upstream.Unavailable)
		r.want("frozen", func() (*registry.Manifest, error) { return r.tag("t") }, nil, upstream.Unavailable, 2*time.Second)
		r.seeder.set(func(c *client) { c.hang, c.delay = false, 100*time.Millisecond; c.says["t"] = m })
		r.later(6 * time.Second)
		r.want("back", func() (*registry.Manifest, error) { return r.tag("t") }, m, 0, 100*time.Millisecond)
	})
}

// Trouble of the seeder with one upstream is none with others.
func TestRelayAnswersForOthers(t *testing.T) {
	in(t, nil, func(r *rig) {
		m := image("v1")
		r.seeder.err, r.seeder.delay = &upstream.Error{Op: "test", Kind: upstream.Unavailable, Status: 503}, 2*time.Second
		r.direct.err = failure(upstream.Unavailable)
		r.want("its upstream is down", func() (*registry.Manifest, error) { return r.tag("t") }, nil, upstream.Unavailable, 2*time.Second)
		r.seeder.set(func(c *client) { c.err, c.delay = nil, 0; c.says["u"] = m })
		r.want("another tag", func() (*registry.Manifest, error) { return r.tag("u") }, m, 0, 0)
		r.wantRequests(r.seeder, "GET t", "GET u")
	})
}

// Peers have manifests by digest when nobody else answers, or when it was
// deleted there; the type is what the content says, not what a peer says.
func TestPeers(t *testing.T) {
	index := `{"schemaVersion":2,"manifests":[]}`
	typed := `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"x/y","digest":"` + digest.FromString("c").String() + `","size":1},"layers":[]}`
	for _, test := range []struct {
		name, content, mediaType string
		set                      func(r *rig)
		within                   time.Duration
	}{
		{name: "nobody else answers", content: string(image("v1").Content), mediaType: ociImage,
			set: func(r *rig) {
				r.seeder.err, r.direct.err = failure(upstream.Unavailable), failure(upstream.Unavailable)
			}},
		{name: "the others hang", content: index, mediaType: "application/vnd.oci.image.index.v1+json",
			set: func(r *rig) { r.seeder.hang, r.direct.hang, r.alive = true, true, false }, within: 3 * time.Second},
		{name: "one fails, the next hangs", content: index, mediaType: "application/vnd.oci.image.index.v1+json",
			set: func(r *rig) { r.seeder.err, r.direct.hang = failure(upstream.Unavailable), true }},
		{name: "deleted upstream", content: typed, mediaType: "application/vnd.docker.distribution.manifest.v2+json", set: func(*rig) {}},
		{name: "no manifest", content: `{"schemaVersion":2}`, set: func(*rig) {}},
		{name: "no JSON", content: "hello", set: func(*rig) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, nil, func(r *rig) {
				d := digest.FromString(test.content)
				r.peers[d.String()] = []byte(test.content)
				test.set(r)
				var want *registry.Manifest
				if test.mediaType != "" {
					want = &registry.Manifest{Digest: d, MediaType: test.mediaType}
				}
				byDigest := func() (*registry.Manifest, error) { return r.digest(d) }
				r.want("first", byDigest, want, upstream.NotFound, test.within)
				if want != nil {
					r.peers = nil
					r.want("kept", byDigest, want, 0, 0)
				}
			})
		})
	}
}

// A late answer finds its way into the store.
func TestLateAnswerIsKept(t *testing.T) {
	in(t, nil, func(r *rig) {
		m := image("v1")
		r.seeder.err = failure(upstream.Unavailable)
		r.direct.says["t"], r.direct.delay = m, 4*time.Second
		r.want("slow upstream", func() (*registry.Manifest, error) { return r.tag("t") }, nil, upstream.Unavailable, 2*time.Second)
		r.later(3 * time.Second)
		if e, ok := r.tags.Get(repo, "t"); !ok || e.Digest != m.Digest {
			t.Errorf("tag remembered: %+v, %v", e, ok)
		}
		r.want("by digest", func() (*registry.Manifest, error) { return r.digest(m.Digest) }, m, 0, 0)
	})
}

// An error tells what was tried, of each source.
func TestErrors(t *testing.T) {
	in(t, nil, func(r *rig) {
		r.seeder.err, r.direct.hang = failure(upstream.Denied), true
		_, err := r.tag("t")
		for _, part := range []string{"t of up.test/lab/app", "seeder: test", "denied (403", "upstream: no answer"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
		if KindOf(err) != upstream.Unavailable {
			t.Errorf("kind %s: who does not answer may know better", KindOf(err))
		}
	})
	in(t, func(o *Options, _ *rig) { o.Sources = func(string) []*Source { return nil } }, func(r *rig) {
		_, err := r.tag("t")
		if KindOf(err) != upstream.Invalid || !strings.Contains(err.Error(), `neither a seeder nor an upstream named "up.test"`) {
			t.Errorf("%s: %v", KindOf(err), err)
		}
	})
}

// Tag lists come from the sources, too.
func TestTags(t *testing.T) {
	in(t, nil, func(r *rig) {
		r.seeder.err = failure(upstream.Unavailable)
		r.direct.says["tags"] = image("v1")
		tags, err := r.cache.Tags(r.t.Context(), repo, 10, "")
		if err != nil || len(tags) != 1 {
			t.Errorf("%v, %v", tags, err)
		}
		r.wantRequests(r.direct, "TAGS tags")
	})
}
