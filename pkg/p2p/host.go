package p2p

import (
	"context"
	"errors"
	"fmt"
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
	"go.uber.org/zap"
)

// newHost makes the libp2p host: TCP, TLS 1.3, yamux, identify, ping; no
// relay, no NAT mapping, no QUIC (the private network key forbids it).
func newHost(c *Config, g *gate) (host.Host, error) {
	listen, err := listenable(c)
	if err != nil {
		return nil, err
	}
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
		libp2p.ListenAddrs(listen...),
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

// listenable tries the addresses before libp2p does: libp2p is content when
// one of several works, and leaks when none does. A taken port is an error; an
// address family that this machine lacks is left out.
func listenable(c *Config) ([]multiaddr.Multiaddr, error) {
	var out []multiaddr.Multiaddr
	var last error
	for _, a := range c.Listen {
		l, err := manet.Listen(a)
		switch {
		case err == nil:
			l.Close()
			out = append(out, a)
		case errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, os.ErrPermission):
			return nil, explainListen("p2p", a, err)
		default:
			last = explainListen("p2p", a, err)
			c.Log.Warn("address cannot be listened on", zap.Stringer("addr", a), zap.Error(err))
		}
	}
	if len(out) == 0 {
		return nil, last
	}
	return out, nil
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
	case errors.Is(err, syscall.EADDRINUSE):
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
	Sure        bool   // false: the peer may also just be frozen
	Err         error  // what libp2p made of it
}

// Error says what to do.
func (e *NetworkKeyError) Error() string {
	what := "the two ends have different private network keys"
	if e.Fingerprint == "open" {
		what = "this node has no private network key and the peer has one"
	}
	if !e.Sure {
		what = "the peer takes connections but says nothing: it hangs, or " + what
	}
	return fmt.Sprintf("%s (ours: %s); compare the swarm.key files: %v", what, e.Fingerprint, e.Err)
}

// Unwrap returns what libp2p said.
func (e *NetworkKeyError) Unwrap() error { return e.Err }

// link makes sure there is a libp2p connection with the peer.
func (n *Node) link(ctx context.Context, ai peer.AddrInfo) error {
	// One more second than a dial: several addresses are tried with a delay.
	t := n.cfg.timing.dial + n.cfg.timing.dial/3
	ctx, cancel := context.WithTimeout(ctx, t)
	defer cancel()
	if s, ok := n.host.Network().(*swarm.Swarm); ok {
		// libp2p refuses to dial an address again for up to 5 minutes; when to
		// try again is our callers' business.
		s.Backoff().Clear(ai.ID)
	}
	if err := n.host.Connect(network.WithDialPeerTimeout(ctx, t), ai); err != nil {
		return n.explainDial(err, ai.ID)
	}
	return nil
}

// explainDial recognises a wrong private network key. Under one each side
// reads noise in place of the other's first line, so the TCP connection stands
// and the negotiation of the security protocol fails, or waits in vain for the
// bytes that a noisy length announced. libp2p gives that error no type.
func (n *Node) explainDial(err error, p peer.ID) error {
	var de *swarm.DialError
	if !errors.As(err, &de) {
		return err
	}
	for _, te := range de.DialErrors {
		s := te.Cause.Error()
		if strings.Contains(s, "failed to negotiate security protocol") && !strings.Contains(s, "peer id mismatch") {
			sure := !errors.Is(te.Cause, context.DeadlineExceeded) && !strings.Contains(s, "i/o timeout")
			return &NetworkKeyError{Peer: p, Fingerprint: Fingerprint(n.cfg.PSK), Sure: sure, Err: te.Cause}
		}
	}
	return err
}
