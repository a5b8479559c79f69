package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
)

// Adopt takes over a file as the content of blob d, which is kept from then on
// (see Blob.Keep): a push is written once. The file is moved where the store
// has nothing of d, and else removed; it must be on the store's file system.
// The caller has verified that its content is d, and nobody writes to it any
// more. When Adopt returns, the blob is complete and survives power loss; where
// it fails, the file or the blob is there. What m says is added to what is known of the blob,
// but one of which it is not known where it came from stays such.
// Errors: ErrSize (the file is too large for a blob), ErrFull, ErrClosed, a bad
// digest, or the system's.
func (s *Store) Adopt(d digest.Digest, path string, m Meta) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("store: adopt %s: %w", d, err)
	}
	g, err := piece.GeometryOf(fi.Size())
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSize, d, err)
	}
	free, err := diskFree(s.dir)
	if err != nil {
		return err
	}
	// The file takes its room on the disk already.
	free += fi.Size()
	for {
		s.mu.Lock()
		st := s.blobs[d]
		switch {
		case s.closed:
			s.mu.Unlock()
			return ErrClosed
		case st == nil:
			return s.adoptNew(newState(s, d, g), path, cleanMeta(m), free) // unlocks s.mu
		case st.gone != nil:
			gone := st.gone
			s.mu.Unlock()
			<-gone
		default:
			s.mu.Unlock()
			err := s.adoptKnown(d, g, path, m)
			if errors.Is(err, ErrSize) && s.dropWrongSize(d, g.Size()) {
				continue
			}
			return err
		}
	}
}

// Reserve makes room in the quota for n bytes that the caller receives into a
// file of its own, to adopt it in the end: by evicting, as for any content. They
// count until they are given back with Unreserve, which comes before Adopt.
// Errors: ErrFull, ErrClosed.
func (s *Store) Reserve(n int64) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	trash, err := s.makeRoomLocked(n)
	if err == nil {
		s.reserved += n
	}
	s.mu.Unlock()
	s.sweep(trash)
	if err != nil {
		s.m.full.Inc()
		return fmt.Errorf("store: reserve: %w", err)
	}
	return nil
}

// MakeRoom evicts until n bytes that the caller is about to write fit on the
// disk, beside what is promised. Errors: ErrFull, ErrClosed, or the system's.
func (s *Store) MakeRoom(n int64) error {
	free, err := diskFree(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	var trash []string
	if short := n + s.promised - free; short > s.idle {
		err = &FullError{Path: s.dir, Need: n, Free: free - s.promised + s.idle}
	} else {
		trash = s.evictLocked(short, "disk")
	}
	s.mu.Unlock()
	s.sweep(trash)
	if err != nil {
		s.m.full.Inc()
		return fmt.Errorf("store: make room: %w", err)
	}
	return nil
}

// Unreserve gives n reserved bytes back.
func (s *Store) Unreserve(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= n
}

// adoptNew enters a blob whose content is the file. The caller holds s.mu,
// which it unlocks.
func (s *Store) adoptNew(st *state, path string, m Meta, free int64) error {
	s.blobs[st.digest] = st
	s.pinLocked(st)
	trash, err := s.promiseLocked(st, free)
	if err != nil {
		s.forgetLocked(st)
	}
	s.mu.Unlock()
	s.sweep(trash)
	var late error
	st.build(err, func() (err error) {
		late, err = st.adoptFile(path, m)
		return err
	})
	s.unpin(st)
	if st.initErr != nil {
		return s.writeError("adopt", st, st.geo.Size(), st.initErr)
	}
	if late != nil {
		return fmt.Errorf("store: adopt %s: it is complete, but may not survive power loss: %w", st.digest, late)
	}
	s.log.Info("blob adopted", zap.Stringer("digest", st.digest), zap.Int64("size", st.geo.Size()))
	return nil
}

// adoptFile moves the file in. Its rename alone decides: before it the
// directory is a leftover, after it the blob is there, and late says what went
// wrong since.
func (st *state) adoptFile(path string, m Meta) (late, err error) {
	if err := syncPath(path); err != nil {
		return nil, err
	}
	if err := st.makeDir(); err != nil {
		return nil, err
	}
	if err := replaceFile(st.path(metaName), encodeMeta(st.digest, st.geo.Size(), m, true), true); err != nil {
		return nil, err
	}
	st.s.at("adopt: meta made")
	if err := os.Rename(path, st.path(dataName)); err != nil {
		return nil, err
	}
	st.s.at("adopt: content moved")
	late = errors.Join(st.s.charge(st, st.geo.Size()), st.syncDirs()) // it was promised: there is room
	st.s.mu.Lock()
	st.kept = true
	st.users = st.s.prefixes.users(m.Sources) // should it be kept no more
	st.s.recountLocked(st)
	st.s.mu.Unlock()
	st.mu.Lock()
	st.complete, st.meta = true, m
	st.have, st.raw, st.open = nil, nil, nil
	st.mu.Unlock()
	st.counted()
	return late, nil
}

// dropWrongSize deletes a partial blob that was created with another size than
// its content has: whoever told it was wrong. False where it is complete.
func (s *Store) dropWrongSize(d digest.Digest, size int64) bool {
	in, err := s.Stat(d)
	if err == nil && !in.Complete && in.Size != size {
		s.log.Warn("a partial blob had the wrong size, dropped", zap.Stringer("digest", d), zap.Int64("size", in.Size), zap.Int64("want", size))
		err = s.Delete(d)
	}
	return errors.Is(err, ErrNotFound) || err == nil && !in.Complete
}

// adoptKnown keeps a blob of which the store has something, and completes it
// from the file.
func (s *Store) adoptKnown(d digest.Digest, g piece.Geometry, path string, m Meta) error {
	b, err := s.Create(d, g.Size())
	if err != nil {
		return err
	}
	defer b.Release()
	known := b.Meta()
	m.MediaType = cmp.Or(known.MediaType, m.MediaType)
	if b.Complete() && len(known.Sources) == 0 {
		m.Sources = nil
	}
	m.Sources = append(slices.Clone(m.Sources), known.Sources...)
	if err := b.SetMeta(m); err != nil {
		return err
	}
	err = b.fillFrom(path)
	if errors.Is(err, ErrCorrupt) { // pieces that were held are wrong, and dropped now
		err = b.fillFrom(path)
	}
	if err != nil {
		return err
	}
	if err := b.Keep(true); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("store: adopt %s: %w", d, err)
	}
	return nil
}

// fillFrom writes every piece that is not held and verified from the file, and
// commits. What was held may be of an upstream that sent wrong bytes, which
// only the digest of the whole tells.
func (b *Blob) fillFrom(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("store: adopt %s: %w", b.st.digest, err)
	}
	defer f.Close()
	g := b.Geometry()
	buf := getBuffer(int(g.PieceSize()))
	defer putBuffer(buf)
	for i := range g.Count() {
		if b.Has(i) {
			continue
		}
		p := (*buf)[:g.Len(i)]
		if _, err := f.ReadAt(p, g.Offset(i)); err != nil {
			return fmt.Errorf("store: adopt %s: %w", b.st.digest, err)
		}
		if _, err := b.WritePiece(i, p); err != nil {
			return err
		}
	}
	return b.Commit(true)
}
