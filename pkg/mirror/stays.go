package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Clients made of containers/image choose a mirror where they get the manifest,
// and fail where a blob of it is 404 there: they never ask the next host for it
// (contract 10). So they get a manifest only once its blobs have shown to come,
// and they are not told 404 for a blob that is merely late: they wait for headers
// as long as it takes. registry.Request.Bound knows them.

// assureAtOnce is how many blobs are tried at a time.
const assureAtOnce = 16

// errBlobs: a manifest is there, and not what it names.
var errBlobs = errors.New("the manifest can be had, but not its blobs, and this client would not ask anybody else for them")

// assured waits until each blob of a manifest has a source, for clients that
// stay. One that nobody has is an error at once. What is merely slow is trusted
// when the time is over, unless nothing has come at all, or it stands still: no
// piece has come in the second half of that time. Of an index it is the image of
// this host's platform that counts.
func (b *backend) assured(ctx context.Context, r registry.Request, m *registry.Manifest) error {
	if r.Head || !r.Bound() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, within(b.deadlines.GapTimeout))
	defer cancel()
	children, kind, err := registry.Children(m.MediaType, m.Content)
	if err != nil {
		return nil //nolint:nilerr // what is not understood names no blobs, and was logged when it came
	}
	if kind == registry.KindIndex {
		return b.assuredOf(ctx, r, children)
	}
	wants := b.wants(r.Name, m)
	came := make([]bool, len(wants))
	var g errgroup.Group
	g.SetLimit(assureAtOnce)
	for _, w := range wants {
		if b.refusals.Has(w.Digest) {
			return fmt.Errorf("%w: the body of %s had to be cut a moment ago", errBlobs, w.Digest)
		}
	}
	for i, w := range wants {
		g.Go(func() error {
			content, _, err := b.engine.Open(ctx, ctx, w)
			if err == nil {
				came[i] = ctx.Err() == nil // else its source was only trusted to be at work
				return content.Close()
			}
			if ctx.Err() != nil {
				return nil // late
			}
			cancel() // the others need not go on
			return fmt.Errorf("%w: %s: %w", errBlobs, w.Digest, err)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return b.trusted(wants, came)
}

// trusted tells what to think of those blobs of an image that have not come.
func (b *backend) trusted(wants []fetch.Want, came []bool) error {
	var all []digest.Digest
	late, large := 0, 0
	for i, w := range wants {
		all = append(all, w.Digest)
		if came[i] {
			continue
		}
		if late++; w.Size >= fetch.SmallBlob {
			large++
		}
	}
	switch gap := b.deadlines.GapTimeout; {
	case late == 0:
	case late == len(wants):
		return fmt.Errorf("%w: none of %d within %s", errBlobs, late, gap)
	case large > 0 && !b.engine.Arriving(gap/2, all...):
		return fmt.Errorf("%w: %d of %d have not come within %s, and nothing comes any more", errBlobs, late, len(wants), gap)
	}
	return nil
}

// assuredOf is assured of the image in an index that is for this host.
func (b *backend) assuredOf(ctx context.Context, r registry.Request, children []registry.Descriptor) error {
	images := registry.Select(children, registry.HostPlatform())
	if len(images) == 0 || !registry.IsManifestType(images[0].MediaType) {
		return nil
	}
	r.Reference, r.Digest = images[0].Digest.String(), images[0].Digest
	m, err := b.meta.Manifest(ctx, r)
	if err != nil {
		return fmt.Errorf("%w: %w", errBlobs, err)
	}
	if _, kind, err := registry.Children(m.MediaType, m.Content); err != nil || kind == registry.KindIndex {
		return nil //nolint:nilerr // an index within an index is nobody's image
	}
	return b.assured(ctx, r, m)
}

// wants are the blobs that a manifest names, from where it came itself.
func (b *backend) wants(n registry.Name, m *registry.Manifest) []fetch.Want {
	children, kind, err := registry.Children(m.MediaType, m.Content)
	if err != nil || kind == registry.KindIndex {
		return nil // what is not understood was logged when it came
	}
	if k, ok := b.catalog.Find(m.Digest); ok {
		n = k.Name // where it came from, whatever the client calls it
	}
	var wants []fetch.Want
	for _, c := range children {
		if registry.Foreign(c) || registry.IsManifestType(c.MediaType) {
			continue
		}
		wants = append(wants, fetch.Want{Digest: c.Digest, Size: c.Size, Source: fetch.Source{Upstream: n.Upstream, Repository: n.Repository}})
	}
	return wants
}
