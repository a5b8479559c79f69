package fetch

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/upstream"
)

// upstreamRange opens the pieces [first, end) at the blob's source, or at the
// next one where that does not have the blob or does not let us have it. kept
// tells that the bytes are those of Options.Durable.
func (s *swarm) upstreamRange(ctx context.Context, first, end int) (r BlobReader, kept bool, err error) {
	off := s.geom.Offset(first)
	n := min(s.geom.Offset(end), s.geom.Size()) - off
	src := s.sources.current()
	for {
		r, kept, err := s.e.blobOf(ctx, src, s.digest, off, n, s.skipDurable.Load())
		if err == nil {
			if size := r.Size(); size >= 0 && size != s.geom.Size() { // below 0: it does not say
				r.Close()
				if kept && !s.e.durable.only(src) && !s.skipDurable.Swap(true) {
					s.e.durable.Corrupt(src, s.digest)
					continue
				}
				return nil, kept, fmt.Errorf("%s says that the blob has %d bytes, its manifest %d: %w", src, size, s.geom.Size(), errSize)
			}
			return r, kept, nil
		}
		kind := upstream.KindOf(err)
		if kind != upstream.NotFound && kind != upstream.Denied && !errors.Is(err, ErrNotFound) {
			return nil, kept, err
		}
		other, ok := s.sources.next(src)
		if !ok {
			return nil, kept, err
		}
		s.log.Info("a source does not give the blob; trying another", zap.Stringer("source", src), zap.Stringer("next", other), zap.Error(err))
		src = other
	}
}

// errSize says that the upstream's blob has another size than the manifest says.
var errSize = fmt.Errorf("the size differs: %w", ErrCorrupt)

// hopeless tells whether to ask again will not help.
func hopeless(err error) bool {
	kind := upstream.KindOf(err)
	return kind == upstream.NotFound || kind == upstream.Denied || kind == upstream.Invalid ||
		kind == upstream.Refused || kind == upstream.Offline || errors.Is(err, errSize)
}

// explainUpstream gives an upstream's error the kind that the engine's callers know.
func explainUpstream(err error) error {
	switch {
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrNotFound):
		return err
	case upstream.KindOf(err) == upstream.NotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case upstream.KindOf(err) == upstream.Corrupt:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
