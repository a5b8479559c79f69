package report

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
)

const (
	lookEvery = 2 * time.Second  // at most one report in so long
	busyEvery = 15 * time.Second // while something is under way, one in so long at least
	idleEvery = time.Minute      // as while nothing is
	heldEvery = 10 * time.Second // how often it is looked at what is held
	// share of the bytes received that reports may take.
	share = 100
)

// Stream is what reports to one seeder go out by (*p2p.Reports).
type Stream interface {
	// Send tells how many bytes it took. After an error the stream is of no use.
	Send(p2p.Report) (int, error)
	Close()
}

// Engine is what fetches (*fetch.Engine).
type Engine interface {
	Blobs() []fetch.BlobStatus
	Totals() fetch.Totals
	Peers() []fetch.PeerBytes
}

// Store is what holds (*store.Store).
type Store interface {
	Usage() store.Usage
	Infos() []store.Info
}

// Options of a Reporter. All but Log are required.
type Options struct {
	Name   string // of this host
	Zone   string
	Engine Engine
	Store  Store
	// Neighbours are those of now, and Open begins to tell one of them.
	Neighbours func() []p2p.Neighbour
	Open       func(ctx context.Context, to peer.ID) (Stream, error)
	// ToClients is how many bytes clients were given.
	ToClients func() int64
	// Seeder tells whether a neighbour is a seeder that may know all this.
	Seeder func(peer.ID) bool
	Log    *zap.Logger // nil: no logs
}

// Reporter tells seeders about this peer.
type Reporter struct {
	o     Options
	to    map[peer.ID]*listener
	zones map[peer.ID]string    // of those who are neighbours now
	near  map[peer.ID]int64     // bytes from peers of our zone, as far as they were neighbours when they were seen
	mute  map[peer.ID]time.Time // until when seeders that take no reports are left alone
	held  []uint64              // sorted
	seen  time.Time
}

// listener is a seeder that is told.
type listener struct {
	stream   Stream
	at       time.Time // of the last report
	size     int       // its bytes
	received int64     // of the totals that it told
	busy     bool      // it told of something under way
	held     []uint64  // that the seeder was told of, sorted
}

// New makes a Reporter.
func New(o Options) *Reporter {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Name = text(o.Name)
	return &Reporter{o: o, to: map[peer.ID]*listener{}, zones: map[peer.ID]string{}, near: map[peer.ID]int64{}, mute: map[peer.ID]time.Time{}}
}

// text is what may stand in a report.
func text(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == unicode.ReplacementChar {
			return ' '
		}
		return c
	}, s)
	for len(s) > p2p.MaxReportText {
		r := []rune(s)
		s = string(r[:len(r)-1-len(r)/8])
	}
	return s
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defer func() {
		for _, l := range r.to {
			l.stream.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.round(ctx)
		}
	}
}

// round tells each seeder what there is to tell.
func (r *Reporter) round(ctx context.Context) {
	now := time.Now()
	seeders := r.neighbours()
	for id, l := range r.to {
		if !slices.Contains(seeders, id) {
			l.stream.Close()
			delete(r.to, id)
		}
	}
	if len(seeders) == 0 {
		return
	}
	blobs, totals := r.o.Engine.Blobs(), r.o.Engine.Totals()
	for _, id := range seeders {
		l := r.to[id]
		if l == nil {
			l = r.open(ctx, id)
		}
		if l != nil && l.due(now, blobs, totals) {
			r.send(id, l, now, blobs, totals)
		}
	}
}

// neighbours are the seeders among them. The zones of others are noted on the way.
func (r *Reporter) neighbours() (seeders []peer.ID) {
	clear(r.zones)
	for _, nb := range r.o.Neighbours() {
		r.zones[nb.ID] = nb.Zone
		if nb.Seeder && r.o.Seeder(nb.ID) {
			seeders = append(seeders, nb.ID)
		}
	}
	slices.Sort(seeders)
	return seeders
}

// open begins a stream. A seeder that takes no reports is asked again later.
func (r *Reporter) open(ctx context.Context, id peer.ID) *listener {
	if time.Now().Before(r.mute[id]) {
		return nil
	}
	s, err := r.o.Open(ctx, id)
	if err != nil {
		r.mute[id] = time.Now().Add(idleEvery / 4)
		r.o.Log.Debug("a seeder takes no reports", zap.Stringer("seeder", id), zap.Error(err))
		return nil
	}
	l := &listener{stream: s}
	r.to[id] = l
	return l
}

// due tells whether there is something to tell, and whether that may be said yet.
func (l *listener) due(now time.Time, blobs []fetch.BlobStatus, t fetch.Totals) bool {
	since := now.Sub(l.at)
	busy := slices.ContainsFunc(blobs, underWay)
	switch {
	case l.at.IsZero(), since >= idleEvery:
		return true
	case !busy && !l.busy && received(t) == l.received:
		return false
	case since >= busyEvery:
		return true
	}
	return received(t)-l.received >= int64(l.size)*share
}

