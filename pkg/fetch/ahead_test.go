package fetch

import (
	"context"
	"errors"
	"testing"
	"time"
)

// What is fetched ahead is whole when Ahead returns, small blobs too, at its pace;
// a client that wants it lifts the pace.
func TestAhead(t *testing.T) {
	w := newWorld(t)
	seeder, peer := w.seeder(), w.peer()
	w.mesh(seeder, peer)
	large, content := w.blob(12 * mib)
	small, _ := w.blob(10 * kib)
	const rate = 4 * mib
	paced := large
	paced.Pace = NewPace(rate)
	began := time.Now()
	if err := peer.Ahead(t.Context(), paced, small); err != nil {
		t.Fatal(err)
	}
	// The first burst is free.
	if took, least := time.Since(began), (12*mib-paced.Pace.Burst())*9/10; took < time.Duration(least)*time.Second/rate {
		t.Errorf("12 MiB at 4 MiB/s came in %s", took)
	}
	if !peer.complete(large.Digest) {
		t.Error("it is not whole")
	}
	if _, _, err := peer.Held(small.Digest, mib); err != nil {
		t.Error(err)
	}
	if err := peer.Ahead(t.Context(), paced, small); err != nil {
		t.Errorf("what is there: %v", err)
	}
	peer.check(large, content)

	slow, content := w.blob(24 * mib)
	slow.Pace = NewPace(1)
	if !slow.Pace.AllowN(time.Now(), slow.Pace.Burst()) {
		t.Fatal("no first burst")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- peer.Ahead(ctx, slow) }()
	w.until("a swarm", func() bool { return peer.find(slow.Digest) != nil })
	fast := slow
	fast.Pace = nil
	peer.check(fast, content) // it would take months
	if err := <-ended; err != nil {
		t.Error(err)
	}
	cancel()

	given, _ := w.blob(24 * mib)
	given.Pace = slow.Pace
	ctx, cancel = context.WithCancel(t.Context())
	go func() { ended <- peer.Ahead(ctx, given) }()
	w.until("a swarm", func() bool { return peer.find(given.Digest) != nil })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.until("given up", func() bool { s := peer.find(given.Digest); return s == nil || peer.held(given.Digest) == 0 })
}
