package p2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/x/rate"
)

// Connection limits. libp2p's defaults are made for the open internet: 8
// connections and 16 + 0.2 a second for one IPv4 address or one IPv6 /56, and
// system totals that follow the memory of the machine. In a cluster a whole
// site has one /64 or one SNAT address, and a herd connects within a second,
// so of 25 such peers 8 get in. Here the network key decides who gets in and
// the totals below hold whoever does.
const (
	maxConns         = 16_384 // a seeder of 5,000 hosts with head room
	maxPeerConns     = 16     // simultaneous dials of both sides, twice
	maxStreams       = 131_072
	maxPeerStreams   = 1024
	acceptRate       = 500 // new inbound connections a second, all addresses together
	acceptBurst      = 8192
	maxTransient     = 4096 // connections in their handshake
	connLow          = 96
	connHigh         = 160
	seederConnLow    = 6144
	seederConnHigh   = 8192
	connGrace        = 30 * time.Second
	maxLibp2pMemory  = 4 << 30 // yamux windows and identify, as libp2p accounts them
	maxPeerLibp2pMem = 128 << 20
)

func newResourceManager() (network.ResourceManager, error) {
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: maxConns, ConnsInbound: maxConns, ConnsOutbound: maxConns, FD: maxConns,
			Streams: maxStreams, StreamsInbound: maxStreams, StreamsOutbound: maxStreams,
			Memory: maxLibp2pMemory,
		},
		Transient: rcmgr.ResourceLimits{
			Conns: maxTransient, ConnsInbound: maxTransient, ConnsOutbound: maxTransient, FD: maxTransient,
			Streams: maxTransient, StreamsInbound: maxTransient, StreamsOutbound: maxTransient,
			Memory: maxLibp2pMemory / 4,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: maxPeerConns, ConnsInbound: maxPeerConns, ConnsOutbound: maxPeerConns, FD: maxPeerConns,
			Streams: maxPeerStreams, StreamsInbound: maxPeerStreams, StreamsOutbound: maxPeerStreams,
			Memory: maxPeerLibp2pMem,
		},
	}.Build(rcmgr.InfiniteLimits)
	v4 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: maxConns}}
	v6 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 48, ConnCount: maxConns}}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits),
		rcmgr.WithLimitPerSubnet(v4, v6),
		rcmgr.WithConnRateLimiters(&rate.Limiter{GlobalLimit: rate.Limit{RPS: acceptRate, Burst: acceptBurst}}),
		rcmgr.WithMetricsDisabled())
}

// newConnManager trims connections above the high water mark down to the low
// one. Neighbours are protected and not counted against the low mark. What is
// trimmed is the DHT's, which dials again when it asks.
func newConnManager(seeder bool) (*connmgr.BasicConnMgr, error) {
	low, high := connLow, connHigh
	if seeder {
		low, high = seederConnLow, seederConnHigh
	}
	return connmgr.NewConnManager(low, high, connmgr.WithGracePeriod(connGrace))
}
