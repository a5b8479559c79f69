package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// pieces is a PieceServer that a test puts before an engine's.
type pieces struct {
	p2p.PieceServer
	give func(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error)
}

func (p pieces) Give(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
	return p.give(ctx, from, a)
}

// A blob that came straight from the upstream is taken from its holder with
// no seeder and no upstream left, and read once its digest is right.
func TestUnsignedHolder(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(5*mib + 1)
	a := w.peer()
	a.check(want, content)
	w.until("commit", func() bool { return a.complete(want.Digest) })
	w.up.SetFault("blobs", dead)
	b := w.host(hostConfig{lonely: true})
	w.connect(a, b)
	b.check(want, content)
	if n := b.Totals().From.Peers; n != want.Size {
		t.Errorf("%d bytes from peers, want %d", n, want.Size)
	}
}

// A peer without a seeder gets everything from the upstream, a byte once, and
// hands it to its client as it comes.
func TestNoSeeder(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(20 * mib)
	release := w.stalled(0.3)
	h := w.peer()
	r, err := h.open(want)
	w.must(err)
	if got, err := readAt(r, 0, mib); err != nil || !bytes.Equal(got, content[:mib]) {
		t.Errorf("first bytes: %v", err)
	}
	r.Close()
	release()
	h.check(want, content)
	if n := h.Totals(); n.From.Upstream != want.Size || n.Wasted != 0 {
		t.Errorf("from the upstream %d of %d, wasted %d", n.From.Upstream, want.Size, n.Wasted)
	}
}

// The seeder dies after its pieces cover the blob between the peers, and no
// upstream is left: the peers finish among themselves.
func TestSeederGoneAfterCoverage(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(6 * mib)
	hosts := []*host{w.host(hostConfig{lonely: true}), w.host(hostConfig{lonely: true}), w.host(hostConfig{lonely: true})}
	var once sync.Once
	covered := make(chan struct{})
	s := w.host(hostConfig{seeder: true, pieces: func(e *Engine) p2p.PieceServer {
		return pieces{e, func(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
			if w.covered(want.Digest, hosts) {
				once.Do(func() { close(covered) })
				return nil, &p2p.BusyError{After: time.Minute}
			}
			return e.Give(ctx, from, a)
		}}
	}})
	w.mesh(hosts...)
	for _, h := range hosts {
		w.connect(h, s)
	}
	go func() {
		w.until("coverage", func() bool { return w.covered(want.Digest, hosts) })
		once.Do(func() { close(covered) })
	}()
	go all(hosts, func(h *host) { h.Prefetch(want) })
	<-covered
	s.close()
	all(hosts, func(h *host) { h.check(want, content) })
}

// The seeder dies in the middle, with half of the blob given: the peers get
// the rest from the upstream.
func TestSeederGoneWithoutCoverage(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(8 * mib)
	release := w.stalled(0.5)
	defer release()
	s := w.seeder()
	hosts := []*host{w.peer(), w.peer()}
	w.mesh(append(hosts, s)...)
	go func() {
		for _, h := range hosts {
			w.until("half of it", func() bool { return h.held(want.Digest) >= 14 })
		}
		s.close()
	}()
	all(hosts, func(h *host) { h.check(want, content) })
	for _, h := range hosts {
		if n := h.Totals().From.Seeder + h.Totals().From.Peers; n < 14*256*kib {
			t.Errorf("only %d bytes were had from the swarm", n)
		}
	}
}

// With nobody left the client is told so, well within its own patience.
func TestSeederGoneForGood(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, _ := w.blob(4 * mib)
	release := w.stalled(0.5)
	s, h := w.seeder(), w.host(hostConfig{lonely: true})
	w.connect(h, s)
	r, err := h.open(want)
	w.must(err)
	defer r.Close()
	w.until("some of it", func() bool { return h.held(want.Digest) >= 4 })
	s.close()
	release()
	start := time.Now()
	_, err = io.Copy(io.Discard, r) // calls WriteTo
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("read: %v, want ErrUnavailable", err)
	}
	if d := time.Since(start); d > 25*time.Second {
		t.Errorf("the client hung for %s", d)
	}
}

// A peer that restarts keeps its pieces and fetches only the rest.
func TestPeerRestarts(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(8 * mib)
	release := w.stalled(0.5)
	s, h := w.seeder(), w.host(hostConfig{lonely: true})
	w.connect(h, s)
	h.Prefetch(want)
	w.until("half of it", func() bool { return h.held(want.Digest) >= 14 })
	h = h.again()
	held := h.held(want.Digest)
	if held < 14 {
		t.Fatalf("%d pieces survived the restart", held)
	}
	release()
	w.connect(h, s)
	h.check(want, content)
	if n := h.Totals().From.Seeder; n != want.Size-int64(held)*256*kib {
		t.Errorf("fetched %d bytes after the restart with %d pieces held", n, held)
	}
}

