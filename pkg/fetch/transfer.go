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

// transfer is one request to a peer. It runs on a goroutine of its own; what it
// knows of the peer is as of the request.
type transfer struct {
	d       *download
	request scheduler.Request
	peer    peer.ID
	handle  scheduler.Peer
	seeder  bool
	raw     bool // pieces without a known hash are taken
	ask     p2p.Ask
}

// run does the request; each piece is verified before it is written.
func (t *transfer) run(ctx context.Context) scheduler.Done {
	s := t.d.s
	done := scheduler.Done{Request: t.request, Result: scheduler.ResultFailed}
	ctx, end := s.traces.pieces(ctx, t)
	defer func() { end(done.Result) }()
	ans, err := s.e.network().Ask(ctx, t.peer, t.ask)
	if err != nil {
		var busy *p2p.BusyError
		switch {
		case errors.As(err, &busy):
			s.e.metrics.asks.WithLabelValues("busy").Inc()
			if len(busy.Try) > 0 {
				s.post(func() { s.meet(busy.Try) })
			}
			done.Result, done.After = scheduler.ResultBusy, busy.After
		case errors.Is(err, p2p.ErrNotHeld):
			s.e.metrics.asks.WithLabelValues("not_held").Inc()
			done.Result = scheduler.ResultNotHeld
		case ctx.Err() == nil:
			s.e.metrics.asks.WithLabelValues("failed").Inc()
			s.e.metrics.failed(err)
			s.log.Debug("a request for pieces failed", zap.Stringer("peer", t.peer), zap.Error(err))
		}
		return done
	}
	defer ans.Close()
	t.d.post(func() {
		if t.d.reqs[t.request] != nil {
			t.d.step(scheduler.Granted{Request: t.request, Pieces: ans.Pieces()})
		}
	})
	ans.Watch(t.d.progress(t.request))
	size := s.geom.PieceSize()
	if err := s.e.buffers.Acquire(ctx, size); err != nil {
		return done
	}
	defer s.e.buffers.Release(size)
	buf := getBuffer(int(size))
	defer putBuffer(buf)
	for {
		i, n, err := ans.Next(*buf)
		switch {
		case errors.Is(err, io.EOF):
			s.e.metrics.asks.WithLabelValues("ok").Inc()
			done.Result = scheduler.ResultOK
			return done
		case err != nil:
			if ctx.Err() == nil {
				s.e.metrics.asks.WithLabelValues("cut").Inc()
				s.e.metrics.failed(err)
				s.log.Debug("a transfer broke", zap.Stringer("peer", t.peer), zap.Error(err))
			}
			return done
		}
		if !t.take(ctx, i, (*buf)[:n]) {
			return done
		}
	}
}

// take verifies and stores one piece. False ends the request.
func (t *transfer) take(ctx context.Context, i int, p []byte) bool {
	s := t.d.s
	if len(p) != s.geom.Len(i) || len(p) == 0 {
		s.e.metrics.failures.WithLabelValues("wrong").Inc()
		s.post(func() { s.liar(t.peer, i, "a piece of the wrong length") })
		return false
	}
	wait := hashWait
	if !t.seeder {
		wait = 0 // it was asked for since its hash was known
	}
	h, known := s.hashes.wait(ctx, i, wait)
	var fresh bool
	var err error
	switch {
	case known && piece.Sum(p) != h:
		s.e.metrics.failures.WithLabelValues("wrong").Inc()
		s.post(func() { s.liar(t.peer, i, "a piece that does not match its signed hash") })
		return false
	case known:
		fresh, err = s.blob.WritePiece(i, p)
	case t.raw && ctx.Err() == nil:
		fresh, err = s.blob.WriteRaw(i, p, false)
	default: // its hash did not come in time
		if ctx.Err() == nil {
			s.e.metrics.failures.WithLabelValues("unsigned").Inc()
		}
		return false
	}
	if err != nil {
		s.e.metrics.failures.WithLabelValues("disk").Inc()
		s.post(func() { s.storeFailed(err) })
		return false
	}
	s.e.ledger.received(t.peer, t.seeder, len(p))
	s.prog.add(t.seeder, false, len(p))
	s.e.metrics.received(t.seeder, false, len(p), fresh)
	if !fresh {
		s.e.ledger.wasted(len(p))
	}
	t.d.post(func() {
		if !known && fresh {
			t.d.rawFrom[i] = t.peer
		}
		t.d.landed(t.request, t.handle, i, len(p), known)
	})
	if !known {
		s.confirmNew(i)
	}
	return true
}

// landed tells scheduler, neighbours and readers of a piece that was written.
func (d *download) landed(r scheduler.Request, from scheduler.Peer, i, n int, verified bool) {
	if verified {
		d.s.gained(i)
	}
	d.step(scheduler.PieceOK{Request: r, Peer: from, Piece: i, Bytes: n})
	d.s.checkDone()
}

// gained makes a verified piece known to the giving side and to the readers
// that wait to be let in.
func (s *swarm) gained(i int) {
	s.prog.gain(i)
	s.e.giver.grew(s, i)
	s.announceOnce()
	s.readable(i)
}

// readable lets readers in: piece i can be read, unless it is the last, which
// nobody gets before the digest of the whole is right.
func (s *swarm) readable(i int) {
	s.landed.Store(int64(s.e.now()))
	s.readers.came(i)
	if i < s.geom.Count()-1 || s.settled {
		s.readers.ready()
	}
}

// announceOnce announces the blob at the first verified piece.
func (s *swarm) announceOnce() {
	if !s.provided {
		s.provided = true
		s.provide()
	}
}

// progress returns what tells the scheduler, about every second, how many
// bytes of a request have come.
func (d *download) progress(r scheduler.Request) func(int64) {
	last := d.s.e.now()
	return func(n int64) {
		now := d.s.e.now()
		d.s.moved.Store(int64(now))
		if now-last >= time.Second {
			last = now
			d.post(func() { d.step(scheduler.Progress{Request: r, Bytes: n}) })
		}
	}
}

// storeFailed ends a download that the disk does not take.
func (s *swarm) storeFailed(err error) {
	if !s.settled && !s.commits {
		s.fail(fmt.Errorf("fetch %s: %w", s.digest, err))
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
