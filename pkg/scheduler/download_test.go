package scheduler

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// byteReader turns fuzz input, or a seeded stream, into choices.
type byteReader struct {
	b []byte
}

func (r *byteReader) more() bool { return len(r.b) > 0 }

func (r *byteReader) n(limit int) int {
	if len(r.b) == 0 || limit <= 0 {
		return 0
	}
	x := int(r.b[0])
	r.b = r.b[1:]
	return x % limit
}

func randomBytes(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for k := range b {
		b[k] = byte(rng.Uint32())
	}
	return b
}

// randomEvent makes up an event: mostly one that makes sense, sometimes one
// that does not.
func randomEvent(r *byteReader, n int, open []Request) Event {
	req := Request(r.n(40))
	if len(open) > 0 && r.n(4) > 0 {
		req = open[r.n(len(open))]
	}
	p := Peer(r.n(9) - 1)
	i := r.n(n+2) - 1
	switch r.n(16) {
	case 0, 1:
		f := piece.NewBitfield(n)
		for range r.n(n + 1) {
			f.Set(r.n(n))
		}
		if r.n(6) == 0 {
			f = piece.FullBitfield(n)
		}
		return PeerUp{Peer: p, Seeder: r.n(5) == 0, SameZone: r.n(3) > 0, Have: f, Key: uint64(r.n(5)), Complete: r.n(9) == 0,
			RTT: time.Duration(r.n(50)) * time.Millisecond}
	case 2:
		return PeerDown{p}
	case 3, 4:
		return Have{p, []int{i, r.n(n), r.n(n)}}
	case 5:
		return Granted{req, []int{i, r.n(n)}}
	case 6:
		return Progress{req, int64(r.n(200)) * 1000}
	case 7, 8, 9:
		return PieceOK{req, p, i, piece.MinSize}
	case 10:
		return PieceBad{req, p, i}
	case 11, 12, 13:
		return Done{req, Result(r.n(5)), time.Duration(r.n(20)) * 50 * time.Millisecond}
	case 14:
		if r.n(5) == 0 {
			return Lost{[]int{i}}
		}
		if r.n(4) == 0 {
			return Need{i, i + r.n(n/2+1)}
		}
		return Want{r.n(3), i, i + r.n(n)}
	default:
		if r.n(2) == 0 {
			return Unwant{r.n(3)}
		}
		return Tick{}
	}
}

// checker watches a Download from outside and knows what it must never do.
type checker struct {
	t      testing.TB
	d      *Download
	n      int
	now    time.Duration
	last   Request
	open   []Request
	reqs   map[Request]Action
	have   map[int]bool
	need   map[int]bool // of a lazy one
	up     map[Peer]bool
	bad    map[Peer]bool
	wake   time.Duration
	trace  []string
	limits Config
}

