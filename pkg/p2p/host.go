package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// newHost makes the libp2p host: TCP, TLS 1.3, yamux, identify, ping; no
// relay, no NAT mapping, no QUIC (the private network key forbids it).
func newHost(c *Config, g *gate) (host.Host, error) {
	rm, err := newResourceManager()
	if err != nil {
		return nil, fmt.Errorf("p2p: limits: %w", err)
	}
	cm, err := newConnManager(c.Seeder)
	if err != nil {
		rm.Close()
		return nil, fmt.Errorf("p2p: limits: %w", err)
	}
	advertise := c.Advertise
	opts := []libp2p.Option{
		libp2p.Identity(c.Key),
		libp2p.UserAgent(c.Agent),
		libp2p.ListenAddrs(c.Listen...),
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.Security(libp2ptls.ID, newSecTLS),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ConnectionManager(cm),
		libp2p.ResourceManager(rm),
		libp2p.ConnectionGater(g),
		libp2p.Ping(true),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.AddrsFactory(func(in []multiaddr.Multiaddr) []multiaddr.Multiaddr {
			if len(advertise) > 0 {
				return advertise
			}
			return usefulAddrs(in)
		}),
		libp2p.SwarmOpts(swarm.WithDialTimeout(c.timing.dial), swarm.WithDialTimeoutLocal(c.timing.dial)),
	}
	if c.PSK != nil {
		opts = append(opts, libp2p.PrivateNetwork(c.PSK))
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		return nil, explainListen("p2p", c.Listen, err)
	}
	return h, nil
}

// usefulAddrs drops loopback and link-local addresses where there are others:
// nobody else can dial them, and each costs a caller a dial.
func usefulAddrs(in []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	for _, a := range in {
		if !manet.IsIPLoopback(a) && !manet.IsIP6LinkLocal(a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return in
	}
	return out
}

// explainListen says what to do about an address that cannot be listened on.
func explainListen(what string, where any, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use"):
		return fmt.Errorf("%s: listen on %v: the port is taken (is another instance running? choose another address): %w", what, where, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: listen on %v: not allowed (ports below 1024 need privileges): %w", what, where, err)
	}
	return fmt.Errorf("%s: listen on %v: %w", what, where, err)
}

// NetworkKeyError reports a peer that can be reached but does not speak our
// private network's language.
type NetworkKeyError struct {
	Peer        peer.ID
	Fingerprint string // of our key
	Err         error  // what libp2p made of it
}

// Error says what to do.
func (e *NetworkKeyError) Error() string {
	what := "the two ends have different private network keys"
	if e.Fingerprint == "open" {
		what = "this node has no private network key and the peer seems to have one"
	}
	return fmt.Sprintf("%s (ours: %s): compare the swarm.key files: %v", what, e.Fingerprint, e.Err)
}

// Unwrap returns what libp2p said.
func (e *NetworkKeyError) Unwrap() error { return e.Err }

// link makes sure there is a libp2p connection with the peer.
func (n *Node) link(ctx context.Context, ai peer.AddrInfo) error {
	// One more second than a dial: several addresses are tried with a delay.
	t := n.cfg.timing.dial + n.cfg.timing.dial/3
	ctx, cancel := context.WithTimeout(ctx, t)
	defer cancel()
	if err := n.host.Connect(network.WithDialPeerTimeout(ctx, t), ai); err != nil {
		return n.explainDial(err, ai.ID)
	}
	return nil
}

// explainDial recognises a wrong private network key. Under one each side
// reads noise in place of the other's first line, so the TCP connection stands
// and the negotiation of the security protocol fails; libp2p gives that error
// no type.
func (n *Node) explainDial(err error, p peer.ID) error {
	var de *swarm.DialError
	if !errors.As(err, &de) {
		return err
	}
	for _, te := range de.DialErrors {
		s := te.Cause.Error()
		var ne net.Error
		if strings.Contains(s, "failed to negotiate security protocol") && !strings.Contains(s, "peer id mismatch") &&
			!(errors.As(te.Cause, &ne) && ne.Timeout()) {
			return &NetworkKeyError{Peer: p, Fingerprint: Fingerprint(n.cfg.PSK), Err: te.Cause}
		}
	}
	return err
}
