package fetch

import (
	"context"
	"runtime"
	"testing"
	"time"
)

// Two streams may keep their turn, the third goes round in the order asked.
func TestTurns(t *testing.T) {
	ctx := context.Background()
	ts := newTurns()
	for i, want := range []bool{false, false, true} {
		bounded, err := ts.take(ctx)
		if err != nil || bounded != want {
			t.Fatalf("turn %d: bounded %v, err %v; want bounded %v", i, bounded, err, want)
		}
	}
	if _, ok := ts.try(); ok {
		t.Fatal("a fourth turn was given")
	}
	order := make(chan int, 2)
	waiting := func(n int) {
		for {
			ts.mu.Lock()
			k := len(ts.queue)
			ts.mu.Unlock()
			if k == n {
				return
			}
			runtime.Gosched()
		}
	}
	for i := range 2 {
		go func() {
			if bounded, err := ts.take(ctx); err != nil || !bounded {
				t.Errorf("waiting turn %d: bounded %v, err %v", i, bounded, err)
			}
			order <- i
		}()
		waiting(i + 1)
	}
	// One that gives up in the queue does not take a turn away.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := ts.take(gone); err == nil {
		t.Fatal("a turn was given to one that had gone")
	}
	for i := range 2 {
		ts.give(1000, time.Second)
		if got := <-order; got != i {
			t.Fatalf("turn of waiter %d, want %d", got, i)
		}
	}
	for range 3 {
		ts.give(1000, time.Second)
	}
	if ts.free != turnStreams || len(ts.queue) != 0 {
		t.Fatalf("%d turns free, %d waiting; want %d and 0", ts.free, len(ts.queue), turnStreams)
	}
	if got := ts.limit(); got != 1000 {
		t.Fatalf("limit %d, want one second's bytes, 1000", got)
	}
}
