package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStalled ends a transfer that does not move.
var ErrStalled = errors.New("p2p: transfer stalled")

// watchdog cancels a transfer in which no byte moves for idle.
type watchdog struct {
	idle    time.Duration
	ctx     context.Context
	cancel  context.CancelCauseFunc
	release func() bool
	begin   time.Time
	last    atomic.Int64 // of the last byte, nanoseconds since begin

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

func (w *watchdog) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin = time.Now()
	w.timer = time.AfterFunc(w.idle, w.bark)
}

func (w *watchdog) bark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	still := time.Since(w.begin) - time.Duration(w.last.Load())
	switch {
	case w.stopped:
	case still >= w.idle:
		w.cancel(fmt.Errorf("%w: no byte for %s", ErrStalled, w.idle))
	default:
		w.timer.Reset(w.idle - still)
	}
}

func (w *watchdog) moved() { w.last.Store(int64(time.Since(w.begin))) }

// Write lets a watchdog watch an io.TeeReader.
func (w *watchdog) Write(b []byte) (int, error) {
	w.moved()
	return len(b), nil
}

func (w *watchdog) stop() {
	w.mu.Lock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	w.release()
	w.cancel(context.Canceled)
}

// explain returns the reason why the transfer was cancelled, if it was.
func (w *watchdog) explain(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}
