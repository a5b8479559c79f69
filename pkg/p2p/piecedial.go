package p2p

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multibase"
	"go.uber.org/zap"
)

// hostOf makes a URL host of a peer ID: base36, since hosts have no case.
func hostOf(p peer.ID) (string, error) { return peer.ToCid(p).StringOfBase(multibase.Base36) }

// dial opens a connection for the HTTP client; addr is hostOf(peer):80.
func (d *dataPlane) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(addr)
	p, err := peer.Decode(host)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, ErrClosed
	}
	d.connected.Add(1) // the client may dial on after the request has ended
	d.mu.Unlock()
	defer d.connected.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(d.n.ctx, cancel)
	defer stop()

	n := d.n
	n.mu.Lock()
	ss := n.sessions[p]
	n.mu.Unlock()
	var pl plane
	if ss != nil {
		pl = ss.plane
	} else if m, ok := n.gate.metLately(p); ok {
		pl = m
	} else {
		return nil, ErrNotNeighbour
	}
	if pl.addr != "" && (!pl.plain || n.cfg.TrustedNetwork) && !d.isBad(pl.addr) {
		c, err := d.dialPlane(ctx, p, pl)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		n.metrics.dialFailures.Inc()
		n.log.Info("pieces address cannot be used; falling back to libp2p streams", zap.Stringer("peer", p),
			zap.String("addr", pl.addr), zap.Duration("for", n.cfg.timing.badAddr), zap.Error(err))
		d.markBad(pl.addr)
	}
	n.metrics.streamAsks.Inc()
	ctx, cancel2 := context.WithTimeout(ctx, n.cfg.timing.dial)
	defer cancel2()
	s, err := n.host.NewStream(network.WithDialPeerTimeout(ctx, n.cfg.timing.dial), p, piecesProtocol)
	if err != nil {
		return nil, err
	}
	return &askedConn{streamConn{s}}, nil
}

func (d *dataPlane) dialPlane(ctx context.Context, p peer.ID, pl plane) (net.Conn, error) {
	c, err := d.dialTCP(ctx, pl.addr)
	if err != nil || pl.plain {
		return c, err
	}
	tc, _, err := d.secure(ctx, c, p)
	return tc, err
}

func (d *dataPlane) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: d.n.cfg.timing.pieceDial}).DialContext(ctx, "tcp", addr)
}

// secure runs the TLS handshake as the client; an empty want takes anybody.
func (d *dataPlane) secure(ctx context.Context, c net.Conn, want peer.ID) (net.Conn, peer.ID, error) {
	var got peer.ID
	conf := d.tls.Clone()
	conf.VerifyPeerCertificate = verifyPeer(want, &got)
	tc := tls.Client(c, conf)
	ctx, cancel := context.WithTimeout(ctx, 2*d.n.cfg.timing.pieceDial)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, "", err
	}
	return tc, got, nil
}

func (d *dataPlane) isBad(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n.now().Before(d.bad[addr])
}

func (d *dataPlane) markBad(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.n.now()
	for a, until := range d.bad {
		if !now.Before(until) {
			delete(d.bad, a)
		}
	}
	d.bad[addr] = now.Add(d.n.cfg.timing.badAddr)
}
