package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
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
	reqs    map[scheduler.Request]context.CancelFunc
	wg      sync.WaitGroup // of the requests' goroutines
	wants   map[int][2]int
	wake    *time.Timer
	final   *time.Timer // waiting for the seeder's final list
	release func()      // gives the place among the prefetches back
	closed  bool
	stuck   error // the last reason why a source failed

	upstream bool            // the upstream has answered
	alone    bool            // what is missing cannot be shared: see seederGone
	rawFrom  map[int]peer.ID // who gave an unverified piece
	signers  *time.Timer     // runs out when no signed hash is to be expected
	lone     bool            // it has run out
	raw      bool            // unsigned pieces are taken; see unsigned.go
	stalls   int             // how many the metric knows of
}

// startDownload begins, or resumes, the download of the blob.
func (s *swarm) startDownload(release func()) {
	if !s.wanted || s.settled || s.dl != nil {
		release()
		return
	}
	d := &download{
		s: s, reqs: make(map[scheduler.Request]context.CancelFunc), wants: s.early,
		rawFrom: make(map[int]peer.ID), release: release,
	}
	s.early = make(map[int][2]int)
	have := s.heldOrRaw()
	d.sched = scheduler.New(scheduler.Config{
		Geometry:   s.geom,
		Have:       have,
		Seed:       s.e.o.Seed ^ seedOf(s.digest),
		Key:        keyOf(s.e.network().ID()),
		NoFallback: !s.hasUpstream(),
		StallAfter: s.e.o.Switch, IdleAfter: 5 * s.e.o.Switch / 2,
		Patience: 3 * s.e.o.Gap / 5, GiveUp: s.e.o.Gap,
		Lazy: !s.whole, Paced: s.pace != nil,
	})
	s.dl = d
	if s.blob.Have().Count() > 0 {
		s.announceOnce()
	}
	if have.Full() {
		s.checkDone()
		return
	}
	d.signers = time.AfterFunc(signersGrace, func() {
		d.post(func() {
			d.lone = true
			d.reconsider()
		})
	})
	for _, m := range s.handles {
		if m != nil {
			d.memberUp(m)
		}
	}
	for id, w := range d.wants {
		d.step(scheduler.Want{ID: id, First: w[0], End: w[1]})
	}
	for _, r := range runsOf(s.needed) {
		d.step(scheduler.Need{First: r[0], End: r[1]})
	}
	d.step(scheduler.Tick{})
}

// hasUpstream tells whether the blob could be had from its upstream directly.
func (s *swarm) hasUpstream() bool {
	src := s.sources.current()
	if s.e.o.Upstream == nil || src == (Source{}) {
		return false
	}
	_, ok := s.e.o.Upstream.URL(src.Upstream)
	return ok
}

// post has f run on the owner goroutine, unless the download has ended by then.
func (d *download) post(f func()) {
	d.s.post(func() {
		if !d.closed {
			f()
		}
	})
}

// close ends every request. Their goroutines end soon after.
func (d *download) close() {
	if !d.closed {
		d.handOver()()
	}
}

// handOver closes d but for its place among the prefetches, which it returns.
func (d *download) handOver() (release func()) {
	d.closed = true
	for _, cancel := range d.reqs {
		cancel()
	}
	for _, t := range []*time.Timer{d.wake, d.final, d.signers} {
		if t != nil {
			t.Stop()
		}
	}
	return d.release
}

func (d *download) memberUp(m *member) {
	if d.s.liars[m.id] {
		return
	}
	d.reconsider()
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
	if m.seeder && d.alone { // it is back
		d.alone = false
		for _, other := range d.s.handles {
			if other != nil && other != m {
				d.memberUp(other)
			}
		}
	}
	key := keyOf(m.id)
	if d.alone || m.part {
		key = 0
	}
	d.step(scheduler.PeerUp{
		Peer: m.handle, Seeder: m.seeder, RTT: rtt, Have: have, Complete: m.complete,
		SameZone: m.zone == d.s.e.o.Zone, Key: key,
	})
	d.noteSourced()
}

// seederGone stops the hosts of a swarm from splitting the upstream's pieces
// among them when nobody is left to sign those that are to come: a piece that
// cannot be verified is not passed on, so that to wait for another host's part
// is to wait in vain.
func (d *download) seederGone() {
	if d.s.seederMember() != nil || d.alone || d.s.hashes.known() == d.s.geom.Count() {
		return
	}
	d.alone = true
	for _, m := range d.s.handles {
		if m != nil {
			d.memberUp(m)
		}
	}
}

// memberHas is told of further pieces of a member.
func (d *download) memberHas(m *member, fresh []int) {
	if m.seeder || d.s.liars[m.id] {
		return
	}
	if v := d.verifiable(m, fresh); len(v) > 0 {
		d.step(scheduler.Have{Peer: m.handle, Pieces: v})
	}
	d.noteSourced()
}

func (d *download) memberDown(m *member) {
	d.step(scheduler.PeerDown{Peer: m.handle})
	if d.s.single {
		d.raw = false // another one's turn
	}
	d.reconsider()
	d.noteSourced()
}

