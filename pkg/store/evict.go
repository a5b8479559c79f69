package store

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// touchEvery bounds how often a use is written to disk.
const touchEvery = time.Minute

// pinLocked takes st off the LRU list, which counts as a use, and tells whether
// that should be written to disk. The caller holds s.mu.
func (s *Store) pinLocked(st *state) (touch bool) {
	st.pins++
	s.unlistLocked(st)
	return s.usedLocked(st)
}

// useLocked is a use without a pin.
func (s *Store) useLocked(st *state) (touch bool) {
	touch = s.usedLocked(st)
	if st.elem != nil {
		s.unlistLocked(st)
		s.idleLocked(st)
	}
	return touch
}

// usedLocked notes a use now, and tells whether it should be written to disk.
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
// That it ends is no use: a download holds on to its blob long after.
func (s *Store) unpin(st *state) {
	s.mu.Lock()
	st.pins--
	if st.pins > 0 {
		s.mu.Unlock()
		return
	}
	s.promiseToLocked(st, -st.promise)
	st.promising = false
	var trash []string
	if !st.detached {
		s.idleLocked(st)
		if !s.closed {
			trash = s.shrinkLocked(st)
		}
	}
	// Under s.mu, so that no new pin comes between and finds them closing.
	err := st.closeFiles()
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("close blob files", zap.Stringer("digest", st.digest), zap.Error(err))
	}
	s.sweep(trash)
}

// idleLocked lets a blob that nobody pins be evicted, unless it is kept.
func (s *Store) idleLocked(st *state) {
	if st.kept {
		return
	}
	st.elem = insertByUse(&s.lru, st)
	s.idle += st.bytes
	for i := range st.shares {
		st.shares[i].elem = insertByUse(&st.shares[i].p.lru, st)
	}
}

// insertByUse puts st where its last use belongs, mostly at the end.
func insertByUse(l *list.List, st *state) *list.Element {
	for e := l.Back(); e != nil; e = e.Prev() {
		if !e.Value.(*state).standing().After(st.standing()) {
			return l.InsertAfter(st, e)
		}
	}
	return l.PushFront(st)
}

// standing is the time by which a blob is evicted: the oldest first.
func (st *state) standing() time.Time {
	if st.until.After(st.lastUse) {
		return st.until
	}
	return st.lastUse
}

// Favour has a blob evicted as one that was last used at a time to come: after
// all that was used before. The zero time takes that back. It is forgotten when
// the store is closed.
func (s *Store) Favour(d digest.Digest, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.blobs[d]
	if st == nil || s.closed || st.until.Equal(until) {
		return
	}
	listed := st.elem != nil
	s.unlistLocked(st)
	st.until = until
	if listed {
		s.idleLocked(st)
	}
}

// Capacity is how much content the store can hold, in bytes: its quota, or what
// the disk has left beside what is held.
func (s *Store) Capacity() (int64, error) {
	if s.o.Quota > 0 {
		return s.o.Quota, nil
	}
	free, err := diskFree(s.dir)
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used + free, nil
}

// unlistLocked undoes idleLocked.
func (s *Store) unlistLocked(st *state) {
	if st.elem == nil {
		return
	}
	s.lru.Remove(st.elem)
	st.elem = nil
	s.idle -= st.bytes
	for i := range st.shares {
		st.shares[i].p.lru.Remove(st.shares[i].elem)
		st.shares[i].elem = nil
	}
}

// holdLocked accounts n bytes more of a blob that is pinned, or new.
func (s *Store) holdLocked(st *state, n int64) {
	st.bytes += n
	s.used += n
	for _, sh := range st.shares {
		sh.p.used += n
	}
}

// promiseToLocked keeps n bytes more of room for a blob.
func (s *Store) promiseToLocked(st *state, n int64) {
	st.promise += n
	s.promised += n
	for _, sh := range st.shares {
		sh.p.promised += n
	}
}

