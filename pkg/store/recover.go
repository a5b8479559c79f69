package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"go.uber.org/zap"
)

// loadBlob reads one blob directory and puts right what a crash left of it. It
// returns nil where nothing is left. trusted says that no power was lost since
// it was written. Errors are those of the system, not of the content.
func (s *Store) loadBlob(d digest.Digest, dir string, trusted bool) (*state, error) {
	if err := removeTemporary(dir); err != nil {
		return nil, err
	}
	m, used, err := readMeta(dir, d)
	if err != nil {
		return nil, err
	}
	var st *state
	fi, err := os.Stat(filepath.Join(dir, dataName))
	if err == nil && m != nil && m.kept && fi.Size() != m.g.Size() {
		s.m.corrupt.Inc()
		s.log.Error("a kept blob has the wrong size on the disk; it is served no more until it has been fetched or pushed again",
			zap.Stringer("digest", d), zap.Int64("size", fi.Size()), zap.Int64("want", m.g.Size()))
		if err := s.setAsideUnread(dir, m.g); err != nil {
			return nil, err
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) && m != nil {
		if err := remakePart(dir, m.g); err != nil {
			return nil, err
		}
	}
	switch {
	case err == nil:
		st, err = s.loadComplete(d, dir, m, fi.Size())
		if err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case m != nil:
		st, err = s.loadPartial(d, dir, m, trusted)
		if err != nil {
			return nil, err
		}
	}
	if st == nil {
		s.log.Warn("leftover removed", zap.Stringer("digest", d))
		return nil, os.RemoveAll(dir)
	}
	if used.IsZero() {
		used = s.o.Now()
	}
	st.lastUse, st.touched = used, used
	close(st.ready)
	return st, nil
}

// removeTemporary removes files that were to replace others.
func removeTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// goodMeta is what a good meta file says.
type goodMeta struct {
	g piece.Geometry
	Meta
	kept bool
}

// readMeta returns nil where the meta file is missing or not good.
func readMeta(dir string, d digest.Digest) (*goodMeta, time.Time, error) {
	path := filepath.Join(dir, metaName)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	m, err := decodeMeta(d, b)
	if err != nil {
		return nil, fi.ModTime(), nil
	}
	return m, fi.ModTime(), nil
}

// loadComplete accepts a complete blob of the right size. Without a meta file
// (power was lost before it reached the disk) the content must prove itself.
func (s *Store) loadComplete(d digest.Digest, dir string, m *goodMeta, size int64) (*state, error) {
	g, err := piece.GeometryOf(size)
	if err != nil {
		return nil, nil
	}
	if m != nil && m.g.Size() != size {
		s.m.corrupt.Inc()
		s.log.Warn("complete blob has the wrong size, dropped", zap.Stringer("digest", d), zap.Int64("size", size), zap.Int64("want", m.g.Size()))
		return nil, nil
	}
	st := newState(s, d, g)
	st.complete, st.full, st.bytes = true, true, size
	st.have, st.raw, st.open = nil, nil, nil
	if m == nil {
		ok, err := hashesTo(filepath.Join(dir, dataName), d)
		if err != nil {
			return nil, err
		}
		if !ok {
			s.m.corrupt.Inc()
			s.log.Warn("complete blob has the wrong digest, dropped", zap.Stringer("digest", d))
			return nil, nil
		}
		if err := replaceFile(filepath.Join(dir, metaName), encodeMeta(d, size, Meta{}, false), true); err != nil {
			return nil, err
		}
	} else {
		st.meta, st.kept = m.Meta, m.kept
	}
	for _, left := range []string{piecesName, partName, damagedName} {
		if err := os.Remove(filepath.Join(dir, left)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return st, nil
}

func hashesTo(path string, d digest.Digest) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	v := d.Verifier()
	buf := getBuffer(streamSize)
	defer putBuffer(buf)
	if _, err := io.CopyBuffer(v, struct{ io.Reader }{f}, *buf); err != nil {
		return false, err
	}
	return v.Verified(), nil
}

// loadPartial reads which pieces a partial blob holds.
func (s *Store) loadPartial(d digest.Digest, dir string, m *goodMeta, trusted bool) (*state, error) {
	g := m.g
	f, err := os.OpenFile(filepath.Join(dir, partName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() != g.Size() {
		trusted = false
		if err := f.Truncate(g.Size()); err != nil {
			return nil, err
		}
	}
	marks, err := os.ReadFile(filepath.Join(dir, piecesName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	whole := len(marks) == g.Count()
	marks = append(marks, make([]byte, max(0, g.Count()-len(marks)))...)[:g.Count()]
	changed := !whole
	if !trusted || !whole {
		if err := s.reverify(d, g, dir, f, marks); err != nil {
			return nil, err
		}
		changed = true
	}
	if changed {
		if err := replaceFile(filepath.Join(dir, piecesName), marks, false); err != nil {
			return nil, err
		}
	}
	st := newState(s, d, g)
	st.meta, st.kept = m.Meta, m.kept
	if st.damaged, err = loadDamaged(dir); err != nil {
		return nil, err
	}
	for i, mark := range marks {
		if rank(mark) > 0 {
			st.markLocked(i, mark)
			st.bytes += int64(g.Len(i))
		}
	}
	return st, nil
}

// reverify checks the marks of a blob whose content may not be what they say.
func (s *Store) reverify(d digest.Digest, g piece.Geometry, dir string, f *os.File, marks []byte) error {
	var hash func(int) (piece.Hash, bool)
	if s.o.Verify != nil {
		runs, _ := readRuns(dir)
		hash = s.o.Verify(d, g.Size(), runs)
	}
	kept, dropped := 0, 0
	for i, mark := range marks {
		if rank(mark) == 0 {
			marks[i] = absent
			continue
		}
		marks[i] = absent
		if hash != nil {
			if h, ok := hash(i); ok {
				right, err := pieceHashesTo(f, g, i, h)
				if err != nil {
					return fmt.Errorf("verify piece %d of %s again: %w", i, d, err)
				}
				if right {
					marks[i] = verified
				}
			}
		}
		if marks[i] == verified {
			kept++
		} else {
			dropped++
		}
	}
	s.log.Info("partial blob verified again", zap.Stringer("digest", d), zap.Int("kept", kept), zap.Int("dropped", dropped))
	return nil
}

func pieceHashesTo(f *os.File, g piece.Geometry, i int, h piece.Hash) (bool, error) {
	buf := getBuffer(g.Len(i))
	defer putBuffer(buf)
	if _, err := f.ReadAt(*buf, g.Offset(i)); err != nil {
		return false, err
	}
	return piece.Sum(*buf) == h, nil
}
