package seed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/pkg/registry"
)

// maxNesting is how deep indexes may lie in indexes.
const maxNesting = 4

// Prewarm implements admin.Cache.
func (a *administrator) Prewarm(ctx context.Context, r admin.PrewarmRequest, p *admin.Progress) (admin.PrewarmResult, error) {
	var out admin.PrewarmResult
	platforms, err := platformsOf(r.Platforms)
	if err != nil {
		return out, err
	}
	failed := 0
	p.Update(func(s *admin.ProgressState) { s.ItemsTotal = len(r.Images) })
	for _, image := range r.Images {
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		p.Update(func(s *admin.ProgressState) { s.What = image })
		w := &warmer{a: a, p: p, platforms: platforms, seen: map[digest.Digest]bool{}, done: admin.PrewarmedImage{Image: image}}
		if err := w.run(ctx, max(r.Parallel, 0)); err != nil {
			if ctx.Err() != nil {
				return out, context.Cause(ctx)
			}
			w.done.Error = err.Error()
			failed++
		}
		out.Images = append(out.Images, w.done)
		p.Update(func(s *admin.ProgressState) { s.Items++ })
	}
	if failed > 0 {
		return out, fmt.Errorf("%d of %d images failed", failed, len(r.Images))
	}
	return out, nil
}

// platformsOf are those asked for; none means all.
func platformsOf(names []string) ([]registry.Platform, error) {
	if len(names) == 0 {
		return []registry.Platform{registry.HostPlatform()}, nil
	}
	if slices.Contains(names, "all") {
		return nil, nil
	}
	list := make([]registry.Platform, len(names))
	for i, s := range names {
		var err error
		if list[i], err = registry.ParsePlatform(s); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// warmer fetches one image.
type warmer struct {
	a         *administrator
	p         *admin.Progress
	platforms []registry.Platform // none: all
	seen      map[digest.Digest]bool
	blobs     []registry.Descriptor

	mu   sync.Mutex
	done admin.PrewarmedImage
}

func (w *warmer) run(ctx context.Context, parallel int) error {
	req, err := w.a.request(w.done.Image)
	if err != nil {
		return err
	}
	m, err := w.a.up.Manifest(ctx, req)
	if err != nil {
		return err
	}
	w.done.Digest = m.Digest
	req.Named = true
	if err := w.manifest(ctx, req, m, 0); err != nil {
		return err
	}
	total := int64(0)
	for _, b := range w.blobs {
		total += b.Size
	}
	w.p.Update(func(s *admin.ProgressState) { s.BytesTotal += total })
	if parallel == 0 {
		parallel = 3
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, b := range w.blobs {
		g.Go(func() error { return w.blob(ctx, req, b) })
	}
	return g.Wait()
}

// manifest collects the blobs that a manifest names, or for an index those of the
// platforms asked for.
func (w *warmer) manifest(ctx context.Context, req registry.Request, m *registry.Manifest, depth int) error {
	if depth > maxNesting {
		return errors.New("indexes lie in one another too deep")
	}
	children, kind, err := registry.Children(m.MediaType, m.Content)
	if err != nil {
		return err
	}
	if kind != registry.KindIndex {
		for _, c := range children {
			if !registry.Foreign(c) && !w.seen[c.Digest] {
				w.seen[c.Digest] = true
				w.blobs = append(w.blobs, c)
			}
		}
		return nil
	}
	chosen := w.choose(children)
	if len(chosen) == 0 {
		return errors.New("the index has no image of these platforms")
	}
	for _, c := range chosen {
		if w.seen[c.Digest] {
			continue
		}
		w.seen[c.Digest] = true
		if !registry.IsManifestType(c.MediaType) {
			w.blobs = append(w.blobs, c) // build caches are pushed so
			continue
		}
		req.Reference, req.Digest = c.Digest.String(), c.Digest
		child, err := w.a.up.Manifest(ctx, req)
		if err == nil {
			err = w.manifest(ctx, req, child, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// choose are the children of an index that clients on the platforms would read.
func (w *warmer) choose(children []registry.Descriptor) []registry.Descriptor {
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

// blob reads a blob to its end, which is when all of it is here.
func (w *warmer) blob(ctx context.Context, req registry.Request, d registry.Descriptor) error {
	req.Reference, req.Digest = d.Digest.String(), d.Digest
	b, err := w.a.up.Blob(ctx, req)
	if err != nil {
		return err
	}
	defer b.Content.Close()
	hit := b.Cached.Result == registry.CacheHit
	if !hit {
		_, err = io.Copy(counter{w.p}, b.Content)
	} else {
		w.p.Update(func(s *admin.ProgressState) { s.Bytes += b.Size })
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done.Blobs++
	w.done.Bytes += b.Size
	if !hit {
		w.done.Fetched += b.Size
	}
	return nil
}

// counter counts bytes as they come.
type counter struct{ p *admin.Progress }

func (c counter) Write(b []byte) (int, error) {
	c.p.Update(func(s *admin.ProgressState) { s.Bytes += int64(len(b)) })
	return len(b), nil
}

// request reads an image as clients name it: NAME, NAME:TAG, NAME@DIGEST.
func (a *administrator) request(image string) (registry.Request, error) {
	name, ref := image, "latest"
	if n, d, ok := strings.Cut(image, "@"); ok {
		name, ref = n, d
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			name = name[:i] // the digest says it all
		}
	} else if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		name, ref = image[:i], image[i+1:]
	}
	n, err := a.proxied(name)
	if err != nil {
		return registry.Request{}, err
	}
	r := registry.Request{Name: n, Named: true, Reference: ref}
	if registry.IsDigest(ref) {
		r.Digest, err = registry.ParseDigest(ref)
		return r, err
	}
	if !registry.ValidTag(ref) {
		return r, fmt.Errorf("%.100q is neither a tag nor a digest", ref)
	}
	return r, nil
}
