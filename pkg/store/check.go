package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Check reads the content of a complete blob back from the disk and hashes it.
// Where it is wrong twice it is not served from then on: see ErrDamaged. pace is
// called before each read with the bytes that it takes; it may wait, and an
// error of its ends the check. To be checked is no use of a blob, and disturbs
// nobody who reads it. A meta file that is not what it should be is written anew.
//
// It returns the bytes read. Errors: ErrDamaged, pace's, or the system's. There
// is nothing to check of what is partial, or has gone meanwhile.
func (s *Store) Check(d digest.Digest, pace func(n int) error) (read int64, err error) {
	st, f, err := s.examine(d)
	if st == nil || err != nil {
		return 0, err
	}
	why := "its file cannot be opened"
	if f != nil {
		defer f.Close()
		for range 2 { // a wrong bit may be memory's, not the disk's
			var n int64
			n, why, err = st.rehash(f, pace)
			if read += n; err != nil {
				return read, fmt.Errorf("store: check %s: %w", d, err)
			}
			if why == "" {
				return read, st.checkMeta()
			}
		}
	}
	if !s.pinQuietly(st) {
		return read, nil
	}
	defer s.unpin(st)
	if err := st.damage(why); err != nil {
		return read, fmt.Errorf("store: check %s: %w", d, err)
	}
	return read, fmt.Errorf("%w: %s: %s", ErrDamaged, d, why)
}

// examine opens a complete blob, without a pin. st is nil where there is
// nothing to check, f where the content cannot be opened.
func (s *Store) examine(d digest.Digest) (st *state, f *os.File, err error) {
	if err := checkDigest(d); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, ErrClosed
	}
	st = s.blobs[d]
	if st == nil || st.gone != nil || !st.full {
		return nil, nil, nil
	}
	f, err = st.file()
	switch {
	case errors.Is(err, ErrNotHeld), errors.Is(err, ErrNotFound):
		return nil, nil, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EIO):
		return st, nil, nil
	}
	return st, f, err
}

// pinQuietly pins a blob without counting as a use of it; false where it is gone.
func (s *Store) pinQuietly(st *state) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.detached || st.gone != nil || s.closed {
		return false
	}
	st.pins++
	s.unlistLocked(st)
	return true
}

// rehash reads f to its end, past the page cache if the file system can: what is
// checked is the disk, and what readers have in memory stays there. why says
// what is wrong with the content; err what kept it from being read.
func (st *state) rehash(f *os.File, pace func(n int) error) (read int64, why string, err error) {
	if fi, err := f.Stat(); err != nil {
		return 0, "", err
	} else if fi.Size() != st.geo.Size() {
		return 0, fmt.Sprintf("it has %d bytes, not %d", fi.Size(), st.geo.Size()), nil
	}
	r, err := newDiskReader(f)
	if err != nil {
		return 0, "", err
	}
	defer r.close()
	h := st.digest.Algorithm().Hash()
	for read < st.geo.Size() {
		want := min(streamSize, st.geo.Size()-read)
		if err := pace(int(want)); err != nil {
			return read, "", err
		}
		p, err := r.readAt(read)
		switch {
		case errors.Is(err, syscall.EIO):
			return read, "it cannot be read: " + err.Error(), nil
		case err != nil:
			return read, "", err
		case int64(len(p)) < want:
			return read, "its file was cut", nil
		}
		h.Write(p[:want])
		read += want
	}
	if digest.NewDigest(st.digest.Algorithm(), h) != st.digest {
		return read, "it has another digest", nil
	}
	return read, "", nil
}

// checkMeta puts the meta file right.
func (st *state) checkMeta() error {
	if !st.s.pinQuietly(st) {
		return nil
	}
	defer st.s.unpin(st)
	st.side.Lock()
	defer st.side.Unlock()
	kept := st.isKept()
	st.mu.Lock()
	want := encodeMeta(st.digest, st.geo.Size(), st.meta, kept)
	skip := st.cached || !st.complete || st.err != nil
	st.mu.Unlock()
	if skip {
		return nil
	}
	got, err := os.ReadFile(st.path(metaName))
	if err == nil && slices.Equal(got, want) {
		return nil
	}
	st.s.log.Warn("a meta file is not what it should be, and is written anew", zap.Stringer("digest", st.digest), zap.Error(err))
	if err := replaceFile(st.path(metaName), want, true); err != nil {
		return st.s.writeError("check", st, 0, err)
	}
	st.touch()
	return nil
}
