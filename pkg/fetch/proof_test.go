package fetch

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// A small blob that does not prove right in time is given as it comes.
func TestProofIsNotWaitedForLong(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(4 * mib)
	release := w.stalled(0.5)
	s := w.host(hostConfig{seeder: true, options: func(o *Options) { o.Gap = 2 * time.Second }})
	r, err := s.open(want)
	w.must(err)
	defer r.Close()
	head, err := readAt(r, 0, mib)
	if err != nil || !bytes.Equal(head, content[:mib]) {
		t.Errorf("%d bytes, %v", len(head), err)
	}
	if s.complete(want.Digest) {
		t.Error("complete before the upstream went on")
	}
	release()
}

// contract 17: a blob too large to be proved first may spoil one pull; after that
// clients get nothing of its upstream that has not proved right: neither of
// those who saw it nor of a peer that only meets the seeder. What is right
// comes all the same.
func TestDoubt(t *testing.T) {
	w := newWorld(t)
	wrong, _ := w.blob(provenFirst + mib)
	next, _ := w.blob(provenFirst + 2*mib)
	right, content := w.blob(provenFirst + 3*mib)
	for _, want := range []Want{wrong, next} {
		w.up.SetFault(want.Digest.String(), upstreamtest.Fault{Corrupt: true})
	}
	s, h, other := w.seeder(), w.peer(), w.host(hostConfig{lonely: true})
	w.connect(s, h, other)
	if _, err := h.read(wrong); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read wrong bytes: %v", err)
	}
	for _, x := range []*host{other, h, s} {
		got, err := x.read(next)
		if err == nil || len(got) > 0 {
			t.Errorf("%d wrong bytes after the first, %v", len(got), err)
		}
		if n := x.doubts.count(x.now()); n != 1 {
			t.Errorf("%d upstreams in doubt", n)
		}
	}
	if from := other.Totals().From; from.Seeder+from.Peers+from.Upstream > 0 {
		t.Errorf("a seeder in doubt gives what has not proved right: %+v", from)
	}
	for _, x := range []*host{other, h, s} {
		x.check(right, content)
	}
}

// While an upstream is in doubt a client is told in time that a blob of it has
// not proved right yet.
func TestDoubtDoesNotWait(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(4 * mib)
	release := w.stalled(0.5)
	s := w.seeder()
	s.doubt(want.Source)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, _, err := s.Open(ctx, t.Context(), want); !errors.Is(err, ErrUnavailable) {
		t.Errorf("opened: %v", err)
	}
	release()
	s.check(want, content)
}

func TestDoubtsEnd(t *testing.T) {
	var d doubts
	if d.about("a", 0) {
		t.Error("doubt without a reason")
	}
	if !d.note("a", time.Minute) || d.note("a", 2*time.Minute) {
		t.Error("a doubt is new once")
	}
	if now := time.Minute + doubtFor; !d.about("a", now) || d.about("b", now) || d.count(now) != 1 {
		t.Error("the last one counts, and for its upstream alone")
	}
	if now := 2*time.Minute + doubtFor; d.about("a", now) || d.count(now) != 0 || !d.note("a", now) {
		t.Error("it does not end")
	}
}
