package metadata

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// listing is a registry that lists referrers.
type listing struct {
	client
	of    map[digest.Digest][]ocispec.Descriptor
	fails error
	lists int
}

func (l *listing) Referrers(_ context.Context, _, _ string, d digest.Digest) ([]ocispec.Descriptor, error) {
	l.lists++
	return append([]ocispec.Descriptor{}, l.of[d]...), l.fails
}

// A list of referrers ages, stands in and is shared as what a tag means.
func TestReferrers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := ocispec.Descriptor{MediaType: ociImage, Digest: digest.FromString("one"), Size: 1, ArtifactType: "a/b", Annotations: map[string]string{"k": "v"}}
		two := ocispec.Descriptor{MediaType: ociImage, Digest: digest.FromString("two"), Size: 2}
		d, d512 := digest.FromString("subject"), digest.SHA512.FromString("subject")
		up := &listing{of: map[digest.Digest][]ocispec.Descriptor{d: {two, one}, d512: {two}}}
		tags, err := registry.OpenTags(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		sources := []*Source{{Name: "up", Client: up}, {Name: "one that lists none", Client: &client{}}}
		r := NewReferrers(Options{
			Content: &content{held: map[digest.Digest]*registry.Manifest{}, from: map[digest.Digest]fetch.Source{}}, Tags: tags, Catalog: registry.NewCatalog(10),
			Sources: func(string) []*Source { return sources },
			Ages:    func(string) Ages { return Ages{TTL: time.Minute, Stale: time.Hour} },
		})
		defer r.Close()
		list := func(d digest.Digest, want, lists int) []ocispec.Descriptor {
			t.Helper()
			got, err := r.List(t.Context(), registry.Request{Name: repo, Reference: d.String(), Digest: d})
			if err != nil || len(got) != want || up.lists != lists {
				t.Fatalf("%+v, %v, asked %d times", got, err, up.lists)
			}
			return got
		}
		got := list(d, 2, 1)
		for _, x := range got {
			if x.Digest == one.Digest && (x.ArtifactType != "a/b" || x.Annotations["k"] != "v" || x.Size != 1) {
				t.Errorf("%+v", x)
			}
		}
		list(d, 2, 1) // from memory
		list(d512, 1, 2)
		list(digest.FromString("nothing refers to it"), 0, 3)
		time.Sleep(2 * time.Minute)
		up.of[d] = nil
		list(d, 0, 4) // an empty list is known already
		up.of[d] = []ocispec.Descriptor{one}
		up.fails = &upstream.Error{Kind: upstream.Unavailable}
		time.Sleep(2 * time.Minute)
		list(d, 0, 5) // stale
		time.Sleep(2 * time.Hour)
		if got, err := r.List(t.Context(), registry.Request{Name: repo, Digest: d}); err == nil {
			t.Errorf("%+v", got)
		}
	})
}

func TestListName(t *testing.T) {
	for _, d := range []digest.Digest{digest.FromString("x"), digest.SHA512.FromString("x")} {
		name := listName(d)
		if !registry.ValidTag(name) || listSubject(name) != d {
			t.Errorf("%s: %s, %s", d, name, listSubject(name))
		}
	}
}
