package fetch

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
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
	// Contents fetches many small blobs in one request. got is called for each
	// that came, in any order, its digest verified; moved whenever bytes came.
	Contents(ctx context.Context, to peer.ID, ds []digest.Digest, limit int64, got func(i int, content []byte, mediaType string), moved func()) error
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
	// First is the offset at which the client begins to read: a seeder that has
	// nothing of the blob begins there, too. A hint; 0 is fine.
	First int64
	// Lazy: the client has no use for the whole blob, only for Parts of it.
	// None: what it asks for piece by piece.
	Lazy  bool
	Parts []Part

	// Pace bounds how fast the blob is fetched, until somebody wants it without;
	// nil: nothing does. Its burst is at least that of NewPace.
	Pace *rate.Limiter

	// Span is that of the request that wants the blob; nil: it is not traced.
	Span trace.Span

	pull *pull // that the blob is a part of; nil: of none
}

// small tells whether the blob is one that is fetched whole.
func (w Want) small() bool { return w.Size >= 0 && w.Size < SmallBlob }

// Errors of the engine. Each is wrapped with what was tried and where.
var (
	// ErrUnavailable: no peer, seeder or upstream can give the blob now.
	ErrUnavailable = errors.New("no source can give this blob now")
	// ErrCorrupt: the only bytes on offer do not match the digest.
	ErrCorrupt = errors.New("the bytes do not match the digest")
	// ErrNotFound: the upstream says that it has no such blob.
	ErrNotFound = errors.New("not found at the upstream")
	// ErrStalled: nothing came for Options.Gap; it is an ErrUnavailable, too.
	ErrStalled = errors.New("no source gives it")
	// ErrStopped: the engine was closed.
	ErrStopped = errors.New("shutting down")
)

// Options configure an Engine. Store and Log are needed.
type Options struct {
	Store    *store.Store
	Upstream Upstream // nil: never fall back to an upstream
	Durable  Durable  // a seeder's, asked before the upstream; nil: there is none

	// Seeder makes blobs come from the upstream, once each, and signs their
	// piece hashes with Key, the node's identity.
	Seeder bool
	Key    crypto.PrivKey

	// Trusted tells whose signed hashes are believed, and who is believed to
	// be a seeder. A seeder always believes itself.
	Trusted func(peer.ID) bool

	// Locate finds size and source of a digest from the manifests that the
	// caller has seen; used when a peer asks for a blob by digest alone.
	Locate func(digest.Digest) (Want, bool)

	// Zone is this host's zone.
	Zone string

	// Rest says what becomes of the rest of blobs of which parts are read.
	Rest Rest

	// MaxActive bounds the blobs that are downloaded at once without a
	// client waiting for them (default 3).
	MaxActive int
	// MaxBuffer bounds the piece bytes in memory, in bytes (default 256 MiB).
	MaxBuffer int64
	// Switch is how long a source of pieces may stand still before they are asked
	// of another (default 2 s; contract 13).
	Switch time.Duration
	// Gap is how long a client may wait for a byte while nothing comes (default
	// 10 s; contract 13). The upstream is asked well before.
	Gap time.Duration
	// Seed makes the random choices of the scheduler repeatable.
	Seed uint64

	Log        *zap.Logger
	Registerer prometheus.Registerer
	Namespace  string
}

// SmallBlob is the size in bytes below which a blob has no DHT record and no
// swarm of its own: it is fetched whole from a peer, the seeder or the upstream.
// Every host gets such blobs from the seeder, so that a herd of N takes N times
// their bytes from its uplink: one piece is as much as that may be.
const SmallBlob = 256 << 10

// How the engine waits.
const (
	hashWait    = 3 * time.Second  // for a signed run to catch up with its piece
	finalWait   = 3 * time.Second  // for the seeder's final list once all pieces are here
	linger      = 2 * time.Minute  // a swarm without a use is forgotten after this
	tickEvery   = 5 * time.Second  // how often a swarm looks after itself
	banPeriod   = time.Hour        // for a peer that sent wrong bytes
	lookupEvery = 10 * time.Second // first pause between DHT look-ups of a hungry swarm
	maxMembers  = 60               // neighbours per swarm (DESIGN section 5)
	maxNear     = 45               // of them in our own zone
	hintPeers   = 30               // peers named in the answer to a Join
	hintFew     = 5                // by a seeder that knows hintAll: to name 30 to 10,000 hosts takes its uplink a second
	hintAll     = 512
)

// Engine downloads, holds and gives blobs. Safe for concurrent use.
type Engine struct {
	o       Options
	durable durable
	self    peer.ID // of Options.Key; empty without one
	log     *zap.Logger
	net     Network       // set before started is closed
	started chan struct{} // closed by Start
	epoch   time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	giver   *giver
	buffers *semaphore.Weighted
	active  chan struct{} // one token per prefetching download
	turns   allTurns      // of a seeder's streams from upstreams
	dials   chan struct{} // one token per connection attempt to a hinted peer
	metrics *metrics
	ledger  ledger
	doubts  doubts
	dht     announcements

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
	if o.Switch <= 0 {
		o.Switch = 2 * time.Second
	}
	if o.Gap <= 0 {
		o.Gap = 10 * time.Second
	}
	if o.MaxBuffer <= 0 {
		o.MaxBuffer = 256 << 20
	}
	o.MaxBuffer = max(o.MaxBuffer, piece.MaxSize) // with less nothing could come in
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
		o: o, durable: durable{o.Durable}, log: o.Log, epoch: time.Now(),
		started: make(chan struct{}),
		buffers: semaphore.NewWeighted(o.MaxBuffer),
		active:  make(chan struct{}, o.MaxActive),
		dials:   make(chan struct{}, 16),
		swarms:  make(map[digest.Digest]*swarm),
		small:   make(map[digest.Digest]*smallCall),
		keeping: make(map[digest.Digest]*kept),
	}
	e.metrics = newMetrics(e, o.Registerer, o.Namespace)
	if o.Key != nil {
		e.self, _ = peer.IDFromPrivateKey(o.Key) // an Ed25519 key has one
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.giver = newGiver(e)
	e.ledger.init()
	e.dht.init()
	return e
}

// Start connects the engine to its node and announces what the store holds.
// What the node says before waits for it.
func (e *Engine) Start(n Network) {
	e.net = n
	close(e.started)
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		e.announceStore()
		e.retract()
	}()
}

// Close stops every download and waits for its goroutines. Verified pieces
// stay in the store and are used by the next process.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	e.giver.close()
	e.wg.Wait()
}

func (e *Engine) now() time.Duration { return time.Since(e.epoch) }

// spawn runs f on a goroutine that Close waits for; false once that has begun.
func (e *Engine) spawn(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		f()
	}()
	return true
}

// ready waits for Start; false when the engine was closed before.
func (e *Engine) ready() bool {
	select {
	case <-e.started:
		return true
	case <-e.ctx.Done():
		return false
	}
}

// network returns the node, or nil before Start.
func (e *Engine) network() Network {
	select {
	case <-e.started:
		return e.net
	default:
		return nil
	}
}

// trusts tells whether hashes signed by p are believed.
func (e *Engine) trusts(p peer.ID) bool {
	return e.o.Seeder && p == e.self || e.o.Trusted(p)
}

// isSeeder tells whether a neighbour is a seeder: anybody can say so in its
// Hello, but only one whose signature is believed is of use as one.
func (e *Engine) isSeeder(nb p2p.Neighbour) bool { return nb.Seeder && e.trusts(nb.ID) }