// promiseLocked makes room for all of st that is still to come, on the disk
// (free bytes there) and within the quota, and keeps it until the last unpin.
// The quota of a prefix gives way: it bounds what is cached, and is no reason to
// refuse a pull. The caller holds s.mu and sweeps what is returned.
func (s *Store) promiseLocked(st *state, free int64) (trash []string, err error) {
	if st.full || st.promising {
		return nil, nil
	}
	need := st.geo.Size() - st.bytes
	if need+s.promised-free > s.idle {
		return nil, &FullError{Path: s.dir, Need: need, Free: free - s.promised + s.idle}
	}
	if over := s.overLocked(need); over > s.idle {
		return nil, &FullError{Path: s.dir, Need: need, Free: need - over + s.idle, Quota: s.o.Quota}
	}
	used := s.used
	for _, sh := range slices.Clone(st.shares) {
		trash = append(trash, s.shrinkPrefixLocked(sh.p, need)...)
	}
	trash = append(trash, s.evictLocked(need+s.promised-free-(used-s.used), "disk")...)
	more, err := s.makeRoomLocked(need)
	trash = append(trash, more...)
	if err != nil {
		return trash, err
	}
	st.promising = true
	s.promiseToLocked(st, need)
	return trash, nil
}

// overLocked is by how much n more bytes exceed the quota.
func (s *Store) overLocked(n int64) int64 {
	if s.o.Quota <= 0 {
		return 0
	}
	return s.used + s.promised + s.reserved + n - s.o.Quota
}

// makeRoomLocked evicts until n more bytes fit into the quota. It evicts
// nothing where that cannot succeed.
func (s *Store) makeRoomLocked(n int64) (trash []string, err error) {
	over := s.overLocked(n)
	if over <= 0 {
		return nil, nil
	}
	if over > s.idle {
		return nil, &FullError{Path: s.dir, Need: n, Free: n - over + s.idle, Quota: s.o.Quota}
	}
	trash = s.evictLocked(over, "quota")
	if over = s.overLocked(n); over > 0 {
		return trash, &FullError{Path: s.dir, Need: n, Free: n - over, Quota: s.o.Quota}
	}
	return trash, nil
}

// evictLocked evicts the least recently used blobs until n bytes are free.
func (s *Store) evictLocked(n int64, why string) (trash []string) {
	for e := s.lru.Front(); e != nil && n > 0; e = s.lru.Front() {
		used := s.used
		trash = append(trash, s.evictStateLocked(e.Value.(*state), why)...)
		n -= used - s.used
	}
	return trash
}

// evictStateLocked evicts one blob that nobody pins. One that cannot be moved
// stays, and is not tried again before its next use.
func (s *Store) evictStateLocked(st *state, why string) (trash []string) {
	size := st.bytes
	t, err := s.detachLocked(st)
	if err != nil {
		s.log.Error("evict", zap.Stringer("digest", st.digest), zap.Error(err))
		return nil
	}
	s.m.evictions.WithLabelValues(why).Inc()
	s.m.evicted.WithLabelValues(why).Add(float64(size))
	s.log.Info("blob evicted", zap.Stringer("digest", st.digest), zap.Int64("bytes", size),
		zap.Bool("complete", st.full), zap.Time("lastUse", st.lastUse), zap.String("reason", why))
	return []string{t}
}

// detachLocked takes a blob out of the table and moves its directory to the
// trash, in one step as seen after a crash. The caller holds s.mu and knows
// that nobody writes to the blob.
func (s *Store) detachLocked(st *state) (trash string, err error) {
	s.unlistLocked(st)
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
	s.holdLocked(st, -st.bytes)
	s.promiseToLocked(st, -st.promise)
	st.promising, st.shares = false, nil
	if st.full {
		s.complete--
	}
	st.mu.Lock()
	if st.damaged {
		s.damaged--
		st.damaged = false
	}
	st.mu.Unlock()
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
		s.promiseToLocked(st, -n)
	} else {
		for _, sh := range slices.Clone(st.shares) {
			trash = append(trash, s.shrinkPrefixLocked(sh.p, n)...)
		}
		var more []string
		more, err = s.makeRoomLocked(n)
		trash = append(trash, more...)
	}
	if err == nil {
		s.holdLocked(st, n)
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
	s.holdLocked(st, -n)
	if st.promising {
		s.promiseToLocked(st, n)
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
