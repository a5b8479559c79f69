package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// smallCall is one fetch of a small blob that several callers wait for.
type smallCall struct {
	want    Want
	done    chan struct{}
	content []byte // set, or err is, before done is closed
	err     error

	// Of a call that is one of many: see together.go.
	queue *queue
	place int // in the queue

	ended   bool // guarded by Engine.mu
	hurried bool // the same
}

// end ends a call with content that is kept already, or an error, unless it has
// ended.
func (e *Engine) end(c *smallCall, content []byte, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.endLocked(c) {
		c.content, c.err = content, err
		close(c.done)
	}
}

// endLocked takes a call off the list; false if somebody did before. The caller
// closes done.
func (e *Engine) endLocked(c *smallCall) bool {
	if c.ended {
		return false
	}
	c.ended = true
	delete(e.small, c.want.Digest)
	return true
}

// Small returns a small blob whole: from the store, the seeder, neighbours,
// or the upstream. Callers of the same digest share one fetch, which goes on
// when they leave. Its digest has been verified and it is kept in the store.
// Errors: ErrUnavailable, ErrNotFound, ErrCorrupt, and the store's.
func (e *Engine) Small(ctx context.Context, w Want, limit int64) ([]byte, error) {
	if err := w.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("fetch %q: %w", w.Digest, err)
	}
	if b, _, err := e.Held(w.Digest, limit); err == nil {
		return b, nil
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, ErrStopped
	}
	c := e.small[w.Digest]
	if c == nil {
		c = &smallCall{want: w, done: make(chan struct{})}
		e.small[w.Digest] = c
		e.wg.Add(1)
		go func() {
			defer e.wg.Done()
			e.callSmall(c, limit, 0)
		}()
	}
	e.mu.Unlock()
	hurry := time.NewTimer(hurryAfter)
	defer hurry.Stop()
	for {
		select {
		case <-c.done:
			return c.content, c.err
		case <-hurry.C:
			e.hurry(c)
		case <-ctx.Done():
			return nil, fmt.Errorf("fetch %s: %w: %w", w.Digest, errSlow, ErrUnavailable)
		}
	}
}

// callSmall fetches one small blob. Its sources have been waited for already.
func (e *Engine) callSmall(c *smallCall, limit int64, waited time.Duration) {
	if content, _, err := e.Held(c.want.Digest, limit); err == nil {
		e.end(c, content, nil) // it came between the look and the call
		return
	}
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	alone := e.alone()
	a, err := e.fetchSmall(ctx, c.want, limit, waited)
	if alone && errors.Is(err, ErrUnavailable) && e.awaitCompany(ctx) {
		a, err = e.fetchSmall(ctx, c.want, limit, 0)
	}
	if err != nil {
		e.end(c, nil, err)
		return
	}
	e.settleSmall(c, a)
}

// alone tells whether a host has no neighbour just now.
func (e *Engine) alone() bool {
	seeders, others := e.company()
	return !e.o.Seeder && len(seeders)+len(others) == 0
}

// awaitCompany waits a little for a neighbour: one whose connections were all
// reset has them back in a moment, and whoever asks is told 404 without them.
func (e *Engine) awaitCompany(ctx context.Context) bool {
	for range 15 {
		if !sleep(ctx, 50*time.Millisecond) {
			return false
		}
		if !e.alone() {
			return true
		}
	}
	return false
}

// settleSmall ends a call with verified content, and then writes it to the disk.
func (e *Engine) settleSmall(c *smallCall, a found) {
	e.noteSmall(a)
	e.mu.Lock()
	if !e.endLocked(c) {
		e.mu.Unlock()
		e.ledger.wasted(len(a.content))
		return
	}
	k := e.keepLocked(c.want.Digest, a.content, a.media, c.want.Source)
	if k != nil {
		k.durable = a.kept
	}
	c.content = a.content
	close(c.done)
	e.mu.Unlock()
	if k != nil {
		e.store(c.want.Digest, k)
	}
}

// errSlow: no source has answered in time; the fetch goes on.
var errSlow = errors.New("no source answered in time")

// How long a source of a small blob may take before the next one is asked
// beside it: a client waits, and a frozen host never answers. The upstream
// comes late: a seeder that fetches for a herd over a busy link takes its time,
// and a herd that went past it would cost the upstream a copy per host.
func (o *Options) smallAround() time.Duration   { return o.Switch / 4 } // then the neighbours
func (o *Options) smallUpstream() time.Duration { return 2 * o.Switch } // then the upstream

