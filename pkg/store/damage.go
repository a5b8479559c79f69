package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
)

// damagedName is the file in a blob's directory that says that its content was
// complete and proved wrong. Of a kept blob it is that content, which may be
// worth something where there is no other; else it is empty.
const damagedName = "damaged"

// damage makes a complete blob partial again, whose pieces are those that are
// still right, as far as the runs kept with it tell. Whoever asks for the
// blob from then on has to wait until it has been completed. A cached blob has
// no pieces and is deleted; so is one that nobody keeps where the disk does not
// take what this needs. The caller has pinned the blob.
func (st *state) damage(why string) error {
	s := st.s
	st.mu.Lock()
	cached := st.cached
	st.mu.Unlock()
	if !cached {
		err := st.demote(why)
		if err == nil || st.isKept() {
			return err
		}
		s.log.Warn("what is right of a damaged blob cannot be saved", zap.Stringer("digest", st.digest), zap.Error(err))
	}
	s.m.corrupt.Inc()
	s.log.Error("a blob is damaged on the disk, and was dropped", zap.Stringer("digest", st.digest), zap.String("what", why))
	return s.Delete(st.digest)
}

// demote does it for all but cached blobs. Where it fails for a kept one, that
// cannot be used until the store is opened again, and checked.
func (st *state) demote(why string) error {
	s := st.s
	st.wmu.Lock()
	defer st.wmu.Unlock()
	st.side.Lock()
	st.loadRuns()
	runs := st.runs
	st.side.Unlock()
	st.mu.Lock()
	complete, err := st.complete, st.err
	st.mu.Unlock()
	if !complete || err != nil {
		return err
	}
	marks, good, err := st.salvage(runs)
	if err == nil {
		err = replaceFile(st.path(piecesName), marks, false)
	}
	s.at("damage: pieces saved")
	var old *os.File
	if err == nil {
		old, err = st.setAside(marks)
	}
	if err != nil {
		err = s.writeError("set aside", st, st.geo.Size(), err)
		if st.isKept() {
			st.kill(fmt.Errorf("%w: %w: %s: %s", ErrClosed, ErrDamaged, st.digest, why))
		}
		return err
	}
	s.at("damage: set aside")
	s.mu.Lock()
	st.full = false
	s.complete--
	s.damaged++
	s.holdLocked(st, good-st.geo.Size())
	info := st.info()
	s.mu.Unlock()
	s.m.corrupt.Inc()
	s.log.Error("a blob is damaged on the disk; it is served no more until it has been fetched or pushed again",
		zap.Stringer("digest", st.digest), zap.String("what", why), zap.Int64("good", good), zap.Int64("size", st.geo.Size()),
		zap.Bool("kept", info.Kept), zap.Strings("sources", info.Meta.Sources))
	if !info.Kept {
		err = replaceFile(st.path(damagedName), nil, false)
	}
	if old != nil {
		err = errors.Join(err, old.Close())
	}
	if err != nil {
		s.log.Warn("what is left of a damaged blob", zap.Stringer("digest", st.digest), zap.Error(err))
	}
	return nil
}

// salvage copies the pieces that match a hash that the runs tell into a new
// partial content, beside the complete one, which counts until it is renamed.
func (st *state) salvage(runs [][]byte) (marks []byte, good int64, err error) {
	marks = make([]byte, st.geo.Count())
	part := st.path(partName)
	if err := makeSparse(part, st.geo.Size()); err != nil {
		return nil, 0, err
	}
	var hash func(int) (piece.Hash, bool)
	if st.s.o.Verify != nil {
		hash = st.s.o.Verify(st.digest, st.geo.Size(), runs)
	}
	from, err := os.Open(st.path(dataName))
	if hash == nil || err != nil {
		return marks, 0, nil // nothing can be saved
	}
	defer from.Close()
	to, err := os.OpenFile(part, os.O_WRONLY, 0)
	if err != nil {
		return nil, 0, err
	}
	defer to.Close()
	buf := getBuffer(int(st.geo.PieceSize()))
	defer putBuffer(buf)
	for i := range marks {
		h, known := hash(i)
		p := (*buf)[:st.geo.Len(i)]
		if !known {
			continue
		}
		if _, err := from.ReadAt(p, st.geo.Offset(i)); err != nil || piece.Sum(p) != h {
			continue
		}
		if _, err := to.WriteAt(p, st.geo.Offset(i)); err != nil {
			if noSpace(err) {
				break // the rest is fetched
			}
			return nil, 0, err
		}
		marks[i] = verified
		good += int64(len(p))
	}
	return marks, good, nil
}

// setAside is the step from complete to partial: one rename. It returns the
// shared descriptor, which nobody uses any more.
func (st *state) setAside(marks []byte) (old *os.File, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	err = os.Rename(st.path(dataName), st.path(damagedName))
	if errors.Is(err, fs.ErrNotExist) { // it is the content that is missing
		err = os.WriteFile(st.path(damagedName), nil, filePerm)
	}
	if err != nil {
		return nil, err
	}
	old, st.data = st.data, nil
	st.complete, st.settled, st.settledRaw, st.damaged = false, false, false, true
	st.clearBits()
	for i, mark := range marks {
		st.markLocked(i, mark)
	}
	st.gen++
	st.drops = nil
	st.wakeAllLocked(nil)
	return old, nil
}

// mended is called when a blob has become complete.
func (st *state) mended() error {
	s := st.s
	st.mu.Lock()
	was := st.damaged
	st.damaged = false
	st.mu.Unlock()
	if !was {
		return nil
	}
	s.mu.Lock()
	s.damaged--
	s.mu.Unlock()
	s.log.Info("a damaged blob is whole again", zap.Stringer("digest", st.digest), zap.Int64("size", st.geo.Size()))
	return os.Remove(st.path(damagedName))
}

// loadDamaged tells whether a partial blob is one that was damaged.
func loadDamaged(dir string) (bool, error) {
	_, err := os.Lstat(filepath.Join(dir, damagedName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// setAsideUnread turns the directory of a kept blob whose content has the wrong
// size into that of a partial one, without any piece.
func (s *Store) setAsideUnread(dir string, g piece.Geometry) error {
	if err := makeSparse(filepath.Join(dir, partName), g.Size()); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, piecesName), make([]byte, g.Count()), false); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, dataName), filepath.Join(dir, damagedName)); err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	return nil
}

// remakePart makes the partial content of a blob that was set aside, where power
// was lost before that reached the disk: what is kept is not to be forgotten.
func remakePart(dir string, g piece.Geometry) error {
	damaged, err := loadDamaged(dir)
	if !damaged || err != nil {
		return err
	}
	part := filepath.Join(dir, partName)
	if _, err := os.Lstat(part); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(filepath.Join(dir, piecesName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return makeSparse(part, g.Size())
}
