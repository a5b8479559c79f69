package metadata

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Only a 404 is remembered, for as long as it is told to be, and not for tags
// that have come since.
func TestNotFoundIsRemembered(t *testing.T) {
	for _, test := range []struct {
		name       string
		kind       upstream.Kind
		remembered bool
	}{
		{"not found", upstream.NotFound, true},
		{"denied", upstream.Denied, false},
		{"rate limited", upstream.RateLimited, false},
		{"unavailable", upstream.Unavailable, false},
		{"corrupt", upstream.Corrupt, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, func(o *Options, r *rig) {
				seederOnly(o, r)
				o.Ages = ages(Ages{TTL: time.Minute, Stale: time.Hour, NotFound: 10 * time.Second})
			}, func(r *rig) {
				d := digest.FromString("none")
				ask := map[string]func() error{
					"tag":      func() error { _, err := r.tag("t"); return err },
					"manifest": func() error { _, err := r.digest(d); return err },
					"size": func() error {
						_, err := r.cache.Blob(r.t.Context(), registry.Request{Name: repo, Named: true, Digest: d})
						return err
					},
					"list": func() error { _, err := r.cache.Tags(r.t.Context(), repo, 0, ""); return err },
				}
				for what, f := range ask {
					r.direct.err = failure(test.kind)
					for range 5 {
						if err := f(); KindOf(err) != test.kind {
							t.Errorf("%s: %v", what, err)
						}
					}
					want := 5
					if test.remembered {
						want = 1
					}
					if got := len(r.direct.requests()); got != want {
						t.Errorf("%s: asked %d times, want %d", what, got, want)
					}
					r.wall += 11 * time.Second
					_ = f()
					if len(r.direct.requests()) != 1 {
						t.Errorf("%s: not asked again after the time", what)
					}
				}
			})
		})
	}
}

func TestAbsentIsBounded(t *testing.T) {
	var a absent
	now, gone := time.Unix(1000, 0), errors.New("gone")
	for i := range 2 * maxAbsent {
		a.put(fmt.Sprint(i), gone, now, time.Minute)
	}
	if len(a.until) != maxAbsent {
		t.Errorf("%d questions are remembered, want %d", len(a.until), maxAbsent)
	}
	if a.get(fmt.Sprint(2*maxAbsent-1), now) == nil {
		t.Error("the latest is not among them")
	}
	a.put("after", gone, now.Add(time.Hour), time.Minute)
	if len(a.until) != 1 {
		t.Errorf("%d remain of those that were over", len(a.until)-1)
	}
}

// Each upstream has ages of its own.
func TestAgesPerUpstream(t *testing.T) {
	other := registry.Name{Upstream: "slow.test", Repository: repo.Repository}
	in(t, func(o *Options, r *rig) {
		seederOnly(o, r)
		o.Ages = func(up string) Ages {
			if up == other.Upstream {
				return Ages{TTL: time.Hour}
			}
			return Ages{TTL: time.Second}
		}
	}, func(r *rig) {
		m := image("v1")
		r.direct.says["t"] = m
		ask := func(n registry.Name) {
			if _, err := r.cache.Manifest(r.t.Context(), registry.Request{Name: n, Named: true, Reference: "t"}); err != nil {
				t.Fatal(err)
			}
		}
		ask(repo)
		ask(other)
		r.wall = time.Minute
		r.direct.requests()
		ask(other)
		r.wantRequests(r.direct)
		ask(repo)
		r.wantRequests(r.direct, "HEAD t")
	})
}

