package p2p

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// piecesProtocol carries the data plane's HTTP where the pieces port cannot be
// dialled.
const piecesProtocol protocol.ID = "/samara/pieces/1.0.0"

// Ask wants pieces of a blob from one peer.
type Ask struct {
	Digest digest.Digest
	Pieces []int  // exactly these, or such of them as the peer holds
	Any    []byte // piece.Bitfield bytes: the giver picks up to Max of these
	Max    int    // with Any: at most so many; 0 = 1
	Urgent bool   // nobody else can feed the asking peer
}

// PieceServer answers what other peers ask. Its calls are concurrent.
type PieceServer interface {
	// Give answers an ask. It may wait until ctx ends, which happens when the
	// asking peer goes away. Errors: *BusyError, ErrNotHeld, ErrDenied; any
	// other is answered with 500 and logged.
	Give(ctx context.Context, from peer.ID, a Ask) (*Gift, error)
	// Content opens a whole small blob. Errors as Give's.
	Content(ctx context.Context, from peer.ID, d digest.Digest) (c io.ReadSeekCloser, size int64, mediaType string, err error)
}

// Gift is the answer to an Ask.
type Gift struct {
	Pieces  []int // in the order they are sent
	Lengths []int // bytes of each
	// Body writes the pieces one after another. w is an io.ReaderFrom too; in
	// a trusted network an *os.File goes out by sendfile.
	Body func(w io.Writer) (int64, error)
	Done func(ok bool) // called once, may be nil; ok: all bytes were handed to the network
}

// BusyError says that a peer cannot give now.
type BusyError struct {
	After time.Duration   // ask again no earlier
	Try   []peer.AddrInfo // who else may give
}

// Error is part of error.
func (e *BusyError) Error() string {
	return fmt.Sprintf("p2p: peer is busy for %s, names %d others", e.After, len(e.Try))
}

// Errors of the data plane. Test with errors.Is.
var (
	ErrNotHeld = errors.New("p2p: peer does not hold that")
	ErrDenied  = errors.New("p2p: peer does not admit this node")
	// ErrWrongContent: a peer answered with bytes of another digest.
	ErrWrongContent = errors.New("p2p: peer sent wrong bytes")
)

// dataPlane serves and asks for pieces.
type dataPlane struct {
	n         *Node
	tls       *tls.Config // never changed: cloned for each connection
	listener  net.Listener
	streams   *streamListener
	server    *http.Server
	client    *http.Transport
	connected sync.WaitGroup // dials in progress
	serving   sync.WaitGroup

	requests atomic.Int64
	conns    atomic.Int64

	mu      sync.Mutex
	closed  bool
	perPeer map[peer.ID]int      // requests being served
	bad     map[string]time.Time // pieces addresses that failed, until when not tried
}

func newDataPlane(n *Node) (*dataPlane, error) {
	c := &n.cfg
	id, err := newIdentity(c.Key)
	if err != nil {
		return nil, fmt.Errorf("p2p: TLS identity: %w", err)
	}
	conf, _ := id.ConfigForPeer("")
	conf.NextProtos = []string{"http/1.1"} // h2 costs 1.8 times the CPU
	conf.DynamicRecordSizingDisabled = true
	lc := unsentListener()
	l, err := lc.Listen(n.ctx, "tcp", c.PiecesListen)
	if err != nil {
		return nil, explainListen("p2p: pieces", c.PiecesListen, err)
	}
	d := &dataPlane{
		n: n, tls: conf, listener: l, streams: newStreamListener(n.id),
		perPeer: make(map[peer.ID]int), bad: make(map[string]time.Time),
	}
	t := c.timing
	d.server = &http.Server{
		Handler:           d,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       75 * time.Second, // longer than the client's, which so closes first
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withConn,
		ConnState:         d.connState,
		ErrorLog:          zap.NewStdLog(zap.NewNop()),
		BaseContext:       func(net.Listener) context.Context { return n.ctx },
		Protocols:         new(http.Protocols),
	}
	d.server.Protocols.SetHTTP1(true)
	d.client = &http.Transport{
		DialContext:           d.dial,
		MaxIdleConnsPerHost:   maxPeerRequests,
		MaxConnsPerHost:       maxPeerRequests,
		IdleConnTimeout:       60 * time.Second,
		ResponseHeaderTimeout: t.pieceHeader,
		DisableCompression:    true,
		ReadBufferSize:        16 << 10,
		Protocols:             d.server.Protocols,
	}
	return d, nil
}

// start is called with n.mu held.
func (d *dataPlane) start() {
	l := d.listener
	if !d.n.cfg.TrustedNetwork {
		l = &tlsListener{Listener: l, conf: d.tls}
	}
	for _, l := range []net.Listener{l, d.streams} {
		d.n.wg.Add(1)
		go func() {
			defer d.n.wg.Done()
			if err := d.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				d.n.log.Error("data plane stopped", zap.Error(err))
			}
		}()
	}
}