// found is small content, verified, and where it came from.
type found struct {
	content  []byte
	media    string
	from     peer.ID // "" for the upstream
	seeder   bool
	upstream bool
	kept     bool // by Options.Durable
	err      error
}

// fetchSmall asks the seeders, which every host of a herd can afford for a
// small blob; the neighbours; the upstream. The next is asked when those before
// it have failed, or take long, counted from waited ago. A seeder asks the
// upstream alone.
func (e *Engine) fetchSmall(ctx context.Context, w Want, limit int64, waited time.Duration) (found, error) {
	sources := []func(context.Context) found{
		func(ctx context.Context) found { return e.smallFromUpstream(ctx, w, limit) },
	}
	if !e.o.Seeder {
		seeders, others := e.company()
		sources = []func(context.Context) found{
			func(ctx context.Context) found { return e.smallFromSeeders(ctx, seeders, w.Digest, limit) },
			func(ctx context.Context) found { return e.askAround(ctx, w.Digest, limit, each(some(others, 16))) },
			sources[0],
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan found, len(sources))
	around, up := time.NewTimer(e.o.smallAround()-waited), time.NewTimer(e.o.smallUpstream()-waited)
	defer around.Stop()
	defer up.Stop()
	asked, open := 0, 0
	ask := func(until int) {
		for ; asked < min(until, len(sources)); asked++ {
			source := sources[asked]
			if e.spawn(func() { answers <- source(ctx) }) { // not waited for: it may hang for a while
				open++
			}
		}
	}
	var errs []error
	for ask(1); open > 0; {
		select {
		case a := <-answers:
			if open--; a.err == nil {
				return a, nil
			}
			if errs = append(errs, a.err); open == 0 {
				ask(asked + 1)
			}
		case <-around.C:
			ask(2)
		case <-up.C:
			ask(3)
		}
	}
	if e.ctx.Err() != nil {
		return found{}, ErrStopped
	}
	err := errors.Join(errs...)
	if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return found{}, fmt.Errorf("fetch %s: %w", w.Digest, err)
}

func (e *Engine) noteSmall(a found) {
	switch {
	case a.kept:
		e.ledger.fromDurable(len(a.content))
		e.metrics.receivedDurable(len(a.content))
		return
	case a.upstream:
		e.ledger.fromUpstream(len(a.content))
	default:
		e.ledger.received(a.from, a.seeder, len(a.content))
	}
	e.metrics.received(a.seeder, a.upstream, len(a.content), true)
}

// company are the neighbours: seeders, and the others.
func (e *Engine) company() (seeders, others []peer.AddrInfo) {
	for _, nb := range e.network().Neighbours() {
		ai := peer.AddrInfo{ID: nb.ID}
		if e.isSeeder(nb) {
			seeders = append(seeders, ai)
		} else {
			others = append(others, ai)
		}
	}
	return seeders, others
}

// each yields the peers of a list.
func each(peers []peer.AddrInfo) func(context.Context) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo, len(peers))
	for _, ai := range peers {
		out <- ai
	}
	close(out)
	return func(context.Context) <-chan peer.AddrInfo { return out }
}

// smallFromSeeders asks one seeder after the other. A busy one is asked again:
// the herd that keeps it busy would otherwise ask the upstream.
func (e *Engine) smallFromSeeders(ctx context.Context, seeders []peer.AddrInfo, d digest.Digest, limit int64) found {
	err := errNobody
	for _, ai := range seeders {
		var a found
		for range 10 {
			a = e.contentFrom(ctx, ai.ID, d, limit)
			var busy *p2p.BusyError
			if !errors.As(a.err, &busy) || !sleep(ctx, min(busy.After, time.Second)) {
				break
			}
		}
		if a.err == nil {
			a.seeder = true
			return a
		}
		err = fmt.Errorf("seeder: %w", a.err)
	}
	return found{err: err}
}

// errNobody says that there was nobody to ask.
var errNobody = errors.New("no neighbour has it")

// sleep waits; false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// contentFrom asks one peer. One that sends wrong bytes is named and banned;
// the seeder is only named.
func (e *Engine) contentFrom(ctx context.Context, p peer.ID, d digest.Digest, limit int64) found {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	content, media, err := e.network().Content(ctx, p, d, limit)
	if errors.Is(err, p2p.ErrWrongContent) {
		e.blame(p, d)
	}
	return found{content: content, media: media, from: p, err: err}
}