func newChecker(t testing.TB, n int, c Config) *checker {
	g, err := piece.GeometryOf(int64(n) * piece.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	c.Geometry = g
	return &checker{t: t, d: New(c), n: n, reqs: map[Request]Action{}, have: map[int]bool{}, need: map[int]bool{}, up: map[Peer]bool{}, bad: map[Peer]bool{},
		wake: never, limits: c.withDefaults()}
}

// step steps the Download and holds its actions against what is allowed.
func (c *checker) step(ev Event) []Action {
	c.t.Helper()
	switch ev := ev.(type) {
	case PeerUp:
		if ev.Peer > 0 {
			c.up[ev.Peer] = true
		}
	case PeerDown:
		delete(c.up, ev.Peer)
	case PieceOK:
		if ev.Piece >= 0 && ev.Piece < c.n {
			c.have[ev.Piece] = true
		}
	case Need:
		for i := ev.First; i < ev.End; i++ {
			c.need[i] = true
		}
	case PieceBad:
		if ev.Peer > 0 && c.d.peer(ev.Peer, false) != nil {
			c.bad[ev.Peer] = true
		}
	case Done:
		c.close(ev.Request)
	case Lost:
		for _, i := range ev.Pieces {
			delete(c.have, i)
			c.need[i] = true
		}
	}
	actions := c.d.Step(c.now, ev)
	for _, a := range actions {
		text := fmt.Sprintf("%v %#v", c.now, a)
		if r, ok := a.(RequestPieces); ok && r.Any != nil {
			text = fmt.Sprintf("%v %d of %d any %x", c.now, r.Request, r.Peer, r.Any.Bytes())
		}
		c.trace = append(c.trace, text)
		c.action(a)
	}
	if len(c.open) > c.limits.MaxRequests*2+16 {
		c.t.Fatalf("%d requests under way", len(c.open))
	}
	if got := c.n - len(c.have); got != c.d.Missing() {
		c.t.Fatalf("Missing() = %d, want %d", c.d.Missing(), got)
	}
	return actions
}

func (c *checker) close(r Request) {
	delete(c.reqs, r)
	for k, x := range c.open {
		if x == r {
			c.open = append(c.open[:k], c.open[k+1:]...)
			return
		}
	}
}

func (c *checker) action(a Action) {
	c.t.Helper()
	begin := func(r Request) {
		if r != c.last+1 {
			c.t.Fatalf("request %d follows %d", r, c.last)
		}
		c.last = r
		c.reqs[r] = a
		c.open = append(c.open, r)
	}
	switch a := a.(type) {
	case RequestPieces:
		begin(a.Request)
		switch {
		case !c.up[a.Peer]:
			c.t.Fatalf("asked peer %d, which is not up", a.Peer)
		case c.bad[a.Peer]:
			c.t.Fatalf("asked peer %d, which lied", a.Peer)
		case (a.Pieces == nil) == (a.Any == nil):
			c.t.Fatalf("not exactly one of Pieces and Any: %+v", a)
		case a.Max < 1 || a.Any != nil && a.Any.Count() == 0 || a.Any == nil && len(a.Pieces) != a.Max:
			c.t.Fatalf("asks for nothing, or too much: %+v", a)
		}
		seen := map[int]bool{}
		for _, i := range a.Pieces {
			if c.have[i] || seen[i] || i < 0 || i >= c.n {
				c.t.Fatalf("asks for piece %d, held, doubled or beyond: %+v", i, a)
			}
			c.needed(i)
			seen[i] = true
		}
		out := 0
		for _, r := range c.open {
			if q, ok := c.reqs[r].(RequestPieces); ok && q.Peer == a.Peer {
				out++
			}
		}
		if out > c.limits.MaxPerPeer+3 {
			for _, r := range c.open {
				c.t.Logf("%+v", c.reqs[r])
			}
			c.t.Fatalf("%d requests under way at peer %d", out, a.Peer)
		}
	case Fallback:
		begin(a.Request)
		if c.limits.NoFallback || a.First < 0 || a.End > c.n || a.First >= a.End || a.Reason == "" {
			c.t.Fatalf("bad fallback %+v", a)
		}
		if int64(a.End-a.First)*piece.MinSize > c.limits.FallbackBytes {
			c.t.Fatalf("fallback too long: %+v", a)
		}
		for i := a.First; i < a.End; i++ {
			c.needed(i)
		}
	case Cancel:
		if c.reqs[a.Request] == nil {
			c.t.Fatalf("cancels request %d, which is not under way", a.Request)
		}
		c.close(a.Request)
	case WakeAt:
		if a.At <= c.now {
			c.t.Fatalf("wake at %v, now %v", a.At, c.now)
		}
		c.wake = a.At
	}
}

// needed fails for a piece that a lazy Download has no reason to get.
func (c *checker) needed(i int) {
	c.t.Helper()
	if c.limits.Lazy && !c.need[i] {
		c.t.Fatalf("asks for piece %d, which nobody needs", i)
	}
}

// finish drives the Download to its end with one honest peer: others stay
// silent. It must get every piece.
func (c *checker) finish() {
	c.t.Helper()
	const honest = Peer(100)
	var todo []Action
	todo = append(todo, c.step(Need{0, c.n})...)
	todo = append(todo, c.step(PeerUp{Peer: honest, SameZone: true, Have: piece.FullBitfield(c.n)})...)
	end := c.now + 10*time.Minute
	for !c.d.Complete() {
		if c.now > end {
			c.t.Fatalf("%d pieces were never got", c.d.Missing())
		}
		if len(todo) == 0 {
			if c.wake == never {
				c.t.Fatalf("asleep for ever with %d pieces missing", c.d.Missing())
			}
			c.now, c.wake = max(c.now, c.wake), never
			todo = c.step(Tick{})
			continue
		}
		a := todo[0]
		todo = todo[1:]
		switch a := a.(type) {
		case RequestPieces:
			if a.Peer != honest || c.reqs[a.Request] == nil {
				continue
			}
			c.now += time.Millisecond
			pieces := a.Pieces
			if a.Any != nil {
				for i := range a.Any.All() {
					if len(pieces) < a.Max {
						pieces = append(pieces, i)
					}
				}
			}
			for _, i := range pieces {
				todo = append(todo, c.step(PieceOK{a.Request, honest, i, piece.MinSize})...)
			}
			todo = append(todo, c.step(Done{Request: a.Request})...)
		case Fallback:
			todo = append(todo, c.step(Done{Request: a.Request, Result: ResultFailed})...)
		}
	}
	if len(c.open) > 0 {
		c.t.Fatalf("complete, yet %d requests are under way", len(c.open))
	}
}

func (c *checker) play(in []byte) {
	r := &byteReader{in}
	for r.more() {
		if k := r.n(8); k < 5 {
			c.now += time.Duration(k*k*k) * 10 * time.Millisecond
		}
		c.step(randomEvent(r, c.n, c.open))
	}
}

func FuzzDownload(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(randomBytes(seed, 400), uint8(seed*13), seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, in []byte, n uint8, noFallback bool) {
		if len(in) > 4000 {
			in = in[:4000]
		}
		c := newChecker(t, int(n)%70+1, Config{Seed: 3, Key: uint64(n % 3), NoFallback: noFallback, FallbackBytes: 2 << 20, Lazy: n%4 == 0})
		c.play(in)
		c.finish()
	})
}

