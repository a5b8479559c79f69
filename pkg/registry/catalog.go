package registry

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// Known is what manifests have told of a digest.
type Known struct {
	Name      Name  // the repository that named it last
	Size      int64 // bytes; -1 when manifests disagree: one of them lies, ask a source
	MediaType string
}

// Catalog remembers, from the manifests that went by, which repository a digest
// belongs to and how large it is: docker, podman and stargz ask for blobs by
// digest without saying of which upstream (contract 20). It lives in memory and
// is rebuilt from the stored manifests. Safe for concurrent use.
type Catalog struct {
	mu    sync.Mutex
	limit int
	known map[digest.Digest]Known
	order []digest.Digest // as learned, the oldest first
}

// NewCatalog returns a catalogue of at most limit digests; the ones learned
// first are forgotten first. A limit below 1 is 1.
func NewCatalog(limit int) *Catalog {
	return &Catalog{limit: max(1, limit), known: make(map[digest.Digest]Known)}
}

// Learn takes a manifest or an index of n: the digests that it names, and its
// own. It returns what Parse made of it. Errors are Parse's; nothing is
// learned then but the manifest itself.
func (c *Catalog) Learn(n Name, d digest.Digest, mediaType string, content []byte) (*Parsed, error) {
	c.put(d, Known{Name: n, Size: int64(len(content)), MediaType: mediaType})
	p, err := Parse(mediaType, content)
	if err != nil {
		return nil, err
	}
	for _, ch := range p.Children {
		c.put(ch.Digest, Known{Name: n, Size: ch.Size, MediaType: ch.MediaType})
	}
	return p, nil
}

// Find tells what is known of d.
func (c *Catalog) Find(d digest.Digest) (Known, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[d]
	return k, ok
}

func (c *Catalog) put(d digest.Digest, k Known) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.known[d]
	if ok && old.Size != k.Size {
		k.Size = -1 // a digest has one size
	}
	if !ok {
		if len(c.order) >= c.limit {
			delete(c.known, c.order[0])
			c.order = c.order[1:]
		}
		c.order = append(c.order, d)
	}
	c.known[d] = k
}
