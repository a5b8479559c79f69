package fetch

import (
	"context"
	"sync"
	"time"
)

// turns shares a seeder's link to one upstream among the large blobs that it fetches
// at once. Every blob's head comes at once, so that a client's first bytes do
// not stand behind somebody else's gigabytes; the rest is fetched a few blobs
// at a time, those that came first first. Two streams may keep their turn to
// the end; the other turns are short and go round, so that no blob stands
// still for long however many there are.
type turns struct {
	mu    sync.Mutex
	free  int
	queue []chan struct{} // waiting, the oldest first; closed when it is their turn
	rate  float64         // bytes per second of one stream, moving average
}

const (
	turnStreams = 3              // large blobs fetched at once
	turnLong    = 2              // of them without a bound
	turnTime    = time.Second    // how long a bounded turn should take
	turnFirst   = 4 << 20        // its bytes as long as the rate is not known
	turnMost    = 64 << 20       // and at most
	turnHead    = int64(1 << 20) // bytes of a blob that need no turn
)

// allTurns has the turns of each upstream: one that hangs must not hold up the
// others.
type allTurns struct {
	mu sync.Mutex
	by map[string]*turns
}

func (a *allTurns) of(upstream string) *turns {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.by[upstream]
	if t == nil {
		if a.by == nil {
			a.by = make(map[string]*turns)
		}
		t = newTurns()
		a.by[upstream] = t
	}
	return t
}

func newTurns() *turns { return &turns{free: turnStreams} }

// try takes a turn if one is free now.
func (t *turns) try() (bounded, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free == 0 {
		return false, false
	}
	t.free--
	return t.free < turnStreams-turnLong, true
}

// take waits for a turn. bounded: it should end after limit bytes.
func (t *turns) take(ctx context.Context) (bounded bool, err error) {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		bounded = t.free < turnStreams-turnLong
		t.mu.Unlock()
		return bounded, nil
	}
	mine := make(chan struct{})
	t.queue = append(t.queue, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return true, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, ch := range t.queue {
		if ch == mine {
			t.queue = append(t.queue[:k], t.queue[k+1:]...)
			return false, ctx.Err()
		}
	}
	t.pass() // it was our turn at the same moment
	return false, ctx.Err()
}

// give ends a turn that brought n bytes in d.
func (t *turns) give(n int64, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d > 0 && n > 0 {
		r := float64(n) / d.Seconds()
		if t.rate == 0 {
			t.rate = r
		}
		t.rate += (r - t.rate) / 4
	}
	t.pass()
}

// pass hands a turn on; t.mu is held.
func (t *turns) pass() {
	if len(t.queue) == 0 {
		t.free++
		return
	}
	close(t.queue[0])
	t.queue = t.queue[1:]
}

// limit is how many bytes a bounded turn takes.
func (t *turns) limit() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate == 0 {
		return turnFirst
	}
	return min(int64(t.rate*turnTime.Seconds()), turnMost)
}
