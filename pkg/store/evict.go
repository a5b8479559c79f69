package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

// touchEvery bounds how often a use is written to disk.
const touchEvery = time.Minute

// pinLocked takes st off the LRU list and tells whether its last use should be
// written to disk. The caller holds s.mu.
func (s *Store) pinLocked(st *state) (touch bool) {
	st.pins++
	if st.elem != nil {
		s.lru.Remove(st.elem)
		st.elem = nil
		s.idle -= st.bytes
	}
	return s.usedLocked(st)
}

func (s *Store) usedLocked(st *state) (touch bool) {
	st.lastUse = s.o.Now()
	if d := st.lastUse.Sub(st.touched); d >= 0 && d < touchEvery {
		return false
	}
	st.touched = st.lastUse
	return true
}

// unpin is the end of a handle or reader. With the last one gone the blob may
// be evicted, its descriptors are closed and what was promised to it is free.
func (s *Store) unpin(st *state) {
	s.mu.Lock()
	st.pins--
	if st.pins > 0 {
		s.mu.Unlock()
		return
	}
	s.promised -= st.promise
	st.promise, st.promising = 0, false
	touch := false
	if !st.detached {
		touch = s.usedLocked(st) && !s.closed
		s.idleLocked(st)
	}
	// Under s.mu, so that no new pin comes between and finds them closing.
	err := st.closeFiles()
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("close blob files", zap.Stringer("digest", st.digest), zap.Error(err))
	}
	if touch {
		st.touch()
	}
}

// idleLocked lets a blob that nobody pins be evicted, unless it is kept.
func (s *Store) idleLocked(st *state) {
	if !st.kept {
		st.elem = s.lru.PushBack(st)
		s.idle += st.bytes
	}
}

// promiseLocked makes room for all of st that is still to come, on the disk
// (free bytes there) and within the quota, and keeps it until the last unpin.
// The caller holds s.mu and sweeps what is returned.
func (s *Store) promiseLocked(st *state, free int64) (trash []string, err error) {
	if st.full || st.promising {
		return nil, nil
	}
	need := st.geo.Size() - st.bytes
	if short := need + s.promised - free; short > s.idle {
		return nil, &FullError{Path: s.dir, Need: need, Free: free - s.promised + s.idle}
	} else if short > 0 {
		trash = s.evictLocked(short, "disk")
	}
	more, err := s.makeRoomLocked(need)
	trash = append(trash, more...)
	if err != nil {
		return trash, err
	}
	st.promising, st.promise = true, need
	s.promised += need
	return trash, nil
}

// makeRoomLocked evicts until n more bytes fit into the quota. It evicts
// nothing where that cannot succeed.
func (s *Store) makeRoomLocked(n int64) (trash []string, err error) {
	over := s.used + s.promised + s.reserved + n - s.o.Quota
	if s.o.Quota <= 0 || over <= 0 {
		return nil, nil
	}
	if over > s.idle {
		return nil, &FullError{Path: s.dir, Need: n, Free: n - over + s.idle, Quota: s.o.Quota}
	}
	trash = s.evictLocked(over, "quota")
	if over = s.used + s.promised + s.reserved + n - s.o.Quota; over > 0 {
		return trash, &FullError{Path: s.dir, Need: n, Free: n - over, Quota: s.o.Quota}
	}
	return trash, nil
}

// evictLocked evicts the least recently used blobs until n bytes are free.
func (s *Store) evictLocked(n int64, why string) (trash []string) {
	for e := s.lru.Front(); e != nil && n > 0; e = s.lru.Front() {
		st := e.Value.(*state)
		size := st.bytes
		t, err := s.detachLocked(st)
		if err != nil {
			s.log.Error("evict", zap.Stringer("digest", st.digest), zap.Error(err))
			continue
		}
		n -= size
		trash = append(trash, t)
		s.m.evictions.Inc()
		s.log.Info("blob evicted", zap.Stringer("digest", st.digest), zap.Int64("bytes", size),
			zap.Bool("complete", st.full), zap.Time("lastUse", st.lastUse), zap.String("reason", why))
	}
	return trash
}

// detachLocked takes a blob out of the table and moves its directory to the
// trash, in one step as seen after a crash. The caller holds s.mu and knows
// that nobody writes to the blob.
func (s *Store) detachLocked(st *state) (trash string, err error) {
	if st.elem != nil {
		s.lru.Remove(st.elem)
		st.elem = nil
		s.idle -= st.bytes
	}
	s.trashed++
	trash = filepath.Join(s.dir, trashName, fmt.Sprintf("%d-%s", s.trashed, st.digest.Encoded()[:16]))
	st.mu.Lock()
	at := st.dir
	if st.cached {
		at = st.contentLocked()
	}
	st.mu.Unlock()
	if err := os.Rename(at, trash); err != nil {
		// Not in one step then: meta goes last of what makes it a blob.
		if err2 := os.RemoveAll(at); err2 != nil {
			return "", errors.Join(err, err2)
		}
	}
	s.forgetLocked(st)
	return trash, nil
}

// forgetLocked takes a blob out of the table and the accounts.
func (s *Store) forgetLocked(st *state) {
	delete(s.blobs, st.digest)
	st.detached = true
	s.used -= st.bytes
	s.promised -= st.promise
	st.bytes, st.promise, st.promising = 0, 0, false
	if st.full {
		s.complete--
	}
}

// sweep removes what was moved to the trash. It runs without locks: to unlink
// a large file takes time.
func (s *Store) sweep(trash []string) {
	for _, t := range trash {
		s.at("delete: in the trash")
		if err := os.RemoveAll(t); err != nil {
			s.log.Error("empty trash", zap.String("path", t), zap.Error(err))
		}
	}
}

// charge accounts n bytes to st before they are written, out of its promise or
// by evicting others. Errors: ErrFull.
func (s *Store) charge(st *state, n int64) error {
	s.mu.Lock()
	var trash []string
	var err error
	if st.promising {
		st.promise -= n
		s.promised -= n
	} else {
		trash, err = s.makeRoomLocked(n)
	}
	if err == nil {
		st.bytes += n
		s.used += n
	}
	s.mu.Unlock()
	s.sweep(trash)
	return err
}

// refund takes back a charge of n bytes.
func (s *Store) refund(st *state, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.detached {
		return
	}
	st.bytes -= n
	s.used -= n
	if st.promising {
		st.promise += n
		s.promised += n
	}
}

// evictOne makes some room on a disk that is full although the quota is not.
func (s *Store) evictOne() bool {
	s.mu.Lock()
	trash := s.evictLocked(1, "disk")
	s.mu.Unlock()
	s.sweep(trash)
	return len(trash) > 0
}

// writeError says what could not be written; need is in bytes.
func (s *Store) writeError(op string, st *state, need int64, err error) error {
	var full *FullError
	if !errors.As(err, &full) && noSpace(err) {
		free, _ := diskFree(s.dir)
		full = &FullError{Path: s.dir, Need: need, Free: free, Err: err}
		err = full
	}
	if full != nil {
		s.m.full.Inc()
		s.log.Warn("store full", zap.String("op", op), zap.Stringer("digest", st.digest), zap.Error(err))
	}
	return fmt.Errorf("store: %s %s: %w", op, st.digest, err)
}