// refused notes why the seeder does not take part.
func (d *download) refused(reason string) {
	d.stuck = fmt.Errorf("the seeder cannot give it: %s", reason)
	d.s.log.Info("the seeder cannot give the blob", zap.String("reason", reason))
}

// offer tells the scheduler of pieces that became verifiable.
func (d *download) offer(fresh []int) {
	for _, m := range d.s.handles {
		if m == nil || m.seeder || d.s.liars[m.id] {
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
	d.noteSourced()
}

// noteSourced records whether somebody is at hand who is known to have bytes
// that a client may read as they come: a seeder that took the job, a member
// with pieces that can be verified, or an upstream that has answered. On a busy
// link that may be all there is before a client must be told yes or no.
// Unsigned holders do not count, since nothing of theirs is read before the
// last byte has come.
func (d *download) noteSourced() {
	checkable := d.s.hashes.known() > 0
	ok := d.upstream
	for _, m := range d.s.members {
		ok = ok || !d.s.liars[m.id] && (m.seeder || checkable && m.have.Count() > 0)
	}
	d.s.sourced.Store(ok)
}

// step feeds one event to the scheduler and carries out its actions.
func (d *download) step(ev scheduler.Event) {
	if d.closed {
		return
	}
	actions := d.sched.Step(d.s.e.now(), ev)
	if n := d.sched.Stalls(); n > d.stalls {
		d.s.e.metrics.deadlines.WithLabelValues("switch").Add(float64(n - d.stalls))
		d.stalls = n
	}
	for _, a := range actions {
		switch a := a.(type) {
		case scheduler.RequestPieces:
			d.request(a)
		case scheduler.Fallback:
			d.fallback(a)
		case scheduler.Cancel:
			if cancel := d.reqs[a.Request]; cancel != nil {
				cancel()
				delete(d.reqs, a.Request)
				d.debug("request cancelled", a.Request)
			}
		case scheduler.Announce:
			d.s.announce(a.Piece)
		case scheduler.WakeAt:
			d.wakeAt(a.At)
		case scheduler.Pay:
			d.pay()
		case scheduler.Stuck:
			d.giveUp(a.Reason)
		}
		if d.closed {
			return
		}
	}
}

// debug logs an event of a request; most of the time it costs nothing.
func (d *download) debug(what string, r scheduler.Request, fields ...zap.Field) {
	if ce := d.s.log.Check(zap.DebugLevel, what); ce != nil {
		ce.Write(append(fields, zap.Int64("request", int64(r)))...)
	}
}

func (d *download) wakeAt(at time.Duration) {
	in := max(at-d.s.e.now(), time.Millisecond)
	if d.wake == nil {
		d.wake = time.AfterFunc(in, func() { d.post(func() { d.step(scheduler.Tick{}) }) })
		return
	}
	d.wake.Reset(in)
}

func (d *download) giveUp(reason string) {
	what := d.s.digest.String()
	if src := d.s.sources.current(); src != (Source{}) {
		what += " from " + src.String()
	}
	err := fmt.Errorf("fetch %s: %s: %w", what, reason, ErrUnavailable)
	if d.stuck != nil {
		err = fmt.Errorf("fetch %s: %s (%w)", what, reason, d.stuck)
		if resultOf(err) == "unavailable" && !errors.Is(err, ErrUnavailable) {
			err = errors.Join(err, ErrUnavailable)
		}
	}
	d.s.fail(err)
}

// begin notes a request that runs on a goroutine of its own, and how it is
// cancelled.
func (d *download) begin(r scheduler.Request, f func(context.Context)) {
	ctx, cancel := context.WithCancel(d.s.ctx)
	d.reqs[r] = cancel
	d.s.wg.Add(1)
	d.wg.Add(1)
	go func() {
		defer d.s.wg.Done()
		defer d.wg.Done()
		defer cancel()
		f(ctx)
	}()
}

// request asks a peer for pieces.
func (d *download) request(a scheduler.RequestPieces) {
	m := d.s.handles[a.Peer]
	if m == nil {
		return // PeerDown is on its way to the scheduler
	}
	d.debug("request", a.Request, zap.Stringer("peer", m.id), zap.Bool("seeder", m.seeder), zap.Ints("pieces", a.Pieces),
		zap.Bool("any", a.Any != nil), zap.Int("max", a.Max), zap.Bool("urgent", a.Urgent), zap.Bool("hedge", a.Hedge))
	t := &transfer{
		d: d, request: a.Request, peer: m.id, handle: m.handle, seeder: m.seeder, raw: d.takesRaw(m),
		ask: p2p.Ask{Digest: d.s.digest, Pieces: a.Pieces, Max: a.Max, Urgent: a.Urgent},
	}
	if a.Any != nil {
		t.ask.Any = append([]byte(nil), a.Any.Bytes()...)
	}
	d.begin(a.Request, func(ctx context.Context) {
		done := t.run(ctx)
		d.post(func() { d.finished(done) })
	})
}

func (d *download) finished(done scheduler.Done) {
	if d.reqs[done.Request] == nil {
		return // cancelled: the scheduler has forgotten it
	}
	delete(d.reqs, done.Request)
	d.debug("request ended", done.Request, zap.Stringer("result", done.Result), zap.Duration("after", done.After))
	d.step(done)
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
