package local

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/retention"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// BenchmarkCollect is a collection that finds nothing to do in 10 repositories of
// 200 images with two layers of their own each: what it costs every few hours.
//
//	go test ./internal/local -run '^$' -bench Collect
func BenchmarkCollect(b *testing.B) {
	const repos, images = 10, 200
	dir := b.TempDir()
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r := &Registry{o: Options{Dir: filepath.Join(dir, "registry")}}
	write := func(path string, v any) { // a link that is not flushed
		content, err := encodeLink(v)
		if err == nil {
			err = os.WriteFile(path, content, filePerm)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	config := digest.FromString("{}")
	for k := range repos {
		repo := fmt.Sprintf("team/app%d", k)
		for _, path := range []string{r.tagPath(repo, "x"), r.linkPath(repo, blobsName, config), r.linkPath(repo, manifestsName, config)} {
			if err := os.MkdirAll(filepath.Dir(path), dirPerm); err != nil {
				b.Fatal(err)
			}
		}
		write(r.linkPath(repo, blobsName, config), nil)
		for i := range images {
			m := manifestLink{MediaType: ocispec.MediaTypeImageManifest, Size: 500, Pushed: time.Now(), Names: []digest.Digest{config}}
			for l := range 2 {
				d := digest.FromString(fmt.Sprint(k, i, l))
				write(r.linkPath(repo, blobsName, d), nil)
				m.Names = append(m.Names, d)
			}
			d := digest.FromString(fmt.Sprint(k, i))
			write(r.linkPath(repo, manifestsName, d), m)
			write(r.tagPath(repo, fmt.Sprint("v", i)), tagLink{Digest: d, Tagged: time.Now()})
		}
	}
	o := Options{Dir: r.o.Dir, Store: s, Upstream: "reg.test", IsLocal: func(registry.Name) bool { return true }, TrashPeriod: day}
	if o.Retention, err = retention.Parse([]byte("- repositories: '**'\n  keep: [{newest: 1000, pulled: 30d}]"), nil); err != nil {
		b.Fatal(err)
	}
	if r, err = Open(o); err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for b.Loop() {
		p, err := r.Collect(b.Context(), CollectOptions{})
		if err != nil || len(p.Removed) > 0 || len(p.Problems) > 0 {
			text, _ := json.Marshal(p)
			b.Fatalf("%.500s, %v", text, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*repos*images), "µs/image")
}
