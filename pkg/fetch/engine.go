package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// Network is what the engine asks of the node (*p2p.Node). Its methods' errors
// are those of pkg/p2p.
type Network interface {
	ID() peer.ID
	// Connect makes p a neighbour; nil when it is one already.
	Connect(ctx context.Context, p peer.AddrInfo) error
	// Send queues a control message; it never blocks.
	Send(to peer.ID, m p2p.Message) error
	// Ask requests pieces on the data plane.
	Ask(ctx context.Context, to peer.ID, a p2p.Ask) (*p2p.Answer, error)
	// Content fetches a small blob or a manifest whole, its digest verified.
	Content(ctx context.Context, to peer.ID, d digest.Digest, limit int64) ([]byte, string, error)
	Neighbours() []p2p.Neighbour
	Neighbour(p peer.ID) (p2p.Neighbour, bool)
	// AddrInfo says where p can be dialled, as far as the node knows.
	AddrInfo(p peer.ID) peer.AddrInfo
	// Providers looks a key up in the DHT.
	Providers(ctx context.Context, c cid.Cid, limit int) <-chan peer.AddrInfo
	Provide(keys ...cid.Cid) error
	Unprovide(keys ...cid.Cid) error
	// Ban closes and refuses connections of p for a while.
	Ban(p peer.ID, d time.Duration, reason string)
}

// Upstream is what the engine asks of the upstreams (*upstream.Client).
type Upstream interface {
	// URL tells whether an upstream of that name is configured, and where.
	URL(name string) (string, bool)
	// Blob opens n bytes from off on; n < 0 means to the end. Errors are *upstream.Error.
	Blob(ctx context.Context, name, repo string, d digest.Digest, off, n int64) (*upstream.BlobReader, error)
}

// Source names where a blob comes from: a repository of a configured upstream.
type Source struct{ Upstream, Repository string }

// String is "docker.io/library/nginx", or "" for the zero Source.
func (s Source) String() string {
	if s.Upstream == "" {
		return ""
	}
	return s.Upstream + "/" + s.Repository
}

// ParseSource reads what String wrote; the zero Source for anything else.
func ParseSource(s string) Source {
	up, repo, ok := strings.Cut(s, "/")
	if !ok || up == "" || repo == "" {
		return Source{}
	}
	return Source{Upstream: up, Repository: repo}
}

// Want describes a blob to be had.
type Want struct {
	Digest digest.Digest
	Size   int64 // bytes; below 0 when unknown
	Source Source
}

// Errors of the engine. Each is wrapped with what was tried and where.
var (
	// ErrUnavailable: no peer, seeder or upstream can give the blob now.
	ErrUnavailable = errors.New("no source can give this blob now")
	// ErrCorrupt: the only bytes on offer do not match the digest.
	ErrCorrupt = errors.New("the bytes do not match the digest")
	// ErrNotFound: the upstream says that it has no such blob.
	ErrNotFound = errors.New("not found at the upstream")
	// ErrStopped: the engine was closed.
	ErrStopped = errors.New("shutting down")
)

// Options configure an Engine. Store and Log are needed.
type Options struct {
	Store    *store.Store
	Upstream Upstream // nil: never fall back to an upstream

	// Seeder makes blobs come from the upstream, once each, and signs their
	// piece hashes with Key.
	Seeder bool
	Key    crypto.PrivKey

	// Trusted tells whose signed hashes are believed. A seeder always
	// believes itself.
	Trusted func(peer.ID) bool

	// Locate finds size and source of a digest from the manifests that the
	// caller has seen; used when a peer asks for a blob by digest alone.
	Locate func(digest.Digest) (Want, bool)

	// Zone is this host's zone.
	Zone string

	// MaxActive bounds the blobs that are downloaded at once without a
	// client waiting for them (default 3).
	MaxActive int
	// MaxBuffer bounds the piece bytes in memory, in bytes (default 256 MiB).
	MaxBuffer int64
	// Seed makes the random choices of the scheduler repeatable.
	Seed uint64

	Log        *zap.Logger
	Registerer prometheus.Registerer
	Namespace  string
}

// SmallBlob is the size in bytes below which a blob has no DHT record and no
// swarm of its own: it is fetched whole from a peer, the seeder or the upstream.
const SmallBlob = 1 << 20

// How the engine waits.
const (
	hashWait    = 3 * time.Second  // for a signed run to catch up with its piece
	finalWait   = 3 * time.Second  // for the seeder's final list once all pieces are here
	linger      = 2 * time.Minute  // a swarm without a use is forgotten after this
	banPeriod   = time.Hour        // for a peer that sent wrong bytes
	lookupEvery = 10 * time.Second // first pause between DHT look-ups of a hungry swarm
	maxMembers  = 60               // neighbours per swarm (DESIGN section 5)
	hintPeers   = 30               // peers named in the answer to a Join
)

