package scrub

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/pkg/store"
)

// Store is what is scrubbed (*store.Store).
type Store interface {
	// Infos describes all blobs, ordered by digest.
	Infos() []store.Info
	// Stat describes one. Errors: store.ErrNotFound, store.ErrClosed.
	Stat(d digest.Digest) (store.Info, error)
	// Check hashes one; see store.Store.Check. Errors: store.ErrDamaged,
	// store.ErrClosed, pace's, or the system's.
	Check(d digest.Digest, pace func(n int) error) (read int64, err error)
}

// Options of a Scrubber. Store, Repair, Rate and File are required.
type Options struct {
	Store Store
	// Repair makes a damaged blob whole. What it returns is shown to operators.
	Repair func(context.Context, store.Info) error
	Every  time.Duration // from the beginning of a round to that of the next; 0: only Now begins one
	Rate   int64         // bytes a second
	File   string        // where it is noted how far a round is

	Log        *zap.Logger // default: none
	Registerer prometheus.Registerer
	Namespace  string
}

const (
	// step is the most that is read at once, in bytes: store.Check asks for that.
	step = 1 << 20
	// saveEvery is how often a round under way is noted. What a crash loses of it
	// is checked again.
	saveEvery = 10 * time.Second
	// tooMany failures one after the other are the disk's, not a blob's: the round
	// stops, before all content is set aside, and goes on after retryRound.
	tooMany    = 8
	retryRound = time.Hour
)

// Scrubber checks and repairs until it is closed. Safe for concurrent use.
type Scrubber struct {
	o       Options
	log     *zap.Logger
	m       *metrics
	pace    *rate.Limiter
	kick    chan struct{} // holds one, while wanted
	repairs *repairs
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	rec     record
	running bool
	wanted  bool      // a round is to begin now
	total   int64     // bytes that the round under way has to check, from its beginning on
	next    time.Time // when the next round begins; zero: when it is asked for
	err     error     // why the last round stopped
}

// Status is what a Scrubber does.
type Status struct {
	Running bool
	Next    time.Time // when a round begins by itself; zero while one is under way, or if none does
	Ended   time.Time // of the last round; the first start where there was none
	// Of the round under way, or the last one:
	Began        time.Time
	Blobs, Bytes int64 // checked
	Damaged      int64 // of them
	Total        int64 // bytes to check, where one is under way
	Err          error // why it stopped before its end
	Repairs      []Repair
}

// Start begins to scrub: where a round is due, or was under way when the process
// before ended. It must be closed.
func Start(o Options) (*Scrubber, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	s := &Scrubber{o: o, log: o.Log, kick: make(chan struct{}, 1), pace: rate.NewLimiter(rate.Limit(o.Rate), step)}
	var err error
	if s.rec, err = load(o.File); err != nil {
		s.log.Warn("it is not known when content was checked; it counts as checked now", zap.String("file", o.File), zap.Error(err))
	}
	if s.rec.Began.IsZero() { // what is there is new, or was never checked: the first round comes after the first pause
		s.rec.Began = time.Now()
		s.rec.Ended = s.rec.Began
		if err := s.rec.save(o.File); err != nil {
			return nil, fmt.Errorf("scrub: %w", err)
		}
	}
	s.repairs = newRepairs(s)
	s.m = newMetrics(s)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.run(ctx) })
	s.wg.Go(func() { s.repairs.run(ctx) })
	return s, nil
}

// Close ends what is under way and waits for it.
func (s *Scrubber) Close() {
	s.cancel()
	s.wg.Wait()
	s.m.unregister()
}

// Now begins a round, and has repairs tried that wait; false where a round is under way.
func (s *Scrubber) Now() bool {
	s.repairs.hurry()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return false
	}
	if !s.wanted {
		s.wanted = true
		s.kick <- struct{}{}
	}
	return true
}

// Status describes what is done and what is known.
func (s *Scrubber) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Running: s.running, Began: s.rec.Began, Ended: s.rec.Ended, Blobs: s.rec.Blobs, Bytes: s.rec.Bytes,
		Damaged: s.rec.Damaged, Err: s.err, Repairs: s.repairs.list()}
	if s.running {
		st.Total = s.total
	} else {
		st.Next = s.next
	}
	return st
}

