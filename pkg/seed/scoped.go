package seed

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/registry"
)

const (
	maxProofs = 1 << 16
	proofTTL  = 10 * time.Minute
)

// scoped gives clients that may not pull everything no content by the name of
// one repository that only another has. Content is kept by digest, and whoever
// knows a digest could else have it by any name that may be pulled.
type scoped struct {
	registry.Backend
	d      *daemon.Daemon
	proves func(ctx context.Context, r registry.Request) error
	copies bool // content may come from copies in an object store, kept by digest alone

	mu     sync.Mutex
	proofs map[proof]time.Time // what an upstream was seen to have, and until when that is believed
}

type proof struct {
	repository string
	digest     digest.Digest
}

func newScoped(d *daemon.Daemon, b *repositories, copies bool) *scoped {
	return &scoped{Backend: b, d: d, proves: b.up.proves, copies: copies, proofs: map[proof]time.Time{}}
}

// Manifest implements registry.Backend.
func (s *scoped) Manifest(ctx context.Context, r registry.Request) (*registry.Manifest, error) {
	if err := s.confine(ctx, &r); err != nil {
		return nil, asRegistryError(err, registry.ManifestUnknown(r.Name, r.Reference, err))
	}
	return s.Backend.Manifest(ctx, r)
}

// Blob implements registry.Backend.
func (s *scoped) Blob(ctx context.Context, r registry.Request) (registry.Blob, error) {
	if err := s.confine(ctx, &r); err != nil {
		return registry.Blob{}, asRegistryError(err, registry.BlobUnknown(r.Digest, err))
	}
	return s.Backend.Blob(ctx, r)
}

// confine is nil where the client may have what it asks for. Local repositories
// know what is theirs.
func (s *scoped) confine(ctx context.Context, r *registry.Request) error {
	if !auth.Confined(ctx) || s.d.Resolver.IsLocal(r.Name) {
		return nil
	}
	r.Named = true // the repository that was decided about, and none of the same name elsewhere
	if r.Digest == "" || !s.foreign(r) || s.proved(r) {
		return nil
	}
	if err := s.proves(ctx, *r); err != nil {
		return err
	}
	s.prove(r)
	vouch(s.d.Store, r.Digest, r.Name)
	return nil
}

// foreign tells whether content is known, and not as this repository's. That a
// manifest of the repository names a digest says nothing: whoever may push there
// can name any. What is not known at all is asked of the repository's own
// upstream, unless an object store may have it.
func (s *scoped) foreign(r *registry.Request) bool {
	in, err := s.d.Store.Stat(r.Digest)
	if err == nil {
		return !slices.Contains(in.Meta.Sources, r.Name.String())
	}
	k, known := s.d.Catalog.Find(r.Digest)
	return s.copies || known && k.Name != r.Name
}

func (s *scoped) proved(r *registry.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.proofs[proof{r.Name.String(), r.Digest}])
}

func (s *scoped) prove(r *registry.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.proofs) >= maxProofs {
		clear(s.proofs) // they are asked for again, one by one
	}
	s.proofs[proof{r.Name.String(), r.Digest}] = time.Now().Add(proofTTL)
}