// Engine downloads, holds and gives blobs. Safe for concurrent use.
type Engine struct {
	o       Options
	log     *zap.Logger
	net     Network
	epoch   time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	giver   *giver
	buffers *semaphore.Weighted
	active  chan struct{} // one token per prefetching download
	dials   chan struct{} // one token per connection attempt to a hinted peer
	metrics *metrics
	ledger  ledger

	mu      sync.Mutex
	swarms  map[digest.Digest]*swarm
	small   map[digest.Digest]*smallCall
	keeping map[digest.Digest]*kept // small content on its way to disk
	ended   []BlobStatus            // of swarms that are no more, the oldest first
	closed  bool
}

// New returns an engine that is not connected yet: pass it to p2p.New as
// Handler and Pieces, then call Start with the node.
func New(o Options) *Engine {
	if o.MaxActive <= 0 {
		o.MaxActive = 3
	}
	if o.MaxBuffer <= 0 {
		o.MaxBuffer = 256 << 20
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Trusted == nil {
		o.Trusted = func(peer.ID) bool { return false }
	}
	if o.Locate == nil {
		o.Locate = func(digest.Digest) (Want, bool) { return Want{}, false }
	}
	e := &Engine{
		o: o, log: o.Log, epoch: time.Now(),
		buffers: semaphore.NewWeighted(o.MaxBuffer),
		active:  make(chan struct{}, o.MaxActive),
		dials:   make(chan struct{}, 16),
		swarms:  make(map[digest.Digest]*swarm),
		small:   make(map[digest.Digest]*smallCall),
		keeping: make(map[digest.Digest]*kept),
		metrics: newMetrics(o.Registerer, o.Namespace),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.giver = newGiver(e)
	e.ledger.init()
	return e
}

// Start connects the engine to its node and announces what the store holds.
func (e *Engine) Start(n Network) {
	e.mu.Lock()
	e.net = n
	e.mu.Unlock()
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		e.announceStore()
	}()
}

// Close stops every download and waits for its goroutines. Verified pieces
// stay in the store and are used by the next process.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	swarms := make([]*swarm, 0, len(e.swarms))
	for _, s := range e.swarms {
		swarms = append(swarms, s)
	}
	e.mu.Unlock()
	e.cancel()
	for _, s := range swarms {
		<-s.done
	}
	e.giver.close()
	e.wg.Wait()
}

func (e *Engine) now() time.Duration { return time.Since(e.epoch) }

// network returns the node, or nil before Start.
func (e *Engine) network() Network {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.net
}

// announceStore tells the DHT of every complete blob and manifest in the store.
func (e *Engine) announceStore() {
	var keys []cid.Cid
	for _, in := range e.o.Store.Infos() {
		if in.Complete && announced(in.Size, in.Meta.MediaType) {
			if c, err := blobCID(in.Digest); err == nil {
				keys = append(keys, c)
			}
		}
	}
	if len(keys) == 0 || e.ctx.Err() != nil {
		return
	}
	if err := e.network().Provide(keys...); err != nil {
		e.log.Warn("cannot announce the store's blobs", zap.Int("blobs", len(keys)), zap.Error(err))
	}
}

// announced tells which content has a DHT record: blobs of SmallBlob or more,
// and manifests, so that an image can be found when no seeder answers.
// Configs and small layers are found with the manifest's holders.
func announced(size int64, mediaType string) bool {
	return size >= SmallBlob || strings.Contains(mediaType, "manifest") || strings.Contains(mediaType, "index")
}

// Prefetch starts to download a blob, unless it is here or on its way.
func (e *Engine) Prefetch(w Want) {
	if in, err := e.o.Store.Stat(w.Digest); err == nil && in.Complete {
		return
	}
	if w.Size >= 0 && w.Size < SmallBlob && !e.o.Seeder {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.closed {
			return
		}
		e.wg.Add(1)
		go func() {
			defer e.wg.Done()
			if _, err := e.Small(e.ctx, w, SmallBlob); err != nil && e.ctx.Err() == nil {
				e.log.Debug("prefetch of a small blob failed", zap.Stringer("digest", w.Digest), zap.Error(err))
			}
		}()
		return
	}
	if _, err := e.want(w); err != nil {
		e.log.Debug("prefetch failed", zap.Stringer("digest", w.Digest), zap.Error(err))
	}
}

