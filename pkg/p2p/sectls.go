package p2p

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// newIdentity makes the TLS identity of a libp2p key. libp2p's own template
// starts the certificate's validity an hour ago, so a host whose clock is
// further ahead is refused by everybody else. The dates carry no trust here
// (the key is the identity), so ours are valid at any date a clock may show.
func newIdentity(key crypto.PrivKey) (*libp2ptls.Identity, error) {
	sn, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	return libp2ptls.NewIdentity(key, libp2ptls.WithCertTemplate(&x509.Certificate{
		SerialNumber: sn,
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		Subject:      pkix.Name{SerialNumber: sn.String()},
	}))
}

// secTLS is libp2p's /tls/1.0.0 with the identity of newIdentity.
type secTLS struct {
	id     *libp2ptls.Identity
	local  peer.ID
	muxers []string
}

func newSecTLS(_ protocol.ID, key crypto.PrivKey, muxers []upgrader.StreamMuxer) (*secTLS, error) {
	local, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(key)
	if err != nil {
		return nil, err
	}
	t := &secTLS{id: id, local: local}
	for _, m := range muxers {
		t.muxers = append(t.muxers, string(m.ID))
	}
	return t, nil
}

// ID is the protocol's name in multistream-select.
func (t *secTLS) ID() protocol.ID { return libp2ptls.ID }

// SecureInbound runs the handshake as a server.
func (t *secTLS) SecureInbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	return t.handshake(ctx, c, p, tls.Server)
}

// SecureOutbound runs the handshake as a client.
func (t *secTLS) SecureOutbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	return t.handshake(ctx, c, p, tls.Client)
}

func (t *secTLS) handshake(ctx context.Context, c net.Conn, p peer.ID, side func(net.Conn, *tls.Config) *tls.Conn) (sec.SecureConn, error) {
	conf, keys := t.id.ConfigForPeer(p)
	conf.NextProtos = append(append([]string(nil), t.muxers...), conf.NextProtos...)
	tc := side(c, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	var key crypto.PubKey
	select {
	case key = <-keys:
	default:
	}
	if key == nil {
		c.Close()
		return nil, errors.New("tls: handshake without the peer's key")
	}
	remote, err := peer.IDFromPublicKey(key)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("tls: %w", err)
	}
	// "libp2p" is what those say who choose the muxer later.
	muxer := tc.ConnectionState().NegotiatedProtocol
	if muxer == "libp2p" {
		muxer = ""
	}
	return &secConn{Conn: tc, local: t.local, remote: remote, key: key, muxer: protocol.ID(muxer)}, nil
}

type secConn struct {
	*tls.Conn
	local, remote peer.ID
	key           crypto.PubKey
	muxer         protocol.ID
}

func (c *secConn) LocalPeer() peer.ID             { return c.local }
func (c *secConn) RemotePeer() peer.ID            { return c.remote }
func (c *secConn) RemotePublicKey() crypto.PubKey { return c.key }
func (c *secConn) ConnState() network.ConnectionState {
	return network.ConnectionState{StreamMultiplexer: c.muxer, UsedEarlyMuxerNegotiation: c.muxer != ""}
}
