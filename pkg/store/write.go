package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/samara-p2p/samara/pkg/piece"
	"go.uber.org/zap"
)

// WritePiece stores piece i, which the caller has verified against its hash.
// It tells whether the piece was not verified before; of several writers of
// one piece one writes and the others wait for it. p is not kept.
// Errors: ErrSize (wrong length or number), ErrFull, ErrNotFound, ErrClosed.
func (b *Blob) WritePiece(i int, p []byte) (fresh bool, err error) {
	return b.write("write piece", i, p, verified)
}

// WriteRaw stores piece i, whose hash is not known. readable says that it came
// from the upstream itself: local readers may have it, except where it is the
// last. Otherwise nobody reads it before it is confirmed or committed. A piece
// from the upstream replaces one from elsewhere; a verified one stays.
// Errors: as WritePiece.
func (b *Blob) WriteRaw(i int, p []byte, readable bool) (fresh bool, err error) {
	if readable {
		return b.write("write raw piece", i, p, rawReadable)
	}
	return b.write("write raw piece", i, p, rawHidden)
}

func (b *Blob) write(op string, i int, p []byte, mark byte) (fresh bool, err error) {
	st := b.st
	if n := st.geo.Len(i); n == 0 || n != len(p) {
		return false, fmt.Errorf("%w: piece %d of %s has %d bytes, not %d", ErrSize, i, st.digest, n, len(p))
	}
	st.mu.Lock()
	held := rank(st.heldLocked(i)) >= rank(mark) && st.err == nil
	st.mu.Unlock()
	if held {
		return false, nil // also while Commit hashes, which takes long
	}
	st.wmu.RLock()
	defer st.wmu.RUnlock()
	c, err := b.claim(i, mark)
	if err != nil || c == nil {
		return false, err
	}
	defer c.end()
	if c.was != absent {
		same, err := c.equal(p)
		if err == nil && same {
			err = c.mark(mark)
		} else if err == nil {
			err = c.drop()
		}
		if err != nil {
			return false, st.s.writeError(op, st, int64(len(p)), err)
		}
		if same {
			return true, nil
		}
	}
	if err := c.fill(p, mark); err != nil {
		return false, st.s.writeError(op, st, int64(len(p)), err)
	}
	return true, nil
}

// Confirm tells that raw piece i must hash to h. The piece is read again and
// becomes verified (true), or is dropped (false). A piece verified before
// stays and is true.
// Errors: ErrNotHeld, ErrNotFound, ErrClosed, or the system's.
func (b *Blob) Confirm(i int, h piece.Hash) (bool, error) {
	st := b.st
	n := st.geo.Len(i)
	if n == 0 {
		return false, fmt.Errorf("%w: piece %d of %s", ErrNotHeld, i, st.digest)
	}
	st.wmu.RLock()
	defer st.wmu.RUnlock()
	c, err := b.claim(i, verified)
	if err != nil {
		return false, err
	}
	if c == nil {
		return true, nil
	}
	defer c.end()
	if c.was == absent {
		return false, fmt.Errorf("%w: piece %d of %s", ErrNotHeld, i, st.digest)
	}
	buf := getBuffer(n)
	defer putBuffer(buf)
	if _, err := c.data.ReadAt(*buf, st.geo.Offset(i)); err != nil {
		return false, fmt.Errorf("store: confirm piece %d of %s: %w", i, st.digest, err)
	}
	right := piece.Sum(*buf) == h
	if right {
		err = c.mark(verified)
	} else {
		st.s.m.corrupt.Inc()
		st.s.log.Warn("unverified piece was wrong", zap.Stringer("digest", st.digest), zap.Int("piece", i))
		err = c.drop()
	}
	if err != nil {
		return false, st.s.writeError("confirm piece", st, 0, err)
	}
	return right, nil
}

// claim is one writer's exclusive hold on one piece of a partial blob, within
// a shared hold of wmu.
type claim struct {
	st           *state
	i            int
	was          byte // the piece's mark at the start
	data, pieces *os.File
	done         chan struct{}
}

// claim waits for others who write piece i. It returns nil where the piece is
// held already with at least that mark.
func (b *Blob) claim(i int, mark byte) (*claim, error) {
	st := b.st
	for {
		if b.released.Load() {
			return nil, ErrClosed
		}
		st.mu.Lock()
		if err := st.err; err != nil {
			st.mu.Unlock()
			return nil, err
		}
		was := st.heldLocked(i)
		if rank(was) >= rank(mark) {
			st.mu.Unlock()
			return nil, nil
		}
		if other := st.busy[i]; other != nil {
			st.mu.Unlock()
			<-other
			continue
		}
		data, pieces, err := st.filesLocked()
		if err != nil {
			st.mu.Unlock()
			return nil, err
		}
		c := &claim{st: st, i: i, was: was, data: data, pieces: pieces, done: make(chan struct{})}
		if st.busy == nil {
			st.busy = make(map[int]chan struct{})
		}
		st.busy[i] = c.done
		st.mu.Unlock()
		return c, nil
	}
}

func (c *claim) end() {
	c.st.mu.Lock()
	delete(c.st.busy, c.i)
	c.st.mu.Unlock()
	close(c.done)
}

// equal tells whether p is what is on disk.
func (c *claim) equal(p []byte) (bool, error) {
	buf := getBuffer(len(p))
	defer putBuffer(buf)
	if _, err := c.data.ReadAt(*buf, c.st.geo.Offset(c.i)); err != nil {
		return false, err
	}
	return bytes.Equal(*buf, p), nil
}

// fill writes the bytes and only then the mark: a process killed in between
// has lost a piece, never gained a wrong one.
func (c *claim) fill(p []byte, mark byte) error {
	st, n := c.st, int64(len(p))
	if err := st.s.charge(st, n); err != nil {
		return err
	}
	err := st.s.writeAt(c.data, p, st.geo.Offset(c.i))
	if err == nil {
		st.s.at("write: bytes written")
		err = c.mark(mark)
	}
	if err != nil {
		st.s.refund(st, n)
	}
	return err
}

func (c *claim) mark(mark byte) error {
	if err := c.st.s.writeAt(c.pieces, []byte{mark}, int64(c.i)); err != nil {
		return err
	}
	c.st.s.at("write: marked")
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	c.st.markLocked(c.i, mark)
	c.st.wakeLocked(c.i)
	return nil
}

// drop forgets an unverified piece. Readers that had it learn of it by the log
// of drops; nobody starts to read it any more before its bytes change.
func (c *claim) drop() error {
	st := c.st
	st.mu.Lock()
	st.markLocked(c.i, absent)
	if c.was == rawReadable {
		st.drops = append(st.drops, c.i)
	}
	st.settledRaw = false
	st.mu.Unlock()
	st.s.refund(st, int64(st.geo.Len(c.i)))
	return st.s.writeAt(c.pieces, []byte{absent}, int64(c.i))
}

// writeAt writes, evicting what nobody uses while the disk is full.
func (s *Store) writeAt(f *os.File, p []byte, off int64) error {
	for {
		_, err := f.WriteAt(p, off)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, os.ErrClosed):
			return ErrClosed
		case !noSpace(err) || !s.evictOne():
			return err
		}
	}
}