// run does rounds until ctx ends.
func (s *Scrubber) run(ctx context.Context) {
	runtime.LockOSThread() // and not unlocked: the thread ends with its priority
	if err := lowerPriority(); err != nil {
		s.log.Info("scrubbing goes on at normal priority", zap.Error(err))
	}
	for ctx.Err() == nil {
		wait, ok := s.schedule()
		timer := time.NewTimer(wait)
		due := timer.C
		if !ok {
			due = nil
		}
		select {
		case <-due:
		case <-s.kick:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		s.round(ctx)
	}
}

// schedule says in how long the next round begins; not ok: only by Now.
func (s *Scrubber) schedule() (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case s.err != nil:
		s.next = now.Add(retryRound)
	case s.rec.Open: // it was interrupted
		s.next = now
	case s.o.Every > 0:
		s.next = s.rec.Began.Add(s.o.Every)
		if s.next.Before(now) {
			s.next = now
		}
	default:
		s.next = time.Time{}
		return 0, false
	}
	return s.next.Sub(now), true
}

// round checks everything that was complete when it began, or what is left of it.
func (s *Scrubber) round(ctx context.Context) {
	var todo []store.Info
	s.mu.Lock()
	if !s.rec.Open {
		s.rec = record{Began: time.Now(), Open: true, Ended: s.rec.Ended}
	}
	after := s.rec.Cursor
	select {
	case <-s.kick: // asked for while it was due
	default:
	}
	s.running, s.wanted, s.err, s.total = true, false, nil, s.rec.Bytes
	s.mu.Unlock()
	left := int64(0)
	for _, in := range s.o.Store.Infos() {
		if in.Complete && in.Digest > after {
			todo = append(todo, in)
			left += in.Size
		}
	}
	s.mu.Lock()
	s.total += left
	s.mu.Unlock()
	s.log.Info("scrub begins", zap.Int("blobs", len(todo)), zap.Int64("bytes", left), zap.Int64("rate", s.o.Rate), zap.Bool("resumed", after != ""))
	err := s.checkAll(ctx, todo)

	s.mu.Lock()
	s.running = false
	if err == nil {
		s.rec.Open, s.rec.Ended, s.rec.Cursor = false, time.Now(), ""
	} else if ctx.Err() == nil {
		s.err = err
	}
	rec := s.rec
	s.mu.Unlock()
	s.save(rec)
	switch {
	case err == nil:
		s.log.Info("scrub has ended", zap.Int64("blobs", rec.Blobs), zap.Int64("bytes", rec.Bytes), zap.Int64("damaged", rec.Damaged), zap.Duration("took", rec.Ended.Sub(rec.Began)))
	case ctx.Err() == nil:
		s.log.Error("scrub has stopped; look at the disk and its file system (dmesg, smartctl)", zap.Error(err), zap.Duration("again in", retryRound))
	}
}

func (s *Scrubber) checkAll(ctx context.Context, todo []store.Info) error {
	saved, failed := time.Now(), 0
	for _, in := range todo {
		err := s.check(ctx, in)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrClosed) && !errors.Is(err, store.ErrDamaged): // the store, not a blob
			return err
		case err == nil:
			failed = 0
		default:
			if failed++; failed == tooMany {
				return fmt.Errorf("%d blobs one after the other could not be checked, or are damaged: %w", failed, err)
			}
		}
		if time.Since(saved) >= saveEvery {
			saved = time.Now()
			s.mu.Lock()
			rec := s.rec
			s.mu.Unlock()
			s.save(rec)
		}
	}
	return nil
}

// check checks one blob, and has it repaired if need be.
func (s *Scrubber) check(ctx context.Context, in store.Info) error {
	read, err := s.o.Store.Check(in.Digest, func(n int) error { return s.pace.WaitN(ctx, n) })
	s.m.bytes.Add(float64(read))
	damaged := errors.Is(err, store.ErrDamaged)
	s.mu.Lock()
	s.rec.Bytes += read
	if ctx.Err() == nil {
		s.rec.Cursor = in.Digest
		s.rec.Blobs++
		if damaged {
			s.rec.Damaged++
		}
	}
	s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case damaged:
		s.m.blobs.WithLabelValues("damaged").Inc()
		s.repairs.add(in)
	case err != nil:
		s.m.blobs.WithLabelValues("failed").Inc()
		s.log.Warn("a blob could not be checked", zap.Stringer("digest", in.Digest), zap.Error(err))
	default:
		s.m.blobs.WithLabelValues("ok").Inc()
	}
	return err
}

func (s *Scrubber) save(rec record) {
	if err := rec.save(s.o.File); err != nil {
		s.log.Warn("cannot note what was checked; after a restart it is checked again", zap.Error(err))
	}
}
