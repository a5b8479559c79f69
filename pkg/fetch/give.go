package fetch

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// giver is the giving side of this host: one scheduler.Giver over all blobs
// decides who gets which piece next. Asks wait on a channel for its answer.
// Its lock is the last to be taken: nothing is called with it but the Giver.
type giver struct {
	e *Engine

	mu       sync.Mutex
	sched    *scheduler.Giver
	peers    map[peer.ID]*asker
	ids      map[scheduler.Peer]peer.ID
	free     []scheduler.Peer // handles of peers that the Giver has forgotten
	lastPeer scheduler.Peer
	lastBlob scheduler.Blob
	lastAsk  scheduler.AskID
	asks     map[scheduler.AskID]*waiting
	wake     *time.Timer
	closed   bool
}

// asker is a peer as the giver knows it: a neighbour, or one that was a
// neighbour lately and is still served.
type asker struct {
	handle scheduler.Peer
	up     bool
	asks   int // waiting, or being sent
}

// giving is the giver's side of one swarm. Each swarm has a handle of its own,
// also where it follows another of the same blob.
type giving struct {
	up   bool
	blob scheduler.Blob
	asks int // waiting, or being sent
}

// waiting is an ask without an answer.
type waiting struct {
	s      *swarm
	from   peer.ID
	answer chan scheduler.GiverAction // takes one
}

func newGiver(e *Engine) *giver {
	return &giver{
		e:     e,
		sched: scheduler.NewGiver(scheduler.GiverConfig{Seed: e.o.Seed}),
		peers: make(map[peer.ID]*asker),
		ids:   make(map[scheduler.Peer]peer.ID),
		asks:  make(map[scheduler.AskID]*waiting),
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
			g.reply(a.ID, a)
		case scheduler.Busy:
			g.reply(a.ID, a)
		case scheduler.NotHeld:
			g.reply(a.ID, a)
		case scheduler.WakeAt:
			g.wakeAt(a.At)
		}
	}
}

func (g *giver) wakeAt(at time.Duration) {
	in := max(at-g.e.now(), time.Millisecond)
	if g.wake != nil {
		g.wake.Reset(in)
		return
	}
	g.wake = time.AfterFunc(in, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.step(scheduler.Tick{})
	})
}

func (g *giver) reply(id scheduler.AskID, a scheduler.GiverAction) {
	if w := g.asks[id]; w != nil {
		delete(g.asks, id)
		w.answer <- a // holds one: never blocks
	}
}

// peer returns what is known of a peer; g.mu is held.
func (g *giver) peer(p peer.ID) *asker {
	a := g.peers[p]
	if a == nil {
		a = &asker{}
		if n := len(g.free); n > 0 {
			a.handle, g.free = g.free[n-1], g.free[:n-1]
		} else {
			g.lastPeer++
			a.handle = g.lastPeer
		}
		g.peers[p] = a
		g.ids[a.handle] = p
	}
	return a
}

// release forgets a peer that is no neighbour and asks for nothing. After
// PeerGone the Giver knows nothing of the handle, so another may have it.
func (g *giver) release(p peer.ID, a *asker) {
	if a.up || a.asks > 0 {
		return
	}
	g.step(scheduler.PeerGone{Peer: a.handle})
	delete(g.peers, p)
	delete(g.ids, a.handle)
	g.free = append(g.free, a.handle)
}

func (g *giver) peerUp(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peer(p).up = true
}

// peerDown forgets a peer: its copies count no more. What it waits for is
// answered, since it may still be served without a control stream.
func (g *giver) peerDown(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.peers[p]
	if a == nil {
		return
	}
	a.up = false
	g.step(scheduler.PeerGone{Peer: a.handle})
	for id, w := range g.asks {
		if w.from == p {
			g.reply(id, scheduler.Busy{ID: id, After: 100 * time.Millisecond})
		}
	}
	g.release(p, a)
}

// blobUp tells what is given of a blob from now on. It is told again when all
// is there: what had not been verified by piece is then.
func (g *giver) blobUp(s *swarm) {
	have, growing := s.givable()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.giving.up {
		g.lastBlob++
		s.giving.blob, s.giving.up = g.lastBlob, true
	}
	g.step(scheduler.BlobUp{Blob: s.giving.blob, Geometry: s.geom, Have: have, Superseed: g.e.o.Seeder, Growing: growing})
}

// blobDown ends the giving; it may be called twice.
func (g *giver) blobDown(s *swarm) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.giving.up {
		return
	}
	s.giving.up = false
	g.step(scheduler.BlobDown{Blob: s.giving.blob})
	for id, w := range g.asks {
		if w.s == s {
			g.reply(id, scheduler.NotHeld{ID: id})
		}
	}
}

func (g *giver) grew(s *swarm, i int) {
	g.forBlob(s, func(b scheduler.Blob) { g.step(scheduler.BlobGrew{Blob: b, Piece: i}) })
}

func (g *giver) forBlob(s *swarm, f func(scheduler.Blob)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.giving.up {
		f(s.giving.blob)
	}
}

// peerHas tells what a member holds; nil pieces means all that its set names.
func (g *giver) peerHas(s *swarm, m *member, pieces []int) {
	if pieces == nil {
		pieces = list(m.have)
	}
	g.forBlob(s, func(b scheduler.Blob) {
		if a := g.peers[m.id]; a != nil && a.up {
			g.step(scheduler.PeerHas{Blob: b, Peer: a.handle, Pieces: pieces})
		}
	})
}

