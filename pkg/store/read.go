package store

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/samara-p2p/samara/pkg/piece"
)

// ReadPiece returns piece i, which must be verified, in buf if that has the
// capacity.
// Errors: ErrNotHeld, ErrClosed, ErrNotFound, or the system's.
func (b *Blob) ReadPiece(i int, buf []byte) ([]byte, error) {
	st := b.st
	n := st.geo.Len(i)
	f, err := b.heldFile(i, i+1)
	if err != nil {
		return nil, err
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := f.ReadAt(buf, st.geo.Offset(i)); err != nil {
		return nil, b.readError(err)
	}
	return buf, nil
}

// heldFile returns the shared descriptor if pieces [first, end) are verified.
// It may be closed under the reader by Discard and Close only.
func (b *Blob) heldFile(first, end int) (*os.File, error) {
	if b.released.Load() {
		return nil, ErrClosed
	}
	st := b.st
	st.mu.Lock()
	defer st.mu.Unlock()
	if errors.Is(st.err, ErrClosed) {
		return nil, st.err
	}
	if err := st.allVerifiedLocked(first, end); err != nil {
		return nil, err
	}
	f, _, err := st.filesLocked()
	return f, err
}

func (st *state) allVerifiedLocked(first, end int) error {
	for i := first; i < end; i++ {
		if i < 0 || i >= st.geo.Count() || st.heldLocked(i) != verified {
			return fmt.Errorf("%w: piece %d of %s", ErrNotHeld, i, st.digest)
		}
	}
	return nil
}

// readError says why a descriptor was closed under a read.
func (b *Blob) readError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		if err := b.alive(); err != nil {
			return err
		}
		return fmt.Errorf("%w: %s was discarded", ErrNotHeld, b.st.digest)
	}
	return fmt.Errorf("store: read %s: %w", b.st.digest, err)
}

// WritePieces writes these pieces to w one after another and returns the bytes
// written. All must be verified, or nothing is written. What is consecutive goes
// out as one: through w's ReaderFrom where it has one (sendfile on a TCP
// connection), else through a buffer. Once begun it is not disturbed by
// Discard, Commit, Delete or eviction.
// Errors: ErrNotHeld, ErrClosed, ErrNotFound, w's, or the system's.
func (b *Blob) WritePieces(w io.Writer, pieces []int) (int64, error) {
	if len(pieces) == 0 {
		return 0, nil
	}
	f, err := b.ownFile(pieces)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var sent int64
	g := b.st.geo
	for k := 0; k < len(pieces); {
		end := k + 1
		for end < len(pieces) && pieces[end] == pieces[end-1]+1 {
			end++
		}
		off := g.Offset(pieces[k])
		n, err := sendRange(w, f, off, extent(g, pieces[k], pieces[end-1]+1))
		sent += n
		if err != nil {
			return sent, fmt.Errorf("store: send pieces of %s: %w", b.st.digest, err)
		}
		k = end
	}
	return sent, nil
}

// ownFile opens the content anew, at the moment at which the pieces were seen
// to be verified: whatever happens then, this file holds them.
func (b *Blob) ownFile(pieces []int) (*os.File, error) {
	if b.released.Load() {
		return nil, ErrClosed
	}
	st := b.st
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return nil, st.err
	}
	for _, i := range pieces {
		if err := st.allVerifiedLocked(i, i+1); err != nil {
			return nil, err
		}
	}
	return st.openLocked()
}

// openLocked opens the content as it is called now.
func (st *state) openLocked() (*os.File, error) {
	f, err := os.Open(st.contentLocked())
	if err != nil {
		return nil, fmt.Errorf("store: open content of %s: %w", st.digest, err)
	}
	return f, nil
}

// extent is the number of bytes in pieces [first, end).
func extent(g piece.Geometry, first, end int) int64 {
	return min(g.Offset(end), g.Size()) - g.Offset(first)
}

// sendRange sends n bytes of f from off on, by sendfile where w allows it. f
// must be the caller's own: its offset moves.
func sendRange(w io.Writer, f *os.File, off, n int64) (int64, error) {
	if _, ok := w.(io.ReaderFrom); !ok {
		return copyRange(w, f, off, n)
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	return io.CopyN(w, f, n)
}

// copyRange sends n bytes of f from off on through a buffer.
func copyRange(w io.Writer, f *os.File, off, n int64) (int64, error) {
	buf := getBuffer(int(min(n, streamSize)))
	defer putBuffer(buf)
	// The wrappers hide what would make io bypass the buffer.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(f, off, n)}, *buf)
}
