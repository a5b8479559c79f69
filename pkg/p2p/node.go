package p2p

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
)

// Node is one peer's network. Its methods may be called from any goroutine.
type Node struct {
	cfg      Config
	id       peer.ID
	log      *zap.Logger
	now      func() time.Time
	metrics  *metrics
	gate     *gate
	host     host.Host
	data     *dataPlane
	disc     *discovery
	boot     *bootstrap
	instance [16]byte

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // every goroutine of the node; Add only while running under mu
	crowd  atomic.Int32   // neighbours
	lost   chan struct{}  // has a token after a session ended

	randMu sync.Mutex
	rand   *mrand.Rand

	mu       sync.Mutex
	running  bool // between Start and Close
	closed   bool
	epoch    uint64
	sessions map[peer.ID]*session
	attempts map[peer.ID]*attempt
	calls    map[peer.ID]*call
	up       map[peer.ID]chan struct{}
}

// New makes a node: it binds both ports, so it fails with a clear error where
// one is taken, but serves and dials nobody before Start. A node that was made
// must be closed.
func New(c Config) (*Node, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(c.Key)
	if err != nil {
		return nil, fmt.Errorf("p2p: identity: %w", err)
	}
	n := &Node{
		cfg: c, id: id, now: time.Now,
		log:      c.Log.Named("p2p"),
		lost:     make(chan struct{}, 1),
		sessions: make(map[peer.ID]*session),
		attempts: make(map[peer.ID]*attempt),
		calls:    make(map[peer.ID]*call),
		up:       make(map[peer.ID]chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	rand.Read(n.instance[:])
	seed := c.Seed
	if seed == 0 {
		seed = binary.BigEndian.Uint64(n.instance[:8])
	}
	n.rand = mrand.New(mrand.NewPCG(seed, 0))
	n.gate = newGate(c.Admit, c.timing.recent, n.now)
	if n.metrics, err = newMetrics(c.Registerer, c.Namespace); err != nil {
		return nil, fmt.Errorf("p2p: metrics: %w", err)
	}
	if n.data, err = newDataPlane(n); err != nil {
		n.metrics.unregister()
		return nil, err
	}
	if n.host, err = newHost(&n.cfg, n.gate); err != nil {
		n.data.close()
		n.metrics.unregister()
		return nil, err
	}
	if n.disc, err = newDiscovery(n); err != nil {
		n.host.Close()
		n.data.close()
		n.metrics.unregister()
		return nil, err
	}
	n.boot = newBootstrap(n)
	n.host.SetStreamHandler(controlProtocol, n.accept)
	n.host.SetStreamHandler(piecesProtocol, n.data.acceptStream)
	return n, nil
}

// Start begins to serve, to find peers and to announce. It does not wait for
// any of them. The node lives until Close, or until ctx ends (Close must be
// called even so).
func (n *Node) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.running {
		return errors.New("p2p: start: node was started or closed before")
	}
	n.running = true
	context.AfterFunc(ctx, func() { n.cancel(context.Cause(ctx)) })
	n.data.start()
	n.disc.start()
	n.boot.start()
	n.log.Info("node started", zap.Stringer("peer", n.id), zap.Stringers("listen", n.Addrs()),
		zap.String("pieces", n.data.listener.Addr().String()), zap.String("network", Fingerprint(n.cfg.PSK)),
		zap.Bool("trustedNetwork", n.cfg.TrustedNetwork))
	return nil
}

// Close takes leave of every neighbour, stops everything and waits for it.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed, n.running = true, false
	var ss []*session
	for _, s := range n.sessions {
		ss = append(ss, s)
	}
	n.mu.Unlock()
	for _, s := range ss {
		s.close(ErrClosed, true)
	}
	for _, s := range ss {
		<-s.done // bounded: a second for the last write
	}
	n.cancel(ErrClosed)
	n.boot.close() // saves known peers: before the DHT forgets them
	n.data.close()
	err := n.disc.close()
	if e := n.host.Close(); err == nil {
		err = e
	}
	n.wg.Wait()
	n.metrics.unregister()
	if err != nil {
		return fmt.Errorf("p2p: close: %w", err)
	}
	return nil
}

