package canary

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Repository is where canaries are, at every upstream. It is nobody's: the names
// of Docker Hub's accounts have letters and digits only.
const Repository = "samara-canary/probe"

const (
	maxLive  = 64              // canaries at a time
	lifetime = 2 * time.Minute // of one
	maxSeen  = 64              // requests that are noted of one
	maxAgent = 120             // bytes of a User-Agent
)

// Canary is one of them.
type Canary struct {
	Digest digest.Digest `json:"digest"` // of its manifest
	Seen   []Request     `json:"seen"`   // by the mirror, the first first
}

// Request is one that the mirror has had for a canary.
type Request struct {
	Time      time.Time `json:"time"`
	What      string    `json:"what"` // "manifest" or "blob"
	Head      bool      `json:"head,omitempty"`
	Upstream  string    `json:"upstream"` // whose image the client took it for
	UserAgent string    `json:"userAgent,omitempty"`
}

// Pulled tells whether a client has had all of it.
func (c *Canary) Pulled() bool {
	blobs := 0
	for _, r := range c.Seen {
		if r.What == "blob" && !r.Head {
			blobs++
		}
	}
	return blobs >= 2 // the configuration and the layer
}

// live is a Canary with its content.
type live struct {
	Canary
	made     time.Time
	manifest []byte
	blobs    map[digest.Digest][]byte
}

// Canaries are those that there are now. The zero value is ready for use, from any
// goroutine.
type Canaries struct {
	mu   sync.Mutex
	list []*live // the oldest first
}

// errMany says that there are too many.
var errMany = errors.New("there are too many canaries; try again in two minutes")

// make makes one for this kind of machine.
func (c *Canaries) make() (Canary, error) {
	l, err := newLive(time.Now())
	if err != nil {
		return Canary{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(l.made)
	if len(c.list) >= maxLive {
		return Canary{}, errMany
	}
	c.list = append(c.list, l)
	return l.look(), nil
}

// forget drops those that are old. c.mu is held.
func (c *Canaries) forget(now time.Time) {
	c.list = slices.DeleteFunc(c.list, func(l *live) bool { return now.Sub(l.made) > lifetime })
}

func (l *live) look() Canary {
	return Canary{Digest: l.Digest, Seen: append([]Request{}, l.Seen...)}
}

// get is a canary as it is now.
func (c *Canaries) get(d digest.Digest) (Canary, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.list {
		if l.Digest == d {
			return l.look(), true
		}
	}
	return Canary{}, false
}

// seen notes a request for content of a canary, and gives it.
func (c *Canaries) seen(r registry.Request, what string) (content []byte, ok bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	for _, l := range c.list {
		if what == "manifest" && l.Digest == r.Digest {
			content, ok = l.manifest, true
		} else if what == "blob" {
			content, ok = l.blobs[r.Digest]
		}
		if !ok {
			continue
		}
		if len(l.Seen) < maxSeen {
			agent := r.UserAgent
			l.Seen = append(l.Seen, Request{Time: now, What: what, Head: r.Head, Upstream: r.Name.Upstream, UserAgent: agent[:min(len(agent), maxAgent)]})
		}
		return content, true
	}
	return nil, false
}

// newLive makes an image with random content: a manifest, a configuration and a
// layer with one file.
func newLive(now time.Time) (*live, error) {
	nonce := rand.Text()
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "samara-canary", Mode: 0o444, Size: int64(len(nonce)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(tw, nonce); err != nil {
		return nil, err
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	created := now.UTC()
	config, err := json.Marshal(ocispec.Image{
		Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ocispec.ImageConfig{Labels: map[string]string{"io.samara.canary": nonce}},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}},
	})
	if err != nil {
		return nil, err
	}
	l := &live{made: now, blobs: map[digest.Digest][]byte{}}
	blob := func(mediaType string, content []byte) ocispec.Descriptor {
		d := digest.FromBytes(content)
		l.blobs[d] = content
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	}
	l.manifest, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: blob(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{blob(ocispec.MediaTypeImageLayer, layer.Bytes())},
	})
	l.Digest = digest.FromBytes(l.manifest)
	return l, err
}

// Backend is what Wrap is put around.
type Backend interface {
	registry.Backend
	registry.ReferrerLister
}

// Wrap is b, with the canaries.
func (c *Canaries) Wrap(b Backend) Backend { return &wrapped{c, b} }

type wrapped struct {
	*Canaries
	b Backend
}

var errNone = errors.New("there is no such canary")

// Manifest implements registry.Backend.
func (w *wrapped) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	if r.Name.Repository != Repository {
		return w.b.Manifest(ctx, r)
	}
	content, ok := w.seen(r, "manifest")
	if !ok {
		return nil, registry.ManifestUnknown(r.Name, r.Reference, errNone)
	}
	return &registry.Manifest{Digest: r.Digest, MediaType: ocispec.MediaTypeImageManifest, Content: content}, nil
}

// Blob implements registry.Backend.
func (w *wrapped) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	if r.Name.Repository != Repository {
		return w.b.Blob(ctx, r)
	}
	content, ok := w.seen(r, "blob")
	if !ok {
		return registry.Blob{}, registry.BlobUnknown(r.Digest, errNone)
	}
	return registry.Blob{Digest: r.Digest, Size: int64(len(content)), Content: nopCloser{bytes.NewReader(content)}}, nil
}

// Tags implements registry.Backend.
func (w *wrapped) Tags(ctx context.Context, n registry.Name, limit int, last string) ([]string, error) {
	if n.Repository != Repository {
		return w.b.Tags(ctx, n, limit, last)
	}
	return nil, registry.NameUnknown(n, errNone)
}

// Referrers implements registry.ReferrerLister.
func (w *wrapped) Referrers(ctx context.Context, r registry.Request, artifactType string) ([]registry.Descriptor, error) {
	if r.Name.Repository != Repository {
		return w.b.Referrers(ctx, r, artifactType)
	}
	return nil, registry.ManifestUnknown(r.Name, r.Reference, errNone)
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }
