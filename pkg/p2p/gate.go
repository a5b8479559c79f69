package p2p

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Admitter decides who may take part, beyond holding the private network key.
// A peer that is refused gets no connection: no DHT, no message, no piece.
type Admitter interface {
	// Admit returns nil for a peer that may take part, and why not otherwise.
	// It is called on every connection and every ask; it must not block.
	Admit(peer.ID) error
}

// Errors of the network. Test with errors.Is.
var (
	ErrClosed            = errors.New("p2p: node is closed or not started")
	ErrBanned            = errors.New("p2p: peer is banned")
	ErrNotNeighbour      = errors.New("p2p: peer is no neighbour")
	ErrTooManyNeighbours = errors.New("p2p: neighbour limit reached")
)

// gate decides who gets in: bans, the Admitter, and for the data plane whether
// a control stream is or lately was open. It is libp2p's connection gater.
type gate struct {
	admit  Admitter
	now    func() time.Time
	recent time.Duration

	mu     sync.Mutex
	bans   map[peer.ID]time.Time // until
	met    map[peer.ID]meeting
	nextGC time.Time
}

// meeting remembers a neighbour beyond its control stream.
type meeting struct {
	last  time.Time
	plane plane
}

var _ connmgr.ConnectionGater = (*gate)(nil)

func newGate(admit Admitter, recent time.Duration, now func() time.Time) *gate {
	return &gate{admit: admit, now: now, recent: recent, bans: make(map[peer.ID]time.Time), met: make(map[peer.ID]meeting)}
}

// check returns nil for a peer that may be talked to.
func (g *gate) check(p peer.ID) error {
	g.mu.Lock()
	until, banned := g.bans[p]
	if banned && !g.now().Before(until) {
		delete(g.bans, p)
		banned = false
	}
	g.mu.Unlock()
	if banned {
		return ErrBanned
	}
	if g.admit != nil {
		if err := g.admit.Admit(p); err != nil {
			return fmt.Errorf("not admitted: %w", err)
		}
	}
	return nil
}

func (g *gate) ban(p peer.ID, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if len(g.bans) >= maxBans {
		for q, until := range g.bans {
			if !now.Before(until) {
				delete(g.bans, q)
			}
		}
	}
	if len(g.bans) < maxBans {
		g.bans[p] = now.Add(d)
	}
	delete(g.met, p)
}

// seen notes that p is or was a neighbour just now.
func (g *gate) seen(p peer.ID, pl plane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	_, banned := g.bans[p]
	_, known := g.met[p]
	if !banned && (known || len(g.met) < maxMet) {
		g.met[p] = meeting{last: now, plane: pl}
	}
	if now.After(g.nextGC) {
		g.nextGC = now.Add(g.recent)
		for q, m := range g.met {
			if now.Sub(m.last) > g.recent {
				delete(g.met, q)
			}
		}
	}
}

// metLately tells whether p was a neighbour lately, and where it served pieces. The
// caller knows of those who are neighbours now.
func (g *gate) metLately(p peer.ID) (plane, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.met[p]
	return m.plane, ok && g.now().Sub(m.last) <= g.recent
}

// InterceptPeerDial is libp2p's question before a dial.
func (g *gate) InterceptPeerDial(p peer.ID) bool { return g.check(p) == nil }

// InterceptAddrDial is libp2p's question before a dial of one address.
func (g *gate) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }

// InterceptAccept is libp2p's question before the handshake.
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured is libp2p's question once the peer is known.
func (g *gate) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return g.check(p) == nil
}

// InterceptUpgraded is libp2p's last question.
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
