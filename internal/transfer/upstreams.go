package transfer

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Upstreams is registries that are reached over the network: a Source.
type Upstreams struct {
	Client *upstream.Client
	// Split finds the upstream and the repository there that a name means.
	Split func(repo string) (registry.Name, error)
}

// notFound puts ErrNotFound into an upstream's word that there is no such thing.
func notFound(err error) error {
	if upstream.KindOf(err) == upstream.NotFound {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// Manifest implements Source.
func (u *Upstreams) Manifest(ctx context.Context, repo, ref string) (registry.Manifest, error) {
	n, err := u.Split(repo)
	if err != nil {
		return registry.Manifest{}, err
	}
	m, err := u.Client.Manifest(ctx, n.Upstream, n.Repository, ref, registry.ManifestTypes())
	if err != nil {
		return registry.Manifest{}, notFound(err)
	}
	return registry.Manifest{Digest: m.Digest, MediaType: m.MediaType, Content: m.Content}, nil
}

// Blob implements Source.
func (u *Upstreams) Blob(ctx context.Context, repo string, d registry.Descriptor) (Content, error) {
	n, err := u.Split(repo)
	if err != nil {
		return Content{}, err
	}
	r, err := u.Client.Blob(ctx, n.Upstream, n.Repository, d.Digest, 0, -1)
	if err != nil {
		return Content{}, notFound(err)
	}
	return Content{ReadCloser: r}, nil
}

// Referrers implements Source.
func (u *Upstreams) Referrers(ctx context.Context, repo string, d digest.Digest) ([]registry.Descriptor, error) {
	n, err := u.Split(repo)
	if err != nil {
		return nil, err
	}
	return u.Client.Referrers(ctx, n.Upstream, n.Repository, d)
}