// begin counts a new goroutine of the node; false after Close or before Start.
// The goroutine must call n.wg.Done.
func (n *Node) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.running {
		return false
	}
	n.wg.Add(1)
	return true
}

// ID is the node's identity.
func (n *Node) ID() peer.ID { return n.id }

// Key is the node's private key, for signing runs.
func (n *Node) Key() crypto.PrivKey { return n.cfg.Key }

// Addrs are the libp2p addresses that others are told, without the peer ID.
func (n *Node) Addrs() []multiaddr.Multiaddr {
	if len(n.cfg.Advertise) > 0 {
		return n.cfg.Advertise
	}
	as, err := n.host.Network().InterfaceListenAddresses()
	if err != nil {
		return n.host.Addrs()
	}
	return usefulAddrs(as)
}

// PiecesAddrs are the host:port addresses of the data plane.
func (n *Node) PiecesAddrs() []string { return n.data.addrs() }

// AddrInfo is what this node knows of how to reach p, for hints to others.
func (n *Node) AddrInfo(p peer.ID) peer.AddrInfo { return n.host.Peerstore().PeerInfo(p) }

// DHTSize is the number of peers in the DHT's routing table.
func (n *Node) DHTSize() int { return n.disc.size() }

// Send queues a message for a neighbour. It never blocks. Messages about one
// blob keep their order; Haves may be merged. Errors: ErrNotNeighbour; a
// neighbour whose queue is full is dropped (PeerDown follows).
func (n *Node) Send(to peer.ID, m Message) error {
	fs, err := frames(m)
	if err != nil {
		return err
	}
	n.mu.Lock()
	ss := n.liveLocked(to)
	n.mu.Unlock()
	if ss == nil {
		return ErrNotNeighbour
	}
	err = ss.send(fs...)
	if h, ok := m.(Have); ok && h.Rare && err == nil {
		ss.out.hasten()
	}
	return err
}

// Neighbours lists the peers with an open control stream, in no order.
func (n *Node) Neighbours() []Neighbour {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Neighbour, 0, len(n.sessions))
	for p := range n.sessions {
		if ss := n.liveLocked(p); ss != nil {
			out = append(out, ss.neighbour())
		}
	}
	return out
}

// Neighbour returns one of them.
func (n *Node) Neighbour(p peer.ID) (Neighbour, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ss := n.liveLocked(p)
	if ss == nil {
		return Neighbour{}, false
	}
	return ss.neighbour(), true
}

// Disconnect ends the control stream with p after what is queued was sent.
// The libp2p connection stays: the DHT may need it.
func (n *Node) Disconnect(p peer.ID) {
	n.mu.Lock()
	ss := n.liveLocked(p)
	n.mu.Unlock()
	if ss != nil {
		ss.close(errors.New("disconnected by this node"), true)
	}
}

// Ban ends every connection with p and refuses it for d.
func (n *Node) Ban(p peer.ID, d time.Duration, reason string) {
	n.log.Warn("peer banned", zap.Stringer("peer", p), zap.Duration("for", d), zap.String("reason", reason))
	n.metrics.bans.Inc()
	n.gate.ban(p, d)
	n.mu.Lock()
	ss := n.liveLocked(p)
	n.mu.Unlock()
	if ss != nil {
		ss.close(fmt.Errorf("%w: %s", ErrBanned, reason), false)
	}
	if n.begin() {
		go func() { // closing waits for the other side
			defer n.wg.Done()
			_ = n.host.Network().ClosePeer(p)
		}()
	}
}

// random returns a number in [0, 1).
func (n *Node) random() float64 {
	n.randMu.Lock()
	defer n.randMu.Unlock()
	return n.rand.Float64()
}
