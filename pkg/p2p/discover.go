package p2p

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"
)

const (
	// dnsEnough peers in the routing table make DNS look-ups rare, since the
	// DHT keeps itself alive from there.
	dnsEnough  = 8
	dnsDials   = 8 // hosts asked in one round
	helloPath  = "/samara/v1/hello"
	helloLimit = 64 << 10
)

// helloDoc is the answer of GET /samara/v1/hello: who serves this pieces port.
type helloDoc struct {
	Peer    string   `json:"peer"`
	Addrs   []string `json:"addrs"`   // libp2p, without /p2p
	Network string   `json:"network"` // Fingerprint of the private network key
}

// dnsLoop asks the name for addresses, and hosts there for who they are.
//
// A headless service's records carry addresses only, but a libp2p dial needs
// the peer ID and under a private network key nothing can be learned before
// it. The pieces port can tell: its TLS handshake proves an identity to anybody,
// and hello adds the libp2p addresses.
func (b *bootstrap) dnsLoop() {
	n := b.n
	host, port, _ := net.SplitHostPort(n.cfg.BootstrapDNS)
	met := make(map[string]time.Time) // pieces addresses that were met, or are us
	warned := ""
	for {
		every := n.cfg.timing.dnsEvery
		ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		cancel()
		if err != nil {
			if text := err.Error(); text != warned && n.ctx.Err() == nil {
				warned = text
				n.log.Warn("bootstrap name cannot be resolved; trying again", zap.String("name", host), zap.Error(err))
			}
		} else {
			warned = ""
			shuffle(n, ips)
			b.greet(ips, port, met)
		}
		if n.disc.size() >= dnsEnough {
			every *= 20
		}
		select {
		case <-n.ctx.Done():
			return
		case <-time.After(b.jitter(2 * every)):
		}
	}
}

// greet meets up to dnsDials hosts not met within ten minutes.
func (b *bootstrap) greet(ips []string, port string, met map[string]time.Time) {
	n := b.n
	var wg sync.WaitGroup
	defer wg.Wait()
	now := time.Now()
	dialled := 0
	for _, ip := range ips {
		addr := net.JoinHostPort(ip, port)
		if now.Sub(met[addr]) < 10*time.Minute && !met[addr].IsZero() && n.disc.size() > 0 {
			continue
		}
		if dialled++; dialled > dnsDials {
			return
		}
		met[addr] = now
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx, cancel := context.WithTimeout(n.ctx, 2*n.cfg.timing.dial)
			defer cancel()
			ai, network, err := n.data.hello(ctx, addr)
			if err != nil {
				n.log.Debug("host of the bootstrap name does not answer on its pieces port", zap.String("addr", addr), zap.Error(err))
				return
			}
			if ours := Fingerprint(n.cfg.PSK); network != ours {
				n.log.Warn("host of the bootstrap name belongs to another private network: compare the swarm.key files",
					zap.String("addr", addr), zap.Stringer("peer", ai.ID), zap.String("ours", ours), zap.String("theirs", network))
				return
			}
			b.meet(ctx, ai, "dns")
		}()
	}
}

// serveHello answers GET /samara/v1/hello, to anybody: who asks knows the
// address already and learns what a libp2p dial would show.
func (d *dataPlane) serveHello(w http.ResponseWriter) {
	doc := helloDoc{Peer: d.n.id.String(), Network: Fingerprint(d.n.cfg.PSK)}
	for _, a := range d.n.Addrs() {
		doc.Addrs = append(doc.Addrs, a.String())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close")
	_ = json.NewEncoder(w).Encode(doc)
}

// hello asks the pieces port at addr who it is. The identity is proved by the
// TLS handshake (not in a trusted network, where the libp2p dial will prove
// it); the addresses are only tried.
func (d *dataPlane) hello(ctx context.Context, addr string) (peer.AddrInfo, string, error) {
	fail := func(err error) (peer.AddrInfo, string, error) {
		return peer.AddrInfo{}, "", fmt.Errorf("p2p: hello from %s: %w", addr, err)
	}
	var proved peer.ID
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := d.dialTCP(ctx, addr)
			if err != nil || d.n.cfg.TrustedNetwork {
				return c, err
			}
			tc, id, err := d.secure(ctx, c, "")
			if err != nil {
				return nil, err
			}
			proved = id
			return tc, nil
		},
		ResponseHeaderTimeout: d.n.cfg.timing.dial,
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hello"+helloPath, nil)
	if err != nil {
		return fail(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, helloLimit))
	if err != nil || resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("status %s: %w", resp.Status, err))
	}
	return parseHello(body, addr, proved)
}

