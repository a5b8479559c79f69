package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/store"
)

// Prefetch starts to download the blobs of an image that are neither here nor
// on their way. The small ones come together, in the order given.
func (e *Engine) Prefetch(ws ...Want) {
	p := e.newPull()
	defer p.begun()
	var small []Want
	for _, w := range ws {
		if in, err := e.o.Store.Stat(w.Digest); err == nil && in.Complete {
			continue
		}
		w.pull = p
		p.add()
		if w.small() {
			small = append(small, w)
			continue
		}
		if _, err := e.want(w); err != nil && e.ctx.Err() == nil {
			p.done(err)
			e.log.Warn("cannot fetch a blob ahead of the client", zap.Stringer("digest", w.Digest), zap.Error(err))
		}
	}
	e.fetchTogether(small)
}

// Open returns the blob for reading, from its first byte on; reads wait for
// the pieces that are still to come, and out-of-order ranges are fetched first.
// It returns once a first piece has come, which proves a source, at the latest
// when ctx ends, with ErrUnavailable, ErrNotFound or ErrCorrupt when nobody can
// help. life bounds the reader.
func (e *Engine) Open(ctx, life context.Context, w Want) (io.ReadSeekCloser, int64, error) {
	for range 3 {
		f, size, err := e.OpenHeld(w.Digest)
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrNotHeld) {
			return f, size, err
		}
		if w.small() {
			content, err := e.Small(ctx, w, SmallBlob)
			if errors.Is(err, errSlow) && life.Err() == nil && e.hasSeeder() {
				return &late{e: e, ctx: life, w: w}, w.Size, nil
			}
			if err != nil {
				return nil, 0, err
			}
			return memory{bytes.NewReader(content)}, int64(len(content)), nil
		}
		s, err := e.want(w)
		if err != nil {
			return nil, 0, err
		}
		r, err := s.open(ctx, life, w)
		switch {
		case errors.Is(err, errGone):
			continue // the swarm ended between look-up and use
		case err != nil:
			return nil, 0, err
		}
		return r, s.geom.Size(), nil
	}
	return nil, 0, fmt.Errorf("open %s: %w", w.Digest, ErrUnavailable)
}

// Arriving tells whether a piece of one of these blobs has come within the time
// given. Small ones, which come whole, do not count.
func (e *Engine) Arriving(within time.Duration, ds ...digest.Digest) bool {
	for _, d := range ds {
		if s := e.find(d); s != nil && s.landed.Load() > 0 && e.now()-time.Duration(s.landed.Load()) <= within {
			return true
		}
	}
	return false
}

// OpenHeld opens a blob that the store holds whole. It asks nobody and waits for
// nothing but the disk. Errors: store.ErrNotFound, store.ErrNotHeld, or the
// system's.
func (e *Engine) OpenHeld(d digest.Digest) (io.ReadSeekCloser, int64, error) {
	b, err := e.o.Store.Blob(d)
	if err != nil {
		return nil, 0, err
	}
	defer b.Release()
	f, err := b.File()
	if err != nil {
		return nil, 0, err
	}
	return f, b.Size(), nil
}

// memory is small content as an io.ReadSeekCloser.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// errGone says that a swarm ended before it could be used.
var errGone = errors.New("swarm has ended")

// SizeOf returns the size of a blob of which the store holds something.
func (e *Engine) SizeOf(d digest.Digest) (int64, bool) {
	in, err := e.o.Store.Stat(d)
	return in.Size, err == nil && (in.Complete || in.Have+in.Raw > 0)
}

// want returns the swarm that downloads the blob, starting it where needed.
func (e *Engine) want(w Want) (*swarm, error) {
	switch err := w.Digest.Validate(); {
	case err != nil:
		return nil, fmt.Errorf("fetch %q: %w", w.Digest, err)
	case w.Size < 0:
		return nil, fmt.Errorf("fetch %s: its size is not known: %w", w.Digest, ErrUnavailable)
	case w.Size == 0 && w.Digest != w.Digest.Algorithm().FromBytes(nil):
		// Nothing would be fetched, so nothing would be checked.
		return nil, fmt.Errorf("fetch %s: no blob of 0 bytes has this digest: %w", w.Digest, ErrCorrupt)
	}
	for range 3 {
		s, err := e.live(w.Digest)
		if err != nil {
			return nil, err
		}
		if whole := w.whole(e.o.Rest); s == nil || whole && !s.roomy.Load() {
			b, err := e.create(w)
			if err != nil {
				return nil, fmt.Errorf("fetch %s: %w", w.Digest, err)
			}
			if s == nil {
				s, err = e.addSwarm(b, w)
			} else {
				b.Release() // the swarm's own keeps what was promised
			}
			if err != nil {
				return nil, err
			}
			if whole {
				s.roomy.Store(true)
			}
		}
		if s.geom.Size() != w.Size {
			// What failed with another size may not have been forgotten yet.
			if s.endIdle() {
				<-s.done
				continue
			}
			return nil, fmt.Errorf("fetch %s: it is being fetched with %d bytes, not %d: %w", w.Digest, s.geom.Size(), w.Size, ErrUnavailable)
		}
		again := func() {
			if _, err := e.want(w); err != nil {
				w.pull.done(err)
				e.log.Debug("cannot start a download again", zap.Stringer("digest", w.Digest), zap.Error(err))
			}
		}
		if s.postOr(func() { s.setWanted(w) }, again) {
			return s, nil
		}
		// It has just ended, and been forgotten before.
	}
	return nil, ErrStopped
}

