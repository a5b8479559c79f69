package store

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"go.uber.org/zap"
)

// Blob is a handle on one blob, safe for concurrent use. All handles on a blob
// share its state. It pins the blob until Release, after which it must not be
// used; Readers made from it have pins of their own.
type Blob struct {
	st       *state
	released atomic.Bool
}

// Release gives the pin back. A second call does nothing.
func (b *Blob) Release() {
	if !b.released.Swap(true) {
		b.st.s.unpin(b.st)
	}
}

// alive returns why the handle can no longer be written through, if so.
func (b *Blob) alive() error {
	if b.released.Load() {
		return ErrClosed
	}
	b.st.mu.Lock()
	defer b.st.mu.Unlock()
	return b.st.err
}

// Digest is the blob's OCI digest.
func (b *Blob) Digest() digest.Digest { return b.st.digest }

// Size is the blob's size in bytes, whether or not they are all here.
func (b *Blob) Size() int64 { return b.st.geo.Size() }

// Geometry says how the blob is cut into pieces.
func (b *Blob) Geometry() piece.Geometry { return b.st.geo }

// Complete tells whether the blob was committed.
func (b *Blob) Complete() bool { return b.st.isComplete() }

// Have returns a copy of the set of verified pieces: all, if complete.
func (b *Blob) Have() *piece.Bitfield {
	b.st.mu.Lock()
	defer b.st.mu.Unlock()
	if b.st.complete {
		return piece.FullBitfield(b.st.geo.Count())
	}
	return b.st.have.Clone()
}

// Has tells whether piece i is held and verified.
func (b *Blob) Has(i int) bool {
	b.st.mu.Lock()
	defer b.st.mu.Unlock()
	if b.st.complete {
		return i >= 0 && i < b.st.geo.Count()
	}
	return b.st.have.Has(i)
}

// Readable tells whether a Reader of a part may return bytes of piece i now.
func (b *Blob) Readable(i int) bool {
	b.st.mu.Lock()
	defer b.st.mu.Unlock()
	return i >= 0 && i < b.st.geo.Count() && b.st.readableLocked(i, true)
}

// Raw returns a copy of the set of pieces held whose hash is not known.
func (b *Blob) Raw() *piece.Bitfield {
	b.st.mu.Lock()
	defer b.st.mu.Unlock()
	if b.st.complete {
		return piece.NewBitfield(b.st.geo.Count())
	}
	return b.st.raw.Clone()
}

// Meta returns what is remembered of the blob.
func (b *Blob) Meta() Meta {
	b.st.mu.Lock()
	defer b.st.mu.Unlock()
	return Meta{MediaType: b.st.meta.MediaType, Sources: slices.Clone(b.st.meta.Sources)}
}

// SetMeta replaces what is remembered of the blob. Empty and repeated sources
// are dropped, and those beyond 8. Nothing is written if nothing changes.
// Errors: ErrNotFound, ErrClosed, ErrFull.
func (b *Blob) SetMeta(m Meta) error {
	st := b.st
	m = cleanMeta(m)
	st.side.Lock()
	defer st.side.Unlock()
	if err := b.alive(); err != nil {
		return err
	}
	st.s.mu.Lock()
	trash := st.s.usedByLocked(st, m.Sources...)
	st.s.mu.Unlock()
	st.s.sweep(trash)
	st.mu.Lock()
	same := st.meta.MediaType == m.MediaType && slices.Equal(st.meta.Sources, m.Sources)
	durable := st.complete // a partial blob's is made durable by Commit
	cached := st.cached
	st.mu.Unlock()
	if same {
		return nil
	}
	if cached {
		return st.unfold(m, false)
	}
	if err := replaceFile(st.path(metaName), encodeMeta(st.digest, st.geo.Size(), m, st.isKept()), durable); err != nil {
		return st.s.writeError("set meta", st, 0, err)
	}
	st.touch()
	st.mu.Lock()
	st.meta = m
	st.mu.Unlock()
	return nil
}

// Keep says whether the blob is never evicted. It survives restart and power
// loss. Nothing is written if nothing changes.
// Errors: ErrNotFound, ErrClosed, ErrFull.
func (b *Blob) Keep(on bool) error {
	st := b.st
	st.side.Lock()
	defer st.side.Unlock()
	if err := b.alive(); err != nil {
		return err
	}
	if st.isKept() == on {
		return nil
	}
	st.mu.Lock()
	m, cached := st.meta, st.cached
	st.mu.Unlock()
	if cached {
		if err := st.unfold(m, on); err != nil {
			return err
		}
	} else {
		if err := replaceFile(st.path(metaName), encodeMeta(st.digest, st.geo.Size(), m, on), true); err != nil {
			return st.s.writeError("keep", st, 0, err)
		}
		if err := syncPath(st.dir); err != nil {
			return st.s.writeError("keep", st, 0, err)
		}
		st.touch()
	}
	st.s.mu.Lock()
	st.kept = on // the last unpin goes by it
	st.s.recountLocked(st)
	st.s.mu.Unlock()
	return nil
}

// Fail makes the readers that wait at this moment return err. Later waits are
// not affected. Use it when a download ended and nobody is fetching.
func (b *Blob) Fail(err error) {
	b.st.mu.Lock()
	n := len(b.st.waiters)
	b.st.wakeAllLocked(err)
	b.st.mu.Unlock()
	if n > 0 {
		b.st.s.log.Info("readers failed", zap.Stringer("digest", b.st.digest), zap.Error(err))
	}
}

// File opens the content of a complete blob: a descriptor of the caller's own,
// for http.ServeContent and sendfile. It stays readable after eviction.
// Errors: ErrNotHeld (the blob is partial), ErrNotFound, ErrClosed.
func (b *Blob) File() (*os.File, error) {
	if b.released.Load() {
		return nil, ErrClosed
	}
	return b.st.file()
}

func (st *state) file() (*os.File, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return nil, st.err
	}
	switch {
	case st.complete:
		return st.openLocked()
	case st.damaged:
		return nil, fmt.Errorf("%w: %w: %s", ErrNotHeld, ErrDamaged, st.digest)
	}
	return nil, fmt.Errorf("%w: %s is not complete", ErrNotHeld, st.digest)
}
