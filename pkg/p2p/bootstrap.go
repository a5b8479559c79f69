package p2p

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

// companyMin neighbours are kept in any case.
const companyMin = 4

// bootstrap keeps this node in touch with the swarm: it holds a control stream
// to each peer of the static list, and finds others by DNS, by mDNS and in the
// list that was saved before.
type bootstrap struct {
	n *Node

	saver sync.WaitGroup // of knownLoop, which ends before the DHT does

	mu     sync.Mutex
	peers  map[peer.ID]*keeper
	mdns   io.Closer
	closed bool
}

// keeper is one static peer that is to stay a neighbour.
type keeper struct {
	mu   sync.Mutex
	info peer.AddrInfo
	wake chan struct{}
}

func newBootstrap(n *Node) *bootstrap {
	return &bootstrap{n: n, peers: make(map[peer.ID]*keeper)}
}

// start is called with n.mu held.
func (b *bootstrap) start() {
	for _, ai := range b.n.cfg.Bootstrap {
		b.addLocked(ai)
	}
	b.n.wg.Add(1)
	go func() {
		defer b.n.wg.Done()
		b.watch()
	}()
	if b.n.cfg.timing.company > 0 {
		b.n.wg.Add(1)
		go func() {
			defer b.n.wg.Done()
			b.company()
		}()
	}
	if dir := b.n.cfg.Datastore; dir != "" {
		b.saver.Go(func() { b.knownLoop(dir) })
	}
	if b.n.cfg.BootstrapDNS != "" {
		b.n.wg.Add(1)
		go func() {
			defer b.n.wg.Done()
			b.dnsLoop()
		}()
	}
	if b.n.cfg.MDNS {
		b.startMDNS()
	}
}

func (b *bootstrap) close() {
	b.mu.Lock()
	m := b.mdns
	b.mdns, b.closed = nil, true
	b.mu.Unlock()
	if m != nil {
		m.Close()
	}
	b.saver.Wait()
}

// AddBootstrap adds peers that the node is to stay connected with, such as a
// seeder whose address was learned later. A peer added again gets the further
// addresses too.
func (n *Node) AddBootstrap(ais ...peer.AddrInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ai := range ais {
		if n.running {
			n.boot.addLocked(ai)
		} else if !n.closed {
			n.cfg.Bootstrap = append(n.cfg.Bootstrap, ai)
		}
	}
}

// addLocked is called with n.mu held, so that the goroutine is counted.
func (b *bootstrap) addLocked(ai peer.AddrInfo) {
	if ai.ID == b.n.id || ai.ID == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if k := b.peers[ai.ID]; k != nil {
		k.mu.Lock()
		k.info = peer.AddrInfo{ID: ai.ID, Addrs: mergeAddrs(ai.Addrs, k.info.Addrs)}
		k.mu.Unlock()
		k.poke()
		return
	}
	k := &keeper{info: ai, wake: make(chan struct{}, 1)}
	b.peers[ai.ID] = k
	b.n.wg.Add(1)
	go func() {
		defer b.n.wg.Done()
		b.keep(k)
	}()
}

func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// watch wakes the keepers whenever some session has ended.
func (b *bootstrap) watch() {
	for {
		select {
		case <-b.n.ctx.Done():
			return
		case <-b.n.lost:
		}
		b.mu.Lock()
		peers := maps.Clone(b.peers)
		b.mu.Unlock()
		for p, k := range peers {
			if _, ok := b.n.Neighbour(p); !ok {
				k.poke()
			}
		}
	}
}

// keep connects to one peer and again whenever the connection is lost, with a
// back-off that doubles from retryMin to retryMax and is cut by a random part,
// so that a herd does not return to a restarted seeder in step.
func (b *bootstrap) keep(k *keeper) {
	n := b.n
	t := n.cfg.timing
	delay := t.retryMin
	warned := ""
	for {
		k.mu.Lock()
		ai := k.info
		k.mu.Unlock()
		err := n.Connect(n.ctx, ai)
		var wait <-chan time.Time
		var timer *time.Timer
		switch {
		case n.ctx.Err() != nil || errors.Is(err, ErrClosed):
			return
		case err == nil:
			delay, warned = t.retryMin, ""
		default:
			if text := err.Error(); text != warned {
				warned = text
				n.log.Warn("bootstrap peer cannot be connected; trying again", zap.Stringer("peer", ai.ID),
					zap.Stringers("addrs", ai.Addrs), zap.Duration("in", delay), zap.Error(err))
			}
			timer = time.NewTimer(b.jitter(delay))
			wait = timer.C
			delay = min(2*delay, t.retryMax)
		}
		select {
		case <-n.ctx.Done():
		case <-k.wake:
			if err == nil {
				// Just lost: the peer may be restarting, and so may be all
				// of its neighbours.
				b.sleep(b.jitter(t.retryMin))
			}
		case <-wait:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// jitter returns between half of d and d.
func (b *bootstrap) jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(b.n.random()*float64(d/2))
}

func (b *bootstrap) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.n.ctx.Done():
	}
}

// meet connects to a peer that some list named, for the DHT; it becomes a
// neighbour only when a blob calls for it.
func (b *bootstrap) meet(ctx context.Context, ai peer.AddrInfo, how string) {
	n := b.n
	if ai.ID == n.id || n.gate.check(ai.ID) != nil {
		return
	}
	if err := n.link(ctx, ai); err != nil {
		n.metrics.dialFailures.Inc()
		n.log.Debug("found peer cannot be connected", zap.String("by", how), zap.Stringer("peer", ai.ID), zap.Error(err))
		return
	}
	n.log.Debug("found peer", zap.String("by", how), zap.Stringer("peer", ai.ID))
}

// company keeps a few neighbours beside the seeder: whoever has lost it, or
// never had one, still has somebody to ask for a manifest. They are taken at
// random from the routing table.
func (b *bootstrap) company() {
	n := b.n
	t := n.cfg.timing
	for {
		wait := t.company
		if missing := companyMin - len(n.Neighbours()); missing > 0 {
			var strangers []peer.ID
			for _, p := range n.disc.dht.RoutingTable().ListPeers() {
				if _, ok := n.Neighbour(p); !ok {
					strangers = append(strangers, p)
				}
			}
			shuffle(n, strangers)
			var wg sync.WaitGroup
			for _, p := range strangers[:min(missing, len(strangers))] {
				wg.Go(func() {
					if err := n.Connect(n.ctx, n.AddrInfo(p)); err != nil && n.ctx.Err() == nil {
						n.log.Debug("peer of the routing table does not become a neighbour", zap.Stringer("peer", p), zap.Error(err))
					}
				})
			}
			wg.Wait()
		} else {
			wait *= 5
		}
		b.sleep(b.jitter(wait))
		if n.ctx.Err() != nil {
			return
		}
	}
}

func shuffle[T any](n *Node, s []T) {
	n.randMu.Lock()
	defer n.randMu.Unlock()
	n.rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}