// create makes a place for the blob in the store. What an earlier client, who
// was told a wrong size, left behind does not stand in the way; nor do blobs
// that only linger.
func (e *Engine) create(w Want) (*store.Blob, error) {
	create := e.o.Store.Create
	if !w.whole(e.o.Rest) {
		create = e.o.Store.CreatePart
	}
	b, err := create(w.Digest, w.Size, w.Source.String())
	switch {
	case errors.Is(err, store.ErrSize):
		if in, serr := e.o.Store.Stat(w.Digest); serr != nil || in.Complete || in.Have+in.Raw > 0 {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if derr := e.o.Store.Delete(w.Digest); derr != nil && !errors.Is(derr, store.ErrNotFound) {
			return nil, derr
		}
	case errors.Is(err, store.ErrFull):
		if !e.Shed() {
			return nil, err
		}
	default:
		return b, err
	}
	return create(w.Digest, w.Size, w.Source.String())
}

// Shed ends the swarms that nobody uses, whose blobs the store cannot evict
// while they linger. It tells whether there were any.
func (e *Engine) Shed() bool {
	var ending []*swarm
	for _, s := range e.all() {
		if s.endIdle() {
			ending = append(ending, s)
		}
	}
	for _, s := range ending {
		<-s.done
	}
	return len(ending) > 0
}

// endIdle ends a swarm that nobody uses, soon (s.done), if it has not ended yet;
// false where somebody uses it.
func (s *swarm) endIdle() bool {
	ending := make(chan bool, 1)
	end := func() { s.stop = s.stop || s.idle(); ending <- s.stop }
	return !s.postOr(end, func() { ending <- true }) || <-ending
}

// Drop removes a blob from the store, so that it is fetched anew; false where it
// is being fetched, read or asked for. Errors: ErrStopped, or the store's.
func (e *Engine) Drop(d digest.Digest) (bool, error) {
	s, err := e.live(d)
	if err != nil {
		return false, err
	}
	if s != nil {
		if !s.endIdle() {
			return false, nil
		}
		<-s.done
	}
	if err := e.o.Store.Delete(d); err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	return true, nil
}

// live returns the swarm of d, nil where there is none, or ErrStopped.
func (e *Engine) live(d digest.Digest) (*swarm, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrStopped
	}
	return e.swarms[d], nil
}

// serving returns the swarm of a blob that the store holds, whole or in part;
// nil when it holds nothing of it.
func (e *Engine) serving(d digest.Digest) *swarm {
	if s, err := e.live(d); s != nil || err != nil {
		return s
	}
	in, err := e.o.Store.Stat(d)
	if err != nil || !in.Complete && (in.Size < SmallBlob || in.Have == 0) {
		return nil
	}
	b, err := e.o.Store.Blob(d)
	if err != nil {
		return nil
	}
	s, err := e.addSwarm(b, Want{Digest: d, Size: b.Size()})
	if err != nil {
		return nil
	}
	return s
}

// addSwarm starts a swarm, or returns the one that somebody started
// meanwhile. It takes b over. The disk was asked before, without e.mu: a slow
// disk must not hold up every swarm.
func (e *Engine) addSwarm(b *store.Blob, w Want) (*swarm, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		b.Release()
		return nil, ErrStopped
	}
	if s := e.swarms[w.Digest]; s != nil {
		b.Release()
		return s, nil
	}
	s := newSwarm(e, b, w)
	e.swarms[w.Digest] = s
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		s.run()
	}()
	return s, nil
}

// forget removes a swarm that ends.
func (e *Engine) forget(s *swarm) {
	st := s.status()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.swarms[s.digest] != s {
		return
	}
	delete(e.swarms, s.digest)
	if st.Began.IsZero() {
		return // it only served
	}
	e.ended = append(slices.DeleteFunc(e.ended, func(b BlobStatus) bool { return b.Digest == s.digest }), st)
	if len(e.ended) > history {
		e.ended = e.ended[1:]
	}
}

// find returns the swarm of d, or nil.
func (e *Engine) find(d digest.Digest) *swarm {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.swarms[d]
}

// all returns every swarm.
func (e *Engine) all() []*swarm {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]*swarm, 0, len(e.swarms))
	for _, s := range e.swarms {
		out = append(out, s)
	}
	return out
}

// some returns up to n of v in random order; it reorders v.
func some[T any](v []T, n int) []T {
	rand.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
	return v[:min(n, len(v))]
}
