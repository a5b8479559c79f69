package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// download is a peer's side of fetching one blob: the scheduler, and the
// requests that it has under way. It belongs to the swarm's owner goroutine.
type download struct {
	s       *swarm
	sched   *scheduler.Download
	reqs    map[scheduler.Request]*request
	wants   map[int][2]int
	wake    *time.Timer
	final   *time.Timer // waiting for the seeder's final list
	release func()
	closed  bool
	stuck   error           // the last reason why a source failed
	rawFrom map[int]peer.ID // who gave an unverified piece
	signers *time.Timer     // runs out when no signed hash is to be expected
	lone    bool            // it has run out

	upstream bool // it has answered
}

type request struct {
	m      *member // nil: the upstream
	cancel context.CancelFunc
}

// startDownload begins, or resumes, the download of the blob.
func (s *swarm) startDownload(release func()) {
	if !s.wanted || s.settled || s.dl != nil {
		release()
		return
	}
	d := &download{
		s: s, reqs: make(map[scheduler.Request]*request), wants: s.early,
		rawFrom: make(map[int]peer.ID), release: release,
	}
	s.early = make(map[int][2]int)
	have := s.blob.Have()
	for i := range s.blob.Raw().All() {
		have.Set(i)
	}
	d.sched = scheduler.New(scheduler.Config{
		Geometry:   s.geom,
		Have:       have,
		Seed:       s.e.o.Seed ^ seedOf(s.digest),
		Key:        keyOf(s.e.network().ID()),
		NoFallback: !s.hasUpstream(),
	})
	s.dl = d
	if have.Full() {
		s.checkDone()
		return
	}
	for _, m := range s.members {
		d.memberUp(m)
	}
	for id, w := range d.wants {
		d.step(scheduler.Want{ID: id, First: w[0], End: w[1]})
	}
	d.step(scheduler.Tick{})
	d.signers = time.AfterFunc(signersGrace, func() {
		s.post(func() {
			if s.dl == d {
				d.offerUnsigned()
			}
		})
	})
}

// hasUpstream tells whether the blob could be had from its upstream directly.
func (s *swarm) hasUpstream() bool {
	if s.e.o.Upstream == nil || s.want.Source == (Source{}) {
		return false
	}
	_, ok := s.e.o.Upstream.URL(s.want.Source.Upstream)
	return ok
}

// close ends every request. The swarm waits for their goroutines.
func (d *download) close() {
	if d.closed {
		return
	}
	d.closed = true
	for _, r := range d.reqs {
		r.cancel()
	}
	if d.wake != nil {
		d.wake.Stop()
	}
	if d.final != nil {
		d.final.Stop()
	}
	if d.signers != nil {
		d.signers.Stop()
	}
	d.release()
}

// verifiable narrows a set of pieces to those that can be checked when they
// come, or, where nobody signs, to those of a complete holder.
func (d *download) verifiable(m *member, pieces []int) []int {
	if m.complete && d.unsigned() {
		return pieces
	}
	out := make([]int, 0, len(pieces))
	for _, i := range pieces {
		if _, ok := d.s.hashes.get(i); ok {
			out = append(out, i)
		}
	}
	return out
}

// signersGrace is how long a download waits for somebody who has signed hashes
// before it takes pieces that nobody vouches for.
const signersGrace = 2 * time.Second

// unsigned tells whether the swarm must do without signed hashes: none is
// known, and no seeder is there to give them.
func (d *download) unsigned() bool {
	if !d.lone || d.s.hashes.known() > 0 {
		return false
	}
	_, ok := d.s.seederMember()
	return !ok
}

// offerUnsigned lets the scheduler ask complete members without knowing hashes.
func (d *download) offerUnsigned() {
	d.lone = true
	for _, m := range d.s.handles {
		if m != nil && !m.bad && m.complete && !m.seeder {
			d.memberHas(m)
		}
	}
}

func (d *download) memberUp(m *member) {
	if m.bad {
		return
	}
	rtt := time.Duration(0)
	if nb, ok := d.s.e.network().Neighbour(m.id); ok {
		rtt = nb.RTT
	}
	have := piece.NewBitfield(d.s.geom.Count())
	if !m.seeder {
		for _, i := range d.verifiable(m, list(m.have)) {
			have.Set(i)
		}
	}
	d.step(scheduler.PeerUp{
		Peer: m.handle, Seeder: m.seeder, RTT: rtt, Have: have,
		SameZone: m.zone == d.s.e.o.Zone, Key: keyOf(m.id),
	})
	d.s.noteSourced()
}

func (d *download) memberHas(m *member) { d.memberGot(m, list(m.have)) }

func (d *download) memberGot(m *member, fresh []int) {
	if m.bad || m.seeder {
		return
	}
	if v := d.verifiable(m, fresh); len(v) > 0 {
		d.step(scheduler.Have{Peer: m.handle, Pieces: v})
	}
	d.s.noteSourced()
}

func (d *download) memberDown(m *member) { d.step(scheduler.PeerDown{Peer: m.handle}) }

// refused notes why a neighbour does not take part.
func (d *download) refused(p peer.ID, reason string) {
	if nb, ok := d.s.e.network().Neighbour(p); ok && nb.Seeder {
		d.stuck = fmt.Errorf("the seeder cannot give it: %s", reason)
		d.s.log.Info("the seeder cannot give the blob", zap.String("reason", reason))
	}
}

// offer tells the scheduler of pieces that became verifiable.
func (d *download) offer(fresh []int) {
	for _, m := range d.s.handles {
		if m == nil || m.seeder || m.bad {
			continue
		}
		var p []int
		for _, i := range fresh {
			if m.have.Has(i) {
				p = append(p, i)
			}
		}
		if len(p) > 0 {
			d.step(scheduler.Have{Peer: m.handle, Pieces: p})
		}
	}
	d.s.noteSourced()
}

