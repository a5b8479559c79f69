package report

import (
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
)

const (
	maxPeers   = 16384
	maxHeld    = 4096    // blobs of one peer that are remembered as held
	maxHeldAll = 4 << 20 // of all peers together: 32 MiB
	// keepEnded is how long a blob that has come is shown with its pull.
	keepEnded = 20 * time.Second
	maxEnded  = 2 * p2p.MaxFetches

	// StuckAfter is how long a blob may be without a new byte before that is
	// called so.
	StuckAfter = 20 * time.Second
	// SilentAfter is how long a peer that fetches may be without a report.
	SilentAfter = 3 * busyEvery
)

// Board remembers what peers told last. Safe for concurrent use. It is a
// p2p.ReportTaker.
type Board struct {
	now func() time.Time

	mu    sync.Mutex
	peers map[peer.ID]*Peer
	held  int // of all peers
}

// Peer is what one told last.
type Peer struct {
	p2p.Report
	At      time.Time // of the last report
	Rate    float64   // bytes per second received between the last two
	Partial bool      // it holds more than is remembered
	Fetches []Fetch

	held []uint64 // sorted
}

// Fetch is a blob on its way to a peer.
type Fetch struct {
	p2p.Fetch
	Rate  float64   // bytes per second, between the last two reports
	Moved time.Time // when more of it was there for the last time
	ended time.Time
}

// NewBoard makes an empty one; now is time.Now.
func NewBoard(now func() time.Time) *Board {
	return &Board{now: now, peers: map[peer.ID]*Peer{}}
}

// Report implements p2p.ReportTaker.
func (b *Board) Report(from peer.ID, first bool, r p2p.Report) {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[from]
	if p == nil {
		if len(b.peers) >= maxPeers {
			return
		}
		p = &Peer{}
		b.peers[from] = p
	}
	since := now.Sub(p.At).Seconds()
	if first {
		b.held -= len(p.held)
		p.held, p.Partial = nil, false
		since = 0
	}
	p.Rate = perSecond(sum(r)-sum(p.Report), since)
	p.Fetches = follow(p.Fetches, r.Fetches, now, since)
	b.hold(p, r.Held, r.Gone)
	r.Fetches, r.Held, r.Gone = nil, nil, nil
	p.Report, p.At = r, now
}

func sum(r p2p.Report) int64 { return r.FromNear + r.FromFar + r.FromSeeder + r.FromUpstream }

func perSecond(n int64, seconds float64) float64 {
	if seconds <= 0 || n <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// hold takes what came to the blobs of a peer, and went, as far as there is room.
func (b *Board) hold(p *Peer, held, gone []uint64) {
	before := len(p.held)
	slices.Sort(held)
	slices.Sort(gone)
	p.held = apply(p.held, held, gone)
	if most := min(maxHeld, before+max(0, maxHeldAll-b.held)); len(p.held) > most {
		p.held, p.Partial = slices.Clone(p.held[:most]), true
	}
	b.held += len(p.held) - before
}

// follow makes the blobs under way of those of before and of a report. One that
// ended stays for a while, so that it can be seen at all.
func follow(before []Fetch, told []p2p.Fetch, now time.Time, since float64) []Fetch {
	old := make(map[digest.Digest]Fetch, len(before))
	for _, f := range before {
		old[f.Digest] = f
	}
	var out []Fetch
	for _, t := range told {
		f := Fetch{Fetch: t, Moved: now}
		if was, ok := old[t.Digest]; ok {
			f.Rate = perSecond(t.Have-was.Have, since)
			if t.Have <= was.Have && !t.Ended {
				f.Moved = was.Moved
			}
			delete(old, t.Digest)
		}
		if t.Ended {
			f.ended, f.Rate = now, 0
		}
		out = append(out, f)
	}
	for _, f := range before {
		if _, ok := old[f.Digest]; !ok || len(out) >= maxEnded {
			continue
		}
		if f.ended.IsZero() { // it is under way no more
			f.ended, f.Ended, f.Rate = now, true, 0
		}
		if now.Sub(f.ended) < keepEnded {
			out = append(out, f)
		}
	}
	return out
}

// Gone implements p2p.ReportTaker.
func (b *Board) Gone(id peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[id]; p != nil {
		b.held -= len(p.held)
		delete(b.peers, id)
	}
}

// Peers is what all peers told, by their ID. The blobs that they hold are not in it.
func (b *Board) Peers() map[peer.ID]Peer {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[peer.ID]Peer, len(b.peers))
	for id, p := range b.peers {
		v := *p
		v.Fetches = slices.DeleteFunc(slices.Clone(p.Fetches), func(f Fetch) bool { return !f.ended.IsZero() && now.Sub(f.ended) >= keepEnded })
		v.held = nil
		out[id] = v
	}
	return out
}

// Holders counts, for each set of blobs, the peers that hold all of it, and names
// up to limit of those. An empty set is held by nobody.
func (b *Board) Holders(limit int, sets ...[]digest.Digest) []Holders {
	keys := make([][]uint64, len(sets))
	for i, set := range sets {
		for _, d := range set {
			keys[i] = append(keys[i], Key(d))
		}
	}
	out := make([]Holders, len(sets))
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, p := range b.peers {
		for i, set := range keys {
			switch n := p.holds(set); {
			case len(set) == 0 || n == 0:
			case n < len(set):
				out[i].Some++
			default:
				if out[i].All++; len(out[i].Peers) < limit {
					out[i].Peers = append(out[i].Peers, id)
				}
			}
		}
	}
	for i := range out {
		slices.Sort(out[i].Peers)
	}
	return out
}

func (p *Peer) holds(set []uint64) (n int) {
	for _, k := range set {
		if _, ok := slices.BinarySearch(p.held, k); ok {
			n++
		}
	}
	return n
}

// Holders are the peers that hold a set of blobs.
type Holders struct {
	All, Some int // peers that hold all of it, or a part
	Peers     []peer.ID
}

// Stuck tells whether nothing of a blob has come for long.
func (f *Fetch) Stuck(now time.Time) bool {
	return !f.Ended && now.Sub(f.Moved) > StuckAfter
}
