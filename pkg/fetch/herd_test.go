package fetch

import (
	"io"
	"testing"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// The whole point: hosts that pull the same blob at the same moment, each
// knowing only the seeder, take one copy out of the upstream and about one out
// of the seeder.
func TestHerd(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(24 * mib)
	s := w.seeder()
	var hosts []*host
	for range 5 {
		h := w.peer()
		w.connect(h, s)
		hosts = append(hosts, h)
	}
	all(hosts, func(h *host) { h.check(want, content) })
	for i, h := range hosts {
		w.until("commit", func() bool { return h.complete(want.Digest) })
		tot := h.Totals()
		t.Logf("host %d: from seeder %.2f, peers %.2f, upstream %.2f, wasted %d", i,
			share(tot.From.Seeder, want.Size), share(tot.From.Peers, want.Size), share(tot.From.Upstream, want.Size), tot.Wasted)
		if tot.From.Upstream != 0 {
			t.Errorf("host %d took %d bytes from the upstream", i, tot.From.Upstream)
		}
	}
	if n := w.up.BytesServed(want.Digest); n != want.Size {
		t.Errorf("upstream served %d bytes, want %d: one image", n, want.Size)
	}
	if x := share(s.Totals().To, want.Size); x > 1.6 {
		t.Errorf("seeder gave %.2f images", x)
	} else {
		t.Logf("seeder gave %.2f images", x)
	}
}

func share(n, of int64) float64 { return float64(n) / float64(of) }

// A client reads the first bytes while the rest is still at the upstream.
func TestFirstBytesBeforeTheEnd(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(provenFirst + 8*mib)
	release := make(chan struct{})
	w.up.SetFault("blobs", upstreamtest.Fault{Stall: 0.5, Release: release, Times: 1})
	s, h := w.seeder(), w.peer()
	w.connect(h, s)
	for _, x := range []*host{s, h} {
		r, err := x.open(want)
		w.must(err)
		head := make([]byte, mib)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		if string(head) != string(content[:mib]) {
			t.Error("wrong first bytes")
		}
		r.Close()
	}
	if s.complete(want.Digest) || h.complete(want.Digest) {
		t.Error("complete before the upstream went on")
	}
	close(release)
	h.check(want, content)
}
