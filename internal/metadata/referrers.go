package metadata

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// ReferrerClient is a Client that also lists referrers (*upstream.Client).
type ReferrerClient interface {
	Client
	// Referrers lists what refers to a manifest; none is no error.
	Referrers(ctx context.Context, name, repo string, d digest.Digest) ([]ocispec.Descriptor, error)
}

// Referrers answers what refers to a manifest. What refers to it now is kept
// as an index under a name that is no tag of the upstream's: it ages, is shared
// and stands in for a source that fails just as what a tag means does.
type Referrers struct {
	c *Cache

	mu      sync.Mutex
	sources map[*Source]*Source // a Cache's source, and its lister
}

// NewReferrers makes one of a Cache's options; it must be closed. Tags must be
// of its own; sources that are no ReferrerClient are left out.
func NewReferrers(o Options) *Referrers {
	r := &Referrers{sources: make(map[*Source]*Source)}
	all := o.Sources
	o.Sources = func(up string) []*Source { return r.listers(all(up)) }
	o.Registerer = nil // the metrics are about tags
	r.c = New(o)
	return r
}

// Close ends questions under way and waits for them.
func (r *Referrers) Close() { r.c.Close() }

// Forget is as Cache.Forget.
func (r *Referrers) Forget(n registry.Name) { r.c.Forget(n) }

// List returns what refers to the manifest that a request names by digest. The
// error is as Cache.Manifest's.
func (r *Referrers) List(ctx context.Context, req registry.Request) ([]registry.Descriptor, error) {
	m, err := r.c.Manifest(ctx, registry.Request{Name: req.Name, Named: req.Named, Reference: listName(req.Digest)})
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(m.Content, &index); err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", req.Digest, err)
	}
	return index.Manifests, nil
}

// listers wraps sources so that each manifest they are asked for is a list. A
// source has one for good: it remembers how the source fared.
func (r *Referrers) listers(all []*Source) []*Source {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*Source
	for _, s := range all {
		c, ok := s.Client.(ReferrerClient)
		if !ok {
			continue
		}
		if r.sources[s] == nil {
			r.sources[s] = &Source{Name: s.Name, Client: lister{c}, Relay: s.Relay, Ping: s.Ping}
		}
		out = append(out, r.sources[s])
	}
	return out
}

// lister is a Client whose manifests are lists of referrers.
type lister struct{ ReferrerClient }

// Head implements Client. No registry tells whether its list has changed.
func (l lister) Head(ctx context.Context, name, repo, ref string) (*upstream.Descriptor, error) {
	m, err := l.Manifest(ctx, name, repo, ref, nil)
	if err != nil {
		return nil, err
	}
	return &upstream.Descriptor{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Content))}, nil
}

// Manifest implements Client.
func (l lister) Manifest(ctx context.Context, name, repo, ref string, _ []string) (*upstream.Manifest, error) {
	list, err := l.Referrers(ctx, name, repo, listSubject(ref))
	if err != nil {
		return nil, err
	}
	// The same list is the same index, in whatever order it came.
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	content, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list})
	if err != nil {
		return nil, err
	}
	return &upstream.Manifest{Digest: digest.FromBytes(content), MediaType: ocispec.MediaTypeImageIndex, Content: content}, nil
}

// listName is a tag by which a list is remembered: a digest in less room, since
// one of sha512 does not fit into a tag. listSubject reads it back.
func listName(d digest.Digest) string {
	b, _ := hex.DecodeString(d.Encoded()) // a valid digest is hex
	return d.Algorithm().String() + "_" + base64.RawURLEncoding.EncodeToString(b)
}

func listSubject(name string) digest.Digest {
	alg, s, _ := strings.Cut(name, "_")
	b, _ := base64.RawURLEncoding.DecodeString(s)
	return digest.NewDigestFromBytes(digest.Algorithm(alg), b)
}
