package fetch

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// Small blobs of one image come together: a request for each would cost many
// times what their bytes do.

const (
	// togetherStall is how long an answer may bring no byte before its blobs
	// are fetched one by one: a frozen host never ends it.
	togetherStall = 3 * time.Second
	// oneByOne bounds the small blobs that are fetched alone at a time, ahead
	// of a client. A seeder leaves some of its upstream's slots to large blobs.
	oneByOne = 6
	// A client that waits this long for one of many, with more than hurryPast
	// still to come before it, has it fetched alone beside.
	hurryAfter = time.Second
	hurryPast  = 32
	// togetherPeers is how many neighbours are asked where the seeders do not
	// have all.
	togetherPeers = 3
)

// queue is where many calls are.
type queue struct {
	came atomic.Int64 // calls that have ended
}

// hurry fetches one of many alone, once, if its turn is far.
func (e *Engine) hurry(c *smallCall) {
	if c.queue == nil || int64(c.place)-c.queue.came.Load() <= hurryPast {
		return
	}
	e.mu.Lock()
	again := c.hurried
	c.hurried = true
	e.mu.Unlock()
	if again {
		return
	}
	e.spawn(func() {
		ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
		defer cancel()
		if a, err := e.fetchSmall(ctx, c.want, SmallBlob, 0); err == nil {
			e.settleSmall(c, a) // else its turn will come
		}
	})
}

// fetchTogether begins to fetch small blobs, in this order.
func (e *Engine) fetchTogether(ws []Want) {
	calls := e.callEach(ws)
	if len(calls) == 0 {
		return
	}
	run := func() {
		e.runTogether(calls)
		for _, c := range calls {
			<-c.done // the last may be with another worker still
			c.want.pull.done(c.err)
		}
	}
	if !e.spawn(run) {
		for _, c := range calls {
			e.end(c, nil, ErrStopped)
		}
	}
}

// callEach begins a call for each blob that is not being fetched.
func (e *Engine) callEach(ws []Want) []*smallCall {
	var calls []*smallCall
	q := &queue{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range ws {
		if e.closed {
			break
		}
		if e.small[w.Digest] != nil || e.keeping[w.Digest] != nil || w.Digest.Validate() != nil {
			w.pull.done(nil) // whoever fetches it counts it
			continue
		}
		c := &smallCall{want: w, done: make(chan struct{}), queue: q, place: len(calls)}
		e.small[w.Digest] = c
		calls = append(calls, c)
	}
	return calls
}

// runTogether asks the seeders, then a few neighbours, each for all that is
// still missing; what is left is fetched one by one. It returns when every call
// has ended.
func (e *Engine) runTogether(calls []*smallCall) {
	began := time.Now()
	var waited time.Duration
	if !e.o.Seeder {
		seeders, others := e.company()
		for _, ai := range append(seeders, some(others, togetherPeers)...) {
			if len(calls) == 0 {
				return
			}
			var stalled bool
			if calls, stalled = e.contentsFrom(ai.ID, calls); stalled {
				waited = togetherStall
				break
			}
		}
	}
	if len(calls) > 0 {
		e.log.Debug("small blobs are fetched one by one", zap.Int("blobs", len(calls)), zap.Duration("after", time.Since(began)))
	}
	e.eachAlone(calls, waited)
}

// eachAlone fetches blobs one by one, a few at a time.
func (e *Engine) eachAlone(calls []*smallCall, waited time.Duration) {
	next := make(chan *smallCall, len(calls))
	for _, c := range calls {
		next <- c
	}
	close(next)
	work := func() {
		for c := range next {
			select {
			case <-c.done: // somebody was in a hurry
			default:
				e.callSmall(c, SmallBlob, waited)
			}
			c.queue.came.Add(1)
		}
	}
	for range min(oneByOne, len(calls)) - 1 {
		e.spawn(work)
	}
	work()
}

// contentsFrom asks one peer for all of these. It returns those that did not
// come, and whether the peer stalled.
func (e *Engine) contentsFrom(p peer.ID, calls []*smallCall) (left []*smallCall, stalled bool) {
	ctx, cancel := context.WithCancelCause(e.ctx)
	defer cancel(nil)
	watch := time.AfterFunc(togetherStall, func() { cancel(errSlow) })
	defer watch.Stop()
	ds := make([]digest.Digest, len(calls))
	for i, c := range calls {
		ds[i] = c.want.Digest
	}
	came := make([]bool, len(calls))
	seeder := e.trusts(p)
	err := e.network().Contents(ctx, p, ds, SmallBlob, func(i int, content []byte, mediaType string) {
		came[i] = true
		calls[i].queue.came.Add(1)
		e.settleSmall(calls[i], found{content: content, media: mediaType, from: p, seeder: seeder})
	}, func() { watch.Reset(togetherStall) })
	for i, c := range calls {
		if !came[i] {
			left = append(left, c)
		}
	}
	if err == nil {
		return left, false
	}
	if errors.Is(err, p2p.ErrWrongContent) {
		e.blame(p, left[0].want.Digest)
	}
	e.log.Debug("small blobs did not come together", zap.Stringer("peer", p), zap.Int("left", len(left)), zap.Error(err))
	return left, errors.Is(context.Cause(ctx), errSlow)
}

// Contents serves small blobs to a peer. A seeder fetches what it lacks, of
// which it knows where it comes from. Part of p2p.ContentsServer.
func (e *Engine) Contents(ctx context.Context, from peer.ID, ds []digest.Digest, w p2p.ContentsWriter) error {
	if !e.ready() {
		return p2p.ErrNotHeld
	}
	if e.o.Seeder {
		e.fetchTogether(e.lacking(ds))
	}
	for i, d := range ds {
		content, mediaType, err := e.Held(d, SmallBlob)
		if err != nil {
			if content, err = e.coming(ctx, d, w); err != nil {
				return err
			}
			if content == nil {
				continue
			}
		}
		if err := w.Give(i, content, mediaType); err != nil {
			return err
		}
		e.o.Store.Touch(d)
		e.ledger.sent(from, int64(len(content)))
		e.metrics.given.Add(float64(len(content)))
	}
	return nil
}

// lacking are those small blobs that the store does not hold whole, as far as
// it is known where they come from.
func (e *Engine) lacking(ds []digest.Digest) []Want {
	var ws []Want
	for _, d := range ds {
		if in, err := e.o.Store.Stat(d); err == nil && in.Complete {
			continue
		}
		if w, ok := e.o.Locate(d); ok && w.small() {
			ws = append(ws, w)
		}
	}
	return ws
}

// coming waits for a small blob that is being fetched, and sends first what
// waits for company; nil where nobody fetches it, or it cannot be had. Only a
// seeder waits: two peers might wait for each other.
func (e *Engine) coming(ctx context.Context, d digest.Digest, w p2p.ContentsWriter) ([]byte, error) {
	if !e.o.Seeder {
		return nil, nil
	}
	e.mu.Lock()
	c := e.small[d]
	e.mu.Unlock()
	if c == nil {
		content, _, err := e.Held(d, SmallBlob) // it may have come just now
		if err != nil {
			content = nil
		}
		return content, nil
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	select {
	case <-c.done:
		return c.content, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
