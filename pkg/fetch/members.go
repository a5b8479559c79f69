package fetch

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// PeerUp tells every hungry swarm of a new neighbour. Part of p2p.Handler.
func (e *Engine) PeerUp(nb p2p.Neighbour) {
	for _, s := range e.all() {
		s.post(func() { s.neighbourUp(nb) })
	}
}

// PeerDown removes a neighbour from every swarm. Part of p2p.Handler.
func (e *Engine) PeerDown(p peer.ID) {
	for _, s := range e.all() {
		s.post(func() { s.drop(p) })
	}
	e.giver.peerGone(p)
}

// Message takes one control message. Part of p2p.Handler.
func (e *Engine) Message(from peer.ID, m p2p.Message) {
	switch m := m.(type) {
	case p2p.Join:
		e.handleJoin(from, m)
	case p2p.State:
		e.to(m.Digest, func(s *swarm) { s.handleState(from, m.Size, m.Have, m.Complete, false) })
	case p2p.Have:
		e.to(m.Digest, func(s *swarm) { s.handleHave(from, m) })
	case p2p.Leave:
		e.to(m.Digest, func(s *swarm) { s.handleLeave(from, m.Reason) })
	case p2p.Peers:
		e.to(m.Digest, func(s *swarm) { s.meet(m.Peers) })
	case p2p.Runs:
		e.to(m.Digest, func(s *swarm) {
			for _, env := range m.Envelopes {
				s.addRun(env, from)
			}
		})
	case p2p.Revoke:
		e.to(m.Digest, func(s *swarm) { s.handleRevoke(from, m.Envelope) })
	}
}

// to posts f to the swarm of d, if there is one.
func (e *Engine) to(d digest.Digest, f func(*swarm)) {
	if s := e.find(d); s != nil {
		s.post(func() { f(s) })
	}
}

// handleJoin answers a peer that wants a blob. A seeder starts to fetch what it
// lacks; a peer that holds nothing of the blob says so.
func (e *Engine) handleJoin(from peer.ID, m p2p.Join) {
	s := e.serving(m.Digest)
	if e.o.Seeder && (s == nil || !s.blob.Complete()) {
		w := Want{Digest: m.Digest, Size: m.Size, Source: ParseSource(m.Source)}
		if w.Size <= 0 || w.Source == (Source{}) {
			if known, ok := e.o.Locate(m.Digest); ok {
				w = known
			}
		}
		reason := ""
		switch {
		case w.Source == (Source{}) || e.o.Upstream == nil:
			reason = "the seeder knows no upstream for this blob"
		case w.Size <= 0:
			reason = "the seeder does not know the size of this blob"
		default:
			if _, ok := e.o.Upstream.URL(w.Source.Upstream); !ok {
				reason = "the seeder has no upstream named " + w.Source.Upstream
			}
		}
		if reason == "" {
			started, err := e.want(w)
			if err != nil {
				reason = err.Error()
			} else {
				s = started
			}
		}
		if s == nil {
			_ = e.network().Send(from, p2p.Leave{Digest: m.Digest, Reason: reason})
			return
		}
	}
	if s == nil || !s.post(func() { s.handleJoin(from, m) }) {
		_ = e.network().Send(from, p2p.Leave{Digest: m.Digest, Reason: "not held"})
	}
}

func (s *swarm) handleJoin(from peer.ID, m p2p.Join) {
	if m.Size > 0 && m.Size != s.geom.Size() {
		_ = s.e.network().Send(from, p2p.Leave{Digest: s.digest, Reason: "the blob has another size"})
		return
	}
	s.lastUse = time.Now()
	n := s.e.network()
	var hint []peer.AddrInfo
	if m.WantPeers > 0 {
		hint = s.hint(from, m.WantPeers)
	}
	if mem := s.handleState(from, s.geom.Size(), m.Have, m.Complete, true); mem == nil {
		return
	}
	var have []byte
	if b := s.blob.Have(); b.Count() > 0 && !s.blob.Complete() && !s.e.o.Seeder {
		have = b.Bytes()
	}
	_ = n.Send(from, p2p.State{Digest: s.digest, Size: s.geom.Size(), Have: have, Complete: s.complete()})
	if envs := s.runsFor(); len(envs) > 0 {
		_ = n.Send(from, p2p.Runs{Digest: s.digest, Envelopes: envs})
	}
	if len(hint) > 0 {
		_ = n.Send(from, p2p.Peers{Digest: s.digest, Peers: hint})
	}
	if s.e.o.Seeder && s.settled && !s.hashes.final() {
		s.signStored()
	}
}

// complete tells whether this host may call itself a holder of the whole blob.
func (s *swarm) complete() bool { return s.settled }

// hint names up to n members to a peer that joins, those of its zone first.
func (s *swarm) hint(to peer.ID, n int) []peer.AddrInfo {
	net := s.e.network()
	zone := ""
	if nb, ok := net.Neighbour(to); ok {
		zone = nb.Zone
	}
	var near, far []peer.AddrInfo
	for id, m := range s.members {
		if id == to || m.seeder || m.bad {
			continue
		}
		ai := net.AddrInfo(id)
		if len(ai.Addrs) == 0 {
			continue
		}
		if m.zone == zone {
			near = append(near, ai)
		} else {
			far = append(far, ai)
		}
	}
	n = min(n, hintPeers)
	out := some(near, n)
	return append(out, some(far, n-len(out))...)
}

