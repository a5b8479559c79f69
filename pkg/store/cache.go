package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
)

// Put stores small content whole. A partial blob of that digest is completed.
// What m says is added to what is known of the blob.
// Errors: ErrCorrupt (content is not d), and those of Create and Commit.
func (s *Store) Put(d digest.Digest, content []byte, m Meta) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if got := d.Algorithm().FromBytes(content); got != d {
		return fmt.Errorf("%w: put %s: content has digest %s", ErrCorrupt, d, got)
	}
	return s.put(d, content, m, true)
}

func (s *Store) put(d digest.Digest, content []byte, m Meta, durable bool) error {
	b, err := s.Create(d, int64(len(content)), m.Sources...)
	if errors.Is(err, ErrSize) && s.dropWrongSize(d, int64(len(content))) {
		b, err = s.Create(d, int64(len(content)), m.Sources...)
	}
	if err != nil {
		return err
	}
	defer b.Release()
	known := b.Meta()
	m.MediaType = cmp.Or(m.MediaType, known.MediaType)
	m.Sources = append(slices.Clone(m.Sources), known.Sources...)
	if err := b.SetMeta(m); err != nil {
		return err
	}
	if b.Complete() && !durable {
		return nil
	}
	g := b.Geometry()
	for i := range g.Count() {
		off := g.Offset(i)
		if _, err := b.WritePiece(i, content[off:off+int64(g.Len(i))]); err != nil {
			return err
		}
	}
	return b.Commit(false)
}

// Cache stores small content whole that can be fetched again. It costs a tenth
// of what Put does: one file without a directory of its own, and no flush.
// SIGKILL loses nothing; power loss may take the blob, but never leaves a wrong
// one: at the first Open under another boot it is hashed. The caller has
// verified that content is d. repositories are as for CountFor: there is no meta
// file to remember them.
// Errors: those of Create.
func (s *Store) Cache(d digest.Digest, content []byte, repositories ...string) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	g, err := piece.GeometryOf(int64(len(content)))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSize, d, err)
	}
	free, err := diskFree(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	if s.blobs[d] != nil {
		s.mu.Unlock()
		err := s.put(d, content, Meta{}, false)
		for _, r := range repositories {
			s.CountFor(d, r)
		}
		return err
	}
	st := newState(s, d, g)
	s.blobs[d] = st
	s.pinLocked(st)
	trash := s.usedByLocked(st, repositories...)
	more, err := s.promiseLocked(st, free)
	if err != nil {
		s.forgetLocked(st)
	}
	s.mu.Unlock()
	s.sweep(append(trash, more...))
	st.build(err, func() error { return st.smallFile(content) })
	s.unpin(st)
	if st.initErr != nil {
		return s.writeError("cache", st, g.Size(), st.initErr)
	}
	s.log.Debug("blob cached", zap.Stringer("digest", d), zap.Int64("size", g.Size()))
	return nil
}

// smallFile makes the one file of a cached blob. A directory for each would
// cost far more than the content: file systems spread directories over the
// disk, and each new place has to be read and written.
func (st *state) smallFile(content []byte) error {
	if err := replaceFile(st.s.smallPath(st.digest), content, false); err != nil {
		return err
	}
	st.s.at("cache: content written")
	if err := st.s.charge(st, st.geo.Size()); err != nil {
		return err
	}
	st.mu.Lock()
	st.complete, st.cached = true, true
	st.have, st.raw, st.open = nil, nil, nil
	st.mu.Unlock()
	st.counted()
	return nil
}

// loadSmall adds the cached blobs to all.
func (s *Store) loadSmall(all []*state, trusted bool) ([]*state, error) {
	loaded := make(map[digest.Digest]bool, len(all))
	for _, st := range all {
		loaded[st.digest] = true
	}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		dir := filepath.Join(s.dir, smallName, string(alg))
		if err := removeTemporary(dir); err != nil {
			return nil, err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(alg, e.Name())
			if checkDigest(d) != nil || !e.Type().IsRegular() || loaded[d] {
				s.log.Warn("not a cached blob, left alone", zap.String("path", filepath.Join(dir, e.Name())))
				continue
			}
			st, err := s.loadCached(d, trusted)
			if err != nil {
				return nil, err
			}
			if st != nil {
				all = append(all, st)
			}
		}
	}
	return all, nil
}

// loadCached accepts a cached blob. Where power may have been lost since it was
// written the content must prove itself, once: it has then been read from the
// disk. nil where it does not.
func (s *Store) loadCached(d digest.Digest, trusted bool) (*state, error) {
	path := s.smallPath(d)
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	right := trusted || fi.Mode().Perm() == provenPerm
	if !right {
		if right, err = hashesTo(path, d); err == nil && right {
			err = os.Chmod(path, provenPerm)
		}
		if err != nil {
			return nil, err
		}
	}
	g, err := piece.GeometryOf(fi.Size())
	if err != nil || !right {
		s.m.corrupt.Inc()
		s.log.Warn("cached blob was wrong, dropped", zap.Stringer("digest", d), zap.Int64("size", fi.Size()))
		return nil, os.Remove(path)
	}
	st := newState(s, d, g)
	st.complete, st.full, st.cached, st.bytes = true, true, true, fi.Size()
	st.have, st.raw, st.open = nil, nil, nil
	st.lastUse, st.touched = fi.ModTime(), fi.ModTime()
	close(st.ready)
	return st, nil
}

// unfold gives a cached blob a directory with a meta file, and makes it durable
// as Commit does. The rename alone decides. The caller holds side.
func (st *state) unfold(m Meta, kept bool) error {
	err := st.makeDir()
	if err == nil {
		err = replaceFile(st.path(metaName), encodeMeta(st.digest, st.geo.Size(), m, kept), true)
	}
	if err == nil {
		st.s.at("unfold: meta made")
		err = st.moveContent()
	}
	if err != nil {
		return st.s.writeError("unfold", st, 0, errors.Join(err, os.RemoveAll(st.dir)))
	}
	st.s.at("unfold: content moved")
	st.mu.Lock()
	st.meta = m
	st.mu.Unlock()
	if err := st.syncDirs(); err != nil {
		return fmt.Errorf("store: commit %s: it is complete, but may not survive power loss: %w", st.digest, err)
	}
	return nil
}

// moveContent flushes the file and moves it into the blob's directory.
func (st *state) moveContent() error {
	small := st.s.smallPath(st.digest)
	if err := syncPath(small); err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := os.Rename(small, st.path(dataName)); err != nil {
		return err
	}
	st.cached = false
	return nil
}

// shards remembers which directories of shards have names that are not durable.
type shards struct {
	mu    sync.Mutex
	dirty []string
}

// made is told of a directory in which a shard was made.
func (s *shards) made(parent string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.dirty, parent) {
		s.dirty = append(s.dirty, parent)
	}
}

// sync makes the names of all shards durable. It holds the lock meanwhile, so
// that nobody takes for done what is under way.
func (s *shards) sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range s.dirty {
		if err := syncPath(dir); err != nil {
			return err
		}
	}
	s.dirty = nil
	return nil
}
