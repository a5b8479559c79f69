package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// setWanted makes sure that the download runs or is queued.
func (s *swarm) setWanted(w Want) {
	s.touch()
	if s.settled {
		s.readers.whole()
		w.pull.done(nil)
		return
	}
	if w.pull != nil && len(s.pulls) < maxPulls {
		s.pulls = append(s.pulls, w.pull)
	} else if w.pull != nil && w.pull.ended != nil {
		w.pull.done(ErrUnavailable) // somebody waits for it
	}
	s.setPace(w.Pace)
	if s.sources.add(w.Source) || !s.wanted {
		if err := s.blob.SetMeta(store.Meta{MediaType: s.blob.Meta().MediaType, Sources: s.sources.names()}); err != nil {
			s.log.Warn("cannot note the blob's source", zap.Error(err))
		}
	}
	s.need(w)
	if s.wanted {
		return
	}
	s.wanted = true
	s.prog.start()
	s.traces.begin(s, w.Span)
	if s.e.o.Seeder {
		s.startOrigin(w.First)
		return
	}
	s.joinAll()
	if !s.whole {
		s.startDownload(func() {})
		return
	}
	// A client that waits goes ahead of the queue of prefetches.
	queued := s.e.now()
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		release := func() {}
		select {
		case s.e.active <- struct{}{}:
			release = func() { <-s.e.active }
		case <-s.readers.wanted():
		case <-s.ctx.Done():
			return
		}
		s.e.metrics.waited("download", s.e.now()-queued)
		if !s.postOr(func() { s.startDownload(release) }, release) {
			release()
		}
	}()
}

// fail ends the download with an error that waiting readers get, and with it
// the swarm: the next client starts anew. What was verified stays.
func (s *swarm) fail(err error) {
	if !s.wanted {
		return
	}
	s.wanted = false
	s.failure = err
	s.log.Warn("download failed", zap.Stringer("source", s.sources.current()),
		zap.Int("pieces", s.blob.Have().Count()), zap.Int("of", s.geom.Count()), zap.Error(err))
	s.prog.fail(err)
	s.traces.end(s, err)
	s.e.metrics.downloaded(s, err)
	s.pulled(err)
	if s.dl != nil {
		s.dl.close()
		s.dl = nil
	}
	s.readers.fail(err)
	s.stop = true
}

// resultOf is the metric label of an error.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrCorrupt):
		return "corrupt"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, store.ErrFull):
		return "full"
	case errors.Is(err, ErrStopped), errors.Is(err, context.Canceled):
		return "stopped"
	default:
		return "unavailable"
	}
}

// heldOrRaw is the set of pieces on disk, verified or not.
func (s *swarm) heldOrRaw() *piece.Bitfield {
	have := s.blob.Have()
	for i := range s.blob.Raw().All() {
		have.Set(i)
	}
	return have
}

// checkDone commits the blob once every piece is here and its digest is vouched for.
func (s *swarm) checkDone() {
	if s.dl == nil || s.settled || s.commits || s.e.o.Seeder || !s.heldOrRaw().Full() {
		return
	}
	if s.hashes.final() && s.blob.Have().Full() {
		s.settle(s.suspect)
		return
	}
	if s.dl.final != nil {
		return
	}
	// Everything is here, but nobody has vouched for the whole yet. The seeder
	// will when it is done; without one, or when it takes too long, look ourselves.
	wait := finalWait
	if s.seederMember() == nil {
		wait = 0
	}
	d := s.dl
	d.final = time.AfterFunc(wait, func() {
		d.post(func() {
			d.final = nil
			if s.heldOrRaw().Full() { // a raw piece may have proved wrong meanwhile
				s.settle(true)
			}
		})
	})
}

// settle is called once the whole digest is known to be right, or, with
// verify, is to be looked at: readers get the last piece, the blob is
// committed and provided.
func (s *swarm) settle(verify bool) {
	if s.settled || s.commits {
		return
	}
	s.commits = true
	if !verify {
		s.settled = true
		if err := s.blob.Settle(); err != nil {
			s.log.Warn("cannot settle", zap.Error(err))
		}
		s.readers.whole()
	}
	s.saveRuns(true)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		err := s.blob.Commit(verify)
		s.post(func() { s.committed(err) })
	}()
}

