package fetch

import (
	"time"

	"go.uber.org/zap"
)

// wish is what one reader, or one peer, waits for: the pieces [first, end).
type wish struct{ id, first, end int }

// How far ahead of the front a reader may wait for the stream that goes in
// order; how much a stream out of order takes; how many of those there are,
// and how many readers wait for one.
const (
	sideDistance = 4 << 20 // bytes
	sideLength   = 8 << 20 // bytes
	maxSides     = 4
	maxWishes    = 256

	// How long readers wait with a blob for its turn before they get streams
	// of their own: no client may see a gap of more than 10 s (contract 13).
	turnPatience = 3 * time.Second
)

// want is called with the pieces that a reader or a peer waits for. Pieces far
// from the front get a stream of their own, at once or when one is free. A
// later wish of the same id replaces it; those of peers (id 0) only where the
// stream that goes in order will get to their pieces anyhow.
func (o *origin) want(id, first, end int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id != 0 || o.s.isWhole() {
		o.forget(id)
	}
	w := wish{id, first, end}
	if _, known := o.latest[id]; known || len(o.latest) < maxWishes {
		o.latest[id] = w
	}
	o.grant(w)
}

// grant starts a stream for a wish, or notes it until one is free. o.mu is held.
func (o *origin) grant(w wish) {
	if o.sides < maxSides {
		o.side(w)
	} else if len(o.wishes) < maxWishes {
		o.wishes = append(o.wishes, w)
	}
}

// unwant forgets a wish.
func (o *origin) unwant(id int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(id)
	delete(o.latest, id)
}

func (o *origin) forget(id int) {
	for k, w := range o.wishes {
		if w.id == id {
			o.wishes = append(o.wishes[:k], o.wishes[k+1:]...)
			return
		}
	}
}

// side starts a stream for a wish, unless what it asks for is here, or on its
// way, or next in order. o.mu is held, by the owner or by another stream.
func (o *origin) side(w wish) {
	g := o.s.geom
	first, end := max(w.first, 0), min(w.end, g.Count())
	for first < end && (o.claimed.Has(first) || o.ahead.Has(first)) {
		first++
	}
	if first >= end || o.ctx.Err() != nil {
		return
	}
	if ahead := g.Offset(first) - g.Offset(o.front); ahead >= 0 && ahead <= sideDistance && !o.late && o.s.isWhole() {
		return // the stream that goes in order is about to get there
	}
	stop := first
	limit := first + max(1, int(sideLength/g.PieceSize()))
	for stop < min(limit, end) && !o.claimed.Has(stop) && !o.ahead.Has(stop) {
		stop++
	}
	for i := first; i < stop; i++ {
		o.ahead.Set(i)
	}
	o.sides++
	o.s.wg.Add(1)
	go func() {
		defer o.s.wg.Done()
		err := o.stream(first, stop, false)
		if err != nil {
			o.s.log.Debug("a stream out of order ended early", zap.Int("first", first), zap.Error(err))
		}
		o.sideDone(first, stop, err)
	}()
}

// sideDone gives the place of a stream that ended to who waits for one, and what
// it left of its pieces, [first, stop), to the stream that goes in order.
func (o *origin) sideDone(first, stop int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sides--
	for i := first; i < stop; i++ {
		o.ahead.Clear(i)
	}
	if err != nil {
		o.lastErr = err
	}
	for len(o.wishes) > 0 && o.sides < maxSides {
		w := o.wishes[0]
		o.wishes = o.wishes[1:]
		o.side(w)
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

// awaitWhole waits until the whole blob is wanted, or has come in parts. Until
// then there are streams out of order only, and one that fails is a failure.
func (o *origin) awaitWhole() error {
	for !o.s.isWhole() {
		o.mu.Lock()
		here, changed, err := o.sides == 0 && o.claimed.Full(), o.changed, o.lastErr
		o.mu.Unlock()
		if here || err != nil {
			return err
		}
		select {
		case <-o.s.wholly:
		case <-changed:
		case <-o.ctx.Done():
			return ErrStopped
		}
	}
	return nil
}

// resting tells whether nobody waits for a stream out of order.
func (o *origin) resting() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sides == 0 && len(o.wishes) == 0
}

// waitSides waits for the streams out of order, and fetches what they gave up.
func (o *origin) waitSides() error {
	for {
		o.mu.Lock()
		n, ch, err := o.sides, o.changed, o.lastErr
		o.mu.Unlock()
		if n == 0 {
			if first, end, ok := o.claimFront(); ok {
				if err := o.stream(first, end, true); err != nil {
					return err
				}
				continue
			}
			if o.s.blob.Have().Full() {
				return nil
			}
			return err
		}
		select {
		case <-ch:
		case <-o.ctx.Done():
			return ErrStopped
		}
	}
}
