package fetch

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// joinAll asks every neighbour into the swarm and begins to look for more. It
// goes ahead of the download, which may have to wait its turn: by then the
// members and the hashes are known.
func (s *swarm) joinAll() {
	nbs := s.e.network().Neighbours()
	for _, nb := range nbs { // seeders first: their answer names other peers
		if s.e.isSeeder(nb) {
			s.join(nb)
		}
	}
	for _, nb := range some(nbs, maxMembers) {
		s.join(nb)
	}
	s.awaitRuns()
	if s.geom.Size() < SmallBlob || s.looking {
		return
	}
	s.looking = true
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.lookup()
	}()
}

// join asks a neighbour into the swarm, once.
func (s *swarm) join(nb p2p.Neighbour) {
	if s.asked[nb.ID] {
		return
	}
	s.asked[nb.ID] = true
	peers := 0
	switch {
	case s.e.isSeeder(nb):
		peers = hintPeers
	case s.count(s.e.o.Zone) < fewMembers && s.inquiries < maxInquiries:
		s.inquiries++
		peers = hintPeers
	}
	s.sendJoin(nb, true, peers)
}

// A swarm with fewer members of its own zone asks so many neighbours for further
// peers, until its next tick: those of a herd come up at the same moment, and what
// a few of them name is enough for the places that there are. Of a herd of 1,000
// in three zones some had 8 near neighbours where most had 45, and were served
// accordingly: they took half as long again.
const (
	fewMembers   = 24
	maxInquiries = 8
)

// sendJoin sends a neighbour a Join, the first or another. canWait: it may
// leave signed hashes to others.
func (s *swarm) sendJoin(nb p2p.Neighbour, canWait bool, peers int) {
	j := p2p.Join{
		Digest: s.digest, Size: s.geom.Size(), Source: s.sources.current().String(), WantPeers: peers,
		NoRuns: !s.wantsRuns(nb), CanWait: canWait, Known: s.hashes.known(), Part: !s.whole,
		Near: s.count(s.e.o.Zone),
	}
	if b := s.blob.Have(); b.Count() > 0 {
		j.Have = b.Bytes()
	}
	_ = s.e.network().Send(nb.ID, j) // one that is gone will be told of by PeerDown
}

// hungry tells whether more members are of use.
func (s *swarm) hungry() bool { return s.wanted && !s.settled && !s.e.o.Seeder }

// neighbourUp asks a new neighbour into the swarm of a blob that is wanted.
func (s *swarm) neighbourUp(nb p2p.Neighbour) {
	if s.hungry() {
		s.join(nb)
	}
}

// rejoin asks the seeders anew where none takes part: the one that was asked
// may have failed for a while, or never got the message.
func (s *swarm) rejoin() {
	if !s.hungry() || s.seederMember() != nil {
		return
	}
	for _, nb := range s.e.network().Neighbours() {
		if s.e.isSeeder(nb) {
			delete(s.asked, nb.ID)
			s.join(nb)
		}
	}
}

// lookup asks the DHT for providers, again and again while the swarm is small.
func (s *swarm) lookup() {
	key, err := blobCID(s.digest)
	if err != nil {
		return
	}
	for pause := lookupEvery; ; pause = min(2*pause, 2*time.Minute) {
		ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
		for ai := range s.e.network().Providers(ctx, key, hintPeers) {
			s.post(func() { s.meet([]peer.AddrInfo{ai}) })
		}
		cancel()
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
			return
		}
		more := make(chan bool, 1)
		if !s.post(func() { more <- s.hungry() && len(s.members) < 8 }) {
			return
		}
		select {
		case on := <-more:
			if !on {
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// seeks tells whether the swarm meets peers that others named: until three
// quarters of the places are taken, of all and of those for our own zone. The
// other places are for those that meet this host: were all taken by who comes
// first, a herd's last would be turned away by most. A peer's zone is not known
// before it is met.
func (s *swarm) seeks() bool {
	return len(s.members)+len(s.meeting) < maxMembers*3/4 && s.count(s.e.o.Zone)+len(s.meeting) < maxNear*3/4
}

// meet connects to peers that somebody named for this blob.
func (s *swarm) meet(peers []peer.AddrInfo) {
	if !s.hungry() {
		return
	}
	net := s.e.network()
	for _, ai := range some(peers, hintPeers) {
		if ai.ID == net.ID() || s.members[ai.ID] != nil || s.liars[ai.ID] || s.meeting[ai.ID] || !s.seeks() {
			continue
		}
		if nb, ok := net.Neighbour(ai.ID); ok {
			s.join(nb)
			continue
		}
		s.meeting[ai.ID] = true
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			if err := s.dial(ai); err != nil {
				s.log.Debug("cannot reach a peer that was named", zap.Stringer("peer", ai.ID), zap.Error(err))
			}
			s.post(func() {
				delete(s.meeting, ai.ID)
				// A new neighbour is joined by PeerUp; one that was there already, here.
				if nb, ok := net.Neighbour(ai.ID); ok {
					s.neighbourUp(nb)
				}
			})
		}()
	}
}

func (s *swarm) dial(ai peer.AddrInfo) error {
	select {
	case s.e.dials <- struct{}{}:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	defer func() { <-s.e.dials }()
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	return s.e.network().Connect(ctx, ai)
}

// hint names up to n members to a peer that joins: three quarters of its zone,
// the others of other zones, or what there is. Hosts that knew none but their own
// zone's could fetch what that lacks from the seeder alone.
func (s *swarm) hint(to peer.ID, n int) []peer.AddrInfo {
	net := s.e.network()
	zone := ""
	if nb, ok := net.Neighbour(to); ok {
		zone = nb.Zone
	}
	n = min(n, hintPeers)
	if len(s.members) >= hintAll {
		n = min(n, hintFew) // those name others
	}
	var near, far []peer.ID
	for id, m := range s.members {
		switch {
		case id == to || m.seeder || n <= 0:
		case m.zone == zone:
			near = append(near, id)
		default:
			far = append(far, id)
		}
	}
	pick := some(near, max(n*3/4, n-len(far)))
	pick = append(pick, some(far, n-len(pick))...)
	var out []peer.AddrInfo
	for _, id := range pick {
		if ai := net.AddrInfo(id); len(ai.Addrs) > 0 {
			out = append(out, ai)
		}
	}
	return out
}