func parseHello(body []byte, addr string, proved peer.ID) (peer.AddrInfo, string, error) {
	var doc helloDoc
	if err := json.Unmarshal(body, &doc); err != nil {
		return peer.AddrInfo{}, "", fmt.Errorf("p2p: hello from %s: %w", addr, err)
	}
	id, err := peer.Decode(doc.Peer)
	if err != nil {
		return peer.AddrInfo{}, "", fmt.Errorf("p2p: hello from %s: %w", addr, err)
	}
	if proved != "" && proved != id {
		return peer.AddrInfo{}, "", fmt.Errorf("p2p: hello from %s: says it is %s and proves to be %s", addr, id, proved)
	}
	if len(doc.Network) > 64 || len(doc.Addrs) > 4*maxPeerAddrs {
		return peer.AddrInfo{}, "", fmt.Errorf("p2p: hello from %s: %w", addr, errors.New("fields out of bounds"))
	}
	ai := peer.AddrInfo{ID: id}
	host, _, _ := net.SplitHostPort(addr)
	reached := net.ParseIP(host)
	for _, s := range doc.Addrs {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil || len(s) > maxAddrBytes {
			continue
		}
		ai.Addrs = append(ai.Addrs, a)
		// The address that was reached is the one that works from here.
		if port, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil && reached != nil {
			if base, err := manet.FromIP(reached); err == nil {
				if tcp, err := multiaddr.NewComponent("tcp", port); err == nil {
					ai.Addrs = mergeAddrs([]multiaddr.Multiaddr{base.Encapsulate(tcp)}, ai.Addrs)
				}
			}
		}
	}
	return ai, doc.Network, nil
}

// mdnsName is the DNS-SD service of one private network: foreign swarms on
// the same link do not even see each other.
func mdnsName(fingerprint string) string {
	return "_smr-" + fingerprint[:min(8, len(fingerprint))] + "._udp"
}

// startMDNS is called with n.mu held.
func (b *bootstrap) startMDNS() {
	n := b.n
	s := mdns.NewMdnsService(n.host, mdnsName(Fingerprint(n.cfg.PSK)), mdnsNotifee{b})
	n.wg.Add(1)
	go func() { // listing interfaces and joining groups can take a while
		defer n.wg.Done()
		if err := s.Start(); err != nil {
			n.log.Warn("mDNS does not work here; peers on the link are not found by it", zap.Error(err))
			return
		}
		b.mu.Lock()
		closed := b.closed
		if !closed {
			b.mdns = s
		}
		b.mu.Unlock()
		if closed {
			s.Close()
		}
	}()
}

type mdnsNotifee struct{ b *bootstrap }

// HandlePeerFound is part of mdns.Notifee; each call has a goroutine of its own.
func (m mdnsNotifee) HandlePeerFound(ai peer.AddrInfo) {
	if !m.b.n.begin() {
		return
	}
	defer m.b.n.wg.Done()
	if len(ai.Addrs) > maxPeerAddrs {
		ai.Addrs = ai.Addrs[:maxPeerAddrs]
	}
	m.b.meet(m.b.n.ctx, ai, "mdns")
}
