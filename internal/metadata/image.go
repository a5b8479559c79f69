package metadata

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// maxNesting is how deep indexes may lie in indexes.
const maxNesting = 4

// ImageContents are what clients on some platforms fetch of an image.
type ImageContents struct {
	Manifests []*registry.Manifest  // the first is the image's own
	Blobs     []registry.Descriptor // each once
}

// Size is that of the blobs, in bytes.
func (c *ImageContents) Size() int64 {
	n := int64(0)
	for _, b := range c.Blobs {
		n += b.Size
	}
	return n
}

// Contents finds what clients on the platforms fetch of the image that r and m
// are: of an index, the image for each; nil platforms are all. get has manifests
// by digest, from the repository that r names.
func Contents(ctx context.Context, get func(context.Context, registry.Request) (*registry.Manifest, error),
	r registry.Request, m *registry.Manifest, platforms []registry.Platform) (*ImageContents, error) {
	w := &walk{get: get, platforms: platforms, seen: map[digest.Digest]bool{m.Digest: true}}
	if err := w.manifest(ctx, r, m, 0); err != nil {
		return nil, err
	}
	return &w.found, nil
}

type walk struct {
	get       func(context.Context, registry.Request) (*registry.Manifest, error)
	platforms []registry.Platform
	seen      map[digest.Digest]bool
	found     ImageContents
}

func (w *walk) manifest(ctx context.Context, r registry.Request, m *registry.Manifest, depth int) error {
	if depth > maxNesting {
		return errors.New("indexes lie in one another too deep")
	}
	w.found.Manifests = append(w.found.Manifests, m)
	children, kind, err := registry.Children(m.MediaType, m.Content)
	if err != nil {
		return err
	}
	if kind == registry.KindIndex {
		return w.index(ctx, r, children, depth)
	}
	for _, c := range children {
		if !registry.Foreign(c) {
			w.blob(c)
		}
	}
	return nil
}

func (w *walk) index(ctx context.Context, r registry.Request, children []registry.Descriptor, depth int) error {
	chosen := w.choose(children)
	if len(chosen) == 0 {
		return errors.New("the index has no image of these platforms")
	}
	for _, c := range chosen {
		if !registry.IsManifestType(c.MediaType) {
			w.blob(c) // build caches are pushed so
			continue
		}
		if w.seen[c.Digest] {
			continue
		}
		w.seen[c.Digest] = true
		r.Reference, r.Digest = c.Digest.String(), c.Digest
		child, err := w.get(ctx, r)
		if err == nil {
			err = w.manifest(ctx, r, child, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) blob(d registry.Descriptor) {
	if !w.seen[d.Digest] {
		w.seen[d.Digest] = true
		w.found.Blobs = append(w.found.Blobs, d)
	}
}

// choose are the children of an index that clients on the platforms would read.
func (w *walk) choose(children []registry.Descriptor) []registry.Descriptor {
	if w.platforms == nil {
		return children
	}
	var list []registry.Descriptor
	for _, p := range w.platforms {
		if s := registry.Select(children, p); len(s) > 0 {
			list = append(list, s[0])
		}
	}
	return list
}
