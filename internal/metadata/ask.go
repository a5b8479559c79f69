package metadata

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// costly is how long a failure takes that somebody notices.
const costly = 250 * time.Millisecond

// The deadlines that Cache.Passed counts.
const (
	PassedLookup   = "lookup"   // Patience: a source gave no sign of life, and the next was asked
	PassedLimit    = "limit"    // Limit: nobody did, or nobody knew of a digest in time
	PassedManifest = "manifest" // Decide, or Recheck or Glance in its place
	PassedHeader   = "header"   // of whoever answers clients: no source gave a blob in time
)

// question is what the sources are asked.
type question struct {
	n      registry.Name
	what   string     // tag or digest, for errors
	digest bool       // a manifest by digest: peers may have it
	stand  bool       // something remembered can stand in for an answer
	guess  bool       // a digest that no manifest has named: nobody has been promised it
	via    []string   // the seeders that it has passed
	span   trace.Span // of the request that it is for, or the first of several
}

// asked is one source's part in answering a question.
type asked struct {
	s     *Source
	began time.Time
	sick  bool // it had failed before: nobody waits for it
	alive bool // it answered a ping: it is at work
	noted bool // its silence was
	over  bool
}

type answer[T any] struct {
	a   *asked
	v   T
	err error
}

// inquiry puts one question to the sources. It belongs to the goroutine of run.
type inquiry[T any] struct {
	c *Cache
	q question
	f func(context.Context, *Source) (T, error)

	ctx    context.Context // of the calls
	cancel context.CancelFunc
	users  atomic.Int32 // of ctx: run and the calls under way

	list     []*Source // not asked yet
	all      []*asked
	now      *asked // whom patience is about
	answers  chan answer[T]
	patience *time.Timer // with the source asked last
	pong     chan error  // its answer to a ping, while one is under way
	lastCall bool        // waiting only for sources that had failed before
	fail     *Error
}

// ask puts a question to the sources, the best first. The next one is asked
// when the one before has failed, or is silent and gives no other sign of life;
// the peers as soon as anybody has failed or is silent. The first success counts. What is still under way when ask gives up goes on
// for a while, so that a late answer finds its way into the store.
func ask[T any](c *Cache, q question, f func(context.Context, *Source) (T, error)) (T, error) {
	list, budget, err := c.whom(q)
	if err != nil {
		var zero T
		return zero, err
	}
	i := &inquiry[T]{
		c: c, q: q, f: f, list: list, answers: make(chan answer[T], len(list)),
		patience: time.NewTimer(budget), fail: &Error{Name: q.n, What: q.what},
	}
	i.ctx, i.cancel = context.WithTimeout(trace.ContextWithSpan(upstream.WithVia(c.ctx, q.via), q.span), c.o.Decide)
	i.users.Store(1)
	defer i.leave()
	defer i.patience.Stop()
	return i.run(budget)
}

// leave ends the calls' context with its last user.
func (i *inquiry[T]) leave() {
	if i.users.Add(-1) == 0 {
		i.cancel()
	}
}

func (i *inquiry[T]) run(budget time.Duration) (v T, err error) {
	deadline, limit := time.NewTimer(budget), time.NewTimer(i.c.o.Limit)
	defer deadline.Stop()
	defer limit.Stop()
	for more := i.next(); more; {
		select {
		case r := <-i.answers:
			r.a.over = true
			if r.err == nil {
				i.answered()
				return r.v, nil
			}
			more = i.failed(r.a, r.err)
		case <-i.patience.C:
			more = i.impatient()
		case perr := <-i.pong:
			if i.pong = nil; perr != nil {
				more = i.hung()
			} else {
				i.now.alive = true // only the deadline ends that
			}
		case <-limit.C:
			if more = i.atWork(); !more {
				i.c.Passed(PassedLimit)
			}
		case <-deadline.C:
			i.c.Passed(PassedManifest)
			more = false
		}
	}
	return v, i.gaveUp()
}

// next asks one more source; false when there is nobody left to wait for.
func (i *inquiry[T]) next() bool {
	i.pong = nil
	for len(i.list) > 0 {
		s := i.list[0]
		i.list = i.list[1:]
		if i.now = i.start(s); i.now == nil {
			return false
		}
		switch {
		case len(i.list) == 0:
			i.patience.Reset(i.c.o.Decide) // the limit is shorter
		case i.now.sick:
			continue // it may answer, but is not waited for
		default:
			i.patience.Reset(i.c.o.Patience)
		}
		return true
	}
	if p := i.underWay(); p != nil && p != i.now {
		i.now = p
		i.patience.Reset(i.c.o.Decide)
		return true
	}
	if i.lastCall {
		return false
	}
	// One that had failed before may be back.
	i.lastCall = slices.ContainsFunc(i.all, func(a *asked) bool { return a.sick && !a.over })
	if i.q.stand {
		i.patience.Reset(i.c.o.Glance)
	} else {
		i.patience.Reset(i.c.o.Patience)
	}
	return i.lastCall
}

// start asks a source; nil where it is too late for that.
func (i *inquiry[T]) start(s *Source) *asked {
	if !i.c.begin() {
		return nil
	}
	i.users.Add(1)
	a := &asked{s: s, began: time.Now(), sick: s.of(i.q.n.Upstream).failed}
	i.all = append(i.all, a)
	go func() {
		defer i.c.wg.Done()
		defer i.leave()
		v, err := i.f(i.ctx, s)
		i.c.judge(i.q, a, err)
		i.answers <- answer[T]{a, v, err}
	}()
	return a
}

