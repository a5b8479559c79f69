package fetch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
	"github.com/samara-p2p/samara/pkg/store"
)

// swarm is this host's part in the swarm of one blob: who else is in it, what
// they hold, and the download, if there is one. All fields of the first group
// belong to the goroutine of run; others post to it.
type swarm struct {
	e         *Engine
	digest    digest.Digest
	blob      *store.Blob
	geom      piece.Geometry
	log       *zap.Logger
	members   map[peer.ID]*member
	handles   []*member                  // by scheduler.Peer, nil for who is no member now; 0 is the upstream
	handleOf  map[peer.ID]scheduler.Peer // of everybody who ever was a member
	liars     map[peer.ID]bool           // not asked again for this blob
	asked     map[peer.ID]bool           // neighbours that were sent a Join
	feed      feeding                    // of signed hashes
	size      int                        // of the whole swarm, as its seeder said
	inquiries int                        // neighbours asked for further peers since the last tick
	meeting   map[peer.ID]bool           // connections being opened to peers that were named
	looking   bool                       // the DHT is being asked
	wanted    bool                       // a download is under way or queued
	settled   bool                       // the whole digest is known to be right
	commits   bool                       // the store is at it
	stop      bool
	failure   error // why the download failed
	suspect   bool  // pieces may have been verified against a hash that was replaced
	retries   int   // of downloads from unsigned holders that gave wrong bytes
	single    bool  // unsigned holders are asked one at a time, and
	sole      peer.ID
	provided  bool
	dl        *download
	origin    *origin
	pending   []int // pieces whose hash waits to be signed (seeder), and the hashes
	unsigned  map[int]piece.Hash
	withheld  bool // nothing is signed before the digest has proved right
	lastSave  time.Duration
	savedRuns int // hashes that were known then
	lastSign  time.Duration
	signTick  *time.Timer
	signing   bool // hashes of a stored blob are being computed
	sealed    sealedSpan
	early     map[int][2]int // readers' wishes before the download has started
	pulls     []*pull        // that wait for the blob
	pace      *rate.Limiter  // of the download; nil: none
	whole     bool           // all of the blob is wanted, and
	wholly    chan struct{}  // closed then
	needed    *piece.Bitfield
	lastNeed  time.Duration

	giving giving // belongs to the giver

	nmembers atomic.Int32
	given    atomic.Int64  // bytes, to peers
	roomy    atomic.Bool   // the store keeps room for all of the blob
	sourced  atomic.Bool   // a source has shown that it can give the blob
	lastUse  atomic.Int64  // Engine.now
	moved    atomic.Int64  // Engine.now, when bytes of the blob came last
	landed   atomic.Int64  // Engine.now, when a piece did; 0: none has
	up       chan struct{} // closed once the giver knows of the blob
	traces   traces
	done     chan struct{}
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	gate   sync.RWMutex // held by who posts; see shutdown
	closed bool         // guarded by gate
	inbox  chan task

	skipDurable atomic.Bool // what is kept of the blob could not be read
	usedDurable atomic.Bool // some of its bytes are from there

	sources sources
	hashes  hashes
	readers readers
	prog    progress
}

// task is work for the owner goroutine. When the swarm ends before it has run,
// lost is called instead; nil: nothing is lost.
type task struct{ run, lost func() }

// member is a neighbour in the swarm.
type member struct {
	id       peer.ID
	handle   scheduler.Peer
	seeder   bool // a trusted one
	zone     string
	have     *piece.Bitfield
	complete bool
	joined   bool // it wants the blob too: it is told what we get
	part     bool // it wants only some of it: nothing is left to it to bring
	knows    int  // signed hashes, as far as it showed
	fed      bool // it is passed signed hashes on
	fedAt    time.Duration
}

