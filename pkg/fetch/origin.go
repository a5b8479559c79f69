package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// origin is the seeder's side of fetching one blob: each piece is taken from
// the upstream once, in order, whoever waits for it. A reader far from the
// front gets a stream of its own for the pieces it waits for; the two never
// take the same piece.
type origin struct {
	s    *swarm
	ctx  context.Context
	stop context.CancelFunc

	mu      sync.Mutex
	claimed *piece.Bitfield // held, or being fetched by one of the streams
	ahead   *piece.Bitfield // asked for by a stream out of order, which has not got there
	begin   int             // the piece that is fetched first
	front   int             // where the stream that goes in order is
	sides   int             // streams out of order
	wishes  []wish          // that found no stream free, the oldest first
	latest  map[int]wish    // of each reader
	leave   func()          // ends the wait for the blob's turn; nil when it does not wait
	late    bool            // it has waited long
	changed chan struct{}   // closed when a side stream ends
	lastErr error

	// The running digest of the bytes in order; it is behind when pieces were
	// there already or came out of order, and then catches up from the disk.
	digest hash.Hash
	hashed int
}

// startOrigin begins, or resumes, to fetch the blob from its upstream: from the
// byte at off on, which a client waits for, then what lies before it.
func (s *swarm) startOrigin(off int64) {
	if s.origin != nil || s.settled {
		return
	}
	if s.e.o.Upstream == nil || s.sources.current() == (Source{}) {
		s.fail(fmt.Errorf("fetch %s: no upstream is known for it: %w", s.digest, ErrUnavailable))
		return
	}
	o := &origin{s: s, claimed: s.blob.Have(), ahead: piece.NewBitfield(s.geom.Count()), changed: make(chan struct{}), latest: make(map[int]wish), digest: s.digest.Algorithm().Hash()}
	if off > 0 && off < s.geom.Size() {
		o.begin = s.geom.Index(off)
		o.front = o.begin
	}
	o.ctx, o.stop = context.WithCancel(s.ctx)
	s.origin = o
	s.withheld = s.doubted()
	for _, r := range runsOf(s.needed) {
		o.want(0, r[0], r[1])
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer o.stop()
		err := o.run()
		s.post(func() { s.originDone(err) })
	}()
}

// run signs what is on disk already, fetches the rest in order, and checks the
// digest of the whole.
func (o *origin) run() error {
	if err := o.resume(); err != nil {
		return err
	}
	for more := true; more; {
		err := o.awaitWhole()
		if err == nil {
			more, err = o.turn()
		}
		if err != nil {
			return err
		}
	}
	if err := o.waitSides(); err != nil {
		return err
	}
	if have := o.s.blob.Have(); !have.Full() {
		return fmt.Errorf("%d of %d pieces are missing: %w", have.Len()-have.Count(), have.Len(), ErrUnavailable)
	}
	return o.check()
}

// turn fetches the next pieces in order: a blob's first piece at once, the rest
// of a large one when its turn comes. It reports whether there may be more.
func (o *origin) turn() (more bool, err error) {
	first, end, ok := o.claimFront()
	if !ok {
		return false, nil
	}
	t, g := o.s.e.turns.of(o.s.sources.current().Upstream), o.s.geom
	bounded, mine := false, t.alone()
	switch {
	case mine:
	case first == 0 || first == o.begin:
		done := t.head()
		defer done()
		return true, o.stream(first, first+1, true)
	case g.Size() <= turnless:
		return true, o.stream(first, end, true)
	default:
		if bounded, ok = o.queue(t); !ok {
			return false, o.stopped()
		}
	}
	if first, end, ok = o.claimFront(); !ok { // streams out of order went on meanwhile
		t.give(0, 0)
		return false, nil
	}
	if bounded {
		end = min(end, first+max(1, int(t.limit()/g.PieceSize())))
	}
	began := time.Now()
	if err = o.stream(first, end, true); err != nil {
		t.give(0, 0)
		return false, err
	}
	t.give(min(g.Offset(end), g.Size())-g.Offset(first), time.Since(began))
	return true, nil
}

// stopped is ErrStopped once the swarm has ended.
func (o *origin) stopped() error {
	if o.ctx.Err() != nil {
		return ErrStopped
	}
	return nil
}

// queue waits for the blob's turn. Readers that wait with it for long are
// served by streams out of order meanwhile; once these have claimed the rest
// there is nothing to wait for, which is not ok, as is the swarm's end.
func (o *origin) queue(t *turns) (bounded, ok bool) {
	ctx, cancel := context.WithCancel(o.ctx)
	defer cancel()
	o.setQueued(cancel)
	defer o.setQueued(nil)
	patience := time.AfterFunc(turnPatience, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.leave == nil {
			return
		}
		o.late = true
		for _, w := range o.latest {
			o.forget(w.id)
			o.grant(w)
		}
	})
	defer patience.Stop()
	queued := o.s.e.now()
	bounded, err := t.take(ctx)
	o.s.e.metrics.waited("turn", o.s.e.now()-queued)
	return bounded, err == nil
}

func (o *origin) setQueued(leave func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leave, o.late = leave, false
}

// resume computes the hashes of pieces that an earlier process fetched.
func (o *origin) resume() error {
	buf := getBuffer(int(o.s.geom.PieceSize()))
	defer putBuffer(buf)
	for i := range o.s.blob.Have().All() {
		if _, known := o.s.hashes.get(i); known {
			if !o.s.post(func() { o.s.gained(i) }) {
				return ErrStopped
			}
			continue
		}
		p, err := o.s.blob.ReadPiece(i, *buf)
		if err != nil {
			return fmt.Errorf("read piece %d: %w", i, err)
		}
		h := piece.Sum(p)
		if !o.s.post(func() { o.s.fetched(i, h) }) {
			return ErrStopped
		}
	}
	return nil
}