// noteSourced records whether somebody is at hand who can be expected to give
// the blob: a seeder that took the job, a member with pieces that can be
// verified, or an upstream that has answered. On a busy link that may be all
// there is before a client must be told yes or no.
func (s *swarm) noteSourced() {
	checkable := s.hashes.known() > 0 || s.dl.unsigned()
	ok := s.dl.upstream
	for _, m := range s.members {
		ok = ok || !m.bad && (m.seeder || checkable && m.have.Count() > 0)
	}
	s.sourced.Store(ok)
}

// step feeds one event to the scheduler and carries out its actions.
func (d *download) step(ev scheduler.Event) {
	if d.closed {
		return
	}
	for _, a := range d.sched.Step(d.s.e.now(), ev) {
		switch a := a.(type) {
		case scheduler.RequestPieces:
			d.request(a)
		case scheduler.Fallback:
			d.fallback(a)
		case scheduler.Cancel:
			if r := d.reqs[a.Request]; r != nil {
				if ce := d.s.log.Check(zap.DebugLevel, "request cancelled"); ce != nil {
					ce.Write(zap.Int64("request", int64(a.Request)))
				}
				r.cancel()
				delete(d.reqs, a.Request)
			}
		case scheduler.Announce:
			d.s.announce(a.Piece)
		case scheduler.WakeAt:
			d.wakeAt(a.At)
		case scheduler.Stuck:
			d.giveUp(a.Reason)
		}
		if d.closed {
			return
		}
	}
}

func (d *download) wakeAt(at time.Duration) {
	in := max(at-d.s.e.now(), time.Millisecond)
	if d.wake == nil {
		d.wake = time.AfterFunc(in, func() { d.s.post(func() { d.step(scheduler.Tick{}) }) })
		return
	}
	d.wake.Reset(in)
}

func (d *download) giveUp(reason string) {
	err := fmt.Errorf("fetch %s from %s: %s: %w", d.s.digest, d.s.want.Source, reason, ErrUnavailable)
	if d.stuck != nil {
		err = fmt.Errorf("fetch %s from %s: %s (%w)", d.s.digest, d.s.want.Source, reason, d.stuck)
		if resultOf(err) == "unavailable" && !errors.Is(err, ErrUnavailable) {
			err = errors.Join(err, ErrUnavailable)
		}
	}
	d.s.fail(err)
}

// request asks a peer for pieces.
func (d *download) request(a scheduler.RequestPieces) {
	s := d.s
	m := s.handles[a.Peer]
	if m == nil {
		return // PeerDown is on its way to the scheduler
	}
	ctx, cancel := context.WithCancel(s.ctx)
	d.reqs[a.Request] = &request{m: m, cancel: cancel}
	if ce := s.log.Check(zap.DebugLevel, "request"); ce != nil {
		ce.Write(zap.Int64("request", int64(a.Request)), zap.Stringer("peer", m.id), zap.Bool("seeder", m.seeder), zap.Ints("pieces", a.Pieces),
			zap.Bool("any", a.Any != nil), zap.Int("max", a.Max), zap.Bool("urgent", a.Urgent), zap.Bool("hedge", a.Hedge))
	}
	ask := p2p.Ask{Digest: s.digest, Pieces: a.Pieces, Max: a.Max, Urgent: a.Urgent}
	if a.Any != nil {
		ask.Any = append([]byte(nil), a.Any.Bytes()...)
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer cancel()
		res := s.transfer(ctx, m, a.Request, ask)
		s.post(func() { d.finished(res) })
	}()
}

func (d *download) finished(done scheduler.Done) {
	if d.reqs[done.Request] == nil {
		return // cancelled: the scheduler has forgotten it
	}
	delete(d.reqs, done.Request)
	if ce := d.s.log.Check(zap.DebugLevel, "request ended"); ce != nil {
		ce.Write(zap.Int64("request", int64(done.Request)), zap.Stringer("result", done.Result), zap.Duration("after", done.After))
	}
	d.step(done)
}

// checkDone commits the blob once every piece is here and its digest is vouched for.
func (s *swarm) checkDone() {
	if s.dl == nil || s.settled || s.e.o.Seeder {
		return
	}
	have := s.blob.Have()
	if have.Full() && s.hashes.final() {
		s.settle(s.suspect)
		return
	}
	for i := range s.blob.Raw().All() {
		have.Set(i)
	}
	if !have.Full() || s.dl.final != nil {
		return
	}
	// Everything is here, but nobody has vouched for the whole yet. The seeder
	// will when it is done; without one, or when it takes too long, look ourselves.
	wait := finalWait
	if _, ok := s.seederMember(); !ok {
		wait = 0
	}
	d := s.dl
	d.final = time.AfterFunc(wait, func() {
		s.post(func() {
			if s.dl == d && !s.settled {
				s.settle(true)
			}
		})
	})
}

// list returns the pieces of a set.
func list(b *piece.Bitfield) []int {
	out := make([]int, 0, b.Count())
	for i := range b.All() {
		out = append(out, i)
	}
	return out
}

// keyOf is the number by which every host of a swarm knows a peer.
func keyOf(p peer.ID) uint64 {
	h := sha256.Sum256([]byte(p))
	return binary.BigEndian.Uint64(h[:8])
}

// seedOf makes each blob's random choices its own.
func seedOf(d interface{ Encoded() string }) uint64 {
	var x uint64
	for _, c := range []byte(d.Encoded()[:16]) {
		x = x*31 + uint64(c)
	}
	return x
}
