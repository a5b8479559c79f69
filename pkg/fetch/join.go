package fetch

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// joinAll asks every neighbour into the swarm and begins to look for more. It
// goes ahead of the download, which may have to wait its turn: by then the
// members and the hashes are known.
func (s *swarm) joinAll() {
	nbs := s.e.network().Neighbours()
	for _, nb := range nbs { // seeders first: their answer names other peers
		if nb.Seeder {
			s.join(nb)
		}
	}
	for _, nb := range some(nbs, maxMembers) {
		if !nb.Seeder {
			s.join(nb)
		}
	}
	if s.geom.Size() >= SmallBlob {
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.lookup()
		}()
	}
}

// join asks a neighbour into the swarm, once.
func (s *swarm) join(nb p2p.Neighbour) {
	if s.asked[nb.ID] {
		return
	}
	s.asked[nb.ID] = true
	j := p2p.Join{Digest: s.digest, Size: s.geom.Size(), Source: s.want.Source.String()}
	if b := s.blob.Have(); b.Count() > 0 {
		j.Have = b.Bytes()
	}
	if nb.Seeder || len(s.members) < 8 {
		j.WantPeers = hintPeers
	}
	_ = s.e.network().Send(nb.ID, j) // one that is gone will be told of by PeerDown
}

// neighbourUp asks a new neighbour into the swarm of a blob that is wanted.
func (s *swarm) neighbourUp(nb p2p.Neighbour) {
	if s.wanted && !s.settled && !s.e.o.Seeder {
		s.join(nb)
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
		hungry := make(chan bool, 1)
		if !s.post(func() { hungry <- s.wanted && len(s.members) < 8 }) {
			return
		}
		select {
		case h := <-hungry:
			if !h {
				return
			}
		case <-s.done:
			return
		}
	}
}
