package fetch

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// hashes is what is known of a blob's piece hashes. It is read by requests and
// written by the swarm's owner.
type hashes struct {
	mu   sync.Mutex
	list *piece.List
	more chan struct{} // closed when hashes were added
}

func (h *hashes) init(d digest.Digest, g piece.Geometry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = piece.NewList(d, g)
	if h.more != nil {
		close(h.more)
	}
	h.more = make(chan struct{})
}

// get returns the signed hash of piece i.
func (h *hashes) get(i int) (piece.Hash, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list.Hash(i)
}

// wait returns the hash of piece i, waiting up to d for the run that names it.
func (h *hashes) wait(ctx context.Context, i int, d time.Duration) (piece.Hash, bool) {
	if x, ok := h.get(i); ok || d <= 0 {
		return x, ok
	}
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		h.mu.Lock()
		x, ok := h.list.Hash(i)
		more := h.more
		h.mu.Unlock()
		if ok {
			return x, true
		}
		select {
		case <-more:
		case <-t.C:
			return x, false
		case <-ctx.Done():
			return x, false
		}
	}
}

func (h *hashes) add(r piece.Run, env []byte) ([]int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fresh, err := h.list.Add(r, env)
	if len(fresh) > 0 {
		close(h.more)
		h.more = make(chan struct{})
	}
	return fresh, err
}

func (h *hashes) final() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list.Final()
}

func (h *hashes) known() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list.Known()
}

func (h *hashes) complete() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list.Complete()
}

func (h *hashes) envelopes() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list.Envelopes()
}

// signedRun is a run whose signature is right and whose signer is trusted.
type signedRun struct {
	piece.Run
	envelope []byte
	signer   peer.ID
	from     peer.ID // who passed it on; "" for the store
}

// openRun checks a signed run. It runs on the goroutine of whoever brought it,
// since a signature costs more than a message and anybody can send many. Runs
// by a signer that is not trusted are dropped: whoever passes them on need not
// know.
func (s *swarm) openRun(env []byte, from peer.ID) (signedRun, bool) {
	r, signer, err := piece.Open(env)
	switch {
	case err != nil:
		s.log.Warn("dropped a malformed run of hashes", zap.Stringer("peer", from), zap.Error(err))
	case !s.e.trusts(signer):
		s.log.Debug("dropped a run of hashes by an unknown signer", zap.Stringer("peer", from), zap.Stringer("signer", signer))
	case r.Digest != s.digest || r.Size != s.geom.Size():
		s.log.Warn("a run of hashes contradicts the size of the blob", zap.Stringer("signer", signer),
			zap.Int64("signed", r.Size), zap.Int64("size", s.geom.Size()))
	default:
		return signedRun{r, env, signer, from}, true
	}
	return signedRun{}, false
}

// addRun takes in a signed run.
func (s *swarm) addRun(r signedRun) {
	wasFinal := s.hashes.final()
	fresh, err := s.hashes.add(r.Run, r.envelope)
	if err != nil {
		s.log.Warn("a run of hashes contradicts an earlier one", zap.Stringer("signer", r.signer), zap.Error(err))
		return
	}
	if len(fresh) > 0 {
		if r.Final && r.from != "" {
			s.recheck(fresh)
		}
		s.newHashes(fresh)
	}
	final := !wasFinal && s.hashes.final()
	if final && !s.suspect {
		s.readers.sure() // each piece is held against it
	}
	if r.from != "" && (len(fresh) > 0 || final) {
		s.relay([][]byte{r.envelope}, r.from)
	}
	if final && r.from != "" {
		s.saveRuns(true)
		s.checkDone()
	}
}

// recheck is told of pieces whose hash was replaced by the final list: those
// that are held were verified against another hash, so that the whole must be
// hashed before it is committed.
func (s *swarm) recheck(changed []int) {
	for _, i := range changed {
		if !s.settled && !s.suspect && s.blob.Has(i) {
			s.suspect = true
			s.log.Warn("the final list replaces the hash of a piece that is held; the whole blob will be hashed", zap.Int("piece", i))
		}
	}
}

// newHashes has raw pieces checked that can be now, and offers the scheduler
// what became verifiable.
func (s *swarm) newHashes(fresh []int) {
	if s.dl != nil {
		s.dl.reconsider()
		s.dl.offer(fresh)
	}
	s.saveRuns(false)
	raw := s.blob.Raw()
	if raw.Count() == 0 {
		return
	}
	var check []int
	for _, i := range fresh {
		if raw.Has(i) {
			check = append(check, i)
		}
	}
	if len(check) == 0 {
		return
	}
	s.wg.Add(1)
	go func() { // reads the disk and hashes: not for the owner
		defer s.wg.Done()
		for _, i := range check {
			if h, ok := s.hashes.get(i); !ok || !s.confirm(i, h) {
				return
			}
		}
		s.post(s.checkDone)
	}()
}

// confirmNew is called after a raw piece was written: its hash may have become
// known in between, unseen by newHashes.
func (s *swarm) confirmNew(i int) {
	if h, ok := s.hashes.get(i); ok && s.confirm(i, h) {
		s.post(s.checkDone)
	}
}

// confirm holds raw piece i against its hash. False: it makes no sense to go on.
func (s *swarm) confirm(i int, h piece.Hash) bool {
	ok, err := s.blob.Confirm(i, h)
	switch {
	case s.ctx.Err() != nil:
		return false
	case err != nil:
		s.log.Warn("cannot check a piece again", zap.Int("piece", i), zap.Error(err))
		return false
	}
	return s.post(func() {
		switch {
		case ok:
			if s.dl != nil {
				delete(s.dl.rawFrom, i)
			}
			s.gained(i)
			s.announce(i)
		case s.dl != nil: // wrong, and dropped: it has to come again
			s.dl.rawLiar(i)
			s.dl.step(scheduler.Lost{Pieces: []int{i}})
		}
	})
}

// saveRuns keeps the signed runs with the blob; at most every two seconds
// unless forced, since each time writes the whole list.
func (s *swarm) saveRuns(force bool) {
	if !force && s.e.now()-s.lastSave < 2*time.Second {
		return
	}
	envs := s.hashes.envelopes()
	if len(envs) == 0 {
		return
	}
	s.lastSave, s.savedRuns = s.e.now(), s.hashes.known()
	if err := s.blob.SetRuns(envs); err != nil {
		s.log.Warn("cannot keep the signed hashes", zap.Error(err))
	}
}

// seederMember returns a live seeder of this swarm, or nil.
func (s *swarm) seederMember() *member {
	for _, m := range s.members {
		if m.seeder {
			return m
		}
	}
	return nil
}