// meet connects to peers that somebody named for this blob.
func (s *swarm) meet(peers []peer.AddrInfo) {
	net := s.e.network()
	for _, ai := range some(peers, hintPeers) {
		if ai.ID == net.ID() || s.members[ai.ID] != nil || len(s.members) >= maxMembers {
			continue
		}
		if nb, ok := net.Neighbour(ai.ID); ok {
			s.neighbourUp(nb)
			continue
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			select {
			case s.e.dials <- struct{}{}:
			case <-s.ctx.Done():
				return
			}
			defer func() { <-s.e.dials }()
			ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
			defer cancel()
			if err := net.Connect(ctx, ai); err != nil {
				s.log.Debug("cannot reach a peer that was named", zap.Stringer("peer", ai.ID), zap.Error(err))
				return
			}
			// A new neighbour is joined by PeerUp; one that was there already, here.
			if nb, ok := net.Neighbour(ai.ID); ok {
				s.post(func() { s.neighbourUp(nb) })
			}
		}()
	}
}

// handleState takes what a neighbour says that it holds, and makes it a member.
func (s *swarm) handleState(from peer.ID, size int64, have []byte, complete, joined bool) *member {
	if size != s.geom.Size() {
		s.log.Warn("a peer knows another size of the blob", zap.Stringer("peer", from), zap.Int64("theirs", size), zap.Int64("ours", s.geom.Size()))
		return nil
	}
	m := s.members[from]
	isNew := m == nil
	if isNew {
		if len(s.members) >= maxMembers && !s.e.o.Seeder {
			_ = s.e.network().Send(from, p2p.Leave{Digest: s.digest, Reason: "enough neighbours"})
			return nil
		}
		nb, ok := s.e.network().Neighbour(from)
		if !ok {
			return nil // it went away meanwhile
		}
		m = &member{id: from, seeder: nb.Seeder, zone: nb.Zone, have: piece.NewBitfield(s.geom.Count()), handle: scheduler.Peer(len(s.handles))}
		s.members[from] = m
		s.nmembers.Store(int32(len(s.members)))
		s.handles = append(s.handles, m)
	}
	m.joined = m.joined || joined
	if len(have) > 0 {
		b, err := piece.BitfieldFromBytes(s.geom.Count(), have)
		if err != nil {
			s.log.Warn("a peer sent a bad bitfield", zap.Stringer("peer", from), zap.Error(err))
			return m
		}
		for i := range b.All() {
			m.have.Set(i)
		}
	}
	if complete {
		m.complete = true
		m.have = piece.FullBitfield(s.geom.Count())
	}
	s.e.giver.peerHas(s, m, nil)
	if s.dl != nil {
		if isNew {
			s.dl.memberUp(m)
		} else {
			s.dl.memberHas(m)
		}
	}
	return m
}

func (s *swarm) handleHave(from peer.ID, h p2p.Have) {
	m := s.members[from]
	if m == nil {
		return
	}
	var fresh []int
	for _, i := range h.Pieces {
		if m.have.Set(i) {
			fresh = append(fresh, i)
		}
	}
	if h.Complete && !m.complete {
		m.complete = true
		for i := range m.have.Clone().Missing() {
			m.have.Set(i)
			fresh = append(fresh, i)
		}
	}
	if len(fresh) == 0 {
		return
	}
	s.e.giver.peerHas(s, m, fresh)
	if s.dl != nil {
		s.dl.memberGot(m, fresh)
	}
}

func (s *swarm) handleLeave(from peer.ID, reason string) {
	if s.dl != nil {
		s.dl.refused(from, reason)
	}
	s.drop(from)
}

// drop forgets a member that left or whose connection is gone.
func (s *swarm) drop(p peer.ID) {
	delete(s.asked, p)
	m := s.members[p]
	if m == nil {
		return
	}
	delete(s.members, p)
	s.nmembers.Store(int32(len(s.members)))
	s.handles[m.handle] = nil
	s.e.giver.memberGone(s, m)
	if s.dl != nil {
		s.dl.memberDown(m)
	}
	if m.seeder {
		s.spreadRuns()
		if s.dl != nil && s.dl.lone {
			s.dl.offerUnsigned()
		}
	}
}

// spreadRuns passes the provisional runs to a few members when the seeder has
// gone: between them the members then know every hash that it signed.
func (s *swarm) spreadRuns() {
	envs := s.hashes.envelopes()
	if len(envs) == 0 {
		return
	}
	var to []peer.ID
	for id, m := range s.members {
		if m.joined && !m.complete {
			to = append(to, id)
		}
	}
	for _, id := range some(to, 5) {
		_ = s.e.network().Send(id, p2p.Runs{Digest: s.digest, Envelopes: envs})
	}
}

// handleRevoke drops a blob whose signer found that its bytes are wrong. A
// final list stands: a revocation that comes after it is an old one.
func (s *swarm) handleRevoke(from peer.ID, env []byte) {
	d, signer, err := piece.OpenRevocation(env)
	if err != nil || d != s.digest || !s.e.trusts(signer) || s.settled || s.hashes.final() || s.e.o.Seeder {
		return
	}
	s.log.Warn("the seeder revoked the blob", zap.Stringer("peer", from))
	for _, m := range s.members {
		if m.joined && !m.seeder {
			_ = s.e.network().Send(m.id, p2p.Revoke{Digest: s.digest, Envelope: env})
		}
	}
	s.corrupt()
}

// announce tells every member that lacks piece i that it can be had here.
func (s *swarm) announce(i int) {
	n := s.e.network()
	for _, m := range s.members {
		if m.joined && !m.seeder && !m.complete && !m.have.Has(i) {
			_ = n.Send(m.id, p2p.Have{Digest: s.digest, Pieces: []int{i}})
		}
	}
}
