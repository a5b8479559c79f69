package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
)

// maxContent bounds, in bytes, what is served to peers whole: the largest
// manifest. Blobs of more go by pieces, where the scheduler shares the uplink.
const maxContent = 8 << 20

// Held returns content that the store holds whole, and its media type.
// It fails with store.ErrNotFound where it does not, or is larger than limit. To
// look is no use of the content: whoever gives it to somebody says so (store.Touch).
func (e *Engine) Held(d digest.Digest, limit int64) ([]byte, string, error) {
	if content, mediaType, err := e.keepingOf(d); err == nil && int64(len(content)) <= limit {
		return content, mediaType, nil
	}
	f, in, err := e.o.Store.Peek(d)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if in.Size > limit {
		return nil, "", store.ErrNotFound
	}
	buf := make([]byte, in.Size)
	if _, err := io.ReadFull(f, buf); err != nil {
		return nil, "", fmt.Errorf("read %s: %w", d, err)
	}
	return buf, in.Meta.MediaType, nil
}

// keepingOf returns content that is on its way to the disk.
func (e *Engine) keepingOf(d digest.Digest) ([]byte, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := e.keeping[d]; k != nil {
		return k.content, k.meta.MediaType, nil
	}
	return nil, "", store.ErrNotFound
}

// kept is small content that waits for the disk.
type kept struct {
	content []byte
	meta    store.Meta
	durable bool // it came from Options.Durable
}

// Keep stores a manifest or other small content and announces it. It can be
// served at once; the disk follows, since a client need not wait for a flush.
// A store that is full, or fails, is logged: the caller has the content.
// The only error is ErrCorrupt, for content that does not have this digest.
func (e *Engine) Keep(d digest.Digest, content []byte, mediaType string, src Source) error {
	if d.Validate() != nil || d.Algorithm().FromBytes(content) != d {
		return &CorruptError{Digest: d, Source: src}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := e.keepLocked(d, content, mediaType, src); k != nil {
		e.wg.Add(1)
		go func() {
			defer e.wg.Done()
			e.store(d, k)
		}()
	}
	return nil
}

// keepLocked has verified content served from memory until store has been
// called; nil where somebody else sees to that, or it is too late.
func (e *Engine) keepLocked(d digest.Digest, content []byte, mediaType string, src Source) *kept {
	if e.closed || e.keeping[d] != nil {
		return nil
	}
	k := &kept{content: content, meta: store.Meta{MediaType: mediaType}}
	if src != (Source{}) {
		k.meta.Sources = []string{src.String()}
	}
	e.keeping[d] = k
	return k
}

// store writes what is kept to the disk. What has a DHT record is kept for
// good, and what no upstream has with its source; the rest can be had again.
func (e *Engine) store(d digest.Digest, k *kept) {
	var src Source
	if len(k.meta.Sources) > 0 {
		src = ParseSource(k.meta.Sources[0])
	}
	shown := announced(int64(len(k.content)), k.meta.MediaType)
	var err error
	if shown || e.durable.only(src) {
		err = e.o.Store.Put(d, k.content, k.meta)
	} else {
		err = e.o.Store.Cache(d, k.content, k.meta.Sources...)
	}
	if err != nil {
		e.log.Warn("cannot keep small content", zap.Stringer("digest", d), zap.Error(err))
	} else if shown && e.ready() {
		e.provide(d)
	}
	if err == nil && !k.durable {
		e.durable.fetched(src, d)
	}
	e.mu.Lock()
	delete(e.keeping, d)
	e.mu.Unlock()
}

// Content serves small content to a peer. A seeder fetches what it lacks when
// it knows where it comes from. Part of p2p.PieceServer.
func (e *Engine) Content(ctx context.Context, from peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	if !e.ready() {
		return nil, 0, "", p2p.ErrNotHeld
	}
	c, size, mediaType, err := e.contentOf(ctx, d)
	if err != nil {
		return nil, 0, "", err
	}
	e.ledger.sent(from, size)
	e.metrics.given.Add(float64(size))
	return c, size, mediaType, nil
}

func (e *Engine) contentOf(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	if content, mediaType, err := e.keepingOf(d); err == nil {
		return memory{bytes.NewReader(content)}, int64(len(content)), mediaType, nil
	}
	if b, err := e.o.Store.Blob(d); err == nil {
		defer b.Release()
		if b.Complete() {
			if b.Size() > maxContent {
				return nil, 0, "", p2p.ErrNotHeld
			}
			f, err := b.File()
			if err != nil {
				return nil, 0, "", p2p.ErrNotHeld
			}
			return f, b.Size(), b.Meta().MediaType, nil
		}
	}
	if !e.o.Seeder {
		return nil, 0, "", p2p.ErrNotHeld
	}
	w, ok := e.o.Locate(d)
	if !ok || !w.small() {
		return nil, 0, "", p2p.ErrNotHeld
	}
	r, size, err := e.Open(ctx, ctx, w)
	return r, size, "", err
}