func (d *dataPlane) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.server.Close()
	d.listener.Close() // not the server's before Start
	d.streams.Close()
	d.client.CloseIdleConnections()
	d.connected.Wait()
	d.serving.Wait()
	d.client.CloseIdleConnections()
}

// connState closes connections beyond the limit.
func (d *dataPlane) connState(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if d.conns.Add(1) > maxPieceConns {
			c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		d.conns.Add(-1)
	}
}

// advertised is what Hello tells about the pieces port.
func (d *dataPlane) advertised() (host string, port uint32) {
	if a := d.n.cfg.PiecesAdvertise; a != "" {
		h, p, _ := splitHostPort(a)
		return h, uint32(p)
	}
	h, _, _ := splitHostPort(d.n.cfg.PiecesListen)
	if ip := net.ParseIP(h); h == "" || ip != nil && ip.IsUnspecified() {
		h = ""
	}
	return h, uint32(d.listener.Addr().(*net.TCPAddr).Port)
}

func (d *dataPlane) addrs() []string {
	h, p := d.advertised()
	port := strconv.Itoa(int(p))
	if h != "" {
		return []string{net.JoinHostPort(h, port)}
	}
	var out []string
	seen := map[string]bool{}
	for _, a := range d.n.Addrs() {
		for _, proto := range []int{4, 41} { // ip4, ip6
			if ip, err := a.ValueForProtocol(proto); err == nil && !seen[ip] {
				seen[ip] = true
				out = append(out, net.JoinHostPort(ip, port))
			}
		}
	}
	return out
}

// tlsListener wraps each connection in TLS and remembers whose it is.
type tlsListener struct {
	net.Listener
	conf *tls.Config
}

// identConn carries the identity that the handshake proved.
type identConn struct {
	gatherConn
	peer peer.ID // set by the handshake
}

// Accept is part of net.Listener.
func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	ic := &identConn{gatherConn: gatherConn{Conn: c}}
	conf := l.conf.Clone()
	conf.VerifyPeerCertificate = verifyPeer("", &ic.peer)
	return tls.Server(ic, conf), nil
}

// verifyPeer checks a certificate as the libp2p TLS specification says and
// stores whose it is. An empty want takes anybody.
func verifyPeer(want peer.ID, got *peer.ID) func([][]byte, [][]*x509.Certificate) error {
	return func(raw [][]byte, _ [][]*x509.Certificate) error {
		if len(raw) != 1 {
			return fmt.Errorf("tls: %d certificates, want one", len(raw))
		}
		cert, err := x509.ParseCertificate(raw[0])
		if err != nil {
			return err
		}
		key, err := libp2ptls.PubKeyFromCertChain([]*x509.Certificate{cert})
		if err != nil {
			return err
		}
		id, err := peer.IDFromPublicKey(key)
		if err != nil {
			return err
		}
		if want != "" && id != want {
			return fmt.Errorf("tls: the other end is %s, not %s", id, want)
		}
		*got = id
		return nil
	}
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// streamListener turns libp2p streams into connections of an http.Server.
type streamListener struct {
	self   peer.ID
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newStreamListener(self peer.ID) *streamListener {
	return &streamListener{self: self, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept is part of net.Listener.
func (l *streamListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is part of net.Listener.
func (l *streamListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is part of net.Listener.
func (l *streamListener) Addr() net.Addr { return peerAddr(l.self) }

// acceptStream is the stream handler of piecesProtocol.
func (d *dataPlane) acceptStream(s network.Stream) {
	select {
	case d.streams.conns <- &streamConn{s}:
	case <-d.streams.closed:
		_ = s.Reset()
	case <-time.After(d.n.cfg.timing.dial): // before Start
		_ = s.Reset()
	}
}

// streamConn makes a net.Conn of a stream. Its Close ends both directions.
type streamConn struct{ network.Stream }

// LocalAddr is part of net.Conn.
func (c *streamConn) LocalAddr() net.Addr { return peerAddr(c.Conn().LocalPeer()) }

// RemoteAddr is part of net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return peerAddr(c.Conn().RemotePeer()) }

// askedConn is a streamConn of the side that asks. A stream's own Close waits up
// to 10 s for a silent host to agree on the protocol, and an HTTP client that
// gives a request up closes before it says so: nobody else was asked meanwhile.
// Whoever asks needs nothing more when it closes.
type askedConn struct{ streamConn }

// Close is part of net.Conn.
func (c *askedConn) Close() error { return c.Reset() }

type peerAddr peer.ID

func (peerAddr) Network() string  { return "libp2p" }
func (a peerAddr) String() string { return peer.ID(a).String() }
