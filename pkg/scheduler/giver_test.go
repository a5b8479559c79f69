package scheduler

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// giverChecker watches a Giver from outside.
type giverChecker struct {
	t     testing.TB
	g     *Giver
	n     int
	geo   piece.Geometry
	now   time.Duration
	have  [3]*piece.Bitfield
	asks  map[AskID]Ask
	came  map[AskID]time.Duration
	open  []AskID // being sent
	last  AskID
	wake  time.Duration
	trace []string
}

func newGiverChecker(t testing.TB, n int, seed uint64) *giverChecker {
	g, err := piece.GeometryOf(int64(n) * piece.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	return &giverChecker{t: t, g: NewGiver(GiverConfig{Seed: seed}), n: n, geo: g, asks: map[AskID]Ask{}, came: map[AskID]time.Duration{}, wake: never}
}

func (c *giverChecker) step(ev GiverEvent) {
	c.t.Helper()
	for _, a := range c.g.Step(c.now, ev) {
		c.trace = append(c.trace, fmt.Sprintf("%v %#v", c.now, a))
		switch a := a.(type) {
		case Give:
			q := c.answered(a.ID)
			c.open = append(c.open, a.ID)
			if len(a.Pieces) == 0 || len(a.Pieces) > max(q.Max, 1) && q.Any != nil {
				c.t.Fatalf("gives %v for %+v", a.Pieces, q)
			}
			for _, i := range a.Pieces {
				if !c.have[q.Blob].Has(i) || !(q.Any != nil && q.Any.Has(i) || q.Any == nil && contains(q.Pieces, i)) {
					c.t.Fatalf("gives %v for %+v", a.Pieces, q)
				}
			}
		case Busy:
			c.answered(a.ID)
			if a.After < 0 || len(a.Try) > 4 {
				c.t.Fatalf("%+v", a)
			}
		case NotHeld:
			c.answered(a.ID)
		case WakeAt:
			if a.At <= c.now {
				c.t.Fatalf("wake at %v, now %v", a.At, c.now)
			}
			c.wake = a.At
		}
	}
	if c.g.Active() > 32 || c.g.Active() != len(c.open) || c.g.Waiting() != len(c.asks) {
		c.t.Fatalf("active %d (%d), waiting %d (%d)", c.g.Active(), len(c.open), c.g.Waiting(), len(c.asks))
	}
}

func (c *giverChecker) answered(id AskID) Ask {
	c.t.Helper()
	q, ok := c.asks[id]
	if !ok {
		c.t.Fatalf("answer to ask %d, which waits for none", id)
	}
	delete(c.asks, id)
	return q
}

func (c *giverChecker) event(r *byteReader) {
	c.t.Helper()
	b, p, i := Blob(r.n(3)), Peer(r.n(12)), r.n(c.n)
	set := func() *piece.Bitfield {
		f := piece.NewBitfield(c.n)
		for range r.n(c.n + 1) {
			f.Set(r.n(c.n))
		}
		if r.n(3) == 0 {
			return piece.FullBitfield(c.n)
		}
		return f
	}
	end := func(id AskID) {
		for k, x := range c.open {
			if x == id {
				c.open = append(c.open[:k], c.open[k+1:]...)
			}
		}
	}
	switch k := r.n(20); {
	case k < 2 || c.have[b] == nil:
		c.have[b] = set()
		c.step(BlobUp{Blob: b, Geometry: c.geo, Have: c.have[b], Superseed: r.n(2) == 0, Growing: r.n(2) == 0})
	case k == 2:
		c.have[b].Set(i)
		c.step(BlobGrew{b, i})
	case k == 3:
		c.have[b].Clear(i)
		c.step(BlobShrank{b, []int{i}})
	case k == 4:
		c.step(BlobDone{b})
	case k == 5 && r.n(4) == 0:
		c.step(BlobDown{b})
		c.have[b] = nil
	case k == 6:
		c.step(PeerHas{Blob: b, Peer: p, Pieces: []int{i, -1, c.n}})
	case k == 7:
		c.step(PeerHas{Blob: b, Peer: p, Bitfield: set()})
	case k == 8:
		for id, q := range c.asks {
			if q.Peer == p {
				delete(c.asks, id)
			}
		}
		c.step(PeerGone{p})
	case k < 15:
		c.last++
		q := Ask{ID: c.last, Blob: b, Peer: p, Max: r.n(5), Urgent: r.n(3) == 0}
		if r.n(2) == 0 {
			q.Any = set()
		} else {
			q.Pieces = []int{i, r.n(c.n)}
		}
		c.asks[q.ID], c.came[q.ID] = q, c.now
		c.step(q)
	case k < 17 && len(c.open) > 0:
		id := c.open[r.n(len(c.open))]
		end(id)
		c.step(Sent{ID: id, OK: r.n(4) > 0})
	case k == 17:
		id := AskID(r.n(int(c.last) + 1))
		delete(c.asks, id)
		end(id)
		c.step(AskGone{id})
	default:
		c.step(Tick{})
	}
}

func (c *giverChecker) play(in []byte) {
	r := &byteReader{in}
	for r.more() {
		c.now += time.Duration(r.n(64)) * time.Millisecond
		c.event(r)
		c.checkCopies()
	}
	// Nobody waits for ever: with Ticks alone every ask is answered.
	for end := c.now + 10*time.Second; len(c.asks) > 0; {
		if c.wake == never || c.wake > end {
			c.t.Fatalf("%d asks wait for ever", len(c.asks))
		}
		c.now, c.wake = max(c.now, c.wake), never
		c.step(Tick{})
	}
}

func (c *giverChecker) checkCopies() {
	c.t.Helper()
	for _, b := range c.g.order {
		fresh := 0
		for i := range b.n {
			var copies uint16
			for _, p := range b.peers {
				if p.counted.has(i) {
					copies++
				}
			}
			if b.have.has(i) && copies == 0 {
				fresh++
			}
			if copies != b.copies[i] || b.fresh.has(i) != (b.have.has(i) && copies == 0) {
				c.t.Fatalf("piece %d: copies %d, want %d; fresh %v", i, b.copies[i], copies, b.fresh.has(i))
			}
		}
		if fresh != b.freshN {
			c.t.Fatalf("freshN %d, want %d", b.freshN, fresh)
		}
	}
}

func FuzzGiver(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(randomBytes(seed+50, 500), uint8(seed*7))
	}
	f.Fuzz(func(t *testing.T, in []byte, n uint8) {
		if len(in) > 4000 {
			in = in[:4000]
		}
		newGiverChecker(t, int(n)%70+1, 1).play(in)
	})
}

