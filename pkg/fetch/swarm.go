package fetch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
	"github.com/samara-p2p/samara/pkg/store"
)

// blobCID is piece.BlobCID.
func blobCID(d digest.Digest) (cid.Cid, error) { return piece.BlobCID(d) }

// swarm is this host's part in the swarm of one blob: who else is in it, what
// they hold, and the download, if there is one. All fields of the first group
// belong to the goroutine of run; others post to it.
type swarm struct {
	e        *Engine
	digest   digest.Digest
	blob     *store.Blob
	geom     piece.Geometry
	log      *zap.Logger
	members  map[peer.ID]*member
	handles  []*member        // by scheduler.Peer; 0 is the upstream
	asked    map[peer.ID]bool // neighbours that were sent a Join
	want     Want
	wanted   bool // a download is under way or queued
	settled  bool // the whole digest is known to be right
	stop     bool
	suspect  bool // pieces may have been verified against a hash that was replaced
	lastUse  time.Time
	dl       *download
	origin   *origin
	pending  []int // pieces whose hash waits to be signed (seeder), and the hashes
	unsigned map[int]piece.Hash
	lastSave time.Duration
	lastSign time.Duration
	signTick *time.Timer
	signing  bool // hashes of a stored blob are being computed
	sealed   sealedSpan
	early    map[int][2]int // readers' wishes before the download has started

	nmembers atomic.Int32
	source   atomic.Pointer[Source] // want.Source, for the status page
	sourced  atomic.Bool            // a source has shown that it can give the blob
	inbox    chan func()
	done     chan struct{}
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	hashes  hashes
	readers readers
	prog    progress
}

// member is a neighbour in the swarm.
type member struct {
	id       peer.ID
	handle   scheduler.Peer
	seeder   bool
	zone     string
	have     *piece.Bitfield
	complete bool
	joined   bool // it wants the blob too: it is told what we get
	bad      bool
}

func newSwarm(e *Engine, b *store.Blob, w Want) *swarm {
	s := &swarm{
		e: e, digest: w.Digest, blob: b, geom: b.Geometry(), want: w,
		log:      e.log.With(zap.Stringer("digest", w.Digest)),
		members:  make(map[peer.ID]*member),
		handles:  make([]*member, 1),
		asked:    make(map[peer.ID]bool),
		inbox:    make(chan func(), 256),
		done:     make(chan struct{}),
		early:    make(map[int][2]int),
		unsigned: make(map[int]piece.Hash),
		lastUse:  time.Now(),
	}
	s.ctx, s.cancel = context.WithCancel(e.ctx)
	s.hashes.init(w.Digest, s.geom)
	s.readers.init()
	s.prog.init(b.Have())
	return s
}

// post has f run on the owner goroutine. It reports false when the swarm ended.
func (s *swarm) post(f func()) bool {
	select {
	case s.inbox <- f:
		return true
	case <-s.done:
		return false
	case <-s.ctx.Done():
		return false
	}
}

// run is the owner loop. It ends when the engine closes, or when the swarm has
// been of no use for a while.
func (s *swarm) run() {
	defer func() {
		s.shutdown()
		close(s.done)
	}()
	s.load()
	s.e.giver.blobUp(s)
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for !s.stop {
		select {
		case f := <-s.inbox:
			f()
		case <-tick.C:
			s.expire()
		case <-s.ctx.Done():
			return
		}
	}
}

// load takes over what an earlier process left: signed runs, a complete blob.
func (s *swarm) load() {
	for _, env := range s.blob.Runs() {
		s.addRun(env, "")
	}
	if s.blob.Complete() {
		s.settled = true
	}
	s.e.metrics.swarms.Inc()
}

// expire ends a swarm that nobody downloads, reads or asks for.
func (s *swarm) expire() {
	if s.wanted || s.readers.count() > 0 || s.e.giver.busy(s.digest) {
		s.lastUse = time.Now()
	}
	if time.Since(s.lastUse) > linger {
		s.stop = true
	}
}

// shutdown releases everything; the last act of run.
func (s *swarm) shutdown() {
	s.e.forget(s)
	s.cancel()
	if s.signTick != nil {
		s.signTick.Stop()
	}
	if s.dl != nil {
		s.dl.close()
	}
	if s.e.ctx.Err() != nil {
		s.blob.Fail(ErrStopped)
		s.readers.fail(ErrStopped)
	} else {
		s.readers.fail(errGone)
	}
	// Nobody drains the inbox any more: requests that end now must not block.
	stopDrain := make(chan struct{})
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for {
			select {
			case <-s.inbox:
			case <-stopDrain:
				return
			}
		}
	}()
	s.wg.Wait()
	close(stopDrain)
	<-drained
	s.saveRuns(true)
	s.e.giver.blobDown(s)
	for _, m := range s.members {
		if m.joined || s.e.o.Seeder {
			_ = s.e.network().Send(m.id, p2p.Leave{Digest: s.digest})
		}
	}
	s.blob.Release()
	s.e.metrics.swarms.Dec()
}

