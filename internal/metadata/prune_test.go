package metadata

import (
	"slices"
	"testing"
	"time"
)

// Tags go with their manifests, unless they were checked just now.
func TestPrune(t *testing.T) {
	in(t, seederOnly, func(r *rig) {
		for _, tag := range []string{"evicted", "held"} {
			r.direct.says[tag] = image(tag)
			if _, err := r.tag(tag); err != nil {
				t.Fatal(err)
			}
		}
		delete(r.content.held, image("evicted").Digest)
		r.later(pruneEvery - time.Minute)
		lately := image("checked lately")
		r.cache.note(repo, "lately", lately)
		if got := r.tags.List(repo); !slices.Equal(got, []string{"evicted", "held", "lately"}) {
			t.Fatalf("before its time: %q", got)
		}
		r.later(2 * time.Minute)
		if got := r.tags.List(repo); !slices.Equal(got, []string{"held", "lately"}) {
			t.Errorf("left %q", got)
		}
		r.later(pruneEvery)
		if got := r.tags.List(repo); !slices.Equal(got, []string{"held"}) {
			t.Errorf("in the end %q", got)
		}
	})
}