// claimFront takes the next missing pieces in order, up to the first that
// somebody has or fetches.
func (o *origin) claimFront() (first, end int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first = o.nextFree(o.front)
	if first >= o.claimed.Len() {
		first = o.nextFree(0) // a side stream gave some back
		if first >= o.claimed.Len() {
			return 0, 0, false
		}
	}
	for end = first; end < o.claimed.Len() && !o.claimed.Has(end) && !o.ahead.Has(end); end++ {
	}
	o.front = first
	return first, end, true
}

// nextFree is the first piece from i on that nobody has, fetches or is about to
// fetch; the number of pieces when there is none. A stream that begins just before
// another one is cut at once, and what is in the sockets by then is lost.
func (o *origin) nextFree(i int) int {
	for i = o.claimed.NextMissing(i); i < o.claimed.Len() && o.ahead.Has(i); {
		i = o.claimed.NextMissing(i + 1)
	}
	return i
}

// claim takes piece i for a stream; false when another has it.
func (o *origin) claim(i int, inOrder bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if inOrder {
		o.front = i
	}
	mine := o.claimed.Set(i)
	if o.claimed.Full() && o.leave != nil {
		o.leave()
	}
	return mine
}

func (o *origin) unclaim(i int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claimed.Clear(i)
}

// stream fetches the pieces [first, end) over one connection; it ends early
// where another stream has taken a piece.
func (o *origin) stream(first, end int, inOrder bool) error {
	s := o.s
	began := time.Now()
	defer func() { s.traces.streamed(began, first, end) }()
	r, kept, err := s.upstreamRange(o.ctx, first, end)
	if err != nil {
		return o.explain(err)
	}
	defer r.Close()
	buf := getBuffer(int(s.geom.PieceSize()))
	defer putBuffer(buf)
	for i := first; i < end; i++ {
		if !o.claim(i, inOrder) {
			return nil
		}
		p := (*buf)[:s.geom.Len(i)]
		if _, err := io.ReadFull(r, p); err != nil {
			o.unclaim(i)
			if kept && o.ctx.Err() == nil && !s.e.durable.only(s.sources.current()) && !s.skipDurable.Swap(true) {
				return o.stream(i, end, inOrder) // from the upstream
			}
			return o.explain(fmt.Errorf("piece %d: %w", i, err))
		}
		h := piece.Sum(p)
		if _, err := s.blob.WritePiece(i, p); err != nil {
			o.unclaim(i)
			return fmt.Errorf("store %s: %w", s.digest, err)
		}
		if inOrder && o.hashed == i {
			o.digest.Write(p)
			o.hashed = i + 1
		}
		if kept {
			s.usedDurable.Store(true)
			s.e.ledger.fromDurable(len(p))
			s.prog.addDurable(len(p))
			s.e.metrics.receivedDurable(len(p))
		} else {
			s.e.ledger.fromUpstream(len(p))
			s.prog.add(false, true, len(p))
			s.e.metrics.received(false, true, len(p), true)
		}
		if !s.post(func() { s.fetched(i, h) }) {
			return ErrStopped
		}
	}
	return nil
}

// explain gives an upstream's error the kind that the engine's callers know.
func (o *origin) explain(err error) error {
	if o.ctx.Err() != nil {
		return ErrStopped
	}
	return explainUpstream(err)
}

// check compares the digest of the whole; what did not come in order is read
// back from the page cache.
func (o *origin) check() error {
	s := o.s
	buf := getBuffer(int(s.geom.PieceSize()))
	defer putBuffer(buf)
	for ; o.hashed < s.geom.Count(); o.hashed++ {
		if o.ctx.Err() != nil {
			return ErrStopped
		}
		p, err := s.blob.ReadPiece(o.hashed, *buf)
		if err != nil {
			return fmt.Errorf("read piece %d: %w", o.hashed, err)
		}
		o.digest.Write(p)
	}
	if got := fmt.Sprintf("%x", o.digest.Sum(nil)); got != s.digest.Encoded() {
		return &CorruptError{Digest: s.digest, Source: s.sources.current()}
	}
	return nil
}

// fetched is told, on the owner goroutine, of a piece that is on disk with its
// hash. Hashes are signed a few at a time: at once when the last signature is
// old enough, else a moment later.
func (s *swarm) fetched(i int, h piece.Hash) {
	if _, twice := s.unsigned[i]; twice {
		return
	}
	s.unsigned[i] = h
	s.pending = append(s.pending, i)
	if s.withheld {
		return
	}
	// Each signature goes to every host: where they are many it has to be worth it.
	pause := min(max(30*time.Millisecond, time.Duration(len(s.members))*time.Millisecond), 200*time.Millisecond)
	if since := s.e.now() - s.lastSign; since >= pause {
		s.sign()
		return
	}
	if s.signTick == nil {
		s.signTick = time.AfterFunc(pause, func() { s.post(s.sign) })
	}
}

// originDone ends the seeder's download: the whole digest was right, or not.
func (s *swarm) originDone(err error) {
	s.origin = nil
	if s.withheld && err != nil {
		s.pending = nil
		clear(s.unsigned)
	}
	s.withheld = false
	s.sign()
	if err == nil {
		s.signFinal()
		s.settle(false)
		return
	}
	if errors.As(err, new(*CorruptError)) {
		if s.usedDurable.Load() {
			s.e.durable.Corrupt(s.sources.current(), s.digest)
		}
		s.corrupt(false)
		return
	}
	s.fail(fmt.Errorf("fetch %s: %w", s.digest, err))
}
