package fetch

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// liar is a host that says of every blob that it holds it, and sends noise.
type liar struct {
	*host
	mu    sync.Mutex
	asked int
}

func (w *world) liar(c hostConfig) *liar {
	l := &liar{}
	c.handler = func(e *Engine) p2p.Handler { return liarHandler{e, l} }
	c.pieces = func(e *Engine) p2p.PieceServer { return liarPieces{l} }
	l.host = w.host(c)
	return l
}

func (l *liar) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

type liarHandler struct {
	*Engine
	l *liar
}

func (h liarHandler) Message(from peer.ID, m p2p.Message) {
	if j, ok := m.(p2p.Join); ok {
		_ = h.l.node.Send(from, p2p.State{Digest: j.Digest, Size: j.Size, Complete: true})
	}
}

type liarPieces struct{ l *liar }

func (p liarPieces) Give(_ context.Context, _ peer.ID, a p2p.Ask) (*p2p.Gift, error) {
	p.l.mu.Lock()
	p.l.asked++
	p.l.mu.Unlock()
	size := int64(len(p.l.w.up.Blob(a.Digest)))
	g, err := piece.GeometryOf(size)
	if err != nil {
		return nil, err
	}
	give := a.Pieces
	for i := 0; len(a.Any) > 0 && i < g.Count() && len(give) < a.Max; i++ {
		if a.Any[i>>3]&(0x80>>(i&7)) != 0 {
			give = append(give, i)
		}
	}
	gift := &p2p.Gift{Pieces: give}
	total := 0
	for _, i := range give {
		gift.Lengths = append(gift.Lengths, g.Len(i))
		total += g.Len(i)
	}
	gift.Body = func(w io.Writer) (int64, error) { return io.Copy(w, bytes.NewReader(noise(total))) }
	return gift, nil
}

func (p liarPieces) Content(_ context.Context, _ peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	p.l.mu.Lock()
	p.l.asked++
	p.l.mu.Unlock()
	b := noise(len(p.l.w.up.Blob(d)))
	return memory{bytes.NewReader(b)}, int64(len(b)), "", nil
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(b)
	return b
}

// contract 17: a peer that sends wrong bytes: none of them is kept, it is named, and not
// asked again; also where it calls itself a seeder.
func TestLiar(t *testing.T) {
	for name, hello := range map[string]bool{"peer": false, "false seeder": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			want, content := w.blob(8 * mib)
			l := w.liar(hostConfig{hello: hello})
			// The seeder gives nothing before the liar was asked.
			s := w.host(hostConfig{seeder: true, pieces: func(e *Engine) p2p.PieceServer {
				return pieces{e, func(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
					if l.count() == 0 {
						return nil, &p2p.BusyError{After: 10 * time.Millisecond}
					}
					return e.Give(ctx, from, a)
				}}
			}})
			h := w.peer()
			w.connect(h, l.host, s)
			h.check(want, content)
			w.until("commit", func() bool { return h.complete(want.Digest) })
			k := h.known(l.id)
			if k.Bad == 0 || k.BannedUntil.Before(time.Now()) || k.BadDigest != want.Digest {
				t.Errorf("the liar is not named: %+v", k)
			}
			if _, ok := h.node.Neighbour(l.id); ok {
				t.Error("the liar is still a neighbour")
			}
			asked := l.count()
			other, content := w.blob(3 * mib)
			h.check(other, content)
			if n := l.count(); n != asked {
				t.Errorf("the liar was asked %d times more", n-asked)
			}
		})
	}
}

// contract 17: where nobody has signed hashes, a holder that lies spoils the blob, not the
// client's bytes: the next try is without it.
func TestUnsignedLiar(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(4 * mib)
	l := w.liar(hostConfig{})
	honest, h := w.host(hostConfig{lonely: true}), w.host(hostConfig{lonely: true})
	honest.fill(content)
	w.connect(h, l.host, honest)
	h.check(want, content)
	if k := h.known(honest.id); k.Bad != 0 {
		t.Errorf("the honest holder is blamed: %+v", k)
	}
	// With nobody but the liar there is no doubt who it was.
	other, _ := w.blob(3 * mib)
	h = w.host(hostConfig{lonely: true})
	w.connect(h, l.host)
	if got, err := h.read(other); err == nil || len(got) > 0 {
		t.Errorf("%d wrong bytes, %v", len(got), err)
	}
	if k := h.known(l.id); k.Bad == 0 || k.BannedUntil.IsZero() {
		t.Errorf("the liar is not named: %+v", k)
	}
}
