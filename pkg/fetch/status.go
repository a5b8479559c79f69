package fetch

import (
	"errors"
	"sort"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/piece"
)

// BySource splits received bytes by where they came from.
type BySource struct{ Peers, Seeder, Upstream, ObjectStore int64 }

// BlobStatus is a swarm as the status page shows it.
type BlobStatus struct {
	Digest   digest.Digest
	Size     int64 // bytes
	Have     int64 // bytes, verified
	Pieces   int   // verified
	Count    int
	State    string // "fetching", "complete", "partial" or "failed"
	Members  int
	Readers  int
	Rate     float64 // bytes per second received, over the download so far
	Bytes    BySource
	Error    string
	Corrupt  bool // it failed since the bytes on offer do not match
	Source   Source
	Received int64 // bytes, duplicates included
	Given    int64 // bytes, to peers
	Began    time.Time
	Ended    time.Time
}

// PeerBytes is what went to and came from one peer since the start.
type PeerBytes struct {
	ID       peer.ID
	Seeder   bool
	From, To int64
	Bad      int // pieces that did not match
	Reason   string

	BadDigest   digest.Digest // the last blob it lied about
	BadSince    time.Time
	BannedUntil time.Time
}

// Totals are bytes since the start of the process.
type Totals struct {
	From   BySource
	To     int64 // sent to peers
	Wasted int64 // received, but held already or wrong
}

// progress counts one download.
type progress struct {
	mu    sync.Mutex
	have  *piece.Bitfield
	began time.Time
	ended time.Time
	by    BySource
	err   error
}

func (p *progress) init(have *piece.Bitfield) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.have = have
}

func (p *progress) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began, p.ended, p.err = time.Now(), time.Time{}, nil
}

func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = time.Now()
	p.have = piece.FullBitfield(p.have.Len())
}

func (p *progress) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended, p.err = time.Now(), err
}

// gain notes a verified piece and tells whether it is new to this swarm.
func (p *progress) gain(i int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.have.Set(i)
}

func (p *progress) add(seeder, upstream bool, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case upstream:
		p.by.Upstream += int64(n)
	case seeder:
		p.by.Seeder += int64(n)
	default:
		p.by.Peers += int64(n)
	}
}

// addDurable counts bytes of Options.Durable.
func (p *progress) addDurable(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by.ObjectStore += int64(n)
}

func (p *progress) summary() (time.Duration, BySource) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := p.ended
	if end.IsZero() {
		end = time.Now()
	}
	return end.Sub(p.began), p.by
}

// history bounds how many ended swarms are remembered for the status page.
const history = 64

// Blobs returns the swarms of this host and those that ended lately, ordered
// by digest.
func (e *Engine) Blobs() []BlobStatus {
	var out []BlobStatus
	live := make(map[digest.Digest]bool)
	for _, s := range e.all() {
		out = append(out, s.status())
		live[s.digest] = true
	}
	e.mu.Lock()
	for _, b := range e.ended {
		if !live[b.Digest] {
			out = append(out, b)
		}
	}
	e.mu.Unlock()
	sort.Slice(out, func(i, j int) bool { return out[i].Digest < out[j].Digest })
	return out
}

func (s *swarm) status() BlobStatus {
	have := s.blob.Have()
	st := BlobStatus{Digest: s.digest, Size: s.geom.Size(), Pieces: have.Count(), Count: s.geom.Count(), Readers: s.readers.count()}
	for i := range have.All() {
		st.Have += int64(s.geom.Len(i))
	}
	took, by := s.prog.summary()
	st.Bytes = by
	st.Received = by.Peers + by.Seeder + by.Upstream + by.ObjectStore
	if took > 0 && st.Received > 0 {
		st.Rate = float64(st.Received) / took.Seconds()
	}
	s.prog.mu.Lock()
	err, began := s.prog.err, s.prog.began
	st.Began, st.Ended = began, s.prog.ended
	s.prog.mu.Unlock()
	st.Source = s.sources.current()
	switch {
	case s.blob.Complete():
		st.State = "complete"
	case err != nil:
		st.State, st.Error, st.Corrupt = "failed", err.Error(), errors.Is(err, ErrCorrupt)
	case began.IsZero():
		st.State = "partial"
	default:
		st.State = "fetching"
	}
	st.Members, st.Given = int(s.nmembers.Load()), s.given.Load()
	return st
}

// ledger keeps bytes and misdeeds by peer.
type ledger struct {
	mu     sync.Mutex
	peers  map[peer.ID]*PeerBytes
	totals Totals
}

// maxLedger bounds the peers that are remembered by name.
const maxLedger = 4096

func (l *ledger) init() { l.peers = make(map[peer.ID]*PeerBytes) }

// of returns the entry of p; l.mu is held.
func (l *ledger) of(p peer.ID) *PeerBytes {
	b := l.peers[p]
	if b == nil {
		if len(l.peers) >= maxLedger {
			l.makeRoom()
		}
		b = &PeerBytes{ID: p}
		l.peers[p] = b
	}
	return b
}

// makeRoom forgets a peer, a good one where there is one; l.mu is held.
func (l *ledger) makeRoom() {
	var any peer.ID
	for id, old := range l.peers {
		if any = id; old.Bad == 0 {
			break
		}
	}
	delete(l.peers, any)
}

func (l *ledger) received(p peer.ID, seeder bool, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.of(p)
	b.Seeder = seeder
	b.From += int64(n)
	if seeder {
		l.totals.From.Seeder += int64(n)
	} else {
		l.totals.From.Peers += int64(n)
	}
}

func (l *ledger) fromUpstream(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.From.Upstream += int64(n)
}

func (l *ledger) fromDurable(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.From.ObjectStore += int64(n)
}

func (l *ledger) sent(p peer.ID, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(p).To += n
	l.totals.To += n
}

func (l *ledger) wasted(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.Wasted += int64(n)
}

func (l *ledger) bad(p peer.ID, d digest.Digest, what string, ban time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.of(p)
	if b.Bad++; b.Bad == 1 {
		b.BadSince = time.Now()
	}
	b.Reason, b.BadDigest = what, d
	if ban > 0 {
		b.BannedUntil = time.Now().Add(ban)
	}
}

// Peers returns what went to and came from each peer, ordered by ID.
func (e *Engine) Peers() []PeerBytes {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	out := make([]PeerBytes, 0, len(e.ledger.peers))
	for _, b := range e.ledger.peers {
		out = append(out, *b)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Totals returns the bytes since the start.
func (e *Engine) Totals() Totals {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	return e.ledger.totals
}

// ban names a peer that sent wrong bytes, and has nothing more to do with it.
func (e *Engine) ban(p peer.ID, d digest.Digest, what string) {
	e.ledger.bad(p, d, what, banPeriod)
	e.metrics.liar(p)
	e.network().Ban(p, banPeriod, what)
}
