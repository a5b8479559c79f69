package registry

import (
	"fmt"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func learn(t *testing.T, c *Catalog, n Name, content string) digest.Digest {
	t.Helper()
	d := digest.FromString(content)
	if _, err := c.Learn(n, d, ocispec.MediaTypeImageManifest, []byte(content)); err != nil {
		t.Fatal(err)
	}
	return d
}

// contract 20: blobs are found without ns by the manifest that named them.
func TestCatalog(t *testing.T) {
	c := NewCatalog(100)
	quay, hub := Name{"quay.io", "org/app"}, Name{"docker.io", "org/app"}
	content := `{"config":` + desc("config", 7) + `,"layers":[` + desc("layer", 1000) + `]}`
	d := learn(t, c, quay, content)
	for dg, want := range map[digest.Digest]Known{
		d:                           {quay, int64(len(content)), ocispec.MediaTypeImageManifest},
		digest.FromString("config"): {quay, 7, "application/x"},
		digest.FromString("layer"):  {quay, 1000, "application/x"},
	} {
		if got, ok := c.Find(dg); !ok || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", dg, got, ok, want)
		}
	}
	learn(t, c, hub, content)
	if got, _ := c.Find(digest.FromString("layer")); got.Name != hub {
		t.Errorf("named last by %v, got %v", hub, got.Name)
	}
	if _, ok := c.Find(digest.FromString("absent")); ok {
		t.Error("found what nobody named")
	}
	bad := "no manifest"
	if _, err := c.Learn(hub, digest.FromString(bad), ocispec.MediaTypeImageManifest, []byte(bad)); err == nil {
		t.Error("no error")
	}
	if _, ok := c.Find(digest.FromString(bad)); !ok {
		t.Error("a manifest that is not understood is still a manifest")
	}
}

// Whoever can push a manifest anywhere can name any digest with any size. It
// must not make the blob unusable for others.
func TestCatalogSizesDisagree(t *testing.T) {
	c := NewCatalog(100)
	layer := digest.FromString("layer")
	learn(t, c, Name{"docker.io", "library/nginx"}, `{"layers":[`+desc("layer", 1000)+`]}`)
	learn(t, c, Name{"docker.io", "evil/app"}, `{"layers":[`+desc("layer", 1)+`]}`)
	if got, ok := c.Find(layer); !ok || got.Size != -1 {
		t.Errorf("got %+v, %v", got, ok)
	}
	learn(t, c, Name{"docker.io", "library/nginx"}, `{"layers":[`+desc("layer", 1000)+`]}`)
	if got, _ := c.Find(layer); got.Size != -1 {
		t.Errorf("believes the last one: %+v", got)
	}
}

func TestCatalogForgets(t *testing.T) {
	for _, limit := range []int{0, 1, 10} {
		c := NewCatalog(limit)
		for i := range 50 {
			c.put(digest.FromString(fmt.Sprint(i)), Known{Size: int64(i)})
		}
		keep := max(1, limit)
		if len(c.known) != keep || len(c.order) != keep {
			t.Errorf("limit %d: %d known, %d in order", limit, len(c.known), len(c.order))
		}
		if _, ok := c.Find(digest.FromString("49")); !ok {
			t.Errorf("limit %d: the last is forgotten", limit)
		}
	}
}

func TestCatalogConcurrently(t *testing.T) {
	c := NewCatalog(20)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 100 {
				d := digest.FromString(fmt.Sprint(i, j%30))
				c.put(d, Known{})
				c.Find(d)
			}
		})
	}
	wg.Wait()
}
