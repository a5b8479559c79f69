package fetch

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Durable is content that outlives the store: nearer than its upstream, or
// all there is of it. Safe for concurrent use.
type Durable interface {
	// Only tells whether content of a source is here and at no upstream.
	Only(src Source) bool
	// Blob opens n bytes from off on; n < 0 means to the end. ErrNotFound says
	// that it is not here, or here as that of other sources only: who asks may
	// have this source, and knowing a digest is no permission.
	Blob(ctx context.Context, src Source, d digest.Digest, off, n int64) (BlobReader, error)
	// Fetched is told of content that the store holds whole and that came from
	// its upstream. It does not block.
	Fetched(src Source, d digest.Digest)
	// Corrupt is told that the bytes of Blob do not have the digest.
	Corrupt(src Source, d digest.Digest)
}

// BlobReader reads a blob, or a range of one.
type BlobReader interface {
	io.ReadCloser
	// Size is that of the whole blob in bytes, below 0 where it is not known.
	Size() int64
}

// durable is one that may be nil, as the engine's download of a blob sees it.
type durable struct{ Durable }

func (x durable) only(src Source) bool { return x.Durable != nil && x.Only(src) }

// blobOf opens a range of a blob: where it is kept for good, unless skip says
// that this has failed, else at its upstream. kept tells which it was.
func (e *Engine) blobOf(ctx context.Context, src Source, d digest.Digest, off, n int64, skip bool) (r BlobReader, kept bool, err error) {
	only := e.durable.only(src)
	if e.durable.Durable != nil && (only || !skip) {
		r, err := e.durable.Blob(ctx, src, d, off, n)
		if err == nil || only || ctx.Err() != nil {
			return r, true, err
		}
		if !errors.Is(err, ErrNotFound) {
			e.log.Warn("what is kept of a blob cannot be read; its upstream is asked", zap.Stringer("digest", d), zap.Error(err))
		}
	}
	u, err := e.o.Upstream.Blob(ctx, src.Upstream, src.Repository, d, off, n)
	if err != nil {
		return nil, false, err
	}
	return u, false, nil
}

// fetched passes on that content came from its upstream.
func (x durable) fetched(src Source, d digest.Digest) {
	if x.Durable != nil && src != (Source{}) {
		x.Fetched(src, d)
	}
}
