package fetch

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
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
	if ts.free != 0 {
		t.Fatalf("%d turns are left", ts.free)
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

// A client whose blob waits behind others for its turn is not left waiting:
// after a while its pieces come out of order.
func TestReaderBehindATurn(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	s := w.seeder()
	var release []func()
	for range turnStreams {
		other, _ := w.blob(6 * mib)
		ch := make(chan struct{})
		w.up.SetFault(other.Digest.String(), upstreamtest.Fault{Method: "GET", Stall: 0.5, Release: ch, Times: 1})
		release = append(release, func() { close(ch) })
		s.Prefetch(other)
		w.until("it has its turn", func() bool { return s.held(other.Digest) >= 8 })
	}
	want, content := w.blob(8 * mib)
	s.check(want, content)
	for _, f := range release {
		f()
	}
	w.until("all of them", func() bool {
		for _, b := range s.Blobs() {
			if b.State != "complete" {
				return false
			}
		}
		return true
	})
	if free := s.turns.of(source.Upstream).free; free != turnStreams {
		t.Errorf("%d turns are free in the end", free)
	}
	if s.turns.of("other") == s.turns.of(source.Upstream) {
		t.Error("upstreams share their turns")
	}
}

// A first piece on its way holds back the turns that are still to be given.
func TestTurnsHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTurns()
		for _, ends := range []bool{true, false} { // or it is waited for no longer than headWait
			done := ts.head()
			began := time.Now()
			if ends {
				time.AfterFunc(100*time.Millisecond, done)
			}
			if _, err := ts.take(context.Background()); err != nil {
				t.Fatal(err)
			}
			want := headWait
			if ends {
				want = 100 * time.Millisecond
			}
			if got := time.Since(began); got != want {
				t.Errorf("the turn came after %v, want %v", got, want)
			}
			done()
			ts.give(0, 0)
		}
		if ts.heads != 0 || ts.free != turnStreams {
			t.Errorf("%d heads, %d turns free at the end", ts.heads, ts.free)
		}
	})
}
