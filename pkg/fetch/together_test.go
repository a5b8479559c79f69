package fetch

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// blobs makes small blobs at the upstream.
func (w *world) blobs(n int) (wants []Want, contents [][]byte) {
	for i := range n {
		want, content := w.blob(1 + 997*i%(60*kib))
		wants, contents = append(wants, want), append(contents, content)
	}
	return wants, contents
}

// counting counts the requests that reach a host's engine.
type counting struct {
	*Engine
	batches  atomic.Int64
	contents func(ctx context.Context) error // nil: the engine's
}

func (c *counting) Contents(ctx context.Context, from peer.ID, ds []digest.Digest, w p2p.ContentsWriter) error {
	c.batches.Add(1)
	if c.contents != nil {
		return c.contents(ctx)
	}
	return c.Engine.Contents(ctx, from, ds, w)
}

func (c *counting) one(e *Engine) p2p.PieceServer {
	c.Engine = e
	return c
}

// The small blobs of an image come in one request, once from the upstream, for
// a herd of hosts; clients that ask meanwhile share in that.
func TestTogether(t *testing.T) {
	w := newWorld(t)
	c := &counting{}
	s := w.host(hostConfig{seeder: true, pieces: c.one})
	wants, contents := w.blobs(40)
	large, content := w.blob(2 * mib)
	everything := append(slices.Clone(wants), large)
	var hosts []*host
	for range 3 {
		h := w.host(hostConfig{lonely: true})
		w.connect(h, s)
		hosts = append(hosts, h)
	}
	all(hosts, func(h *host) {
		h.Prefetch(everything...)
		for i := range wants {
			h.check(wants[i], contents[i])
		}
		h.check(large, content)
	})
	for i := range wants {
		if n := w.up.BytesServed(wants[i].Digest); n != wants[i].Size {
			t.Errorf("blob %d: the upstream served %d of %d bytes", i, n, wants[i].Size)
		}
	}
	if n := c.batches.Load(); n != int64(len(hosts)) {
		t.Errorf("%d requests for all together, want one for each host", n)
	}
	for _, h := range hosts {
		for _, want := range wants {
			w.until("kept", func() bool { return h.complete(want.Digest) })
		}
		h.Prefetch(wants...) // all are here
	}
	if n := c.batches.Load(); n != int64(len(hosts)) {
		t.Errorf("%d requests after a second look", n)
	}
}

// What a seeder cannot give together is fetched all the same: from others
// together, or one by one.
func TestTogetherTroubles(t *testing.T) {
	for name, answer := range map[string]func(context.Context) error{
		"another version": func(context.Context) error { return p2p.ErrNotHeld },
		"failing":         func(context.Context) error { return errors.New("out of order") },
		"hanging":         func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			wants, contents := w.blobs(10)
			c := &counting{contents: answer}
			s, h := w.host(hostConfig{seeder: true, pieces: c.one}), w.host(hostConfig{lonely: true})
			w.connect(h, s)
			began := time.Now()
			h.Prefetch(wants...)
			for i := range wants {
				h.check(wants[i], contents[i])
			}
			if d := time.Since(began); d > 30*time.Second {
				t.Errorf("it took %s", d)
			}
			if c.batches.Load() == 0 {
				t.Error("they were not asked for together")
			}
		})
	}
}

// Without a seeder a neighbour gives what it holds, and nothing else.
func TestTogetherFromNeighbours(t *testing.T) {
	w := newWorld(t)
	wants, contents := w.blobs(10)
	c := &counting{}
	holder := w.host(hostConfig{lonely: true, pieces: c.one})
	for _, content := range contents[:7] {
		holder.fill(content)
	}
	h := w.peer()
	w.connect(h, holder)
	h.Prefetch(wants...)
	for i := range wants {
		h.check(wants[i], contents[i])
		from := int64(0)
		if i >= 7 {
			from = wants[i].Size
		}
		if n := w.up.BytesServed(wants[i].Digest); n != from {
			t.Errorf("blob %d: the upstream served %d bytes, want %d", i, n, from)
		}
	}
	if n := c.batches.Load(); n != 1 {
		t.Errorf("the neighbour was asked %d times", n)
	}
}

