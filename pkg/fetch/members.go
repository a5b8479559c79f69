package fetch

import (
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// PeerUp tells every hungry swarm of a new neighbour. Part of p2p.Handler.
func (e *Engine) PeerUp(nb p2p.Neighbour) {
	if !e.ready() {
		return
	}
	e.giver.peerUp(nb.ID)
	for _, s := range e.all() {
		s.post(func() { s.neighbourUp(nb) })
	}
}

// PeerDown removes a neighbour from every swarm. Part of p2p.Handler.
func (e *Engine) PeerDown(p peer.ID) {
	for _, s := range e.all() {
		s.post(func() { s.drop(p) })
	}
	e.giver.peerDown(p)
}

// Message takes one control message. Part of p2p.Handler.
func (e *Engine) Message(from peer.ID, m p2p.Message) {
	if !e.ready() {
		return
	}
	switch m := m.(type) {
	case p2p.Join:
		e.handleJoin(from, m)
	case p2p.State:
		e.to(m.Digest, func(s *swarm) { s.handleState(from, m) })
	case p2p.Have:
		e.to(m.Digest, func(s *swarm) { s.handleHave(from, m) })
	case p2p.Leave:
		e.to(m.Digest, func(s *swarm) { s.handleLeave(from, m.Reason) })
	case p2p.Peers:
		e.to(m.Digest, func(s *swarm) { s.meet(m.Peers) })
	case p2p.Runs:
		e.handleRuns(from, m)
	case p2p.Revoke:
		e.handleRevoke(from, m)
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
	reason := "not held"
	if e.o.Seeder && (s == nil || !s.blob.Complete()) {
		started, why := e.fetchFor(m)
		if started != nil {
			s = started
		}
		reason = why
	}
	again := func() { e.handleJoin(from, m) } // the swarm was just ending: another takes its place
	if s == nil || !s.postOr(func() { s.handleJoin(from, m) }, again) {
		_ = e.network().Send(from, p2p.Leave{Digest: m.Digest, Reason: reason})
	}
}

// fetchFor starts to fetch, on a seeder, the blob that a peer wants; or says
// why it cannot.
func (e *Engine) fetchFor(m p2p.Join) (*swarm, string) {
	w := Want{Digest: m.Digest, Size: m.Size, Source: ParseSource(m.Source)}
	if w.Size <= 0 || w.Source == (Source{}) {
		if known, ok := e.o.Locate(m.Digest); ok {
			w = known
		}
	}
	w.Lazy = m.Part
	switch {
	case w.Source == (Source{}) || e.o.Upstream == nil:
		return nil, "the seeder knows no upstream for this blob"
	case w.Size <= 0:
		return nil, "the seeder does not know the size of this blob"
	}
	if _, ok := e.o.Upstream.URL(w.Source.Upstream); !ok && !e.durable.only(w.Source) {
		return nil, "the seeder has no upstream named " + w.Source.Upstream
	}
	s, err := e.want(w)
	if err != nil {
		return nil, err.Error()
	}
	return s, ""
}

func (s *swarm) handleJoin(from peer.ID, m p2p.Join) {
	n := s.e.network()
	if m.Size > 0 && m.Size != s.geom.Size() {
		_ = n.Send(from, p2p.Leave{Digest: s.digest, Reason: "the blob has another size"})
		return
	}
	s.touch()
	hint := s.hint(from, m.WantPeers)
	mem := s.member(from, m.Near)
	if mem == nil {
		if len(hint) > 0 { // no room here, but perhaps with these
			_ = n.Send(from, p2p.Peers{Digest: s.digest, Peers: hint})
		}
		return
	}
	mem.joined = true
	if mem.part != m.Part {
		mem.part = m.Part
		if s.dl != nil {
			s.dl.memberUp(mem)
		}
	}
	s.holds(mem, m.Have, m.Complete)
	mem.fed = !m.NoRuns && s.feeds(mem, m.CanWait) // a lasting wish: what comes later goes to it too
	var have []byte
	if b := s.blob.Have(); b.Count() > 0 && !s.settled && !s.e.o.Seeder {
		have = b.Bytes()
	}
	known := s.hashes.known()
	_ = n.Send(from, p2p.State{
		Digest: s.digest, Size: s.geom.Size(), Have: have, Complete: s.settled,
		Elsewhere: !m.NoRuns && !mem.fed, Known: known, Swarm: len(s.members), Doubt: s.e.o.Seeder && !s.settled && s.doubted(),
	})
	if mem.fed && (known > m.Known || s.hashes.final()) {
		if envs := s.runsFor(); len(envs) > 0 {
			_ = n.Send(from, p2p.Runs{Digest: s.digest, Envelopes: envs})
		}
	}
	if len(hint) > 0 {
		_ = n.Send(from, p2p.Peers{Digest: s.digest, Peers: hint})
	}
	s.shows(mem, m.Known)
}

// member returns the member of that name, making it one where it is not; nil
// where it cannot be, of which it is told. It has near members of its own zone.
func (s *swarm) member(p peer.ID, near int) *member {
	if m := s.members[p]; m != nil {
		return m
	}
	nb, ok := s.e.network().Neighbour(p)
	if !ok {
		return nil // it went away meanwhile
	}
	if !s.e.isSeeder(nb) && (s.liars[p] || !s.room(nb.Zone, near)) {
		_ = s.e.network().Send(p, p2p.Leave{Digest: s.digest, Reason: "enough neighbours"})
		return nil
	}
	m := &member{id: p, seeder: s.e.isSeeder(nb), zone: nb.Zone, have: piece.NewBitfield(s.geom.Count())}
	// Whoever comes back has its old handle: a neighbour that joins and leaves
	// all the time costs no more than one.
	if m.handle = s.handleOf[p]; m.handle == 0 {
		m.handle = scheduler.Peer(len(s.handles))
		s.handles = append(s.handles, nil)
		s.handleOf[p] = m.handle
	}
	s.handles[m.handle] = m
	s.members[p] = m
	s.nmembers.Store(int32(len(s.members)))
	if s.dl != nil {
		s.dl.memberUp(m)
	}
	return m
}

// room tells whether there is room for one more member, of that zone and with so
// many members of that zone itself. Three quarters of the places are for our own
// zone, the others for all other zones, so that whoever comes late finds neighbours
// of both kinds. The more a peer has already, the fewer of the places are for it:
// hosts that both have 30 leave each other alone, while a herd's last find room
// with everybody. Were it first come, first served, some of 4,000 would find none.
// A host that holds the whole blob has no use for others that do.
func (s *swarm) room(zone string, near int) bool {
	places := maxNear - near/2
	if zone != s.e.o.Zone {
		places = maxMembers - maxNear
	}
	if s.e.o.Seeder || s.count(zone) < places {
		return true
	}
	if !s.settled {
		return false
	}
	for p, m := range s.members {
		if m.complete && s.alike(m.zone, zone) {
			_ = s.e.network().Send(p, p2p.Leave{Digest: s.digest, Reason: "enough neighbours"})
			s.drop(p)
			return true
		}
	}
	return false
}

// count counts the members that share their places with that zone.
func (s *swarm) count(zone string) int {
	n := 0
	for _, m := range s.members {
		if !m.seeder && s.alike(m.zone, zone) {
			n++
		}
	}
	return n
}

// alike tells whether both zones are ours, or neither is.
func (s *swarm) alike(a, b string) bool { return (a == s.e.o.Zone) == (b == s.e.o.Zone) }

// handleState takes a neighbour's answer to our Join.
func (s *swarm) handleState(from peer.ID, st p2p.State) {
	if st.Size != s.geom.Size() {
		s.log.Warn("a peer knows another size of the blob", zap.Stringer("peer", from), zap.Int64("theirs", st.Size), zap.Int64("ours", s.geom.Size()))
		return
	}
	if m := s.member(from, 0); m != nil {
		// What is not complete may want the rest, and had perhaps asked us
		// when we knew nothing of the blob.
		m.joined = m.joined || !st.Complete && !m.seeder
		s.holds(m, st.Have, st.Complete)
		if m.seeder {
			s.size = st.Swarm
			if st.Doubt {
				s.e.doubt(s.sources.current())
			}
		}
		if st.Elsewhere {
			s.unfed(from)
		}
		s.shows(m, st.Known)
		s.seek(m)
	}
}

// holds takes what a member says that it holds.
func (s *swarm) holds(m *member, have []byte, complete bool) {
	if len(have) > 0 {
		b, err := piece.BitfieldFromBytes(s.geom.Count(), have)
		if err != nil {
			s.log.Warn("a peer sent a bad bitfield", zap.Stringer("peer", m.id), zap.Error(err))
			return
		}
		for i := range b.All() {
			m.have.Set(i)
		}
	}
	turned := complete && !m.complete
	if turned {
		m.complete = true
		m.have = piece.FullBitfield(s.geom.Count())
		if s.single && s.sole == "" {
			s.chooseSole()
		}
	}
	s.e.giver.peerHas(s, m, nil)
	if s.dl == nil {
		return
	}
	if turned {
		s.dl.memberUp(m)
	} else {
		s.dl.memberHas(m, list(m.have))
	}
}

func (s *swarm) handleHave(from peer.ID, h p2p.Have) {
	m := s.members[from]
	if m == nil {
		return
	}
	if h.Complete {
		s.holds(m, nil, true)
		return
	}
	var fresh []int
	for _, i := range h.Pieces {
		if m.have.Set(i) {
			fresh = append(fresh, i)
		}
	}
	if len(fresh) == 0 {
		return
	}
	s.e.giver.peerHas(s, m, fresh)
	s.shows(m, m.have.Count()) // it has checked them
	if s.dl != nil {
		s.dl.memberHas(m, fresh)
	}
}

func (s *swarm) handleLeave(from peer.ID, reason string) {
	if nb, ok := s.e.network().Neighbour(from); ok && s.dl != nil && s.e.isSeeder(nb) && reason != "" {
		s.dl.refused(reason)
	}
	s.drop(from)
}

// drop forgets a member that left or whose connection is gone.
func (s *swarm) drop(p peer.ID) {
	delete(s.asked, p)
	s.feed.forget(p)
	m := s.members[p]
	if m == nil {
		return
	}
	delete(s.members, p)
	s.nmembers.Store(int32(len(s.members)))
	s.handles[m.handle] = nil
	s.e.giver.memberGone(s, m)
	if s.sole == p {
		s.chooseSole()
	}
	if s.dl != nil {
		s.dl.memberDown(m)
	}
	if m.seeder {
		s.spreadRuns()
		if s.dl != nil {
			s.dl.seederGone()
		}
	}
	s.seekMore()
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

// handleRuns checks signed runs on the goroutine of the neighbour they come from.
func (e *Engine) handleRuns(from peer.ID, m p2p.Runs) {
	s := e.find(m.Digest)
	if s == nil {
		return
	}
	for _, env := range m.Envelopes {
		r, ok := s.openRun(env, from)
		if !ok {
			s.post(func() { s.unfed(from) })
			return // what follows is no better
		}
		if !s.post(func() { s.addRun(r) }) {
			return
		}
	}
}

// handleRevoke takes a revocation from its signer. Those that others pass on
// are left alone: they may be old ones, and with or without them no blob is
// committed before its digest was right.
func (e *Engine) handleRevoke(from peer.ID, m p2p.Revoke) {
	s := e.find(m.Digest)
	if s == nil || e.o.Seeder {
		return
	}
	d, signer, err := piece.OpenRevocation(m.Envelope)
	if err != nil || d != s.digest || signer != from || !e.trusts(signer) {
		s.log.Debug("ignored a revocation", zap.Stringer("peer", from), zap.Stringer("signer", signer), zap.Error(err))
		return
	}
	s.post(func() { s.revoked(from) })
}

// revoked drops a blob whose signer found that its bytes are wrong. A final
// list stands: a revocation that comes after it is an old one. So does a commit
// under way, which looks at the digest itself.
func (s *swarm) revoked(by peer.ID) {
	if s.settled || s.commits || s.hashes.final() {
		return
	}
	s.log.Warn("the seeder revoked the blob", zap.Stringer("peer", by))
	s.corrupt(true)
}

// tells reports whether a member is told of the pieces that come in here.
func (s *swarm) tells(m *member) bool { return m.joined && !m.seeder && !m.complete }

// announce tells the members that piece i can be had here, if it can: an
// unverified one is given to nobody.
func (s *swarm) announce(i int) {
	if !s.blob.Has(i) {
		return
	}
	n := s.e.network()
	holders := 0
	for _, m := range s.members {
		if m.have.Has(i) {
			holders++
		}
	}
	h := p2p.Have{Digest: s.digest, Pieces: []int{i}, Rare: holders*rareShare <= len(s.members)}
	for _, m := range s.members {
		if s.tells(m) && !m.have.Has(i) {
			_ = n.Send(m.id, h)
		}
	}
}

// rareShare: a piece is rare while no more than one of so many members has it.
const rareShare = 8