func (s *swarm) committed(err error) {
	s.commits = false
	if errors.Is(err, store.ErrCorrupt) {
		s.corrupt(false)
		return
	}
	if err != nil {
		s.settled = false
		s.fail(fmt.Errorf("fetch %s: %w", s.digest, err))
		return
	}
	s.settled = true
	s.wanted = false
	s.touch()
	if s.dl != nil {
		s.dl.close()
		s.dl = nil
	}
	s.readers.whole()
	s.prog.finish()
	s.e.metrics.downloaded(s, nil)
	s.traces.end(s, nil)
	s.pulled(nil)
	took, by := s.prog.summary()
	s.log.Info("blob complete", zap.Int64("size", s.geom.Size()), zap.Duration("took", took),
		zap.Int64("from_peers", by.Peers), zap.Int64("from_seeder", by.Seeder), zap.Int64("from_upstream", by.Upstream), zap.Int64("from_objectstore", by.ObjectStore))
	if by.Upstream > 0 || by.ObjectStore == 0 {
		s.e.durable.fetched(s.sources.current(), s.digest)
	}
	s.e.giver.blobUp(s)
	for _, m := range s.members {
		if s.tells(m) {
			_ = s.e.network().Send(m.id, p2p.Have{Digest: s.digest, Complete: true})
		}
	}
	s.provide()
	if s.e.o.Seeder && !s.hashes.final() {
		s.signStored()
	}
}

// corrupt drops a blob whose bytes do not match its digest. Where holders that
// nobody vouches for gave some of them, the blob is fetched again without them,
// unless the signer of its hashes has taken them back.
func (s *swarm) corrupt(revoked bool) {
	if s.e.o.Seeder {
		s.revoke()
	}
	s.e.giver.blobDown(s)
	s.settled, s.suspect, s.wanted = false, false, true
	d := s.dl
	if d == nil {
		s.discard()
		s.failCorrupt()
		return
	}
	again := d.blameRaw() && !revoked && s.retries < maxRetries
	release := d.handOver()
	s.dl = nil
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		d.wg.Wait() // a request that ends late must not leave a wrong piece behind
		s.discard()
		if !again {
			release()
			s.post(s.failCorrupt)
			return
		}
		if !s.postOr(func() { s.again(release) }, release) {
			release()
		}
	}()
}

// maxRetries bounds how often a blob is fetched again within one download.
const maxRetries = 4

// again starts the download anew, from nothing but the signed hashes.
func (s *swarm) again(release func()) {
	s.retries++
	s.log.Warn("fetching a blob again: what unsigned holders gave does not match its digest", zap.Int("try", s.retries+1))
	s.prog.init(s.blob.Have())
	s.e.giver.blobUp(s)
	s.startDownload(release)
}

func (s *swarm) failCorrupt() {
	s.hashes.init(s.digest, s.geom)
	err := &CorruptError{Digest: s.digest, Source: s.sources.current()}
	if s.retries > 0 {
		err.Source = Source{} // peers gave them
	} else if !s.usedDurable.Load() {
		s.e.doubt(err.Source)
	}
	s.fail(err)
}

func (s *swarm) discard() {
	if err := s.blob.Discard(); err != nil {
		s.log.Error("cannot discard wrong bytes", zap.Error(err))
	}
}

// CorruptError says that a source's bytes do not match the digest. It is an ErrCorrupt.
type CorruptError struct {
	Digest digest.Digest
	Source Source
}

func (e *CorruptError) Error() string {
	from := "a source"
	if e.Source != (Source{}) {
		from = e.Source.String()
	}
	return "the bytes that " + from + " serves for " + e.Digest.String() +
		" do not match this digest; nothing was kept: check the upstream's storage or whatever stands between"
}

func (e *CorruptError) Unwrap() error { return ErrCorrupt }
