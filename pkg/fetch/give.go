package fetch

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// giver is the giving side of this host: one scheduler.Giver over all blobs
// decides who gets which piece next. Asks wait on a channel for its answer.
type giver struct {
	e *Engine

	mu     sync.Mutex
	sched  *scheduler.Giver
	peers  map[peer.ID]scheduler.Peer
	ids    []peer.ID
	blobs  map[digest.Digest]scheduler.Blob
	swarms []*swarm // by scheduler.Blob
	asks   map[scheduler.AskID]*waiting
	giving map[digest.Digest]int // gifts under way
	lastID scheduler.AskID
	wake   *time.Timer
	closed bool
}

type waiting struct {
	blob   digest.Digest
	answer chan scheduler.GiverAction // takes one
}

func newGiver(e *Engine) *giver {
	return &giver{
		e:      e,
		sched:  scheduler.NewGiver(scheduler.GiverConfig{Seed: e.o.Seed}),
		peers:  make(map[peer.ID]scheduler.Peer),
		ids:    make([]peer.ID, 1),
		blobs:  make(map[digest.Digest]scheduler.Blob),
		swarms: nil,
		asks:   make(map[scheduler.AskID]*waiting),
		giving: make(map[digest.Digest]int),
	}
}

func (g *giver) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.wake != nil {
		g.wake.Stop()
	}
}

// step feeds one event; g.mu is held.
func (g *giver) step(ev scheduler.GiverEvent) {
	if g.closed {
		return
	}
	for _, a := range g.sched.Step(g.e.now(), ev) {
		switch a := a.(type) {
		case scheduler.Give:
			a.Pieces = append([]int(nil), a.Pieces...)
			g.reply(a.ID, a)
		case scheduler.Busy:
			a.Try = append([]scheduler.Peer(nil), a.Try...)
			g.reply(a.ID, a)
		case scheduler.NotHeld:
			g.reply(a.ID, a)
		case scheduler.WakeAt:
			in := max(a.At-g.e.now(), time.Millisecond)
			if g.wake == nil {
				g.wake = time.AfterFunc(in, func() {
					g.mu.Lock()
					defer g.mu.Unlock()
					g.step(scheduler.Tick{})
				})
			} else {
				g.wake.Reset(in)
			}
		}
	}
}

func (g *giver) reply(id scheduler.AskID, a scheduler.GiverAction) {
	if w := g.asks[id]; w != nil {
		delete(g.asks, id)
		w.answer <- a // holds one: never blocks
	}
}

// handle returns the scheduler's name of a peer; g.mu is held.
func (g *giver) handle(p peer.ID) scheduler.Peer {
	h, ok := g.peers[p]
	if !ok {
		h = scheduler.Peer(len(g.ids))
		g.peers[p] = h
		g.ids = append(g.ids, p)
	}
	return h
}

func (g *giver) blobUp(s *swarm) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := scheduler.Blob(len(g.swarms))
	g.swarms = append(g.swarms, s)
	g.blobs[s.digest] = h
	g.step(scheduler.BlobUp{
		Blob: h, Geometry: s.geom, Have: s.blob.Have(),
		Superseed: g.e.o.Seeder, Growing: !s.blob.Complete(),
	})
}

func (g *giver) blobDown(s *swarm) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.blobs[s.digest]
	if !ok || g.swarms[h] != s {
		return
	}
	g.step(scheduler.BlobDown{Blob: h})
	delete(g.blobs, s.digest)
	g.swarms[h] = nil
	for id, w := range g.asks {
		if w.blob == s.digest {
			g.reply(id, scheduler.NotHeld{ID: id})
		}
	}
}

func (g *giver) grew(s *swarm, i int) {
	g.forBlob(s, func(h scheduler.Blob) { g.step(scheduler.BlobGrew{Blob: h, Piece: i}) })
}

func (g *giver) blobDone(s *swarm) {
	g.forBlob(s, func(h scheduler.Blob) { g.step(scheduler.BlobDone{Blob: h}) })
}

func (g *giver) forBlob(s *swarm, f func(scheduler.Blob)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h, ok := g.blobs[s.digest]; ok && g.swarms[h] == s {
		f(h)
	}
}

// peerHas tells what a member holds; nil pieces means all that its set names.
func (g *giver) peerHas(s *swarm, m *member, pieces []int) {
	g.forBlob(s, func(h scheduler.Blob) {
		if pieces == nil {
			pieces = list(m.have)
		}
		g.step(scheduler.PeerHas{Blob: h, Peer: g.handle(m.id), Pieces: pieces})
	})
}

// memberGone forgets what a member of one swarm held.
func (g *giver) memberGone(s *swarm, m *member) {
	g.forBlob(s, func(h scheduler.Blob) {
		g.step(scheduler.PeerHas{Blob: h, Peer: g.handle(m.id), Bitfield: piece.NewBitfield(s.geom.Count())})
	})
}

