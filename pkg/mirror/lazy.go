package mirror

import (
	"container/list"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
)

// heldBack are the images that are made to be mounted lazily: their layers are
// not fetched ahead of a client that may never read them. A client that asks for
// a whole one of them pulls the image as any other, and has the rest fetched.
// The nil heldBack holds nothing back. Safe for concurrent use.
type heldBack struct {
	mu     sync.Mutex
	images *list.List // of *heldImage, the one held back last in front
	of     map[digest.Digest]*list.Element
}

// heldImage is what is not fetched ahead of one image, and the layers of it that
// only who wants it all asks for whole.
type heldImage struct {
	wants  []fetch.Want
	layers []digest.Digest
}

// maxHeldBack is how many images are remembered. One that is forgotten is fetched
// layer by layer.
const maxHeldBack = 256

func newHeldBack() *heldBack {
	return &heldBack{images: list.New(), of: make(map[digest.Digest]*list.Element)}
}

// Annotations by which layers say that they can be read in parts.
var lazyLayers = []string{
	"containerd.io/snapshot/stargz/toc.digest",            // eStargz
	"io.github.containers.zstd-chunked.manifest-checksum", // zstd:chunked
	"containerd.io/snapshot/nydus-blob",                   // nydus
}

const (
	// sociIndex is the annotation of an image that has a SOCI index, version 2.
	sociIndex = "com.amazon.soci.index-digest"
	// sociLayer is the size in bytes from which on layers are in it by default.
	sociLayer = 10 << 20
)

// lazyLayer tells whether a layer of image p is made to be read in parts.
func lazyLayer(p *registry.Parsed, layer registry.Descriptor) bool {
	for _, key := range lazyLayers {
		if layer.Annotations[key] != "" {
			return true
		}
	}
	return p.Annotations[sociIndex] != "" && layer.Size >= sociLayer
}

// hold returns which of the blobs of image p are to be fetched ahead of its
// clients: all, or with an image made to be mounted lazily, those that lazy
// clients read whole, too.
func (h *heldBack) hold(p *registry.Parsed, wants []fetch.Want) (now []fetch.Want) {
	if h == nil {
		return wants
	}
	lazy := make(map[digest.Digest]bool)
	for _, c := range p.Children {
		if lazyLayer(p, c) {
			lazy[c.Digest] = true
		}
	}
	img := &heldImage{}
	for _, w := range wants {
		if !lazy[w.Digest] {
			now = append(now, w)
			continue
		}
		img.wants = append(img.wants, w)
		img.layers = append(img.layers, w.Digest)
	}
	if len(img.layers) == 0 {
		return now
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.of[img.layers[0]]; old != nil {
		h.forget(old)
	}
	e := h.images.PushFront(img)
	for _, d := range img.layers {
		h.of[d] = e
	}
	if h.images.Len() > maxHeldBack {
		h.forget(h.images.Back())
	}
	return now
}

// release returns what was held back of the image whose layer d a client asks
// for whole, once.
func (h *heldBack) release(d digest.Digest) []fetch.Want {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.of[d]
	if e == nil {
		return nil
	}
	h.forget(e)
	return e.Value.(*heldImage).wants
}

func (h *heldBack) forget(e *list.Element) {
	h.images.Remove(e)
	for _, d := range e.Value.(*heldImage).layers {
		if h.of[d] == e {
			delete(h.of, d)
		}
	}
}
