package fetch

import (
	"context"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// fallback takes pieces from the upstream, as the scheduler chose.
func (d *download) fallback(a scheduler.Fallback) {
	d.s.log.Info("taking pieces from the upstream", zap.Stringer("source", d.s.sources.current()),
		zap.Int("first", a.First), zap.Int("end", a.End), zap.String("reason", a.Reason))
	d.s.e.metrics.fallbacks.Inc()
	d.begin(a.Request, func(ctx context.Context) {
		done := scheduler.Done{Request: a.Request, Result: scheduler.ResultOK}
		err := d.takeUpstream(ctx, a)
		if err != nil {
			done.Result = scheduler.ResultFailed
		}
		if err != nil && ctx.Err() == nil {
			d.s.log.Warn("the upstream did not give pieces", zap.Error(err))
			d.post(func() { d.upstreamFailed(err) })
		}
		d.post(func() { d.finished(done) })
	})
}

// upstreamFailed notes why the upstream did not give pieces. Where it never
// will, and nobody else is there who might, the client is told at once.
func (d *download) upstreamFailed(err error) {
	d.stuck = explainUpstream(err)
	d.upstream = false
	d.reconsider()
	d.noteSourced()
	if !hopeless(err) {
		return
	}
	for _, m := range d.s.members {
		if !d.s.liars[m.id] && (m.seeder || m.have.Count() > 0) {
			return
		}
	}
	d.giveUp("nobody else is known to have it")
}

// takeUpstream reads the pieces [First, End) from the upstream. Where no hash
// is known they are raw: clients of this host may read them, as they would
// from the upstream itself; nobody else gets them before the digest is right.
func (d *download) takeUpstream(ctx context.Context, a scheduler.Fallback) error {
	s := d.s
	began := time.Now()
	defer func() { s.traces.streamed(began, a.First, a.End) }()
	r, _, err := s.upstreamRange(ctx, a.First, a.End)
	if err != nil {
		return err
	}
	defer r.Close()
	d.post(func() {
		d.upstream, d.stuck = true, nil
		d.reconsider()
		d.noteSourced()
	})
	size := s.geom.PieceSize()
	if err := s.e.buffers.Acquire(ctx, size); err != nil {
		return err
	}
	defer s.e.buffers.Release(size)
	buf := getBuffer(int(size))
	defer putBuffer(buf)
	watched := &watchedReader{r: r, f: d.progress(a.Request)}
	for i := a.First; i < a.End; i++ {
		p := (*buf)[:s.geom.Len(i)]
		if _, err := io.ReadFull(watched, p); err != nil {
			return fmt.Errorf("piece %d: %w", i, err)
		}
		if err := d.takePiece(a.Request, i, p); err != nil {
			return err
		}
	}
	return nil
}

// takePiece stores one piece from the upstream.
func (d *download) takePiece(r scheduler.Request, i int, p []byte) (err error) {
	s := d.s
	var fresh bool
	h, known := s.hashes.get(i)
	switch {
	case known && piece.Sum(p) != h:
		return fmt.Errorf("piece %d from %s does not match its signed hash: %w", i, s.sources.current(), ErrCorrupt)
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
	if !fresh {
		s.e.ledger.wasted(len(p))
	}
	d.post(func() {
		if !known {
			delete(d.rawFrom, i) // it replaced an unsigned holder's
			s.readable(i)
		}
		d.landed(r, scheduler.Upstream, i, len(p), known)
	})
	if !known {
		s.confirmNew(i)
	}
	return nil
}

// watchedReader tells f how many bytes have come.
type watchedReader struct {
	r io.Reader
	n int64
	f func(int64)
}

// Read is part of io.Reader.
func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.n += int64(n); n > 0 {
		w.f(w.n)
	}
	return n, err
}