func newSwarm(e *Engine, b *store.Blob, w Want) *swarm {
	s := &swarm{
		e: e, digest: w.Digest, blob: b, geom: b.Geometry(),
		log:      e.log.With(zap.Stringer("digest", w.Digest)),
		members:  make(map[peer.ID]*member),
		handles:  make([]*member, 1),
		handleOf: make(map[peer.ID]scheduler.Peer),
		liars:    make(map[peer.ID]bool),
		asked:    make(map[peer.ID]bool),
		meeting:  make(map[peer.ID]bool),
		inbox:    make(chan task, 256),
		up:       make(chan struct{}),
		done:     make(chan struct{}),
		early:    make(map[int][2]int),
		unsigned: make(map[int]piece.Hash),
		wholly:   make(chan struct{}),
		needed:   piece.NewBitfield(b.Geometry().Count()),
	}
	s.ctx, s.cancel = context.WithCancel(e.ctx)
	s.hashes.init(w.Digest, s.geom)
	s.feed.init()
	s.readers.init()
	s.prog.init(b.Have())
	s.sources.add(w.Source)
	for _, src := range b.Meta().Sources {
		s.sources.add(ParseSource(src))
	}
	s.touch()
	return s
}

// touch notes a use.
func (s *swarm) touch() { s.lastUse.Store(int64(s.e.now())) }

// post has f run on the owner goroutine. It reports false when the swarm ended.
func (s *swarm) post(f func()) bool { return s.postOr(f, nil) }

// postOr has f run on the owner goroutine, or lost when the swarm ends before
// f's turn. It reports false, and neither runs, when the swarm has ended. The
// owner itself must not post: its inbox may be full.
func (s *swarm) postOr(f, lost func()) bool {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.closed || s.ctx.Err() != nil {
		return false
	}
	select {
	case s.inbox <- task{f, lost}:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// run is the owner loop. It ends when the engine closes, when the download has
// failed, or when the swarm has been of no use for a while.
func (s *swarm) run() {
	defer close(s.done)
	defer s.shutdown()
	s.load()
	s.e.giver.blobUp(s)
	close(s.up)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for !s.stop {
		select {
		case t := <-s.inbox:
			t.run()
		case <-tick.C:
			s.tick()
		case <-s.ctx.Done():
			return
		}
	}
}

// load takes over what an earlier process left: signed runs, a complete blob.
func (s *swarm) load() {
	s.e.metrics.swarms.Inc()
	for _, env := range s.blob.Runs() {
		if r, ok := s.openRun(env, ""); ok {
			s.addRun(r)
		}
	}
	if s.blob.Complete() {
		s.settled = true
		if s.e.o.Seeder && !s.hashes.final() {
			s.signStored()
		}
	}
}

// idle tells whether nobody downloads, reads or asks for the blob now.
func (s *swarm) idle() bool {
	return (!s.wanted || s.resting()) && !s.commits && s.readers.count() == 0 && !s.e.giver.busy(s)
}

// tick ends a swarm that has been of no use for a while, and asks seeders anew
// that a download has lost.
func (s *swarm) tick() {
	if !s.idle() {
		s.touch()
	}
	if s.e.now()-time.Duration(s.lastUse.Load()) > linger {
		s.stop = true
	}
	s.inquiries = 0
	s.rejoin()
	s.fetchRest()
	if known := s.hashes.known(); known > s.savedRuns {
		s.saveRuns(true) // nothing more may come for long
	}
}

// shutdown releases everything; the last act of run. Once ctx has ended nothing
// is posted any more; what was posted before is lost, and told so.
func (s *swarm) shutdown() {
	s.saveRuns(true)
	s.e.forget(s)
	if s.e.ctx.Err() != nil {
		s.readers.fail(ErrStopped)
	} else {
		s.readers.fail(errGone)
	}
	s.cancel()
	if s.signTick != nil {
		s.signTick.Stop()
	}
	s.feed.stop()
	if s.dl != nil {
		s.dl.close()
	}
	s.gate.Lock()
	s.closed = true
	s.gate.Unlock()
	s.wg.Wait()
	s.e.giver.blobDown(s)
	reason := ""
	if s.failure != nil {
		reason = s.failure.Error()
	}
	for _, m := range s.members {
		_ = s.e.network().Send(m.id, p2p.Leave{Digest: s.digest, Reason: reason})
	}
	s.pulled(ErrStopped)
	s.traces.end(s, ErrStopped)
	if n := s.given.Load(); n > 0 {
		s.e.metrics.copies.Observe(float64(n) / float64(s.geom.Size()))
	}
	s.blob.Release()
	s.e.metrics.swarms.Dec()
	for {
		select {
		case t := <-s.inbox:
			if t.lost != nil {
				t.lost()
			}
		default:
			return
		}
	}
}