// wrongContents gives wrong bytes for the last of the blobs.
type wrongContents struct{ *Engine }

func (g wrongContents) Contents(_ context.Context, _ peer.ID, ds []digest.Digest, w p2p.ContentsWriter) error {
	return w.Give(len(ds)-1, []byte("something else"), "")
}

// A liar is named and banned, and its bytes are not kept.
func TestTogetherLiar(t *testing.T) {
	w := newWorld(t)
	wants, contents := w.blobs(5)
	l := w.host(hostConfig{lonely: true, pieces: func(e *Engine) p2p.PieceServer { return wrongContents{e} }})
	h := w.peer()
	w.connect(h, l)
	h.Prefetch(wants...)
	for i := range wants {
		h.check(wants[i], contents[i])
	}
	if k := h.known(l.id); k.Bad == 0 || k.BannedUntil.IsZero() {
		t.Errorf("the liar is not named: %+v", k)
	}
}

// A seeder that cannot have a blob leaves it out; callers get the reason.
func TestTogetherNotThere(t *testing.T) {
	w := newWorld(t)
	wants, contents := w.blobs(4)
	w.up.SetFault(string(wants[1].Digest), upstreamtest.Fault{Status: 404})
	s, h := w.seeder(), w.host(hostConfig{lonely: true})
	w.connect(h, s)
	h.Prefetch(wants...)
	for i := range wants {
		if i == 1 {
			if _, err := h.read(wants[i]); !errors.Is(err, ErrUnavailable) {
				t.Errorf("what is nowhere: %v", err)
			}
			continue
		}
		h.check(wants[i], contents[i])
	}
}

// An engine that is closed with fetches under way ends them.
func TestTogetherClose(t *testing.T) {
	w := newWorld(t)
	wants, _ := w.blobs(20)
	release := w.stalled(0.5)
	defer release()
	c := &counting{contents: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	s, h := w.host(hostConfig{seeder: true, pieces: c.one}), w.peer()
	w.connect(h, s)
	h.Prefetch(wants...)
	w.until("asked", func() bool { return c.batches.Load() > 0 })
	waiting := make(chan error, 1)
	go func() {
		_, err := h.Small(context.Background(), wants[0], SmallBlob)
		waiting <- err
	}()
	h.close()
	if err := <-waiting; err == nil {
		t.Error("a blob came out of nowhere")
	}
	h.Prefetch(wants...)
	if _, err := h.Small(context.Background(), wants[0], SmallBlob); !errors.Is(err, ErrStopped) {
		t.Errorf("after Close: %v", err)
	}
}

// A client that wants what comes late in a long answer does not wait for all.
func TestTogetherHurry(t *testing.T) {
	w := newWorld(t)
	wants, contents := w.blobs(hurryPast + 10)
	stop := make(chan struct{})
	c := &counting{contents: func(ctx context.Context) error { // gives nothing, and goes on for long
		select {
		case <-stop:
		case <-ctx.Done():
		}
		return nil
	}}
	s, h := w.host(hostConfig{seeder: true, pieces: c.one}), w.host(hostConfig{lonely: true})
	w.connect(h, s)
	h.Prefetch(wants...)
	w.until("asked", func() bool { return c.batches.Load() > 0 })
	last := len(wants) - 1
	h.check(wants[last], contents[last])
	close(stop)
	for i := range wants {
		h.check(wants[i], contents[i])
	}
	if n := w.up.BytesServed(wants[last].Digest); n != wants[last].Size {
		t.Errorf("the upstream served %d of %d bytes of the hurried one", n, wants[last].Size)
	}
}