func underWay(b fetch.BlobStatus) bool { return b.State == "fetching" }

func received(t fetch.Totals) int64 {
	return t.From.Peers + t.From.Seeder + t.From.Upstream
}

func (r *Reporter) send(id peer.ID, l *listener, now time.Time, blobs []fetch.BlobStatus, t fetch.Totals) {
	u := r.o.Store.Usage()
	near := r.nearBytes(t.From.Peers)
	m := p2p.Report{Name: r.o.Name, Used: u.Used, Quota: u.Quota, FromNear: near, FromFar: t.From.Peers - near, FromSeeder: t.From.Seeder,
		FromUpstream: t.From.Upstream, ToPeers: t.To, ToClients: r.o.ToClients()}
	l.busy = false
	for _, b := range blobs {
		f := fetchOf(b, now)
		switch {
		case underWay(b):
			l.busy = true
		case b.Ended.IsZero() || !b.Ended.After(l.at) || l.at.IsZero():
			continue // it was told, or ended before this seeder listened
		}
		if len(m.Fetches) == p2p.MaxFetches {
			m.More++
			continue
		}
		m.Fetches = append(m.Fetches, f)
	}
	if now.Sub(r.seen) >= heldEvery || !l.busy {
		r.held, r.seen = heldBlobs(r.o.Store.Infos()), now
	}
	m.Held, m.Gone = changes(l.held, r.held)
	n, err := l.stream.Send(m)
	if err != nil {
		r.o.Log.Debug("a report was not sent; a new stream will be opened", zap.Stringer("seeder", id), zap.Error(err))
		l.stream.Close()
		delete(r.to, id)
		return
	}
	l.held = apply(l.held, m.Held, m.Gone)
	l.at, l.size, l.received = now, n, received(t)
}

// nearBytes are those of the bytes from peers that peers of our zone have sent.
func (r *Reporter) nearBytes(all int64) (near int64) {
	for _, p := range r.o.Engine.Peers() {
		zone, neighbour := r.zones[p.ID]
		_, was := r.near[p.ID]
		if !p.Seeder && (neighbour && zone == r.o.Zone || !neighbour && was) {
			r.near[p.ID] = p.From
		}
	}
	for _, n := range r.near {
		near += n
	}
	return min(near, all)
}

func fetchOf(b fetch.BlobStatus, now time.Time) p2p.Fetch {
	f := p2p.Fetch{Digest: b.Digest, Source: b.Source.String(), Size: b.Size, Have: min(b.Have, b.Size), FromPeers: b.Bytes.Peers,
		FromSeeder: b.Bytes.Seeder, FromUpstream: b.Bytes.Upstream, Readers: b.Readers, Ended: !underWay(b), Error: text(b.Error)}
	if !b.Began.IsZero() {
		f.Age = max(0, now.Sub(b.Began)).Truncate(time.Second)
	}
	return f
}

// Key stands for a digest in what is held.
func Key(d digest.Digest) uint64 {
	b, err := hex.DecodeString(d.Encoded()[:min(16, len(d.Encoded()))])
	if err != nil || len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// heldBlobs are the complete ones that were used last, sorted.
func heldBlobs(infos []store.Info) []uint64 {
	infos = slices.DeleteFunc(infos, func(in store.Info) bool { return !in.Complete })
	if len(infos) > maxHeld {
		slices.SortFunc(infos, func(a, b store.Info) int { return cmp.Compare(b.LastUse.UnixNano(), a.LastUse.UnixNano()) })
		infos = infos[:maxHeld]
	}
	keys := make([]uint64, len(infos))
	for i, in := range infos {
		keys[i] = Key(in.Digest)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// changes are what to tell who knows old; of more than fits, some.
func changes(old, now []uint64) (held, gone []uint64) {
	for _, k := range now {
		if _, ok := slices.BinarySearch(old, k); !ok && len(held) < p2p.MaxHeld {
			held = append(held, k)
		}
	}
	for _, k := range old {
		if _, ok := slices.BinarySearch(now, k); !ok && len(gone) < p2p.MaxHeld {
			gone = append(gone, k)
		}
	}
	return held, gone
}

// apply is what is known after a report; all are sorted, and so is what comes out.
func apply(known, held, gone []uint64) []uint64 {
	out := make([]uint64, 0, len(known)+len(held))
	for _, k := range known {
		if _, ok := slices.BinarySearch(gone, k); !ok {
			out = append(out, k)
		}
	}
	out = append(out, held...)
	slices.Sort(out)
	return slices.Compact(out)
}
