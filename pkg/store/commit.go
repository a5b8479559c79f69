package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

// Settle tells that the digest of the whole blob is right, or that every
// verified piece was checked against a final list: readers get the last piece
// as soon as it is verified. If all pieces are held now, unverified ones count
// as checked too. It is forgotten with the process.
// Errors: ErrNotFound, ErrClosed.
func (b *Blob) Settle() error {
	if err := b.alive(); err != nil {
		return err
	}
	b.st.settle()
	return nil
}

func (st *state) settle() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.complete {
		return
	}
	st.settled = true
	if st.have.Count()+st.raw.Count() == st.geo.Count() {
		st.settledRaw = true
	}
	st.wakeLocked(st.geo.Count() - 1)
}

// Commit makes a partial blob complete. Every piece must be held. verify hashes
// the whole file first; that also happens unasked where unverified pieces are
// held and Settle was not called since all are here. Readers get the last piece
// as soon as the digest is known to be right, before the flush to disk.
// A blob that is complete already stays so; one that was only cached is flushed now.
//
// Errors: ErrNotHeld (pieces missing), ErrCorrupt (wrong digest: all pieces and
// runs are dropped, the blob stays as an empty partial one), ErrFull,
// ErrNotFound, ErrClosed. If the system cannot flush the content, it may have
// lost some of it: then too all pieces are dropped.
func (b *Blob) Commit(verify bool) error {
	st := b.st
	st.wmu.Lock()
	defer st.wmu.Unlock()
	if err := b.alive(); err != nil {
		return err
	}
	st.mu.Lock()
	if st.complete {
		cached := st.cached
		st.mu.Unlock()
		if !cached {
			return nil
		}
		st.side.Lock()
		defer st.side.Unlock()
		return st.unfold(st.meta, false)
	}
	held, all := st.have.Count()+st.raw.Count(), st.geo.Count()
	verify = verify || st.raw.Count() > 0 && !st.settledRaw
	data, _, err := st.filesLocked()
	st.mu.Unlock()
	if err != nil {
		return err
	}
	if held < all {
		return fmt.Errorf("%w: commit %s: %d of %d pieces missing", ErrNotHeld, st.digest, all-held, all)
	}
	if verify {
		if err := st.check(data); err != nil {
			return err
		}
	}
	st.settle()
	if err := st.flush(data); err != nil {
		err = st.s.writeError("commit", st, 0, err)
		return errors.Join(err, st.reset())
	}
	return st.promote()
}

// check hashes the content and drops it if it is wrong.
func (st *state) check(data *os.File) error {
	h := st.digest.Algorithm().Hash()
	buf := getBuffer(streamSize)
	defer putBuffer(buf)
	for off := int64(0); off < st.geo.Size(); {
		st.mu.Lock()
		err := st.err // a Delete or Close need not wait for a long hash
		st.mu.Unlock()
		if err != nil {
			return err
		}
		n, err := data.ReadAt((*buf)[:min(streamSize, st.geo.Size()-off)], off)
		if n == 0 && err != nil {
			return fmt.Errorf("store: commit %s: %w", st.digest, err)
		}
		h.Write((*buf)[:n])
		off += int64(n)
	}
	if bytes.Equal(fmt.Appendf(nil, "%x", h.Sum(nil)), []byte(st.digest.Encoded())) {
		return nil
	}
	st.s.m.corrupt.Inc()
	st.s.log.Warn("blob was wrong, dropped", zap.Stringer("digest", st.digest), zap.Int64("size", st.geo.Size()))
	err := fmt.Errorf("%w: %s: the content fetched has another digest and was dropped", ErrCorrupt, st.digest)
	return errors.Join(err, st.reset())
}

// flush makes content, meta and runs durable: the blob's one fsync each.
func (st *state) flush(data *os.File) error {
	if err := data.Sync(); err != nil {
		return err
	}
	st.s.at("commit: flushed")
	st.side.Lock()
	defer st.side.Unlock()
	return errors.Join(syncPath(st.path(metaName)), syncPath(st.path(runsName)))
}

