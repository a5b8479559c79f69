package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// DefaultWindow is ReadOptions.Window where that is 0, in pieces.
const DefaultWindow = 8

// ReadOptions of one Reader.
type ReadOptions struct {
	// Stall is how long to wait for one piece before ErrStalled; 0 = as long
	// as the context lives. Time not spent waiting does not count.
	Stall time.Duration

	// Longer is asked once Stall is over, and whenever what it said is: how much
	// longer to wait, after a wait of so long already; not above 0 = no more. It
	// is called without locks. nil = no longer.
	Longer func(waited time.Duration) time.Duration

	// OnWait is called, without locks, each time the reader begins to wait:
	// for piece first, and it will want those up to end next. end is at most
	// the number of pieces and may lie behind what the client will read; some
	// of the pieces may be held, first too if it is the withheld last one.
	// The reader is registered before, so a Fail from within is not lost.
	OnWait func(first, end int)

	// OnResume is called, without locks, each time such a wait has ended,
	// however it did. May be nil.
	OnResume func()

	// Window is end - first above, in pieces; 0 = DefaultWindow.
	Window int

	// Part is for who reads a part of the blob and has no use for the rest: the
	// last piece is not withheld from it until the whole is known to be right.
	Part bool
}

// Reader reads one blob in order while it arrives. It implements
// io.ReadSeekCloser and io.WriterTo. Reads wait for their piece and return
// what is there. It is not safe for concurrent use, except Close, which makes
// a Read in progress return ErrClosed.
//
// Errors of Read and WriteTo: the context's; ErrStalled; what Fail was called
// with; ErrNotFound (deleted); ErrClosed (reader or store); ErrCorrupt (bytes
// that were read have proved wrong, so that going on makes no sense).
type Reader struct {
	b   *Blob
	ctx context.Context
	o   ReadOptions
	pos int64

	begun   bool            // has returned bytes, of generation gen
	gen     uint64          //
	rawRead *piece.Bitfield // unverified pieces it has read, nil if none
	drops   int             // how many of state.drops it has looked at

	once   sync.Once
	closed chan struct{}
}

// NewReader returns a reader at offset 0. It keeps the blob pinned until its
// Close, also after b's Release. The context bounds its reads.
func (b *Blob) NewReader(ctx context.Context, o ReadOptions) *Reader {
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	r := &Reader{b: &Blob{st: b.st}, ctx: ctx, o: o, closed: make(chan struct{})}
	if b.released.Load() {
		r.b.released.Store(true) // nothing to unpin
		r.Close()
		return r
	}
	st := b.st
	st.s.mu.Lock()
	st.s.pinLocked(st)
	st.s.mu.Unlock()
	return r
}

// Close ends the reader and its pin. A second Close does nothing.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.closed)
		if !r.b.released.Load() {
			r.b.st.s.Touch(r.b.st.digest) // a long read was one to its end
		}
		r.b.Release()
	})
	return nil
}

// Seek sets where the next Read starts. It never waits.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.b.Size()
	case io.SeekStart:
	default:
		return 0, fmt.Errorf("store: seek: whence %d", whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("store: seek: negative offset %d", offset)
	}
	r.pos = offset
	return offset, nil
}

// Read waits until the piece at the reader's place may be read and returns as
// much as is there and fits.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		c, err := r.next(int64(len(p)), false)
		if err != nil {
			return 0, err
		}
		n, err := c.f.ReadAt(p[:c.n], r.pos)
		if errors.Is(err, os.ErrClosed) {
			continue // discarded or closed meanwhile: next tells
		}
		if err != nil && n < int(c.n) {
			return 0, fmt.Errorf("store: read %s: %w", r.b.st.digest, err)
		}
		r.begun = true
		if err := r.recheck(c); err != nil {
			return 0, err
		}
		r.pos += int64(n)
		return n, nil
	}
}