// Peers that were neighbours before either wanted the blob tell each other
// what they get, whoever began first.
func TestNeighboursOfOld(t *testing.T) {
	w := newWorld(t)
	for name, firstFed := range map[string]bool{"the first gives": true, "the second gives": false} {
		t.Run(name, func(t *testing.T) {
			want, content := w.blob(4 * mib)
			a, b := w.host(hostConfig{lonely: true}), w.host(hostConfig{lonely: true})
			fed := b.id
			if firstFed {
				fed = a.id
			}
			s := w.host(hostConfig{seeder: true, pieces: func(e *Engine) p2p.PieceServer {
				return pieces{e, func(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
					if from != fed {
						return nil, &p2p.BusyError{After: time.Second}
					}
					return e.Give(ctx, from, a)
				}}
			}})
			w.mesh(a, b, s)
			a.Prefetch(want)
			w.until("a has asked b", func() bool { x := a.find(want.Digest); return x != nil && x.nmembers.Load() >= 1 })
			all([]*host{a, b}, func(h *host) { h.check(want, content) })
		})
	}
}

// A revocation that somebody kept does not undo a pull.
func TestOldRevocation(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(4 * mib)
	release := w.stalled(0.5)
	s, h, mean := w.seeder(), w.host(hostConfig{lonely: true}), w.peer()
	w.mesh(s, h, mean)
	env, err := piece.SealRevocation(s.cfg.key, want.Digest)
	w.must(err)
	h.Prefetch(want)
	w.until("some of it", func() bool { return h.held(want.Digest) >= 4 })
	w.must(mean.node.Send(h.id, p2p.Revoke{Digest: want.Digest, Envelope: env}))
	w.must(mean.node.Send(h.id, p2p.Have{Digest: want.Digest})) // comes after it
	release()
	h.check(want, content)
	if n := h.Totals().From.Seeder; n != want.Size {
		t.Errorf("%d bytes from the seeder, want each once: %d", n, want.Size)
	}
}

// What a client reads of a growing blob can go out by sendfile.
var _ io.WriterTo = (*reader)(nil)

// Closing in the middle of everything leaves nothing behind (TestMain looks
// for goroutines) and does not wait for the network.
func TestCloseInTheMiddle(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, _ := w.blob(8 * mib)
	release := w.stalled(0.5)
	defer release()
	s, h, idle := w.seeder(), w.host(hostConfig{lonely: true}), w.host(hostConfig{lonely: true})
	w.mesh(s, h, idle)
	rs, err := s.open(want)
	w.must(err)
	rh, err := h.open(want)
	w.must(err)
	for range 8 {
		other, _ := w.blob(2 * mib)
		idle.Prefetch(other)
	}
	w.until("some of it", func() bool { return h.held(want.Digest) >= 4 })
	errs := make(chan error, 2)
	for _, r := range []io.Reader{rs, rh} {
		go func() {
			_, err := io.ReadAll(r)
			errs <- err
		}()
	}
	start := time.Now()
	for _, x := range []*host{h, s, idle} {
		x.close()
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("closing took %s", d)
	}
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("a client took half a blob for a whole one")
		}
	}
	rs.Close()
	rh.Close()
	if _, err := h.open(want); !errors.Is(err, ErrStopped) && err == nil {
		t.Errorf("open after Close: %v", err)
	}
}

// A transfer that is slow but moves is left to end: what is asked twice is one
// urgent piece or two.
func TestSlowTransfer(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(mib + 100)
	var mu sync.Mutex
	given := 0
	s := w.host(hostConfig{seeder: true, pieces: func(e *Engine) p2p.PieceServer {
		return pieces{e, func(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
			gift, err := e.Give(ctx, from, a)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			given += len(gift.Pieces)
			mu.Unlock()
			body := gift.Body
			gift.Body = func(w io.Writer) (int64, error) { return body(&trickle{w, ctx}) }
			return gift, nil
		}}
	}})
	s.check(want, content)
	h := w.host(hostConfig{lonely: true})
	w.connect(h, s)
	h.check(want, content)
	mu.Lock()
	defer mu.Unlock()
	if given > 7 {
		t.Errorf("%d pieces were given, want 5 and a few", given)
	}
}

// trickle writes 32 KiB every 800 ms: a piece takes 6.4 s, longer than a
// transfer may stand still.
type trickle struct {
	w   io.Writer
	ctx context.Context
}

func (s *trickle) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		if !sleep(s.ctx, 800*time.Millisecond) {
			return n, s.ctx.Err()
		}
		var m int
		m, err = s.w.Write(p[:min(len(p), 32*kib)])
		n, p = n+m, p[m:]
	}
	return n, err
}
