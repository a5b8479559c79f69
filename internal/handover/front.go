package handover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// settleWithin is how long requests may take to notice that their stage is
	// over. Those that wait for a slow client notice later, and are none the
	// worse for it.
	settleWithin = 2 * time.Second
	// resumeWithin is how long the rest of a body is asked for: a stage that has
	// just begun may have to find its peers first. Contract 13 allows 10 s.
	resumeWithin = 8 * time.Second
	resumeEvery  = 100 * time.Millisecond
)

var (
	// errStageOver interrupts what is to be continued elsewhere.
	errStageOver = errors.New("handover: this goes on elsewhere")
	errStopped   = errors.New("handover: the process stops")
)

// front holds the connections of clients over all turns of a process, and has
// their requests answered by whoever can: the stage.
type front struct {
	log    *zap.Logger
	server *http.Server
	relays *connQueue
	tls    atomic.Pointer[tls.Config] // of the current turn
	failed chan error                 // from the server, where it ends by itself
	resume time.Duration              // resumeWithin
	ended  sync.WaitGroup

	mu      sync.Mutex
	stage   *stage        // nil between two of them: requests wait
	changed chan struct{} // closed when stage changes
	stopped bool
	last    time.Time // when a request that Service.Linger wants ended
}

// stage is who answers requests.
type stage struct {
	whole     http.Handler
	continued http.Handler // for the rest of bodies that whole, or an earlier stage, had begun
	relay     bool         // by another process
	lingers   func(*http.Request) bool
	ctx       context.Context
	end       context.CancelCauseFunc

	// Guarded by front.mu.
	active  int           // requests
	writes  int           // of them those that change something
	hold    bool          // no more of these
	changed chan struct{} // has a token after one ended
}

func newStage(whole, continued http.Handler) *stage {
	s := &stage{whole: whole, continued: continued, changed: make(chan struct{}, 1)}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	return s
}

// over tells whether requests are to be continued elsewhere.
func (s *stage) over() bool { return errors.Is(context.Cause(s.ctx), errStageOver) }

func newFront(log *zap.Logger) *front {
	f := &front{log: log, relays: newConnQueue(), failed: make(chan error, 2), resume: resumeWithin, changed: make(chan struct{})}
	f.server = &http.Server{
		Handler:           f,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       markRelayed,
		ErrorLog:          zap.NewStdLog(log.Named("http")),
	}
	return f
}

// listen begins to take connections. With TLS, how is the current turn's to say.
func (f *front) listen(ln net.Listener, secure bool) {
	if secure {
		ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c := f.tls.Load()
			if c.GetConfigForClient != nil {
				return c.GetConfigForClient(hello)
			}
			return c, nil
		}})
	}
	for _, l := range []net.Listener{ln, f.relays} {
		f.ended.Go(func() {
			if err := f.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				f.failed <- err
			}
		})
	}
}

// begin makes s the stage. Requests that waited for one go on.
func (f *front) begin(s *stage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stage = s
	f.changedLocked()
}

func (f *front) changedLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// freeze ends the stage. Requests that change something may finish within the
// grace, while others are still answered; then all that has not ended waits for
// the next stage.
func (f *front) freeze(grace time.Duration) {
	f.mu.Lock()
	s := f.stage
	s.hold = true
	f.mu.Unlock()
	if !f.await(s, grace, func() bool { return s.writes == 0 }) {
		f.log.Warn("requests that change something are cut off: the grace is over", zap.Duration("grace", grace))
	}
	f.mu.Lock()
	f.stage = nil
	f.changedLocked()
	f.mu.Unlock()
	s.end(errStageOver)
	f.await(s, settleWithin, func() bool { return s.active == 0 })
}

// await waits until done is true of the stage, which it calls with f.mu held;
// false where that takes longer than d. 0 is for ever.
func (f *front) await(s *stage, d time.Duration, done func() bool) bool {
	var late <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	for {
		f.mu.Lock()
		ok := done()
		f.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-s.changed:
		case <-late:
			return false
		}
	}
}

// enter waits for a stage that takes a request. Errors: errStopped, ctx's.
func (f *front) enter(ctx context.Context, writes bool) (*stage, error) {
	for {
		f.mu.Lock()
		s, changed := f.stage, f.changed
		if f.stopped {
			f.mu.Unlock()
			return nil, errStopped
		}
		if s != nil && (!writes || !s.hold) {
			s.active++
			if writes {
				s.writes++
			}
			f.mu.Unlock()
			return s, nil
		}
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (f *front) leave(s *stage, r *http.Request, writes bool) {
	f.mu.Lock()
	s.active--
	if writes {
		s.writes--
	}
	if s.lingers != nil && s.lingers(r) {
		f.last = time.Now()
	}
	f.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, err := newExchange(w, r)
	if err != nil { // of a relay, which speaks another language
		f.log.Error("a relayed request is not understood", zap.Error(err))
		panic(http.ErrAbortHandler)
	}
	for {
		s, err := f.enter(r.Context(), q.writes())
		if err == nil {
			func() {
				defer f.leave(s, q.r, q.writes())
				err = q.attempt(s)
			}()
		}
		switch {
		case err == nil:
			return
		case errors.Is(err, errRefused) && q.wait(r.Context(), f.resume), errors.Is(err, errStageOver):
			// The next stage, or the same once more.
		case r.Context().Err() != nil: // the client left
			panic(http.ErrAbortHandler)
		case q.begun() && q.length >= 0:
			f.log.Warn("the rest of a body could not be had after a hand-over", zap.String("path", r.URL.Path), zap.Int64("sent", q.sent), zap.Error(err))
			return // short of its length, with a FIN (contract 14)
		default:
			panic(http.ErrAbortHandler)
		}
	}
}

// stop takes no more connections, lets requests under way finish within the
// grace, cuts off those that do not, and waits for all of them.
func (f *front) stop(ctx context.Context, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err := f.server.Shutdown(ctx)
	f.mu.Lock()
	s := f.stage
	f.mu.Unlock()
	if err != nil {
		f.log.Warn("requests were cut off: the grace is over", zap.Error(err))
		if s != nil {
			s.end(errStopped)
		}
		_ = f.server.Close()
	}
	f.mu.Lock()
	f.stopped, f.stage = true, nil
	f.changedLocked()
	f.mu.Unlock()
	if s != nil {
		f.await(s, 0, func() bool { return s.active == 0 })
		s.end(errStopped)
	}
	f.ended.Wait()
	select {
	case err := <-f.failed:
		f.log.Warn("the registry API ended badly", zap.Error(err))
	default:
	}
}

// quiet waits until nobody has asked for a while for what lingers, at most until
// ctx ends.
func (f *front) quiet(ctx context.Context, while time.Duration) {
	t := time.NewTicker(max(time.Millisecond, min(while/10, 100*time.Millisecond)))
	defer t.Stop()
	for {
		f.mu.Lock()
		busy := f.stage != nil && f.stage.active > 0 || time.Since(f.last) < while
		f.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// serverError names the socket whose server ended by itself.
func serverError(addr string, err error) error { return fmt.Errorf("--listen %s: %w", addr, err) }