// setWanted makes sure that the download runs or is queued.
func (s *swarm) setWanted(w Want) {
	s.lastUse = time.Now()
	if s.want.Source == (Source{}) || w.Source != (Source{}) {
		s.want.Source = w.Source
	}
	if s.wanted || s.settled {
		if s.settled {
			s.readers.ready()
		}
		return
	}
	s.wanted = true
	if w.Source != (Source{}) {
		s.source.Store(&w.Source)
		m := s.blob.Meta()
		if len(m.Sources) == 0 || m.Sources[0] != w.Source.String() {
			m.Sources = append([]string{w.Source.String()}, m.Sources...)
			m.Sources = m.Sources[:min(len(m.Sources), 8)]
			if err := s.blob.SetMeta(m); err != nil {
				s.log.Warn("cannot note the blob's source", zap.Error(err))
			}
		}
	}
	s.prog.start()
	if s.e.o.Seeder {
		s.startOrigin()
		return
	}
	s.joinAll()
	// A client that waits goes ahead of the queue of prefetches.
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		queued := true
		select {
		case s.e.active <- struct{}{}:
		case <-s.readers.wanted():
			queued = false
		case <-s.ctx.Done():
			return
		}
		release := func() {
			if queued {
				<-s.e.active
			}
		}
		if !s.post(func() { s.startDownload(release) }) {
			release()
		}
	}()
}

// fail ends the download with an error that waiting readers get. What was
// verified stays, is served on, and is used by the next attempt.
func (s *swarm) fail(err error) {
	if !s.wanted {
		return
	}
	s.wanted = false
	s.e.metrics.downloads.WithLabelValues(resultOf(err)).Inc()
	s.log.Warn("download failed", zap.String("source", s.want.Source.String()),
		zap.Int("pieces", s.blob.Have().Count()), zap.Int("of", s.geom.Count()), zap.Error(err))
	s.prog.fail(err)
	if s.dl != nil {
		s.dl.close()
		s.dl = nil
	}
	s.readers.fail(err)
	s.e.forget(s) // the next client starts anew
	s.blob.Fail(err)
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

// settle is called once the whole digest is known to be right: readers get the
// last piece, the blob is committed and provided.
func (s *swarm) settle(verify bool) {
	if s.settled {
		return
	}
	if !verify {
		s.settled = true
		if err := s.blob.Settle(); err != nil {
			s.log.Warn("cannot settle", zap.Error(err))
		}
		s.readers.ready()
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
	if errors.Is(err, store.ErrCorrupt) {
		s.corrupt()
		return
	}
	if err != nil {
		s.settled = false
		s.fail(err)
		return
	}
	s.settled = true
	s.wanted = false
	s.lastUse = time.Now()
	if s.dl != nil {
		s.dl.close()
		s.dl = nil
	}
	s.readers.ready()
	s.prog.finish()
	s.e.metrics.downloads.WithLabelValues("ok").Inc()
	took, by := s.prog.summary()
	s.log.Info("blob complete", zap.Int64("size", s.geom.Size()), zap.Duration("took", took),
		zap.Int64("from_peers", by.Peers), zap.Int64("from_seeder", by.Seeder), zap.Int64("from_upstream", by.Upstream))
	s.e.giver.blobDone(s)
	for _, m := range s.members {
		if m.joined {
			_ = s.e.network().Send(m.id, p2p.Have{Digest: s.digest, Complete: true})
		}
	}
	s.provide()
	if s.e.o.Seeder && !s.hashes.final() {
		s.signStored()
	}
}

// provide tells the DHT that this host holds pieces of the blob.
func (s *swarm) provide() {
	if s.geom.Size() < SmallBlob {
		return
	}
	if c, err := blobCID(s.digest); err == nil {
		if err := s.e.network().Provide(c); err != nil {
			s.log.Debug("cannot provide", zap.Error(err))
		}
	}
}

// corrupt drops a blob whose bytes do not match its digest.
func (s *swarm) corrupt() {
	err := &CorruptError{Digest: s.digest, Source: s.want.Source}
	if s.e.o.Seeder {
		s.revoke()
	}
	if s.dl != nil {
		s.dl.banRaw()
	}
	if derr := s.blob.Discard(); derr != nil {
		s.log.Error("cannot discard wrong bytes", zap.Error(derr))
	}
	s.hashes.init(s.digest, s.geom)
	s.e.giver.blobDown(s)
	s.wanted = true // fail reports only a running download
	s.fail(err)
}

// CorruptError says that a source's bytes do not match the digest. It is an ErrCorrupt.
type CorruptError struct {
	Digest digest.Digest
	Source Source
}

func (e *CorruptError) Error() string {
	return "the bytes that " + e.Source.String() + " serves for " + e.Digest.String() +
		" do not match this digest; nothing was kept: check the upstream's storage or whatever stands between"
}

func (e *CorruptError) Unwrap() error { return ErrCorrupt }
