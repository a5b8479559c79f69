package seed

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Prewarm implements admin.Cache.
func (a *administrator) Prewarm(ctx context.Context, r admin.PrewarmRequest, p *admin.Progress) (admin.PrewarmResult, error) {
	var out admin.PrewarmResult
	platforms, err := registry.ParsePlatforms(r.Platforms)
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
		w := &warmer{a: a, p: p, platforms: platforms, done: admin.PrewarmedImage{Image: image}}
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

// warmer fetches one image.
type warmer struct {
	a         *administrator
	p         *admin.Progress
	platforms []registry.Platform // none: all

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
	image, err := metadata.Contents(ctx, w.a.up.Manifest, req, m, w.platforms)
	if err != nil {
		return err
	}
	total := image.Size()
	w.p.Update(func(s *admin.ProgressState) { s.BytesTotal += total })
	if parallel == 0 {
		parallel = 3
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, b := range image.Blobs {
		g.Go(func() error { return w.blob(ctx, req, b) })
	}
	return g.Wait()
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

// request is imageOf of an upstream's.
func (a *administrator) request(image string) (registry.Request, error) {
	r, err := a.imageOf(image)
	if err == nil {
		_, err = a.proxied(r.Name.String())
	}
	return r, err
}

// imageOf reads an image as clients name it: NAME, NAME:TAG, NAME@DIGEST.
func (a *administrator) imageOf(image string) (registry.Request, error) {
	name, ref := image, "latest"
	if n, d, ok := strings.Cut(image, "@"); ok {
		name, ref = n, d
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			name = name[:i] // the digest says it all
		}
	} else if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		name, ref = image[:i], image[i+1:]
	}
	n, err := named(a.d, name)
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