// Open returns the blob for reading, from its first byte on; reads wait for
// the pieces that are still to come, and out-of-order ranges are fetched first.
// It returns once a first piece has come, which proves a source, at the latest
// when ctx ends, with ErrUnavailable, ErrNotFound or ErrCorrupt when nobody can
// help. life bounds the reader.
func (e *Engine) Open(ctx, life context.Context, w Want) (io.ReadSeekCloser, int64, error) {
	for range 3 {
		b, err := e.o.Store.Blob(w.Digest)
		if err == nil && b.Complete() {
			f, ferr := b.File()
			size := b.Size()
			b.Release()
			if ferr == nil {
				return f, size, nil
			}
			if !errors.Is(ferr, store.ErrNotFound) {
				return nil, 0, fmt.Errorf("open %s: %w", w.Digest, ferr)
			}
		} else if err == nil {
			b.Release()
		}
		if w.Size >= 0 && w.Size < SmallBlob && !e.o.Seeder {
			content, err := e.Small(ctx, w, SmallBlob)
			if err != nil {
				return nil, 0, err
			}
			return memory{bytes.NewReader(content)}, int64(len(content)), nil
		}
		s, err := e.want(w)
		if err != nil {
			return nil, 0, err
		}
		r, size, err := s.open(ctx, life)
		if errors.Is(err, errGone) {
			continue // the swarm ended between look-up and use
		}
		return r, size, err
	}
	return nil, 0, fmt.Errorf("open %s: %w", w.Digest, ErrUnavailable)
}

// memory is small content as an io.ReadSeekCloser.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// errGone says that a swarm ended before it could be used.
var errGone = errors.New("swarm has ended")

// SizeOf returns the size of a blob of which the store holds something.
func (e *Engine) SizeOf(d digest.Digest) (int64, bool) {
	in, err := e.o.Store.Stat(d)
	return in.Size, err == nil
}

// want returns the swarm that downloads the blob, starting it where needed.
func (e *Engine) want(w Want) (*swarm, error) {
	if w.Size < 0 {
		return nil, fmt.Errorf("fetch %s: its size is not known: %w", w.Digest, ErrUnavailable)
	}
	if s, err := e.live(w.Digest); err != nil {
		return nil, err
	} else if s != nil {
		s.post(func() { s.setWanted(w) })
		return s, nil
	}
	b, err := e.o.Store.Create(w.Digest, w.Size)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", w.Digest, err)
	}
	s, err := e.addSwarm(b, w)
	if err != nil {
		return nil, err
	}
	s.post(func() { s.setWanted(w) })
	return s, nil
}

// live returns the swarm of d, nil where there is none, or ErrStopped.
func (e *Engine) live(d digest.Digest) (*swarm, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrStopped
	}
	return e.swarms[d], nil
}

// serving returns the swarm of a blob that the store holds, whole or in part;
// nil when it holds nothing of it.
func (e *Engine) serving(d digest.Digest) *swarm {
	if s, err := e.live(d); s != nil || err != nil {
		return s
	}
	b, err := e.o.Store.Blob(d)
	if err != nil {
		return nil
	}
	if b.Size() < SmallBlob && !b.Complete() {
		b.Release()
		return nil
	}
	w := Want{Digest: d, Size: b.Size()}
	for _, src := range b.Meta().Sources {
		w.Source = ParseSource(src)
		break
	}
	s, err := e.addSwarm(b, w)
	if err != nil {
		return nil
	}
	return s
}

// addSwarm starts a swarm, or returns the one that somebody started
// meanwhile. It takes b over. The disk was asked before, without e.mu: a slow
// disk must not hold up every swarm.
func (e *Engine) addSwarm(b *store.Blob, w Want) (*swarm, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		b.Release()
		return nil, ErrStopped
	}
	if s := e.swarms[w.Digest]; s != nil {
		b.Release()
		return s, nil
	}
	s := newSwarm(e, b, w)
	e.swarms[w.Digest] = s
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		s.run()
	}()
	return s, nil
}

// forget removes a swarm that ends.
func (e *Engine) forget(s *swarm) {
	st := s.status()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.swarms[s.digest] != s {
		return
	}
	delete(e.swarms, s.digest)
	if st.Began.IsZero() {
		return // it only served
	}
	e.ended = append(slices.DeleteFunc(e.ended, func(b BlobStatus) bool { return b.Digest == s.digest }), st)
	if len(e.ended) > history {
		e.ended = e.ended[1:]
	}
}

// find returns the swarm of d, or nil.
func (e *Engine) find(d digest.Digest) *swarm {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.swarms[d]
}

// all returns every swarm.
func (e *Engine) all() []*swarm {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]*swarm, 0, len(e.swarms))
	for _, s := range e.swarms {
		out = append(out, s)
	}
	return out
}

// some returns up to n of v in random order; it reorders v.
func some[T any](v []T, n int) []T {
	rand.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
	return v[:min(n, len(v))]
}
