package fetch

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
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

func (h *hashes) envelopes() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list.Envelopes()
}

// addRun takes a signed run from a peer ("" for the store). Runs by a signer
// that is not trusted are dropped: whoever passes them on need not know.
func (s *swarm) addRun(env []byte, from peer.ID) {
	r, signer, err := piece.Open(env)
	if err != nil {
		s.log.Warn("dropped a malformed run of hashes", zap.Stringer("peer", from), zap.Error(err))
		return
	}
	if !s.e.trusts(signer) {
		s.log.Debug("dropped a run of hashes by an unknown signer", zap.Stringer("peer", from), zap.Stringer("signer", signer))
		return
	}
	if r.Digest != s.digest || r.Size != s.geom.Size() {
		s.log.Warn("a run of hashes contradicts the size of the blob", zap.Stringer("signer", signer),
			zap.Int64("signed", r.Size), zap.Int64("size", s.geom.Size()))
		return
	}
	wasFinal := s.hashes.final()
	fresh, err := s.hashes.add(r, env)
	if err != nil {
		s.log.Warn("a run of hashes contradicts an earlier one", zap.Stringer("signer", signer), zap.Error(err))
		return
	}
	if len(fresh) > 0 {
		if r.Final && from != "" {
			s.recheck(fresh)
		}
		s.newHashes(fresh)
	}
	if !wasFinal && s.hashes.final() {
		s.saveRuns(true)
		s.passOn()
		s.checkDone()
	}
}

// recheck is told of pieces whose hash was replaced by the final list: those
// that are held were verified against another hash, so that the whole must be
// hashed before it is committed.
func (s *swarm) recheck(changed []int) {
	for _, i := range changed {
		if s.blob.Has(i) && !s.suspect {
			s.suspect = true
			s.log.Warn("the final list replaces the hash of a piece that is held; the whole blob will be hashed", zap.Int("piece", i))
		}
	}
}

// newHashes promotes raw pieces that can be checked now and offers the
// scheduler what became verifiable.
func (s *swarm) newHashes(fresh []int) {
	if raw := s.blob.Raw(); raw.Count() > 0 {
		for _, i := range fresh {
			if !raw.Has(i) {
				continue
			}
			h, _ := s.hashes.get(i)
			ok, err := s.blob.Confirm(i, h)
			switch {
			case err != nil:
				s.log.Warn("cannot check a piece again", zap.Int("piece", i), zap.Error(err))
			case ok:
				s.gained(i)
			case s.dl != nil: // wrong, and dropped: it has to come again
				s.dl.rawLiar(i)
				s.dl.step(scheduler.Lost{Pieces: []int{i}})
			}
		}
	}
	if s.dl != nil {
		s.dl.offer(fresh)
	}
	s.saveRuns(false)
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
	s.lastSave = s.e.now()
	if err := s.blob.SetRuns(envs); err != nil {
		s.log.Warn("cannot keep the signed hashes", zap.Error(err))
	}
}

// passOn gives the final list to members that may not have it: the seeder may
// be gone before they hear of it.
func (s *swarm) passOn() {
	n := s.e.network()
	envs := s.hashes.envelopes()
	if n == nil || len(envs) == 0 || s.e.o.Seeder {
		return
	}
	for _, m := range s.members {
		if m.joined && !m.complete && !m.seeder {
			if _, ok := s.seederMember(); !ok { // the seeder tells them itself
				_ = n.Send(m.id, p2p.Runs{Digest: s.digest, Envelopes: envs})
			}
		}
	}
}

// seederMember returns a live seeder of this swarm.
func (s *swarm) seederMember() (*member, bool) {
	for _, m := range s.members {
		if m.seeder {
			return m, true
		}
	}
	return nil, false
}

// trusts tells whether hashes signed by p are believed.
func (e *Engine) trusts(p peer.ID) bool {
	if e.o.Seeder {
		if n := e.network(); n != nil && p == n.ID() {
			return true
		}
	}
	return e.o.Trusted(p)
}
