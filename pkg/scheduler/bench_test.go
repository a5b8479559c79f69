package scheduler

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// BenchmarkPiece is what one piece costs the wanting side with 60 neighbours
// and 4,096 pieces: 60 haves, the request, its end.
func BenchmarkPiece(b *testing.B) {
	const n, peers = 4096, 60
	g, err := piece.GeometryOf(n * piece.MaxSize)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var d *Download
	var now time.Duration
	var reqs []RequestPieces
	step := func(ev Event) {
		for _, a := range d.Step(now, ev) {
			if r, ok := a.(RequestPieces); ok {
				reqs = append(reqs, r)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if d == nil || d.Complete() || len(reqs) == 0 {
			d, reqs = New(Config{Geometry: g, Seed: 1, Key: 1}), nil
			for p := range peers {
				have := piece.NewBitfield(n)
				for range n / 2 {
					have.Set(rng.IntN(n))
				}
				step(PeerUp{Peer: Peer(p + 1), SameZone: true, Have: have, Key: uint64(p + 2)})
			}
		}
		now += 10 * time.Millisecond
		for p := range peers {
			step(Have{Peer(p + 1), []int{rng.IntN(n)}})
		}
		r := reqs[0]
		reqs = reqs[1:]
		for _, i := range r.Pieces {
			step(PieceOK{r.Request, r.Peer, i, g.Len(i)})
		}
		step(Done{Request: r.Request})
	}
}