// blame names a peer that sent wrong content, and bans it unless it is a seeder.
func (e *Engine) blame(p peer.ID, d digest.Digest) {
	const what = "content that does not match its digest"
	e.metrics.badPieces.Inc()
	if e.trusts(p) {
		e.ledger.bad(p, d, what, 0)
	} else {
		e.ban(p, d, what)
	}
}

// askAround asks peers for content, a few at a time, until one has it. Who is
// no neighbour is made one. The channel of peers is emptied, and ends soon
// after its context.
func (e *Engine) askAround(ctx context.Context, d digest.Digest, limit int64, who func(context.Context) <-chan peer.AddrInfo) found {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	peers := who(ctx)
	const width = 4
	answers := make(chan found, width)
	open := 0
	for range width {
		if e.spawn(func() { answers <- e.askEach(ctx, d, limit, peers) }) {
			open++
		}
	}
	for ; open > 0; open-- {
		select {
		case a := <-answers:
			if a.err == nil {
				return a
			}
		case <-ctx.Done():
			return found{err: ctx.Err()}
		}
	}
	return found{err: errNobody}
}

// askEach asks one peer after the other.
func (e *Engine) askEach(ctx context.Context, d digest.Digest, limit int64, peers <-chan peer.AddrInfo) found {
	for ai := range peers {
		if ctx.Err() != nil || e.network().Connect(ctx, ai) != nil {
			continue
		}
		if a := e.contentFrom(ctx, ai.ID, d, limit); a.err == nil {
			return a
		}
	}
	return found{err: errNobody}
}

// smallFromUpstream reads a small blob from where it is kept for good, or from
// its upstream.
func (e *Engine) smallFromUpstream(ctx context.Context, w Want, limit int64) found {
	if e.o.Upstream == nil || w.Source == (Source{}) {
		return found{err: errors.New("no upstream is known for it")}
	}
	a := e.readSmall(ctx, w, limit, false)
	if a.err == nil || !a.kept || ctx.Err() != nil {
		return a
	}
	if errors.Is(a.err, ErrCorrupt) {
		e.durable.Corrupt(w.Source, w.Digest)
	}
	if e.durable.only(w.Source) {
		return a
	}
	return e.readSmall(ctx, w, limit, true)
}

// readSmall reads a small blob and checks its digest.
func (e *Engine) readSmall(ctx context.Context, w Want, limit int64, skipDurable bool) found {
	r, kept, err := e.blobOf(ctx, w.Source, w.Digest, 0, -1, skipDurable)
	if err != nil {
		return found{kept: kept, err: explainUpstream(err)}
	}
	defer r.Close()
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(r, limit+1)); err != nil {
		return found{kept: kept, err: explainUpstream(err)}
	}
	switch {
	case int64(buf.Len()) > limit:
		err = fmt.Errorf("%s is larger than %d bytes", w.Digest, limit)
	case w.Digest.Algorithm().FromBytes(buf.Bytes()) != w.Digest:
		err = &CorruptError{Digest: w.Digest, Source: w.Source}
		if !kept {
			e.doubt(w.Source)
		}
	}
	return found{content: buf.Bytes(), upstream: !kept, kept: kept, err: err}
}

// FromPeers finds content by digest among peers alone: the neighbours, and
// the providers that the DHT names. It is the way that works when seeder and
// upstream are gone. It fails with ErrUnavailable.
func (e *Engine) FromPeers(ctx context.Context, d digest.Digest, limit int64) ([]byte, string, error) {
	if !e.ready() {
		return nil, "", ErrStopped
	}
	key, err := blobCID(d)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	seeders, others := e.company()
	near, stop := context.WithTimeout(ctx, 5*time.Second)
	a := e.askAround(near, d, limit, each(some(append(seeders, others...), 16)))
	stop()
	if a.err != nil {
		a = e.askAround(ctx, d, limit, func(ctx context.Context) <-chan peer.AddrInfo {
			return e.network().Providers(ctx, key, 10)
		})
	}
	if a.err != nil {
		return nil, "", fmt.Errorf("no peer has %s: %w", d, ErrUnavailable)
	}
	e.noteSmall(a)
	return a.content, a.media, nil
}
