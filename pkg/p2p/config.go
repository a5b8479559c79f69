package p2p

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Config says who the node is, where it listens and whom it serves.
// Key, Handler and Pieces are required; every other zero value is useful.
type Config struct {
	Key    crypto.PrivKey        // the identity: ed25519, see LoadOrCreateKey
	Listen []multiaddr.Multiaddr // libp2p, TCP only; default /ip4/0.0.0.0/tcp/4001 and /ip6/::/tcp/4001

	// Advertise replaces the libp2p addresses that others are told; empty
	// tells them the addresses of the interfaces listened on.
	Advertise []multiaddr.Multiaddr

	// PiecesListen is the host:port of the data plane, default ":4002". With
	// an unspecified host neighbours use the address they see of us.
	PiecesListen string
	// PiecesAdvertise replaces the host:port that others are told.
	PiecesAdvertise string

	PSK    pnet.PSK // the private network key, nil = open swarm
	Admit  Admitter // who may take part beyond the PSK, nil = everyone
	Agent  string   // name and version, told to neighbours
	Zone   string   // told to neighbours; same zone is preferred
	Seeder bool     // told to neighbours; also lifts the neighbour limit

	// TrustedNetwork serves pieces without TLS (sendfile works then) and asks
	// neighbours that do the same without TLS. Everybody else is served and
	// asked over libp2p streams or TLS.
	TrustedNetwork bool

	Bootstrap    []peer.AddrInfo // connected at start and whenever lost
	BootstrapDNS string          // name:port of a headless service: the *pieces* port of its hosts
	MDNS         bool            // find peers on the local link

	// Datastore is a directory that keeps known peers over a restart; empty
	// keeps nothing.
	Datastore string

	// MaxNeighbours bounds the control streams; default 512, a seeder's 8192.
	MaxNeighbours int
	// IdleTimeout ends a transfer when no byte came for so long; default 5 s.
	IdleTimeout time.Duration
	// Seed seeds the jitter and the choice whether to announce a blob that
	// many announce already; 0 takes one from the identity and the clock.
	Seed uint64

	Handler Handler
	Pieces  PieceServer

	Log        *zap.Logger
	Registerer prometheus.Registerer // nil = no metrics
	Namespace  string                // "seeder" or "peerd", the prefix of metric names
	Tracer     trace.Tracer          // nil = no spans of peers' requests

	timing timing // zero = defaults; tests shorten it
}

// timing holds every deadline and period, so that tests can shorten them.
type timing struct {
	dial        time.Duration // one libp2p dial
	hello       time.Duration // opening the control stream up to the neighbour's Hello
	ping        time.Duration // period of pings
	silence     time.Duration // a neighbour that says nothing for so long is down
	flush       time.Duration // least time between two writes of nothing but Haves: see flushEvery
	flushMax    time.Duration
	write       time.Duration // one write to a control stream
	pieceDial   time.Duration // TCP dial of a pieces port
	pieceHeader time.Duration // from the ask to the header of the answer
	idle        time.Duration // Config.IdleTimeout
	sendStall   time.Duration // a client that takes no byte for so long is cut off
	badAddr     time.Duration // a pieces address that failed is not tried again for so long
	recent      time.Duration // a lost neighbour is still served pieces for so long
	retryMin    time.Duration // back-off of bootstrap dials
	retryMax    time.Duration
	dnsEvery    time.Duration // DNS look-up while the node knows few peers
	company     time.Duration // between looks for company: see bootstrap.company
	reprovide   time.Duration
	validity    time.Duration // of a provider record
}

var defaultTiming = timing{
	dial:        3 * time.Second,
	hello:       5 * time.Second,
	ping:        2500 * time.Millisecond,
	silence:     8 * time.Second,
	flush:       10 * time.Millisecond,
	flushMax:    50 * time.Millisecond,
	write:       10 * time.Second,
	pieceDial:   2 * time.Second,
	pieceHeader: 10 * time.Second,
	idle:        5 * time.Second,
	sendStall:   30 * time.Second,
	badAddr:     time.Minute,
	recent:      10 * time.Minute,
	retryMin:    500 * time.Millisecond,
	retryMax:    30 * time.Second,
	dnsEvery:    15 * time.Second,
	company:     2 * time.Second,
	reprovide:   20 * time.Minute,
	validity:    60 * time.Minute,
}

