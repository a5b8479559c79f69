package fetch

import (
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// Signed hashes spread from neighbour to neighbour (docs/protocol/swarm.md,
// 5.5): a list of them has as many bytes as an eighth of a piece, and a seeder
// that sent it to each of a herd would send nothing else for seconds. Who lacks
// the final list asks its seeder, two neighbours that are known to have hashes
// and two others, to be passed on what they know and what they come to know.
// Who was asked may say that others have to be asked; a seeder that is asked
// again, by who waited in vain, may not.
const (
	maxFeeders = 2           // asked, of those that are known to have hashes, and of the others
	maxFed     = 16          // that a host passes hashes on to
	shortList  = 64          // pieces up to which it does so to all: no more bytes than the names of 30 peers
	feedWait   = time.Second // without a new hash, before others are asked, and the seeder again
	feedMost   = 8 * feedWait
)

// feeding is how a swarm gets signed hashes. It belongs to the owner.
type feeding struct {
	from  map[peer.ID]bool // asked to pass on what they know
	vain  map[peer.ID]bool // asked, but it came to nothing
	known int              // hashes, when last looked at
	pause time.Duration
	timer *time.Timer
}

func (f *feeding) init() {
	f.from, f.vain = make(map[peer.ID]bool), make(map[peer.ID]bool)
}

func (f *feeding) forget(p peer.ID) {
	delete(f.from, p)
	delete(f.vain, p)
}

func (f *feeding) stop() {
	if f.timer != nil {
		f.timer.Stop()
	}
}

// lacksRuns tells whether signed hashes are looked for: a list that is not
// final may be replaced by one that is. Who needs no further piece needs no hash.
func (s *swarm) lacksRuns() bool { return s.hungry() && !s.hashes.final() && !s.resting() }

// wantsRuns tells whether a neighbour is to be asked for signed hashes, and
// counts it among those that are.
func (s *swarm) wantsRuns(nb p2p.Neighbour) bool {
	switch {
	case !s.lacksRuns():
		return false
	case s.feed.from[nb.ID], s.e.isSeeder(nb):
	case s.feed.vain[nb.ID], s.feeders(s.knows(nb.ID)) >= maxFeeders:
		return false
	}
	s.feed.from[nb.ID] = true
	return true
}

// knows tells whether a neighbour has shown that it has signed hashes.
func (s *swarm) knows(p peer.ID) bool {
	m := s.members[p]
	return m != nil && m.knows > 0
}

// feeders counts the neighbours that were asked for signed hashes: those that
// are known to have some, or the others. Seeders do not count.
func (s *swarm) feeders(know bool) int {
	n := 0
	for p := range s.feed.from {
		if m := s.members[p]; s.knows(p) == know && (m == nil || !m.seeder) {
			n++
		}
	}
	return n
}

// shows notes that a member knows so many signed hashes, and asks it for them
// while fewer than two of those that know some were asked.
func (s *swarm) shows(m *member, known int) {
	before := m.knows
	m.knows = max(m.knows, known)
	if before == 0 && known > 0 {
		s.seek(m)
	}
}

// seek asks a member for signed hashes, if more are to be asked.
func (s *swarm) seek(m *member) {
	if m.seeder || !s.lacksRuns() || s.feed.from[m.id] || s.liars[m.id] {
		return
	}
	if nb, ok := s.e.network().Neighbour(m.id); ok && s.wantsRuns(nb) {
		s.sendJoin(nb, true, 0)
	}
}

// seekMore asks members for signed hashes while too few are asked.
func (s *swarm) seekMore() {
	if !s.lacksRuns() {
		return
	}
	for _, m := range s.members {
		s.seek(m)
	}
}

// unfed is told that p passes no hashes on.
func (s *swarm) unfed(p peer.ID) {
	if !s.feed.from[p] {
		return
	}
	delete(s.feed.from, p)
	s.feed.vain[p] = true
	s.seekMore()
}

// awaitRuns sees to it that hashes are not waited for in vain.
func (s *swarm) awaitRuns() {
	if s.feed.timer == nil && s.lacksRuns() {
		s.feed.known, s.feed.pause = s.hashes.known(), feedWait
		s.armFeed()
	}
}

// armFeed has the hosts of a herd look at different moments.
func (s *swarm) armFeed() {
	in := s.feed.pause + time.Duration(rand.Int64N(int64(s.feed.pause/2)))
	s.feed.timer = time.AfterFunc(in, func() { s.post(s.checkFeed) })
}

// checkFeed asks others for hashes where none came for a while although there
// are more, and the seeders, which then answer for certain.
func (s *swarm) checkFeed() {
	s.feed.timer = nil
	if !s.lacksRuns() {
		return
	}
	known := s.hashes.known()
	if known > s.feed.known || !s.behind(known) {
		s.feed.known, s.feed.pause = known, feedWait
		s.armFeed()
		return
	}
	s.log.Debug("no signed hashes came", zap.Int("known", known))
	for p := range s.feed.from {
		if m := s.members[p]; m == nil || !m.seeder {
			delete(s.feed.from, p)
			s.feed.vain[p] = true
		}
	}
	if len(s.feed.vain) >= len(s.members) {
		clear(s.feed.vain) // all were asked: from the start again
	}
	for _, m := range s.members {
		if nb, ok := s.e.network().Neighbour(m.id); ok && m.seeder {
			s.sendJoin(nb, false, 0)
		}
	}
	s.seekMore()
	s.feed.pause = min(2*s.feed.pause, feedMost)
	s.armFeed()
}

// behind tells whether somebody knows more than so many hashes, or nobody is
// here to show it but the seeder. That nothing comes where nobody knows more
// is the upstream's doing.
func (s *swarm) behind(known int) bool {
	others := 0
	for _, m := range s.members {
		if m.knows > known {
			return true
		}
		if !m.seeder {
			others++
		}
	}
	return others == 0
}

// feeds tells whether signed hashes are to be passed on to m: if there is room for
// it or it cannot wait for others. Of a final list only the lists of the last
// moment count: each is sent once.
func (s *swarm) feeds(m *member, canWait bool) bool {
	if m.fed && !s.hashes.final() {
		return true
	}
	now, n := s.e.now(), 0
	for _, o := range s.members {
		if o.fed && (!s.hashes.final() || now-o.fedAt < feedWait) {
			n++
		}
	}
	if n >= maxFed && canWait && s.geom.Count() > shortList {
		return false
	}
	m.fedAt = now
	return true
}

// relay passes signed hashes on to the members that asked for them.
func (s *swarm) relay(envs [][]byte, from peer.ID) {
	if len(envs) == 0 {
		return
	}
	for _, m := range s.members {
		if m.fed && !m.complete && m.id != from {
			_ = s.e.network().Send(m.id, p2p.Runs{Digest: s.digest, Envelopes: envs})
		}
	}
}