// What the rules forbid is refused before anything is looked up, also what is
// here already; a blob that is too large as soon as its size is known.
func TestRules(t *testing.T) {
	forbidden := ""
	in(t, func(o *Options, r *rig) {
		seederOnly(o, r)
		o.Permit = func(up, repository string, size int64) error {
			if up+"/"+repository == forbidden || size > 1000 {
				return &upstream.Error{Op: "permit", Kind: upstream.Refused, Err: errors.New("denied here")}
			}
			return nil
		}
	}, func(r *rig) {
		m := image("v1")
		r.direct.says["t"] = m
		r.direct.says[m.Digest.String()] = m
		if _, err := r.tag("t"); err != nil {
			t.Fatal(err)
		}
		r.direct.requests()
		large := digest.FromString("large")
		r.direct.says[large.String()] = &registry.Manifest{Digest: large, Content: make([]byte, 1001)}
		if _, err := r.cache.Blob(r.t.Context(), registry.Request{Name: repo, Named: true, Digest: large}); KindOf(err) != upstream.Refused {
			t.Errorf("large blob: %v", err)
		}
		r.wantRequests(r.direct, "SIZE "+large.String())
		forbidden = repo.String()
		for what, err := range map[string]error{
			"tag":    second(r.tag("t")),
			"digest": second(r.digest(m.Digest)),
			"blob":   second(r.cache.Blob(r.t.Context(), registry.Request{Name: repo, Named: true, Digest: m.Digest})),
			"tags":   second(r.cache.Tags(r.t.Context(), repo, 0, "")),
		} {
			if KindOf(err) != upstream.Refused {
				t.Errorf("%s: %v", what, err)
			}
		}
		r.wantRequests(r.direct)

		// A request without an upstream's name means the one that named the digest.
		forbidden = "other.test/" + repo.Repository
		m = image("of another upstream")
		if _, err := r.catalog.Learn(registry.Name{Upstream: "other.test", Repository: repo.Repository}, m.Digest, m.MediaType, m.Content); err != nil {
			t.Fatal(err)
		}
		if _, err := r.cache.Manifest(r.t.Context(), registry.Request{Name: repo, Digest: m.Digest}); KindOf(err) != upstream.Refused {
			t.Errorf("manifest named by another upstream: %v", err)
		}
		if _, err := r.cache.Blob(r.t.Context(), registry.Request{Name: repo, Digest: digest.FromString("of another upstream")}); KindOf(err) != upstream.Refused {
			t.Errorf("blob named by another upstream: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// Offline, a tag is served however old it is, and what is missing says so.
func TestOffline(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		m := image("v1")
		r.direct.says["t"] = m
		if _, err := r.tag("t"); err != nil {
			t.Fatal(err)
		}
		r.direct.set(func(c *client) { c.err = failure(upstream.Offline) })
		r.wall = 1000 * time.Hour
		r.want("held", func() (*registry.Manifest, error) { return r.tag("t") }, m, 0, 0)
		r.want("missing", func() (*registry.Manifest, error) { return r.tag("u") }, nil, upstream.Offline, 0)
	})
}

// A source that answers from memory says how old that is: the TTLs of a chain
// of seeders do not add up, and neither does stale-if-error.
func TestAgeOfAChain(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		m := image("v1")
		m.Age = 50 * time.Second
		r.direct.says["t"] = m
		got, err := r.tag("t")
		if err != nil || got.Age != m.Age {
			t.Fatalf("age %v, %v", got.Age, err)
		}
		r.direct.requests()
		r.wall = 9 * time.Second
		if got, err = r.tag("t"); err != nil || got.Age != 59*time.Second {
			t.Errorf("within the TTL: age %v, %v", got.Age, err)
		}
		r.wantRequests(r.direct)
		r.wall = 11 * time.Second // 61 s after the first of the chain asked
		if _, err = r.tag("t"); err != nil {
			t.Error(err)
		}
		r.wantRequests(r.direct, "HEAD t")
		r.direct.set(func(c *client) { c.err = failure(upstream.Unavailable) })
		r.wall += 24 * time.Hour
		r.want("stale for too long, in all", func() (*registry.Manifest, error) { return r.tag("t") }, nil, upstream.Unavailable, 0)
	})
}

// A check of what is remembered is one that nobody needs; a first pull is not.
// Both tell which seeders the question has passed.
func TestSpareAndVia(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		m := image("v1")
		r.direct.says["t"] = m
		ctx := upstream.WithVia(r.t.Context(), []string{"a", "b"})
		get := func() {
			if _, err := r.cache.Manifest(ctx, registry.Request{Name: repo, Named: true, Reference: "t"}); err != nil {
				t.Fatal(err)
			}
		}
		get()
		if r.direct.spare != 0 || fmt.Sprint(r.direct.via) != "[a b]" {
			t.Errorf("first: %d spare, via %v", r.direct.spare, r.direct.via)
		}
		r.wall = time.Hour
		get()
		if r.direct.spare != 1 {
			t.Errorf("check: %d spare", r.direct.spare)
		}
	})
}

// Every answer about a tag is counted once.
func TestTagAnswers(t *testing.T) {
	reg := prometheus.NewRegistry()
	in(t, func(o *Options, r *rig) {
		seederOnly(o, r)
		o.Registerer, o.Namespace = reg, "seeder"
		o.Ages = ages(Ages{TTL: time.Minute, Stale: time.Hour})
	}, func(r *rig) {
		r.direct.says["t"] = image("v1")
		_, _ = r.tag("t")
		_, _ = r.tag("t")
		r.wall = 2 * time.Minute
		r.direct.set(func(c *client) { c.err = failure(upstream.Unavailable) })
		_, _ = r.tag("t")
		_, _ = r.tag("u")
		r.direct.set(func(c *client) { c.err = failure(upstream.NotFound) })
		_, _ = r.tag("u")
	})
	families, err := reg.Gather()
	if err != nil || len(families) != 2 { // and the deadlines
		t.Fatal(families, err)
	}
	got := map[string]float64{}
	for _, m := range families[1].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if fmt.Sprint(got) != "map[checked:1 failed:1 fresh:1 not-found:1 stale:1]" {
		t.Errorf("%v", got)
	}
}
