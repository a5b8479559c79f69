package metadata

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	dto "github.com/prometheus/client_model/go"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// contract 11: what nobody answers for is given up at the limit, whoever is
// silent; only what was promised is waited for while a seeder is at work.
func TestLimit(t *testing.T) {
	d := digest.FromString("who knows")
	for _, test := range []struct {
		name   string
		set    func(r *rig)
		named  bool // a manifest has named the digest
		tag    bool
		took   func(o Options) time.Duration
		passed string
	}{
		{"digest, seeder and upstream black-holed", func(r *rig) { r.seeder.hang, r.alive, r.direct.hang = true, false, true }, false, false,
			func(o Options) time.Duration { return o.Limit }, PassedLimit},
		{"digest, seeder alive and its upstream black-holed", func(r *rig) { r.seeder.hang = true }, false, false,
			func(o Options) time.Duration { return o.Limit }, PassedLimit},
		{"digest, all say no, peers black-holed", func(r *rig) { r.deaf = true }, false, false,
			func(o Options) time.Duration { return o.Limit }, PassedLimit},
		{"promised digest, seeder alive and its upstream black-holed", func(r *rig) { r.seeder.hang = true }, true, false,
			func(o Options) time.Duration { return o.Decide }, PassedManifest},
		{"promised digest, all black-holed", func(r *rig) { r.seeder.hang, r.alive, r.direct.hang, r.deaf = true, false, true, true }, true, false,
			func(o Options) time.Duration { return o.Limit }, PassedLimit},
		{"tag, seeder alive and its upstream black-holed", func(r *rig) { r.seeder.hang = true }, false, true,
			func(o Options) time.Duration { return o.Decide }, PassedManifest},
		{"tag, all black-holed", func(r *rig) { r.seeder.hang, r.alive, r.direct.hang = true, false, true }, false, true,
			func(o Options) time.Duration { return o.Limit }, PassedLimit},
	} {
		for _, scale := range []time.Duration{1, 3} {
			t.Run(fmt.Sprintf("%s, times %d", test.name, scale), func(t *testing.T) {
				var o Options
				in(t, func(to *Options, _ *rig) {
					to.Patience, to.Limit, to.Decide = scale*time.Second, scale*2*time.Second, scale*8*time.Second
					o = *to
				}, func(r *rig) {
					test.set(r)
					if test.named {
						index := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":9}]}`, ociImage, d)
						if _, err := r.catalog.Learn(repo, digest.FromBytes(index), "application/vnd.oci.image.index.v1+json", index); err != nil {
							t.Fatal(err)
						}
					}
					began := time.Now()
					ask := func() (*registry.Manifest, error) { return r.digest(d) }
					if test.tag {
						ask = func() (*registry.Manifest, error) { return r.tag("t") }
					}
					if m, err := ask(); err == nil {
						t.Fatalf("%+v", m)
					}
					if took, want := time.Since(began), test.took(o); took != want {
						t.Errorf("took %v, want %v", took, want)
					}
					var m dto.Metric
					if err := r.cache.deadlines.WithLabelValues(test.passed).Write(&m); err != nil || m.Counter.GetValue() != 1 {
						t.Errorf("%s counted %v times, %v", test.passed, m.Counter.GetValue(), err)
					}
				})
			})
		}
	}
}

// Peers that were asked while the seeder was silent may answer last of all.
func TestPeersAnswerLast(t *testing.T) {
	content := []byte(`{"schemaVersion":2,"manifests":[]}`)
	d := digest.FromBytes(content)
	for _, kind := range []upstream.Kind{upstream.Unavailable, upstream.NotFound} {
		in(t, func(o *Options, r *rig) {
			sources := o.Sources("")
			o.Sources = func(string) []*Source {
				slow := &Source{Name: "peers", Peers: func(context.Context, digest.Digest, int64) ([]byte, error) {
					r.later(900 * time.Millisecond)
					return content, nil
				}}
				return []*Source{sources[0], sources[1], slow}
			}
		}, func(r *rig) {
			r.seeder.hang, r.alive = true, false
			r.direct.err = failure(kind)
			m := &registry.Manifest{Digest: d, MediaType: "application/vnd.oci.image.index.v1+json"}
			r.want("first", func() (*registry.Manifest, error) { return r.digest(d) }, m, upstream.None, 2*time.Second)
		})
	}
}

// contract 11: a frozen seeder is found out in time for another to answer.
func TestLookupTimeout(t *testing.T) {
	for _, patience := range []time.Duration{time.Second, 300 * time.Millisecond} {
		in(t, func(o *Options, _ *rig) { o.Patience = patience }, func(r *rig) {
			m := image("v1")
			r.seeder.hang, r.alive = true, false
			r.direct.says["t"] = m
			began := time.Now()
			r.want("first", func() (*registry.Manifest, error) { return r.tag("t") }, m, upstream.None, 2*time.Second)
			if took, ping := time.Since(began), min(patience, (2*time.Second-patience)/2); took != patience+ping {
				t.Errorf("took %v, want %v and %v for a ping", took, patience, ping)
			}
		})
	}
}
