package objectstore

import (
	"fmt"
	"sync"
	"time"
)

// How often in a row the store fails before it is left alone, and for how long.
const (
	restAfter = 3
	restTime  = 3 * time.Second
)

// rest leaves a store alone that fails, so that those who could do without it
// need not wait for it each time. The first call after a pause is the probe.
type rest struct {
	mu    sync.Mutex
	fails int
	until time.Time
	last  error
}

// err is why nothing is to be asked now; nil: ask.
func (r *rest) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails < restAfter || time.Now().After(r.until) {
		return nil
	}
	return fmt.Errorf("it failed %d times in a row and is left alone for a moment; the last time: %w", r.fails, r.last)
}

func (r *rest) judge(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && KindOf(err) == Canceled:
	case err != nil && KindOf(err) == Unavailable:
		r.fails++
		r.last, r.until = err, time.Now().Add(restTime)
	default:
		r.fails = 0
	}
}
