package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// transfer runs one request to its end; each piece is verified before it is
// written. It runs on a goroutine of its own.
func (s *swarm) transfer(ctx context.Context, m *member, r scheduler.Request, ask p2p.Ask) scheduler.Done {
	ended := func(res scheduler.Result) scheduler.Done { return scheduler.Done{Request: r, Result: res} }
	ans, err := s.e.network().Ask(ctx, m.id, ask)
	if err != nil {
		var busy *p2p.BusyError
		switch {
		case errors.As(err, &busy):
			s.e.metrics.asks.WithLabelValues("busy").Inc()
			if len(busy.Try) > 0 {
				s.post(func() { s.meet(busy.Try) })
			}
			return scheduler.Done{Request: r, Result: scheduler.ResultBusy, After: busy.After}
		case errors.Is(err, p2p.ErrNotHeld):
			s.e.metrics.asks.WithLabelValues("not_held").Inc()
			return ended(scheduler.ResultNotHeld)
		}
		if ctx.Err() == nil {
			s.e.metrics.asks.WithLabelValues("failed").Inc()
			s.log.Debug("a request for pieces failed", zap.Stringer("peer", m.id), zap.Error(err))
		}
		return ended(scheduler.ResultFailed)
	}
	defer ans.Close()
	s.post(func() { s.granted(r, ans.Pieces()) })
	size := s.geom.PieceSize()
	if err := s.e.buffers.Acquire(ctx, size); err != nil {
		return ended(scheduler.ResultFailed)
	}
	defer s.e.buffers.Release(size)
	buf := getBuffer(int(size))
	defer putBuffer(buf)
	for {
		i, n, err := ans.Next(*buf)
		if errors.Is(err, io.EOF) {
			s.e.metrics.asks.WithLabelValues("ok").Inc()
			return ended(scheduler.ResultOK)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.e.metrics.asks.WithLabelValues("cut").Inc()
				s.log.Debug("a transfer broke", zap.Stringer("peer", m.id), zap.Error(err))
			}
			return ended(scheduler.ResultFailed)
		}
		if !s.take(ctx, m, r, i, (*buf)[:n]) {
			return ended(scheduler.ResultFailed)
		}
	}
}

// take verifies and stores one piece from a peer. False ends the request.
func (s *swarm) take(ctx context.Context, m *member, r scheduler.Request, i int, p []byte) bool {
	if len(p) != s.geom.Len(i) || len(p) == 0 {
		s.post(func() { s.liar(m, r, i, "a piece of the wrong length") })
		return false
	}
	wait := hashWait
	if !m.seeder {
		wait = time.Millisecond // it was asked for since its hash was known
	}
	h, known := s.hashes.wait(ctx, i, wait)
	var fresh bool
	var err error
	switch {
	case known && piece.Sum(p) != h:
		s.post(func() { s.liar(m, r, i, "a piece that does not match its signed hash") })
		return false
	case known:
		fresh, err = s.blob.WritePiece(i, p)
	case m.complete && !m.seeder:
		fresh, err = s.blob.WriteRaw(i, p, false)
	default:
		return false // its hash did not come in time
	}
	if err != nil {
		s.post(func() { s.storeFailed(err) })
		return false
	}
	s.e.ledger.received(m.id, m.seeder, len(p))
	s.prog.add(m.seeder, false, len(p))
	s.e.metrics.received(m.seeder, false, len(p), fresh)
	if !fresh {
		s.e.ledger.wasted(len(p))
	}
	s.post(func() {
		if !known && s.dl != nil {
			s.dl.rawFrom[i] = m.id
		}
		s.landed(r, m.handle, i, len(p), known)
	})
	return true
}

// landed tells scheduler, neighbours and readers of a piece that was written.
func (s *swarm) landed(r scheduler.Request, from scheduler.Peer, i, n int, verified bool) {
	if s.dl == nil {
		return
	}
	if verified {
		s.gained(i)
	}
	s.dl.step(scheduler.PieceOK{Request: r, Peer: from, Piece: i, Bytes: n})
	s.checkDone()
}

// gained makes a verified piece known to the giving side and to the readers
// that wait to be let in.
func (s *swarm) gained(i int) {
	if s.prog.gain(i) {
		if s.prog.count() == 1 {
			s.provide() // at the first verified piece
		}
		s.e.giver.grew(s, i)
	}
	s.readers.ready()
}

// liar is told of a peer that sent wrong bytes: it is named, banned and not
// asked again. The seeder is only passed over for this blob, since without it
// nothing new can be had.
func (s *swarm) liar(m *member, r scheduler.Request, i int, what string) {
	s.e.metrics.badPieces.Inc()
	s.log.Error("a peer sent wrong bytes; nothing of it was kept and it is not asked again",
		zap.Stringer("peer", m.id), zap.Int("piece", i), zap.String("what", what), zap.Bool("seeder", m.seeder))
	m.bad = true
	ban := banPeriod
	if m.seeder {
		ban = 0
	}
	s.e.ledger.bad(m.id, s.digest, what, ban)
	s.e.ledger.wasted(s.geom.Len(i))
	s.e.metrics.liar(m.id)
	if s.dl != nil {
		s.dl.step(scheduler.PieceBad{Request: r, Peer: m.handle, Piece: i})
	}
	if !m.seeder {
		s.e.network().Ban(m.id, banPeriod, what)
		s.drop(m.id)
	}
}

// rawLiar is told of an unverified piece that a signed hash, which came later,
// proved wrong. Who gave it is banned; the upstream's own are just dropped.
func (d *download) rawLiar(i int) {
	p, ok := d.rawFrom[i]
	if !ok {
		return
	}
	delete(d.rawFrom, i)
	if m := d.s.members[p]; m != nil {
		d.s.liar(m, 0, i, "a piece that does not match its signed hash")
		return
	}
	d.ban(p, "a piece that does not match its signed hash")
}

// banRaw bans whoever gave unsigned pieces of a blob that turned out wrong.
func (d *download) banRaw() {
	done := make(map[peer.ID]bool)
	for _, p := range d.rawFrom {
		if !done[p] {
			done[p] = true
			d.ban(p, "pieces of a blob that does not match its digest")
		}
	}
}

func (d *download) ban(p peer.ID, what string) {
	d.s.e.ledger.bad(p, d.s.digest, what, banPeriod)
	d.s.e.metrics.liar(p)
	d.s.e.network().Ban(p, banPeriod, what)
}

// storeFailed ends a download that the disk does not take.
func (s *swarm) storeFailed(err error) {
	if s.settled {
		return
	}
	s.fail(fmt.Errorf("store %s: %w", s.digest, err))
}

// granted tells the scheduler what a giver that picks itself is about to send.
func (s *swarm) granted(r scheduler.Request, pieces []int) {
	if s.dl != nil && s.dl.reqs[r] != nil {
		s.dl.step(scheduler.Granted{Request: r, Pieces: pieces})
	}
}

// Buffers of a piece are reused: 24 requests of 4 MiB a blob are too much garbage.
var buffers sync.Map // int -> *sync.Pool

func getBuffer(n int) *[]byte {
	p, _ := buffers.LoadOrStore(n, &sync.Pool{New: func() any { b := make([]byte, n); return &b }})
	return p.(*sync.Pool).Get().(*[]byte)
}

func putBuffer(b *[]byte) {
	if p, ok := buffers.Load(len(*b)); ok {
		p.(*sync.Pool).Put(b)
	}
}