// WriteTo writes everything from the reader's place to the end to w, a piece
// or a few at a time as they arrive; by sendfile where w allows it.
func (r *Reader) WriteTo(w io.Writer) (sent int64, err error) {
	var own *os.File // so that its offset is ours; stays good over a commit
	defer func() {
		if own != nil {
			own.Close()
		}
	}()
	for {
		c, err := r.next(streamSize, own == nil)
		if errors.Is(err, io.EOF) {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
		if c.own != nil {
			own = c.own
		}
		var n int64
		if own != nil {
			n, err = sendRange(w, own, r.pos, c.n)
		} else {
			n, err = copyRange(w, c.f, r.pos, c.n)
		}
		sent += n
		r.pos += n
		r.begun = r.begun || n > 0
		if err != nil {
			return sent, err
		}
		if err := r.recheck(c); err != nil {
			return sent, err
		}
	}
}

// chunk is what next found readable: n bytes from the reader's place on.
type chunk struct {
	f   *os.File // shared
	own *os.File // the caller's, if asked for and not deleted
	n   int64
	raw bool // some of it is unverified
}

// next waits until there is something to read, at most limit bytes.
func (r *Reader) next(limit int64, own bool) (chunk, error) {
	st := r.b.st
	for {
		if err := r.ctx.Err(); err != nil {
			return chunk{}, err
		}
		select {
		case <-r.closed:
			return chunk{}, ErrClosed
		default:
		}
		if r.pos >= st.geo.Size() {
			return chunk{}, io.EOF
		}
		i := st.geo.Index(r.pos)
		st.mu.Lock()
		err := r.checkLocked()
		if err == nil && st.readableLocked(i, r.o.Part) {
			c, err := r.takeLocked(i, limit, own)
			st.mu.Unlock()
			return c, err
		}
		if err == nil {
			err = st.err // nothing will arrive any more
		}
		if err != nil {
			st.mu.Unlock()
			return chunk{}, err
		}
		w := st.waitLocked(i)
		st.mu.Unlock()
		err = r.wait(i, w)
		st.leave(i, w)
		if r.o.OnResume != nil {
			r.o.OnResume()
		}
		if err != nil {
			return chunk{}, err
		}
	}
}

// checkLocked tells why the reader must not go on.
func (r *Reader) checkLocked() error {
	st := r.b.st
	if errors.Is(st.err, ErrClosed) {
		return st.err
	}
	if !r.begun {
		r.gen, r.rawRead = st.gen, nil
		return nil
	}
	if r.gen != st.gen {
		return fmt.Errorf("%w: %s was discarded while it was read", ErrCorrupt, st.digest)
	}
	if r.rawRead == nil || st.complete {
		return nil
	}
	for ; r.drops < len(st.drops); r.drops++ {
		if i := st.drops[r.drops]; r.rawRead.Has(i) {
			return fmt.Errorf("%w: piece %d of %s proved wrong after it was read", ErrCorrupt, i, st.digest)
		}
	}
	return nil
}

// takeLocked collects what is readable from piece i on.
func (r *Reader) takeLocked(i int, limit int64, own bool) (c chunk, err error) {
	st := r.b.st
	for end := i; c.n < limit && end < st.geo.Count() && st.readableLocked(end, r.o.Part); end++ {
		c.n = min(limit, st.geo.Offset(end)+int64(st.geo.Len(end))-r.pos)
		if st.heldLocked(end) != verified {
			if r.rawRead == nil {
				r.rawRead, r.drops = piece.NewBitfield(st.geo.Count()), len(st.drops)
			}
			r.rawRead.Set(end)
			c.raw = true
		}
	}
	if own && st.err == nil {
		if c.own, err = st.openLocked(); err != nil {
			return chunk{}, err
		}
	}
	c.f, _, err = st.filesLocked()
	if err != nil {
		if c.own != nil {
			c.own.Close()
		}
		return chunk{}, err
	}
	return c, nil
}

// recheck guards the one case in which bytes may change while they are read:
// an unverified piece that is dropped and replaced.
func (r *Reader) recheck(c chunk) error {
	if !c.raw {
		return nil
	}
	r.b.st.mu.Lock()
	defer r.b.st.mu.Unlock()
	return r.checkLocked()
}

// wait waits for piece i; nil means look again.
func (r *Reader) wait(i int, w *waiter) error {
	if r.o.OnWait != nil {
		r.o.OnWait(i, min(i+r.o.Window, r.b.st.geo.Count()))
	}
	var stall <-chan time.Time
	began := time.Now()
	var t *time.Timer
	if r.o.Stall > 0 {
		t = time.NewTimer(r.o.Stall)
		defer t.Stop()
		stall = t.C
	}
	for {
		select {
		case <-w.done:
			return w.err
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-r.closed:
			return ErrClosed
		case <-stall:
			waited := time.Since(began)
			if r.o.Longer != nil {
				if more := r.o.Longer(waited); more > 0 {
					t.Reset(more)
					continue
				}
			}
			return fmt.Errorf("%w: piece %d of %s did not come within %v", ErrStalled, i, r.b.st.digest, waited.Round(time.Millisecond))
		}
	}
}
