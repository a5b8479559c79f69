package fetch

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// NewPace is a pace of so many bytes per second, for all wants that have it
// together. A piece is had or not, so a pace slower than a few of them in a second
// is kept on average only. Blobs below SmallBlob are not paced.
func NewPace(bytesPerSecond int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(bytesPerSecond), max(piece.MaxSize, int(bytesPerSecond/4)))
}

// Ahead fetches blobs before a client asks for them, as Prefetch does, and returns
// once all are here, or with the first error. Where ctx ends before, those that
// nobody else wants are given up; what has come of them stays. Errors: those of
// Small, and ctx's.
func (e *Engine) Ahead(ctx context.Context, ws ...Want) error {
	p := e.newPull()
	p.ended = make(chan struct{})
	large := slices.DeleteFunc(slices.Clone(ws), Want.small)
	for i := range large {
		large[i].pull = p
		p.add()
		if _, err := e.want(large[i]); err != nil {
			p.done(err)
		}
	}
	p.begun()
	small := slices.DeleteFunc(slices.Clone(ws), func(w Want) bool { return !w.small() })
	e.fetchTogether(slices.DeleteFunc(slices.Clone(small), func(w Want) bool {
		_, _, err := e.Held(w.Digest, SmallBlob)
		return err == nil
	}))
	for _, w := range small {
		if _, err := e.Small(ctx, w, SmallBlob); err != nil {
			e.abandon(p, large)
			return err
		}
	}
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		e.abandon(p, large)
		return fmt.Errorf("fetch ahead: %w", context.Cause(ctx))
	}
}

// abandon ends the downloads of a pull that nobody waits for any more.
func (e *Engine) abandon(p *pull, ws []Want) {
	for _, w := range ws {
		if s := e.find(w.Digest); s != nil {
			s.post(func() { s.abandon(p) })
		}
	}
}

// abandon ends the download unless others than p want the blob.
func (s *swarm) abandon(p *pull) {
	mine := slices.Contains(s.pulls, p)
	s.pulls = slices.DeleteFunc(s.pulls, func(o *pull) bool { return o == p })
	if mine && len(s.pulls) == 0 && s.readers.count() == 0 && !s.commits && !s.settled {
		s.fail(ErrStopped)
	}
}

// setPace notes how fast somebody wants the blob. A download that is under way
// without a pace keeps none.
func (s *swarm) setPace(pace *rate.Limiter) {
	switch {
	case pace == nil && s.pace != nil:
		s.pace = nil
		if s.dl != nil {
			s.dl.step(scheduler.Unpaced{})
		}
	case !s.wanted:
		s.pace = pace
	}
}

// pay has the scheduler go on once the pace allows it.
func (d *download) pay() {
	pace := d.s.pace
	if pace == nil {
		return // it is about to be told
	}
	n := int(min(max(d.s.geom.PieceSize(), int64(pace.Limit()/10)), int64(pace.Burst())))
	d.s.wg.Add(1)
	go func() {
		defer d.s.wg.Done()
		if pace.WaitN(d.s.ctx, n) == nil {
			d.post(func() { d.step(scheduler.Allow{Bytes: int64(n)}) })
		}
	}()
}
