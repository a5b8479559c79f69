package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/provider"
	"github.com/libp2p/go-libp2p-kad-dht/provider/keystore"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
	"go.uber.org/zap"
)

// Crowd is how many providers a blob needs: a host that knows of more announces it
// with probability Crowd / so many, since a reply names them all (2.4 MB at
// 5,000).
const Crowd = 50

const (
	dhtPrefix protocol.ID = "/samara" // the DHT's protocol is /samara/kad/1.0.0

	// lookWidth is how many providers a look-up counts before it stops.
	lookWidth    = 512
	lookTimeout  = 30 * time.Second
	maxSeenBlobs = 16_384
	bucketSize   = 20 // k of Kademlia: holders of one record
)

// discovery finds providers of blobs and announces this node as one.
type discovery struct {
	n       *Node
	dht     *dht.IpfsDHT
	sweep   *provider.SweepingProvider
	keys    keystore.Keystore
	records *recordStore

	mu    sync.Mutex
	seen  map[string]int // providers counted at the last look-up, by multihash
	order []string       // of seen, oldest first
}

func newDiscovery(n *Node) (*discovery, error) {
	d := &discovery{n: n, seen: make(map[string]int), records: newRecordStore(maxProviderRecords)}
	t := n.cfg.timing
	var err error
	d.dht, err = dht.New(n.host,
		dht.ProtocolPrefix(dhtPrefix),
		dht.Mode(dht.ModeServer), // ModeAuto waits until somebody proves us reachable
		dht.DisableValues(),
		dht.BucketSize(bucketSize),
		dht.ProviderDatastore(d.records),
		dht.ProviderManagerOpts(
			records.ProvideValidity(t.validity),
			records.ProviderAddrTTL(t.validity),
			records.CleanupInterval(t.validity/6),
		),
		// The filters of the public DHT would throw away the private addresses
		// that a cluster consists of, and all but 3 peers of one /16.
		dht.AddressFilter(nil),
		dht.QueryFilter(func(any, peer.AddrInfo) bool { return true }),
		dht.RoutingTableFilter(func(any, peer.ID) bool { return true }),
		dht.RoutingTablePeerDiversityFilter(nil),
		dht.RoutingTableRefreshQueryTimeout(t.dial*2),
	)
	if err != nil {
		return nil, fmt.Errorf("p2p: DHT: %w", err)
	}
	if d.keys, err = keystore.NewKeystore(newRecordStore(maxProviderRecords)); err != nil {
		d.dht.Close()
		return nil, fmt.Errorf("p2p: provider keys: %w", err)
	}
	return d, nil
}

// start begins to announce. The sweeping provider tells each region of the key
// space its keys in one go and tells them again in time, spread evenly.
func (d *discovery) start() {
	n := d.n
	t := n.cfg.timing
	sweep, err := provider.New(
		provider.WithHost(n.host),
		provider.WithRouter(&patientRouter{d}),
		provider.WithMessageSender(d.dht.MessageSender()),
		provider.WithSelfAddrs(func() []multiaddr.Multiaddr { return n.host.Addrs() }),
		provider.WithAddLocalRecord(func(ctx context.Context, h multihash.Multihash) error {
			return d.dht.Provide(ctx, cid.NewCidV1(cid.Raw, h), false)
		}),
		provider.WithKeystore(d.keys),
		provider.WithReplicationFactor(bucketSize),
		provider.WithReprovideInterval(t.reprovide),
		provider.WithMaxReprovideDelay(t.reprovide/2),
		provider.WithOfflineDelay(t.validity),
		provider.WithConnectivityCheckOnlineInterval(5*time.Second),
		provider.WithSendProviderRecordTimeout(t.dial),
		provider.WithResumeCycle(false),
	)
	if err != nil { // only options can be wrong
		n.log.Error("sweeping provider did not start: blobs are not announced", zap.Error(err))
		return
	}
	d.mu.Lock()
	d.sweep = sweep
	d.mu.Unlock()
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			n.metrics.dhtSize.Set(float64(d.size()))
			n.metrics.records.Set(float64(d.records.Len()))
			select {
			case <-tick.C:
			case <-n.ctx.Done():
				return
			}
		}
	}()
}

func (d *discovery) close() error {
	var errs []error
	d.mu.Lock()
	sweep := d.sweep
	d.sweep = nil
	d.mu.Unlock()
	if sweep != nil {
		errs = append(errs, sweep.Close())
	}
	errs = append(errs, d.keys.Close(), d.dht.Close())
	return errors.Join(errs...)
}

