package fetch

import (
	"context"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// fallback takes pieces from the upstream, as the scheduler chose.
func (d *download) fallback(a scheduler.Fallback) {
	s := d.s
	ctx, cancel := context.WithCancel(s.ctx)
	d.reqs[a.Request] = &request{cancel: cancel}
	s.log.Info("taking pieces from the upstream", zap.String("source", s.want.Source.String()),
		zap.Int("first", a.First), zap.Int("end", a.End), zap.String("reason", a.Reason))
	s.e.metrics.fallbacks.Inc()
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer cancel()
		err := s.takeUpstream(ctx, a)
		res := scheduler.Done{Request: a.Request, Result: scheduler.ResultOK}
		if err != nil {
			res.Result = scheduler.ResultFailed
			if ctx.Err() == nil {
				s.log.Warn("the upstream did not give pieces", zap.Error(err))
			}
		}
		s.post(func() {
			if err != nil {
				d.stuck = err
				if upstream.KindOf(err) == upstream.NotFound {
					d.stuck = fmt.Errorf("%w: %w", ErrNotFound, err)
				}
			}
			d.finished(res)
		})
	}()
}

// takeUpstream reads the pieces [First, End) from the upstream. Where no hash
// is known they are raw: clients of this host may read them, as they would
// from the upstream itself; nobody else gets them before the digest is right.
func (s *swarm) takeUpstream(ctx context.Context, a scheduler.Fallback) error {
	off := s.geom.Offset(a.First)
	end := min(s.geom.Offset(a.End), s.geom.Size())
	r, err := s.e.o.Upstream.Blob(ctx, s.want.Source.Upstream, s.want.Source.Repository, s.digest, off, end-off)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Size() != s.geom.Size() {
		return fmt.Errorf("the upstream says %d bytes, the manifest %d: %w", r.Size(), s.geom.Size(), ErrCorrupt)
	}
	s.post(func() {
		if s.dl != nil {
			s.dl.upstream = true
			s.noteSourced()
		}
	})
	buf := getBuffer(int(s.geom.PieceSize()))
	defer putBuffer(buf)
	for i := a.First; i < a.End; i++ {
		p := (*buf)[:s.geom.Len(i)]
		if _, err := io.ReadFull(r, p); err != nil {
			return fmt.Errorf("piece %d: %w", i, err)
		}
		var fresh bool
		h, known := s.hashes.get(i)
		switch {
		case known && piece.Sum(p) != h:
			return fmt.Errorf("piece %d from %s does not match its signed hash: %w", i, s.want.Source, ErrCorrupt)
		case known:
			fresh, err = s.blob.WritePiece(i, p)
		default:
			fresh, err = s.blob.WriteRaw(i, p, true)
		}
		if err != nil {
			s.post(func() { s.storeFailed(err) })
			return err
		}
		s.e.ledger.fromUpstream(len(p))
		s.prog.add(false, true, len(p))
		s.e.metrics.received(false, true, len(p), fresh)
		s.post(func() {
			s.landed(a.Request, scheduler.Upstream, i, len(p), known)
			if !known {
				s.readers.ready()
			}
		})
	}
	return nil
}
