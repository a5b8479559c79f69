package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Where content is in the bucket: that of local repositories, and copies of
// what upstreams have.
const (
	blobsKey = "blobs"
	cacheKey = "cache"

	// assumeSmall is the size in bytes up to which content is written without
	// a look whether it is there: that costs as much.
	assumeSmall = 256 << 10
)

// key of content: blobs/sha256/ab/abcd... The digest has been validated.
func key(place string, d digest.Digest) string {
	return place + "/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}

func (h *Home) keyOf(src fetch.Source, d digest.Digest) string {
	if h.Only(src) {
		return key(blobsKey, d)
	}
	return key(cacheKey, d)
}

// Push implements local.Durable.
func (h *Home) Push(ctx context.Context, d digest.Digest, f *os.File, mediaType string) error {
	if err := h.usable(); err != nil {
		return h.refuse(err)
	}
	return h.refuse(h.pushed(ctx, d, f, mediaType))
}

func (h *Home) pushed(ctx context.Context, d digest.Digest, f *os.File, mediaType string) error {
	size, err := h.keep(ctx, key(blobsKey, d), f, objectstore.PutOptions{ContentType: mediaType})
	if err == nil {
		h.noteSize(d, size)
	}
	return err
}

// keep writes a file under a key unless it is there, and returns its size.
func (h *Home) keep(ctx context.Context, key string, f *os.File, o objectstore.PutOptions) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.Size() > assumeSmall {
		there, err := h.o.Objects.Stat(ctx, key)
		if err == nil && there.Size == fi.Size() {
			return fi.Size(), h.note(nil)
		}
		if err != nil && objectstore.KindOf(err) != objectstore.NotFound {
			return 0, h.note(err)
		}
	}
	return fi.Size(), h.note(h.o.Objects.PutFile(ctx, key, f, fi.Size(), o))
}

// Size implements local.Durable.
func (h *Home) Size(ctx context.Context, d digest.Digest) (int64, error) {
	if size, ok := h.sizeOf(d); ok {
		return size, nil
	}
	o, err := h.o.Objects.Stat(ctx, key(blobsKey, d))
	if h.note(err) == nil {
		h.noteSize(d, o.Size)
		return o.Size, nil
	}
	if objectstore.KindOf(err) == objectstore.NotFound {
		return 0, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return 0, unavailable(err)
}

// Drop implements local.Durable.
func (h *Home) Drop(ctx context.Context, d digest.Digest) error {
	if err := h.usable(); err != nil {
		return err
	}
	h.noteSize(d, -1)
	return h.note(h.o.Objects.Remove(ctx, key(blobsKey, d)))
}

// syncContent copies content that was pushed before there was a bucket.
func (h *Home) syncContent(ctx context.Context, d digest.Digest) error {
	b, err := h.o.Store.Blob(d)
	if errors.Is(err, store.ErrNotFound) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	defer b.Release()
	f, err := b.File()
	if err != nil {
		return err
	}
	defer f.Close()
	mediaType := b.Meta().MediaType
	if err := h.pushed(ctx, d, f, mediaType); err != nil || registry.IsManifestType(mediaType) {
		return err // manifests stay here, too: they are read whenever one looks what they name
	}
	return b.Keep(false)
}

// Only implements fetch.Durable.
func (h *Home) Only(src fetch.Source) bool {
	return src != (fetch.Source{}) && h.o.IsLocal(src.Upstream)
}

// Blob implements fetch.Durable.
func (h *Home) Blob(ctx context.Context, src fetch.Source, d digest.Digest, off, n int64) (fetch.BlobReader, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	if !h.Only(src) && !h.hasCopies(d) {
		return nil, fetch.ErrNotFound
	}
	r, err := h.o.Objects.Range(ctx, h.keyOf(src, d), off, n)
	if h.note(err) == nil {
		return r, nil
	}
	if objectstore.KindOf(err) == objectstore.NotFound {
		return nil, fmt.Errorf("%w: %w", fetch.ErrNotFound, err)
	}
	return nil, err
}

// hasCopies tells whether it makes sense to look for a copy of an upstream's
// content: not where the last request failed, since nobody has to wait for that.
func (h *Home) hasCopies(d digest.Digest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.o.CopyPulled && h.failed == nil && !h.bad[d]
}

// Corrupt implements fetch.Durable. A wrong copy goes; content that is nowhere
// else stays, for people to look at.
func (h *Home) Corrupt(src fetch.Source, d digest.Digest) {
	h.m.corrupt.Inc()
	k := h.keyOf(src, d)
	if h.Only(src) {
		h.log.Error("content in the object store does not have its digest, and is nowhere else; push it again", zap.String("key", k))
		return
	}
	h.log.Error("a copy in the object store does not have its digest and is removed", zap.String("key", k))
	h.mu.Lock()
	if len(h.bad) < maxKnown {
		h.bad[d] = true
	}
	delete(h.known, d)
	h.mu.Unlock()
	h.wg.Go(func() {
		if err := h.note(h.o.Objects.Remove(h.ctx, k)); err != nil {
			h.log.Warn("cannot remove a wrong copy", zap.String("key", k), zap.Error(err))
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.bad, d)
	})
}

// Manifest reads a copy of an upstream's manifest, with its media type and the
// repository that it came from. Errors: fs.ErrNotExist.
func (h *Home) Manifest(ctx context.Context, d digest.Digest, limit int64) (content []byte, mediaType, source string, err error) {
	if d.Validate() != nil || !h.hasCopies(d) {
		return nil, "", "", fs.ErrNotExist
	}
	content, o, err := h.o.Objects.Get(ctx, key(cacheKey, d), limit)
	if h.note(err) != nil {
		return nil, "", "", errors.Join(fs.ErrNotExist, err)
	}
	if d.Algorithm().FromBytes(content) != d {
		h.Corrupt(fetch.Source{}, d)
		return nil, "", "", fs.ErrNotExist
	}
	h.remember(d)
	return content, o.ContentType, o.Source, nil
}

// remember notes that a copy is in the bucket.
func (h *Home) remember(d digest.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.known) >= maxKnown {
		clear(h.known)
	}
	h.known[d] = struct{}{}
}

// URL signs a URL under which content of at least so many bytes can be read for
// a while. Errors: fs.ErrNotExist, also for smaller content.
func (h *Home) URL(ctx context.Context, src fetch.Source, d digest.Digest, least int64, life time.Duration) (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	if !h.Only(src) && !h.hasCopies(d) {
		return "", fs.ErrNotExist
	}
	o, err := h.o.Objects.Stat(ctx, h.keyOf(src, d))
	if h.note(err) != nil {
		return "", err
	}
	if o.Size < least {
		return "", fs.ErrNotExist
	}
	return h.o.Objects.Presign(ctx, o.Key, life)
}