// promote is the step from partial to complete. The rename alone decides; what
// a crash leaves of the rest is put right by Open.
func (st *state) promote() error {
	st.mu.Lock()
	if err := os.Rename(st.path(partName), st.path(dataName)); err != nil {
		st.mu.Unlock()
		return fmt.Errorf("store: commit %s: %w", st.digest, err)
	}
	st.s.at("commit: renamed")
	st.complete = true
	pieces := st.pieces
	st.pieces, st.have, st.raw, st.open, st.drops = nil, nil, nil, nil, nil
	st.wakeAllLocked(nil)
	st.mu.Unlock()

	var errs []error
	if pieces != nil {
		errs = append(errs, pieces.Close())
	}
	errs = append(errs, os.Remove(st.path(piecesName)), st.mended())
	st.s.at("commit: pieces removed")
	errs = append(errs, st.syncDirs())
	st.counted()
	st.s.log.Info("blob complete", zap.Stringer("digest", st.digest), zap.Int64("size", st.geo.Size()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("store: commit %s: it is complete, but may not survive power loss: %w", st.digest, err)
	}
	return nil
}

// counted enters a blob that has just become complete in the accounts. That is a
// use: whoever wanted it has it now.
func (st *state) counted() {
	s := st.s
	s.mu.Lock()
	touch := s.useLocked(st)
	st.full = true
	s.complete++
	s.promiseToLocked(st, -st.promise)
	st.promising = false
	s.mu.Unlock()
	if touch {
		st.touch()
	}
	s.m.commits.Inc()
}

// syncDirs makes the names durable that lead to the blob's files.
func (st *state) syncDirs() error {
	return errors.Join(syncPath(st.dir), syncPath(filepath.Dir(st.dir)), st.s.shards.sync())
}

// Discard drops all pieces and runs of a partial blob. Readers that have
// returned bytes of it fail with ErrCorrupt, others wait anew.
// Errors: ErrNotFound, ErrClosed, or the system's; a complete blob is left
// alone with an error: use Delete.
func (b *Blob) Discard() error {
	st := b.st
	st.wmu.Lock()
	defer st.wmu.Unlock()
	if err := b.alive(); err != nil {
		return err
	}
	if st.isComplete() {
		return fmt.Errorf("store: discard %s: it is complete; delete it", st.digest)
	}
	if err := st.reset(); err != nil {
		return err
	}
	st.s.log.Info("pieces discarded", zap.Stringer("digest", st.digest))
	return nil
}

// reset drops all content. It goes to a new file, so that a reader of the old
// one never sees bytes of the new. The caller holds wmu exclusively.
func (st *state) reset() error {
	tmp := st.path("." + partName + ".tmp")
	err := makeSparse(tmp, st.geo.Size())
	st.s.at("discard: new content made")
	st.mu.Lock()
	_, pieces, err2 := st.filesLocked()
	st.mu.Unlock()
	if err = errors.Join(err, err2); err == nil {
		// First the marks: until the rename they stand for the old bytes.
		_, err = pieces.WriteAt(make([]byte, st.geo.Count()), 0)
	}
	var old *os.File
	if err == nil {
		st.s.at("discard: marks cleared")
		old, err = st.replaceContent(tmp)
	}
	if err != nil {
		os.Remove(tmp)
		return st.s.writeError("discard", st, 0, err)
	}
	st.s.at("discard: content replaced")
	st.side.Lock()
	os.Remove(st.path(runsName))
	st.runs, st.runsLen, st.runsKnown = nil, 0, true
	st.side.Unlock()

	st.s.mu.Lock()
	held := st.bytes
	st.s.mu.Unlock()
	st.s.refund(st, held)
	if old != nil {
		return old.Close()
	}
	return nil
}

// replaceContent puts the empty file tmp in the place of the content and
// returns the old one. Name and bits change together: whoever opens the
// content by its name because a bit is set must not get the new file.
func (st *state) replaceContent(tmp string) (old *os.File, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := os.Rename(tmp, st.path(partName)); err != nil {
		return nil, err
	}
	old, st.data = st.data, nil
	st.clearBits()
	st.settled, st.settledRaw = false, false
	st.gen++
	st.drops = nil
	st.wakeAllLocked(nil)
	return old, nil
}