// memberGone forgets what a member of one swarm held.
func (g *giver) memberGone(s *swarm, m *member) {
	g.forBlob(s, func(b scheduler.Blob) {
		if a := g.peers[m.id]; a != nil && a.up {
			g.step(scheduler.PeerHas{Blob: b, Peer: a.handle, Bitfield: piece.NewBitfield(s.geom.Count())})
		}
	})
}

// busy tells whether the blob is being given, or asked for, right now.
func (g *giver) busy(s *swarm) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return s.giving.asks > 0
}

// Give answers a peer's request for pieces. Part of p2p.PieceServer.
func (e *Engine) Give(ctx context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
	if !e.ready() {
		return nil, p2p.ErrNotHeld
	}
	s := e.serving(a.Digest)
	if s == nil {
		return nil, p2p.ErrNotHeld
	}
	select {
	case <-s.up:
	case <-s.done:
		return nil, p2p.ErrNotHeld
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	b, err := e.o.Store.Blob(a.Digest)
	if err != nil {
		return nil, p2p.ErrNotHeld
	}
	s.touch()
	s.traces.adopt(ctx)
	id, pieces, err := e.giver.give(ctx, from, a, s)
	if err != nil {
		b.Release()
		return nil, err
	}
	lengths := make([]int, len(pieces))
	for k, i := range pieces {
		lengths[k] = s.geom.Len(i)
	}
	return &p2p.Gift{
		Pieces: pieces, Lengths: lengths,
		Body: func(w io.Writer) (int64, error) {
			n, err := b.WritePieces(w, pieces)
			e.ledger.sent(from, n)
			e.metrics.given.Add(float64(n))
			s.given.Add(n)
			return n, err
		},
		Done: func(ok bool) {
			e.giver.sent(id, from, s, ok)
			b.Release()
		},
	}, nil
}

// give queues an ask and waits for the Giver's answer. Who gets pieces must
// call sent.
func (g *giver) give(ctx context.Context, from peer.ID, a p2p.Ask, s *swarm) (scheduler.AskID, []int, error) {
	n := s.geom.Count()
	var any *piece.Bitfield
	if len(a.Any) > 0 {
		b, err := piece.BitfieldFromBytes(n, a.Any)
		if err != nil {
			return 0, nil, fmt.Errorf("%w: %w", p2p.ErrNotHeld, err)
		}
		any = b
	}
	for _, i := range a.Pieces {
		if i < 0 || i >= n {
			return 0, nil, fmt.Errorf("%w: piece %d of %d", p2p.ErrNotHeld, i, n)
		}
	}
	g.mu.Lock()
	if !s.giving.up || g.closed {
		g.mu.Unlock()
		return 0, nil, p2p.ErrNotHeld
	}
	g.lastAsk++
	id := g.lastAsk
	w := &waiting{s: s, from: from, answer: make(chan scheduler.GiverAction, 1)}
	g.asks[id] = w
	s.giving.asks++
	p := g.peer(from)
	p.asks++
	g.step(scheduler.Ask{ID: id, Blob: s.giving.blob, Peer: p.handle, Pieces: a.Pieces, Any: any, Max: a.Max, Urgent: a.Urgent})
	g.mu.Unlock()
	if a.Urgent && g.e.o.Seeder && len(a.Pieces) > 0 {
		first, end := a.Pieces[0], a.Pieces[len(a.Pieces)-1]+1
		s.post(func() { s.wantPieces(0, first, end) })
	}

	asked := g.e.now()
	select {
	case act := <-w.answer:
		g.e.metrics.waited("give", g.e.now()-asked)
		switch act := act.(type) {
		case scheduler.Give:
			return id, act.Pieces, nil
		case scheduler.Busy:
			g.ended(from, s)
			return 0, nil, &p2p.BusyError{After: act.After, Try: g.addrs(act.Try)}
		}
		g.ended(from, s)
		return 0, nil, p2p.ErrNotHeld
	case <-ctx.Done():
	case <-g.e.ctx.Done():
	}
	g.mu.Lock()
	if g.asks[id] == nil { // the answer crossed with the cancellation
		if _, given := (<-w.answer).(scheduler.Give); given {
			g.step(scheduler.Sent{ID: id, OK: false})
		}
	} else {
		delete(g.asks, id)
		g.step(scheduler.AskGone{ID: id})
	}
	g.mu.Unlock()
	g.ended(from, s)
	if err := context.Cause(ctx); err != nil {
		return 0, nil, err
	}
	return 0, nil, p2p.ErrNotHeld
}

// sent is told of the end of a gift.
func (g *giver) sent(id scheduler.AskID, from peer.ID, s *swarm, ok bool) {
	g.mu.Lock()
	g.step(scheduler.Sent{ID: id, OK: ok})
	g.mu.Unlock()
	g.ended(from, s)
	s.touch()
}

// ended is told of the end of an ask, whatever came of it.
func (g *giver) ended(from peer.ID, s *swarm) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.giving.asks--
	if p := g.peers[from]; p != nil {
		p.asks--
		g.release(from, p)
	}
}

// addrs names peers that may have what was asked for.
func (g *giver) addrs(try []scheduler.Peer) []peer.AddrInfo {
	g.mu.Lock()
	ids := make([]peer.ID, 0, len(try))
	for _, h := range try {
		if id, ok := g.ids[h]; ok {
			ids = append(ids, id)
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