// TestSameTraceSameActions: no map order, clock or global randomness decides.
func TestSameTraceSameActions(t *testing.T) {
	for seed := range uint64(30) {
		play := func() []string {
			c := newChecker(t, 64, Config{Seed: seed, Key: 1})
			c.play(randomBytes(seed+100, 3000))
			c.finish()
			return c.trace
		}
		a, b := play(), play()
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d: the same events gave other actions", seed)
		}
	}
}

// TestCountsStayTrue: what is counted step by step is what counting anew gives.
func TestCountsStayTrue(t *testing.T) {
	for seed := range uint64(30) {
		c := newChecker(t, 50, Config{Seed: seed, Key: 1, Lazy: seed%3 == 0})
		r := &byteReader{randomBytes(seed+500, 2000)}
		for r.more() {
			c.now += time.Duration(r.n(100)) * time.Millisecond
			c.step(randomEvent(r, c.n, c.open))
			checkCounts(t, c.d)
		}
	}
}

func checkCounts(t *testing.T, d *Download) {
	t.Helper()
	openN, window, fallbacks := 0, 0, 0
	busy := make([]uint16, d.n)
	for _, r := range d.reqs {
		if r.window {
			window++
		}
		if r.peer == nil {
			fallbacks++
		}
		if !r.stalled {
			for _, i := range r.pieces {
				busy[i]++
			}
		}
	}
	for i := range d.n {
		var near, far uint16
		for _, p := range d.up {
			if p.counts && p.have.has(i) {
				if p.near {
					near++
				} else {
					far++
				}
			}
		}
		open := !d.have.has(i) && busy[i] == 0 && d.needs(i)
		if open {
			openN++
		}
		if near != d.near[i] || far != d.far[i] || d.nearH.has(i) != (near > 0) || d.held.has(i) != (near+far > 0) {
			t.Fatalf("piece %d: near %d (%d), far %d (%d)", i, d.near[i], near, d.far[i], far)
		}
		if busy[i] != d.busy[i] || d.open.has(i) != open {
			t.Fatalf("piece %d: busy %d (%d), open %v (%v)", i, d.busy[i], busy[i], d.open.has(i), open)
		}
	}
	rivals, sources := 0, 0
	for _, p := range d.up {
		if p.rival {
			rivals++
		}
		if p.relied {
			sources++
		}
		if on := p.usable() && !p.shun && (p.seeder || p.haveN > 0); on != p.relied {
			t.Fatalf("peer %d can be relied on: %t, noted: %t", p.id, on, p.relied)
		}
		if p.haveN != p.have.count() {
			t.Fatalf("peer %d: haveN %d, want %d", p.id, p.haveN, p.have.count())
		}
	}
	if openN != d.openN || window != d.windowOut || fallbacks != d.fallbacks || rivals != d.rivals || sources != d.sourceN {
		t.Fatalf("openN %d (%d), windowOut %d (%d), fallbacks %d (%d), rivals %d (%d), sources %d (%d)",
			d.openN, openN, d.windowOut, window, d.fallbacks, fallbacks, d.rivals, rivals, d.sourceN, sources)
	}
}

// On a slow link fewer requests are under way, so that none takes for ever.
func TestRequestsOfASlowLink(t *testing.T) {
	g, err := piece.GeometryOf(64 * piece.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	d := New(Config{Geometry: g})
	for _, c := range []struct {
		arrived int
		typical time.Duration
		want    int
	}{{0, 0, 8}, {1, slowPiece, 9}, {1, time.Minute, 8}, {24, slowPiece, 32}, {50, slowPiece, 32}, {50, 2 * slowPiece, 16}, {50, time.Minute, 8}} {
		d.arrived, d.typical = c.arrived, c.typical
		if got := d.maxRequests(); got != c.want {
			t.Errorf("%d pieces came and take %s: %d requests, want %d", c.arrived, c.typical, got, c.want)
		}
	}
}
