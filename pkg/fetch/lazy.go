package fetch

import (
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/scheduler"
)

// A swarm is lazy while nobody has asked for the whole blob: then only the
// pieces come that clients read. It ends, like others, when nobody has used it
// for a while, and leaves what it got in the store, where readers and peers
// find it. docs/lazy.md has the rules.

// Rest says what becomes of the rest of a blob of which clients read parts.
type Rest uint8

const (
	RestLeft  Rest = iota // it is left alone
	RestLater             // it is fetched while nobody waits for a part
	RestNow               // the whole blob is fetched at once; parts come first
)

// Part is a part of a blob, in bytes.
type Part struct{ Offset, Length int64 }

const (
	// lazyBlob is the size in bytes below which a blob is always fetched whole:
	// it is no more than clients read at a time.
	lazyBlob = 4 << 20
	// restAfter is how long nobody must have wanted a further part before the
	// rest is fetched.
	restAfter = 2 * time.Second
)

// whole tells whether all of the blob is to be fetched.
func (w Want) whole(r Rest) bool {
	var n int64
	for _, p := range w.Parts {
		n += p.Length
	}
	return !w.Lazy || r == RestNow || w.Size < lazyBlob || n >= w.Size
}

// need notes what a client, or a peer, wants of the blob.
func (s *swarm) need(w Want) {
	if w.whole(s.e.o.Rest) {
		s.wantWhole()
		return
	}
	for _, p := range w.Parts {
		if p.Offset >= 0 && p.Length > 0 && p.Offset+p.Length <= s.geom.Size() {
			s.needPieces(s.geom.Index(p.Offset), s.geom.Index(p.Offset+p.Length-1)+1)
		}
	}
}

// needPieces notes that the pieces [first, end) are needed.
func (s *swarm) needPieces(first, end int) {
	s.lastNeed = s.e.now()
	if s.whole {
		return
	}
	fresh := false
	for i := first; i < end; i++ {
		fresh = s.needed.Set(i) || fresh
	}
	if fresh && s.origin != nil {
		s.origin.want(0, first, end)
	}
	if fresh && s.dl != nil {
		s.rejoin() // it may have been left alone while nothing was needed
		s.awaitRuns()
		s.dl.step(scheduler.Need{First: first, End: end})
	}
}

// wantWhole has the whole blob fetched from now on.
func (s *swarm) wantWhole() {
	if s.whole {
		return
	}
	s.whole = true
	close(s.wholly)
	if !s.wanted || s.e.o.Seeder {
		return
	}
	for _, m := range s.members {
		if nb, ok := s.e.network().Neighbour(m.id); ok && m.seeder {
			s.sendJoin(nb, true, 0) // the one before was for parts
		}
	}
	if s.dl != nil {
		s.dl.step(scheduler.Need{First: 0, End: s.geom.Count()})
	}
}

// isWhole is s.whole for others than the owner.
func (s *swarm) isWhole() bool {
	select {
	case <-s.wholly:
		return true
	default:
		return false
	}
}

// resting tells whether the swarm is lazy and nothing that is needed lacks.
func (s *swarm) resting() bool {
	switch {
	case s.whole:
		return false
	case s.origin != nil:
		return s.origin.resting()
	case s.e.o.Seeder:
		return true
	}
	held := s.heldOrRaw()
	for i := range s.needed.All() {
		if !held.Has(i) {
			return false
		}
	}
	return true
}

// fetchRest has the rest of the blob fetched where that is wished and its time
// has come. On a peer it takes a place among what is fetched ahead of clients.
func (s *swarm) fetchRest() {
	if s.e.o.Rest != RestLater || !s.wanted || s.settled || !s.resting() || s.e.now()-s.lastNeed < restAfter {
		return
	}
	if s.e.o.Seeder {
		s.wantWhole()
		return
	}
	if s.dl == nil {
		return
	}
	select {
	case s.e.active <- struct{}{}:
		s.dl.release = func() { <-s.e.active }
		s.log.Info("fetching the rest of a blob of which parts are read", zap.Int("pieces", s.blob.Have().Count()), zap.Int("of", s.geom.Count()))
		s.wantWhole()
	default: // the next tick
	}
}

// upTo is the end of what is needed from piece first on, at most end.
func (s *swarm) upTo(first, end int) int {
	for i := first + 1; i < end; i++ {
		if !s.whole && !s.needed.Has(i) {
			return i
		}
	}
	return end
}

// someComplete tells whether an ordinary member holds the whole blob.
func (s *swarm) someComplete() bool {
	for _, m := range s.members {
		if m.complete && !m.seeder {
			return true
		}
	}
	return false
}

// runsOf returns the pieces of b as runs [first, end).
func runsOf(b *piece.Bitfield) (runs [][2]int) {
	for i := range b.All() {
		if n := len(runs); n > 0 && runs[n-1][1] == i {
			runs[n-1][1] = i + 1
		} else {
			runs = append(runs, [2]int{i, i + 1})
		}
	}
	return runs
}