// peerGone forgets a peer: its copies count no more.
func (g *giver) peerGone(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h, ok := g.peers[p]; ok {
		g.step(scheduler.PeerGone{Peer: h})
		delete(g.peers, p)
	}
}

// busy tells whether the blob is being given, or asked for, right now.
func (g *giver) busy(d digest.Digest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.giving[d] > 0 {
		return true
	}
	for _, w := range g.asks {
		if w.blob == d {
			return true
		}
	}
	return false
}

// Give answers a peer's request for pieces. Part of p2p.PieceServer.
func (e *Engine) Give(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
	s := e.serving(a.Digest)
	if s == nil {
		return nil, p2p.ErrNotHeld
	}
	b, err := e.o.Store.Blob(a.Digest)
	if err != nil {
		return nil, p2p.ErrNotHeld
	}
	gift, err := e.giver.give(ctx, from, a, s)
	if err != nil {
		b.Release()
		return nil, err
	}
	gift.Body = func(w io.Writer) (int64, error) {
		n, err := b.WritePieces(w, gift.Pieces)
		e.ledger.sent(from, n)
		e.metrics.given.Add(float64(n))
		return n, err
	}
	done := gift.Done
	gift.Done = func(ok bool) {
		done(ok)
		b.Release()
	}
	return gift, nil
}

// give queues an ask and waits for the scheduler's answer.
func (g *giver) give(ctx context.Context, from peer.ID, a p2p.Ask, s *swarm) (*p2p.Gift, error) {
	n := s.geom.Count()
	var any *piece.Bitfield
	if len(a.Any) > 0 {
		b, err := piece.BitfieldFromBytes(n, a.Any)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", p2p.ErrNotHeld, err)
		}
		any = b
	}
	for _, i := range a.Pieces {
		if i < 0 || i >= n {
			return nil, fmt.Errorf("%w: piece %d of %d", p2p.ErrNotHeld, i, n)
		}
	}
	g.mu.Lock()
	h, ok := g.blobs[a.Digest]
	if !ok || g.closed {
		g.mu.Unlock()
		return nil, p2p.ErrNotHeld
	}
	g.lastID++
	id := g.lastID
	w := &waiting{blob: a.Digest, answer: make(chan scheduler.GiverAction, 1)}
	g.asks[id] = w
	g.step(scheduler.Ask{ID: id, Blob: h, Peer: g.handle(from), Pieces: a.Pieces, Any: any, Max: a.Max, Urgent: a.Urgent})
	g.mu.Unlock()
	if a.Urgent && g.e.o.Seeder && len(a.Pieces) > 0 {
		first, end := a.Pieces[0], a.Pieces[len(a.Pieces)-1]+1
		s.post(func() { s.wantPieces(0, first, end) })
	}

	select {
	case act := <-w.answer:
		switch act := act.(type) {
		case scheduler.Give:
			return g.gift(id, a.Digest, act.Pieces, s), nil
		case scheduler.Busy:
			return nil, &p2p.BusyError{After: act.After, Try: g.addrs(act.Try)}
		}
		return nil, p2p.ErrNotHeld
	case <-ctx.Done():
	case <-g.e.ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asks[id] == nil { // the answer crossed with the cancellation
		if _, given := (<-w.answer).(scheduler.Give); given {
			g.step(scheduler.Sent{ID: id, OK: false})
		}
	} else {
		delete(g.asks, id)
		g.step(scheduler.AskGone{ID: id})
	}
	return nil, context.Cause(ctx)
}

// gift wraps the pieces that the scheduler chose to send.
func (g *giver) gift(id scheduler.AskID, d digest.Digest, pieces []int, s *swarm) *p2p.Gift {
	lengths := make([]int, len(pieces))
	for k, i := range pieces {
		lengths[k] = s.geom.Len(i)
	}
	g.mu.Lock()
	g.giving[d]++
	g.mu.Unlock()
	return &p2p.Gift{Pieces: pieces, Lengths: lengths, Done: func(ok bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.giving[d]--; g.giving[d] == 0 {
			delete(g.giving, d)
		}
		g.step(scheduler.Sent{ID: id, OK: ok})
	}}
}

// addrs names peers that may have what was asked for.
func (g *giver) addrs(try []scheduler.Peer) []peer.AddrInfo {
	g.mu.Lock()
	ids := make([]peer.ID, 0, len(try))
	for _, h := range try {
		if int(h) < len(g.ids) {
			ids = append(ids, g.ids[h])
		}
	}
	g.mu.Unlock()
	var out []peer.AddrInfo
	for _, id := range ids {
		if ai := g.e.network().AddrInfo(id); len(ai.Addrs) > 0 {
			out = append(out, ai)
		}
	}
	return out
}
