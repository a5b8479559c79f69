package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// download is a peer's side of fetching one blob: the scheduler, and the
// requests that it has under way. It belongs to the swarm's owner goroutine.
type download struct {
	s       *swarm
	sched   *scheduler.Download
	reqs    map[scheduler.Request]*request
	wants   map[int][2]int
	asked   map[peer.ID]bool // neighbours that were sent a Join
	wake    *time.Timer
	final   *time.Timer // waiting for the seeder's final list
	release func()
	closed  bool
	stuck   error // the last reason why a source failed
	rawFrom map[peer.ID]bool
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
		asked: make(map[peer.ID]bool), rawFrom: make(map[peer.ID]bool), release: release,
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
	// Seeders first: their answer names other peers.
	nbs := s.e.network().Neighbours()
	for _, nb := range nbs {
		if nb.Seeder {
			d.join(nb)
		}
	}
	for _, nb := range some(nbs, maxMembers) {
		if !nb.Seeder {
			d.join(nb)
		}
	}
	for id, w := range d.wants {
		d.step(scheduler.Want{ID: id, First: w[0], End: w[1]})
	}
	d.step(scheduler.Tick{})
	if s.geom.Size() >= SmallBlob {
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.lookup()
		}()
	}
}

// hasUpstream tells whether the blob could be had from its upstream directly.
func (s *swarm) hasUpstream() bool {
	if s.e.o.Upstream == nil || s.want.Source == (Source{}) {
		return false
	}
	_, ok := s.e.o.Upstream.URL(s.want.Source.Upstream)
	return ok
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
		if !s.post(func() { hungry <- s.dl != nil && len(s.members) < 8 }) {
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
	d.release()
}

// join asks a neighbour into the swarm.
func (d *download) join(nb p2p.Neighbour) {
	s := d.s
	if d.asked[nb.ID] {
		return
	}
	d.asked[nb.ID] = true
	j := p2p.Join{Digest: s.digest, Size: s.geom.Size(), Source: s.want.Source.String()}
	if b := s.blob.Have(); b.Count() > 0 {
		j.Have = b.Bytes()
	}
	if nb.Seeder || len(s.members) < 8 {
		j.WantPeers = hintPeers
	}
	_ = s.e.network().Send(nb.ID, j)
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

// unsigned tells whether the swarm must do without signed hashes: none is
// known and no seeder is there to give them.
func (d *download) unsigned() bool {
	if d.s.hashes.known() > 0 {
		return false
	}
	_, ok := d.s.seederMember()
	return !ok
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

// noteSourced records that somebody who is known to have bytes is at hand.
func (s *swarm) noteSourced() {
	if s.hashes.known() == 0 && !s.dl.unsigned() {
		return
	}
	for _, m := range s.members {
		if !m.bad && (m.have.Count() > 0 || m.seeder) {
			s.sourced.Store(true)
			return
		}
	}
	s.sourced.Store(false)
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
	d.step(done)
}

// transfer runs one request to its end; each piece is verified before it is
// written. It runs on a goroutine of its own.
func (s *swarm) transfer(ctx context.Context, m *member, r scheduler.Request, ask p2p.Ask) scheduler.Done {
	ended := func(res scheduler.Result) scheduler.Done { return scheduler.Done{Request: r, Result: res} }
	ans, err := s.e.network().Ask(ctx, m.id, ask)
	if err != nil {
		var busy *p2p.BusyError
		switch {
		case errors.As(err, &busy):
			s.e.metrics.asks.WithLabelValues("busy").Inc()
			if len(busy.Try) > 0 {
				s.post(func() { s.meet(busy.Try) })
			}
			return scheduler.Done{Request: r, Result: scheduler.ResultBusy, After: busy.After}
		case errors.Is(err, p2p.ErrNotHeld):
			s.e.metrics.asks.WithLabelValues("not_held").Inc()
			return ended(scheduler.ResultNotHeld)
		}
		if ctx.Err() == nil {
			s.e.metrics.asks.WithLabelValues("failed").Inc()
			s.log.Debug("a request for pieces failed", zap.Stringer("peer", m.id), zap.Error(err))
		}
		return ended(scheduler.ResultFailed)
	}
	defer ans.Close()
	size := s.geom.PieceSize()
	if err := s.e.buffers.Acquire(ctx, size); err != nil {
		return ended(scheduler.ResultFailed)
	}
	defer s.e.buffers.Release(size)
	buf := getBuffer(int(size))
	defer putBuffer(buf)
	for {
		i, n, err := ans.Next(*buf)
		if errors.Is(err, io.EOF) {
			s.e.metrics.asks.WithLabelValues("ok").Inc()
			return ended(scheduler.ResultOK)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.e.metrics.asks.WithLabelValues("cut").Inc()
				s.log.Debug("a transfer broke", zap.Stringer("peer", m.id), zap.Error(err))
			}
			return ended(scheduler.ResultFailed)
		}
		if !s.take(ctx, m, r, i, (*buf)[:n]) {
			return ended(scheduler.ResultFailed)
		}
	}
}

// take verifies and stores one piece from a peer. False ends the request.
func (s *swarm) take(ctx context.Context, m *member, r scheduler.Request, i int, p []byte) bool {
	if len(p) != s.geom.Len(i) || len(p) == 0 {
		s.post(func() { s.liar(m, r, i, "a piece of the wrong length") })
		return false
	}
	wait := hashWait
	if !m.seeder {
		wait = time.Millisecond // it was asked for since its hash was known
	}
	h, known := s.hashes.wait(ctx, i, wait)
	var fresh bool
	var err error
	switch {
	case known && piece.Sum(p) != h:
		s.post(func() { s.liar(m, r, i, "a piece that does not match its signed hash") })
		return false
	case known:
		fresh, err = s.blob.WritePiece(i, p)
	case m.complete && !m.seeder:
		fresh, err = s.blob.WriteRaw(i, p, false)
	default:
		return false // its hash did not come in time
	}
	if err != nil {
		s.post(func() { s.storeFailed(err) })
		return false
	}
	s.e.ledger.received(m.id, m.seeder, len(p))
	s.prog.add(m.seeder, false, len(p))
	s.e.metrics.received(m.seeder, false, len(p), fresh)
	if !fresh {
		s.e.ledger.wasted(len(p))
	}
	s.post(func() {
		if !known && s.dl != nil {
			s.dl.rawFrom[m.id] = true
		}
		s.landed(r, m.handle, i, len(p), known)
	})
	return true
}

// landed tells scheduler, neighbours and readers of a piece that was written.
func (s *swarm) landed(r scheduler.Request, from scheduler.Peer, i, n int, verified bool) {
	if s.dl == nil {
		return
	}
	if verified {
		s.gained(i)
	}
	s.dl.step(scheduler.PieceOK{Request: r, Peer: from, Piece: i, Bytes: n})
	s.checkDone()
}

// gained makes a verified piece known to the giving side and to the readers
// that wait to be let in.
func (s *swarm) gained(i int) {
	if s.prog.gain(i) {
		if s.prog.count() == 1 {
			s.provide() // at the first verified piece
		}
		s.e.giver.grew(s, i)
	}
	s.readers.ready()
}

// liar is told of a peer that sent wrong bytes: it is named, banned and not
// asked again. The seeder is only passed over for this blob, since without it
// nothing new can be had.
func (s *swarm) liar(m *member, r scheduler.Request, i int, what string) {
	s.e.metrics.badPieces.Inc()
	s.log.Error("a peer sent wrong bytes; nothing of it was kept and it is not asked again",
		zap.Stringer("peer", m.id), zap.Int("piece", i), zap.String("what", what), zap.Bool("seeder", m.seeder))
	m.bad = true
	ban := banPeriod
	if m.seeder {
		ban = 0
	}
	s.e.ledger.bad(m.id, s.digest, what, ban)
	s.e.ledger.wasted(s.geom.Len(i))
	s.e.metrics.liar(m.id)
	if s.dl != nil {
		s.dl.step(scheduler.PieceBad{Request: r, Peer: m.handle, Piece: i})
	}
	if !m.seeder {
		s.e.network().Ban(m.id, banPeriod, what)
		s.drop(m.id)
	}
}

// banRaw bans whoever gave unsigned pieces of a blob that turned out wrong.
func (d *download) banRaw() {
	for p := range d.rawFrom {
		d.s.e.ledger.bad(p, d.s.digest, "pieces of a blob that does not match its digest", banPeriod)
		d.s.e.metrics.liar(p)
		d.s.e.network().Ban(p, banPeriod, "pieces of a blob that does not match its digest")
	}
}

// storeFailed ends a download that the disk does not take.
func (s *swarm) storeFailed(err error) {
	if s.settled {
		return
	}
	s.fail(fmt.Errorf("store %s: %w", s.digest, err))
}

// fallback takes pieces from the upstream, as the scheduler chose.
func (d *download) fallback(a scheduler.Fallback) {
	s := d.s
	ctx, cancel := context.WithCancel(s.ctx)
	d.reqs[a.Request] = &request{cancel: cancel}
	s.log.Info("taking pieces from the upstream", zap.String("source", s.want.Source.String()),
		zap.Int("first", a.First), zap.Int("end", a.End), zap.String("reason", a.Reason))
	s.e.metrics.fallbacks.Inc()
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer cancel()
		err := s.takeUpstream(ctx, a)
		res := scheduler.Done{Request: a.Request, Result: scheduler.ResultOK}
		if err != nil {
			res.Result = scheduler.ResultFailed
			if ctx.Err() == nil {
				s.log.Warn("the upstream did not give pieces", zap.Error(err))
			}
		}
		s.post(func() {
			if err != nil {
				d.stuck = err
				if upstream.KindOf(err) == upstream.NotFound {
					d.stuck = fmt.Errorf("%w: %w", ErrNotFound, err)
				}
			}
			d.finished(res)
		})
	}()
}

// takeUpstream reads the pieces [First, End) from the upstream. Where no hash
// is known they are raw: clients of this host may read them, as they would
// from the upstream itself; nobody else gets them before the digest is right.
func (s *swarm) takeUpstream(ctx context.Context, a scheduler.Fallback) error {
	off := s.geom.Offset(a.First)
	end := min(s.geom.Offset(a.End), s.geom.Size())
	r, err := s.e.o.Upstream.Blob(ctx, s.want.Source.Upstream, s.want.Source.Repository, s.digest, off, end-off)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Size() != s.geom.Size() {
		return fmt.Errorf("the upstream says %d bytes, the manifest %d: %w", r.Size(), s.geom.Size(), ErrCorrupt)
	}
	buf := getBuffer(int(s.geom.PieceSize()))
	defer putBuffer(buf)
	for i := a.First; i < a.End; i++ {
		p := (*buf)[:s.geom.Len(i)]
		if _, err := io.ReadFull(r, p); err != nil {
			return fmt.Errorf("piece %d: %w", i, err)
		}
		var fresh bool
		h, known := s.hashes.get(i)
		switch {
		case known && piece.Sum(p) != h:
			return fmt.Errorf("piece %d from %s does not match its signed hash: %w", i, s.want.Source, ErrCorrupt)
		case known:
			fresh, err = s.blob.WritePiece(i, p)
		default:
			fresh, err = s.blob.WriteRaw(i, p, true)
		}
		if err != nil {
			s.post(func() { s.storeFailed(err) })
			return err
		}
		s.e.ledger.fromUpstream(len(p))
		s.prog.add(false, true, len(p))
		s.e.metrics.received(false, true, len(p), fresh)
		s.sourced.Store(true)
		s.post(func() {
			s.landed(a.Request, scheduler.Upstream, i, len(p), known)
			if !known {
				s.readers.ready()
			}
		})
	}
	return nil
}

// checkDone commits the blob once every piece is here and its digest is vouched for.
func (s *swarm) checkDone() {
	if s.dl == nil || s.settled || s.e.o.Seeder {
		return
	}
	have := s.blob.Have()
	if have.Full() && s.hashes.final() {
		s.settle(false)
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

// Buffers of a piece are reused: 24 requests of 4 MiB a blob are too much garbage.
var buffers sync.Map // int -> *sync.Pool

func getBuffer(n int) *[]byte {
	p, _ := buffers.LoadOrStore(n, &sync.Pool{New: func() any { b := make([]byte, n); return &b }})
	return p.(*sync.Pool).Get().(*[]byte)
}

func putBuffer(b *[]byte) {
	if p, ok := buffers.Load(len(*b)); ok {
		p.(*sync.Pool).Put(b)
	}
}