func TestGiverSameTraceSameActions(t *testing.T) {
	for seed := range uint64(30) {
		play := func() []string {
			c := newGiverChecker(t, 40, seed)
			c.play(randomBytes(seed, 3000))
			return c.trace
		}
		if a, b := play(), play(); !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d: the same events gave other actions", seed)
		}
	}
}

// TestSpread: in a big swarm who is refused stays away for longer.
func TestSpread(t *testing.T) {
	for _, c := range []struct {
		peers int
		after time.Duration
	}{{8, 200 * time.Millisecond}, {1000, 5 * time.Second}, {5000, 10 * time.Second}} {
		g := NewGiver(GiverConfig{Seed: 1})
		geo, err := piece.GeometryOf(2 * piece.MinSize)
		if err != nil {
			t.Fatal(err)
		}
		g.Step(0, BlobUp{Blob: 1, Geometry: geo, Have: piece.FullBitfield(geo.Count()), Superseed: true})
		for p := range c.peers { // everything has been given, and reached somebody
			g.Step(0, PeerHas{Blob: 1, Peer: Peer(p + 1), Pieces: []int{p % geo.Count()}})
		}
		any := piece.NewBitfield(geo.Count())
		any.Set(1)
		var after time.Duration
		for _, a := range g.Step(time.Second, Ask{ID: 1, Blob: 1, Peer: 1, Any: any, Max: 1}) {
			if b, ok := a.(Busy); ok {
				after = b.After
			}
		}
		if after != c.after {
			t.Errorf("of %d peers one is sent away for %v, want %v", c.peers, after, c.after)
		}
	}
}