func (d *discovery) size() int { return d.dht.RoutingTable().Size() }

// patientRouter is the DHT's look-up for the sweeping provider, but its probe
// "am I online", a look-up of this node itself, waits until the routing table
// has a peer. The provider alone retries after 100 ms, 200 ms ... a minute, so
// a node that was the first of its swarm would announce up to a minute late.
type patientRouter struct{ d *discovery }

// GetClosestPeers is part of provider.KadClosestPeersRouter.
func (r *patientRouter) GetClosestPeers(ctx context.Context, key string) ([]peer.ID, error) {
	if key == string(r.d.n.id) && r.d.size() == 0 {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for r.d.size() == 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	ps, err := r.d.dht.GetClosestPeers(ctx, key)
	return ps, err
}

// Provide announces this node as a provider of the blobs, now and again until
// Unprovide. It does not wait for the network, and keeps what it could not
// tell anybody yet. A blob that many announce already is announced with a
// probability only (see Crowd); its records stay few that way.
func (n *Node) Provide(cids ...cid.Cid) error {
	d := n.disc
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sweep == nil {
		return ErrClosed
	}
	var hs []multihash.Multihash
	for _, c := range cids {
		h := c.Hash()
		if seen := d.seen[string(h)]; seen >= Crowd && n.random() >= Crowd/float64(seen) {
			n.metrics.announced.WithLabelValues("skipped").Inc()
			continue
		}
		n.metrics.announced.WithLabelValues("announced").Inc()
		hs = append(hs, h)
	}
	if len(hs) == 0 {
		return nil
	}
	if err := d.sweep.StartProviding(false, hs...); err != nil {
		return fmt.Errorf("p2p: provide: %w", err)
	}
	return nil
}

// Unprovide stops announcing the blobs. Records already told run out within
// the hour; who asks meanwhile is told "not held".
func (n *Node) Unprovide(cids ...cid.Cid) error {
	d := n.disc
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sweep == nil {
		return ErrClosed
	}
	hs := make([]multihash.Multihash, len(cids))
	for i, c := range cids {
		hs[i] = c.Hash()
	}
	if err := d.sweep.StopProviding(hs...); err != nil {
		return fmt.Errorf("p2p: unprovide: %w", err)
	}
	return nil
}

// Providers looks up to limit providers of a blob up in the DHT, this node
// left out. The channel yields each as it is found, the first after one round
// trip, and is closed at the end, which can take many seconds where hosts are
// dead: do not wait for it. Ending ctx ends the look-up.
func (n *Node) Providers(ctx context.Context, c cid.Cid, limit int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	if !n.begin() {
		close(out)
		return out
	}
	if limit <= 0 {
		limit = bucketSize
	}
	go func() {
		defer n.wg.Done()
		defer close(out)
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		stop := context.AfterFunc(n.ctx, cancel)
		defer stop()
		n.disc.look(ctx, c, limit, out)
	}()
	return out
}

// look counts on to lookWidth after the caller has enough, for Provide.
func (d *discovery) look(ctx context.Context, c cid.Cid, limit int, out chan<- peer.AddrInfo) {
	ctx, cancel := context.WithCancel(ctx)
	found := d.dht.FindProvidersAsync(ctx, c, max(limit+1, lookWidth))
	defer func() {
		cancel()
		for range found { // until its goroutine has ended
		}
	}()
	count, given := 0, make(map[peer.ID]bool)
	began := time.Now()
	defer func() { d.n.metrics.looked(ctx, count) }()
	for ai := range found {
		if ai.ID == d.n.id || given[ai.ID] {
			continue
		}
		given[ai.ID] = true
		if count++; count == 1 {
			d.n.metrics.lookupFirst.Observe(time.Since(began).Seconds())
		}
		d.note(c, count)
		if count > limit || d.n.gate.check(ai.ID) != nil {
			continue
		}
		select {
		case out <- ai:
		case <-ctx.Done():
			return
		}
	}
}

// note remembers how many providers a blob has.
func (d *discovery) note(c cid.Cid, count int) {
	k := string(c.Hash())
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.seen[k]; !ok {
		if len(d.order) >= maxSeenBlobs {
			delete(d.seen, d.order[0])
			d.order = d.order[1:]
		}
		d.order = append(d.order, k)
	}
	d.seen[k] = count
}
