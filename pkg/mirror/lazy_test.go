package mirror

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// newLazyBench has a seeder that leaves alone what nobody reads.
func newLazyBench(t *testing.T) *bench {
	b := &bench{t: t, up: upstreamtest.New()}
	t.Cleanup(b.up.Close)
	b.configure()
	b.sc.Lazy.Lazy = config.LazyNeeded
	b.startSeeder()
	return b
}

// estargz makes an image whose layers say that they are eStargz.
func (b *bench) estargz(tag string, sizes ...int) (layers []digest.Digest) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, size := range sizes {
		d, _ := b.up.AddRandomBlob(size)
		layers = append(layers, d)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(size),
			Annotations: map[string]string{"containerd.io/snapshot/stargz/toc.digest": digest.FromString("toc").String()}})
	}
	config := b.up.AddBlob([]byte("{}"))
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config, Size: 2}
	text, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	b.up.AddManifest("lab/app", tag, m.MediaType, text)
	b.up.Give("lab/app", append(layers, config)...)
	return layers
}

// contract 19, 28: an image that is made to be mounted lazily is not fetched
// ahead, and ranges bring what they touch; a client that pulls it as any other
// has all of it fetched from its first layer on.
func TestLazyImage(t *testing.T) {
	t.Parallel()
	b := newLazyBench(t)
	p := b.peer(nil)
	layers := b.estargz("v1", 16*mib, 16*mib, 16*mib)
	p.get(manifestPath("v1"), 200)
	content := b.up.Blob(layers[0])
	for _, r := range []struct{ header, bytes string }{
		{"bytes=0-1", string(content[:2])},
		{"bytes=-700", string(content[len(content)-700:])},
		{"bytes=5000000-5099999", string(content[5000000:5100000])},
	} {
		if got := p.get(blobPath(layers[0]), 206, "Range: "+r.header, "Accept-Encoding: identity"); string(got.Body) != r.bytes {
			t.Errorf("%s: wrong bytes (%d)", r.header, len(got.Body))
		}
	}
	got := p.get(blobPath(layers[0]), 206, "Range: bytes=9000000-9049999,12000000-12000009,100-199")
	kind, params, err := mime.ParseMediaType(got.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		t.Fatalf("%q, %v", kind, err)
	}
	parts := multipart.NewReader(strings.NewReader(string(got.Body)), params["boundary"])
	for _, want := range [][2]int{{9000000, 9050000}, {12000000, 12000010}, {100, 200}} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(part); err != nil || string(body) != string(content[want[0]:want[1]]) {
			t.Errorf("part %v: %d bytes, %v", want, len(body), err)
		}
	}
	const pieces = 5 // of 256 KiB: the first, the last, three others
	if n := b.up.BytesServed(layers[0]); n != pieces<<18 {
		t.Errorf("%d bytes left the upstream, want %d pieces", n, pieces)
	}
	if n := b.up.BytesServed(layers[1]) + b.up.BytesServed(layers[2]); n != 0 {
		t.Errorf("%d bytes of layers that nobody read", n)
	}
	p.blob(layers[1])
	p.Until("the whole image", func() error {
		if n := p.Status().Store.Complete; n < 5 { // manifest, config, layers
			return fmt.Errorf("%d blobs", n)
		}
		return nil
	})
	for i, d := range layers {
		if n := b.up.BytesServed(d); n != 16*mib {
			t.Errorf("layer %d: %d bytes left the upstream, want each once", i, n)
		}
	}
}

// By choice a lazy image is an image like any other.
func TestLazyWhole(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(func(c *config.Peerd) { c.Lazy.Lazy = config.LazyWhole })
	b.estargz("v1", 5*mib, 5*mib)
	p.get(manifestPath("v1"), 200)
	p.Until("prefetched", func() error {
		if n := p.Status().Store.Complete; n < 4 {
			return fmt.Errorf("%d blobs", n)
		}
		return nil
	})
}

// What tells that an image is made to be read in parts, and what is fetched
// ahead of clients that do.
func TestHeldBack(t *testing.T) {
	layer := func(name string, size int64, annotation string) registry.Descriptor {
		d := registry.Descriptor{Digest: digest.FromString(name), Size: size}
		if annotation != "" {
			d.Annotations = map[string]string{annotation: "x"}
		}
		return d
	}
	for _, c := range []struct {
		name  string
		image registry.Parsed
		now   string // names of what is fetched ahead
	}{
		{"plain", registry.Parsed{Children: []registry.Descriptor{layer("config", 2, ""), layer("a", 20*mib, "")}}, "config a"},
		{"eStargz", registry.Parsed{Children: []registry.Descriptor{layer("config", 2, ""), layer("a", 20, "containerd.io/snapshot/stargz/toc.digest")}}, "config"},
		{"zstd:chunked", registry.Parsed{Children: []registry.Descriptor{layer("a", 20, "io.github.containers.zstd-chunked.manifest-checksum")}}, ""},
		{"nydus", registry.Parsed{Children: []registry.Descriptor{layer("a", 20, "containerd.io/snapshot/nydus-blob"),
			layer("bootstrap", 9*mib, "containerd.io/snapshot/nydus-bootstrap")}}, "bootstrap"},
		{"SOCI", registry.Parsed{Annotations: map[string]string{"com.amazon.soci.index-digest": "x"},
			Children: []registry.Descriptor{layer("small", 9*mib, ""), layer("large", 10*mib, "")}}, "small"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHeldBack()
			names := make(map[digest.Digest]string)
			for _, n := range []string{"config", "a", "bootstrap", "small", "large"} {
				names[digest.FromString(n)] = n
			}
			var wants []fetch.Want
			for _, d := range c.image.Children {
				wants = append(wants, fetch.Want{Digest: d.Digest})
			}
			for range 2 { // a client may ask twice
				var now []string
				for _, w := range h.hold(&c.image, wants) {
					now = append(now, names[w.Digest])
				}
				if got := strings.Join(now, " "); got != c.now {
					t.Errorf("fetched ahead: %q, want %q", got, c.now)
				}
			}
			later := 0
			for _, w := range wants {
				later += len(h.release(w.Digest))
			}
			if want := len(wants) - len(strings.Fields(c.now)); later != want || h.images.Len()+len(h.of) != 0 {
				t.Errorf("%d fetched later, want %d; %d images and %d layers are left", later, want, h.images.Len(), len(h.of))
			}
		})
	}
}

// What is remembered is bounded.
func TestHeldBackBound(t *testing.T) {
	h := newHeldBack()
	for i := range 2 * maxHeldBack {
		d := registry.Descriptor{Digest: digest.FromString(fmt.Sprint(i)), Annotations: map[string]string{lazyLayers[0]: "x"}}
		h.hold(&registry.Parsed{Children: []registry.Descriptor{d}}, []fetch.Want{{Digest: d.Digest}})
	}
	if h.images.Len() != maxHeldBack || len(h.of) != maxHeldBack {
		t.Errorf("%d images, %d layers", h.images.Len(), len(h.of))
	}
	if len(h.release(digest.FromString("0"))) != 0 || len(h.release(digest.FromString(fmt.Sprint(2*maxHeldBack-1)))) != 1 {
		t.Error("not the latest are remembered")
	}
}