// hedge asks the peers as soon as somebody before them has failed or is silent: that costs no
// upstream anything, and after the others there would be no time left for them.
func (i *inquiry[T]) hedge() {
	peers := peersOf(i.list)
	i.list = i.list[:len(i.list)-len(peers)]
	for _, s := range peers {
		i.start(s)
	}
}

// underWay is a peer source that was asked and has not answered, or nil.
func (i *inquiry[T]) underWay() *asked {
	for _, a := range i.all {
		if a.s.Client == nil && !a.over {
			return a
		}
	}
	return nil
}

// answered ends the calls that nobody needs any more.
func (i *inquiry[T]) answered() {
	i.cancel()
	for _, a := range i.all {
		if a.sick && !a.over {
			i.c.silent(i.q, a)
		}
	}
}

// failed goes on after an error; false ends the inquiry. One that knows of
// nothing such is right, but peers may still hold what was deleted there.
func (i *inquiry[T]) failed(a *asked, err error) bool {
	i.fail.add(a.s, err)
	if a.s.Client != nil && upstream.KindOf(err) == upstream.NotFound {
		i.list = peersOf(i.list)
		if i.now = i.underWay(); i.now != nil {
			i.patience.Reset(i.c.o.Decide)
			return true
		}
		if len(i.list) == 0 {
			i.cancel()
			i.all = i.all[:0] // what the others would say does not matter
			return false
		}
		return i.next()
	}
	if i.q.digest {
		i.hedge()
	}
	waiting := slices.ContainsFunc(i.all, func(a *asked) bool { return !a.over })
	if waiting && (i.lastCall || a != i.now) {
		return true
	}
	return i.next()
}

// impatient deals with the silence of the source asked last.
func (i *inquiry[T]) impatient() bool {
	a := i.now
	i.hedge()
	switch {
	case i.lastCall:
		return false
	case a.s.Ping == nil || a.sick:
		return i.hung()
	}
	i.pong = i.c.ping(i.ctx, a.s)
	return true
}

// atWork tells whether somebody is worth waiting for beyond the limit: whoever
// has shown life, unless it is asked for what may be nothing at all.
func (i *inquiry[T]) atWork() bool {
	return !i.q.guess && slices.ContainsFunc(i.all, func(a *asked) bool { return a.alive && !a.over })
}

func (i *inquiry[T]) hung() bool {
	i.c.Passed(PassedLookup)
	i.c.silent(i.q, i.now)
	return i.next()
}

// gaveUp is the error once nobody is waited for any more.
func (i *inquiry[T]) gaveUp() error {
	if len(i.all) == 0 && len(i.fail.causes) == 0 {
		return errClosed
	}
	for _, a := range i.all {
		if !a.over {
			i.c.silent(i.q, a)
			i.fail.add(a.s, errSilent)
		}
	}
	return i.fail
}

// whom chooses the sources to ask, and how long the answer may take.
func (c *Cache) whom(q question) ([]*Source, time.Duration, error) {
	var all, awake []*Source
	now := time.Now()
	sick := true
	for _, s := range c.o.Sources(q.n.Upstream) {
		if s.Client == nil && !q.digest {
			continue
		}
		all = append(all, s)
		h := s.of(q.n.Upstream)
		if now.Before(h.until) {
			continue
		}
		awake = append(awake, s)
		sick = sick && h.failed
	}
	fail := &Error{Name: q.n, What: q.what}
	switch {
	case len(all) == 0:
		fail.kind = upstream.Invalid
		return nil, 0, fail
	case len(awake) > 0:
	case q.stand || c.o.Brisk:
		for _, s := range all {
			fail.add(s, errSilentBefore)
		}
		return nil, 0, fail
	default:
		awake = all
	}
	budget := c.o.Decide
	switch {
	case q.stand && sick:
		budget = c.o.Glance
	case q.stand || sick:
		budget = c.o.Recheck
	}
	return awake, min(budget, c.o.Decide), nil
}

// peersOf leaves those sources that are peers.
func peersOf(list []*Source) []*Source {
	for i, s := range list {
		if s.Client == nil {
			return list[i:]
		}
	}
	return nil
}

// judge draws conclusions about a source from how it answered.
func (c *Cache) judge(q question, a *asked, err error) {
	if a.s.Client == nil {
		return
	}
	switch kind := upstream.KindOf(err); {
	case kind == upstream.Canceled:
	case kind != upstream.Unavailable, a.s.Relay && statusOf(err) != 0:
		a.s.answered(q.n.Upstream)
	case time.Since(a.began) >= costly:
		a.s.silent(q.n.Upstream, c.o.Memory)
	}
}

// silent notes that waiting for a source was in vain. One that is alive has
// trouble of its own with this question.
func (c *Cache) silent(q question, a *asked) {
	if a.s.Client == nil || a.alive || a.noted {
		return
	}
	a.noted = true
	if !a.sick {
		c.log.Warn("a source of manifests is silent; it is passed over for a while", zap.String("source", a.s.Name),
			zap.String("upstream", q.n.Upstream), zap.Duration("waited", time.Since(a.began)), zap.Duration("for", c.o.Memory))
	}
	a.s.silent(q.n.Upstream, c.o.Memory)
}

// ping asks a silent source for a sign of life.
func (c *Cache) ping(ctx context.Context, s *Source) chan error {
	pong := make(chan error, 1)
	if !c.begin() {
		pong <- errClosed
		return pong
	}
	go func() {
		defer c.wg.Done()
		// Whoever is asked next has as much of the time that is left.
		ctx, cancel := context.WithTimeout(ctx, min(c.o.Patience, (c.o.Limit-c.o.Patience)/2))
		defer cancel()
		pong <- s.Ping(ctx)
	}()
	return pong
}