// Limits that bound what others can make this node hold.
const (
	maxMessage          = 1 << 20 // one control frame
	maxQueueMessages    = 4096    // waiting for one neighbour
	maxQueueBytes       = 8 << 20
	defaultNeighbours   = 512
	defaultSeederNeighb = 8192
	maxAskBody          = 256 << 10
	maxBusyBody         = 64 << 10
	maxHeaderBytes      = 32 << 10
	maxPiecesPerAnswer  = 1024
	maxPeerRequests     = 16 // at once, from one peer
	maxRequests         = 4096
	maxBans             = 10_000
	maxMet              = 65_536 // neighbours remembered after they left
	maxPieceConns       = 8192   // connections to the pieces port
	maxProviderRecords  = 1_000_000
)

var (
	defaultListen = []string{"/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"}
)

// check fills in defaults and refuses what cannot work.
func (c *Config) check() error {
	if c.Key == nil {
		return errors.New("p2p: config: no identity key: use LoadOrCreateKey")
	}
	if c.Handler == nil || c.Pieces == nil {
		return errors.New("p2p: config: Handler and Pieces are required")
	}
	if c.PSK != nil && len(c.PSK) != 32 {
		return fmt.Errorf("p2p: config: the private network key has %d bytes, not 32", len(c.PSK))
	}
	if len(c.Listen) == 0 {
		for _, s := range defaultListen {
			c.Listen = append(c.Listen, multiaddr.StringCast(s))
		}
	}
	for _, a := range c.Listen {
		if _, err := a.ValueForProtocol(multiaddr.P_TCP); err != nil {
			return fmt.Errorf("p2p: config: %s: only TCP addresses such as /ip4/0.0.0.0/tcp/4001 can be listened on", a)
		}
	}
	if c.PiecesListen == "" {
		c.PiecesListen = ":4002"
	}
	if _, _, err := splitHostPort(c.PiecesListen); err != nil {
		return fmt.Errorf("p2p: config: pieces address %q: %w", c.PiecesListen, err)
	}
	if c.PiecesAdvertise != "" {
		if _, _, err := splitHostPort(c.PiecesAdvertise); err != nil {
			return fmt.Errorf("p2p: config: advertised pieces address %q: %w", c.PiecesAdvertise, err)
		}
	}
	if c.BootstrapDNS != "" {
		if h, p, err := splitHostPort(c.BootstrapDNS); err != nil || h == "" || p == 0 {
			return fmt.Errorf("p2p: config: DNS bootstrap %q: want name:port with the pieces port of the service", c.BootstrapDNS)
		}
	}
	if c.Datastore != "" {
		if err := os.MkdirAll(c.Datastore, 0o700); err != nil {
			return fmt.Errorf("p2p: config: directory for known peers: %w", err)
		}
	}
	if c.Key.Type() != crypto.Ed25519 {
		return fmt.Errorf("p2p: config: the identity is a %s key; only Ed25519 keys sign runs", c.Key.Type())
	}
	if c.MaxNeighbours == 0 {
		c.MaxNeighbours = defaultNeighbours
		if c.Seeder {
			c.MaxNeighbours = defaultSeederNeighb
		}
	}
	if c.Agent == "" {
		c.Agent = "samara"
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.timing == (timing{}) {
		c.timing = defaultTiming
	}
	if c.IdleTimeout > 0 {
		c.timing.idle = c.IdleTimeout
	}
	return nil
}

func splitHostPort(s string) (host string, port int, err error) {
	host, ps, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(ps)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q is no port", ps)
	}
	return host, port, nil
}
