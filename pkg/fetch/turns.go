package fetch

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turns shares a seeder's link to one upstream among the blobs that it fetches
// at once. The first piece of every blob comes before all else, so that a
// client's first byte does not stand behind somebody else's gigabytes; the rest
// of large blobs is fetched a few at a time, those that came first first. Two
// streams may keep their turn to the end; the other turns are short and go
// round, so that no blob stands still for long however many there are.
type turns struct {
	mu    sync.Mutex
	free  int
	heads int             // first pieces on their way
	queue []chan struct{} // waiting, the oldest first; closed when it is their turn
	rate  float64         // bytes per second of one stream, moving average
}

const (
	turnStreams = 3           // large blobs fetched at once
	turnLong    = 2           // of them without a bound
	turnTime    = time.Second // how long a bounded turn should take
	turnFirst   = 4 << 20     // its bytes as long as the rate is not known
	turnMost    = 64 << 20    // and at most
	turnless    = 8 << 20     // a blob up to this size needs none, in bytes
	headWait    = time.Second // and no turn waits longer for the first piece of another blob
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

// head announces a first piece. The caller calls done when it has come.
func (t *turns) head() (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heads++
	once := sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.heads--
		t.grant()
	})
	timer := time.AfterFunc(headWait, once)
	return func() {
		timer.Stop()
		once()
	}
}

// alone takes a turn for a blob that is the only one; it needs no head then.
func (t *turns) alone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heads > 0 || t.free < turnStreams || len(t.queue) > 0 {
		return false
	}
	t.free--
	return true
}

// take waits for a turn. bounded: it should end after limit bytes.
func (t *turns) take(ctx context.Context) (bounded bool, err error) {
	mine := make(chan struct{})
	t.mu.Lock()
	t.queue = append(t.queue, mine)
	t.grant()
	t.mu.Unlock()
	select {
	case <-mine:
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		if k := slices.Index(t.queue, mine); k >= 0 {
			t.queue = slices.Delete(t.queue, k, k+1)
		} else { // it was our turn at the same moment
			t.free++
			t.grant()
		}
		return false, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.free < turnStreams-turnLong || len(t.queue) > 0, nil
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
	t.free++
	t.grant()
}

// grant hands out the turns that are free; t.mu is held.
func (t *turns) grant() {
	for t.free > 0 && t.heads == 0 && len(t.queue) > 0 {
		t.free--
		close(t.queue[0])
		t.queue = t.queue[1:]
	}
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
