package p2p

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

const (
	blobsPath   = "/samara/v1/blobs/"
	hdrPieces   = "Samara-Pieces"
	hdrBusy     = "Samara-Busy-After-Ms"
	hdrPeer     = "Samara-Peer" // trusted network: who asks
	maxBusy     = time.Minute
	minBusy     = 10 * time.Millisecond
	overBusy    = 200 * time.Millisecond // told when a request limit is hit
	chunk       = 62 << 10               // with TLS, as much as one segmentation-offload packet of 64 KiB holds
	fileChunk   = 1 << 20
	bodyTimeout = 5 * time.Second
)

// ServeHTTP answers one request of the data plane.
func (d *dataPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	d.serving.Add(1)
	d.mu.Unlock()
	defer d.serving.Done()
	d.n.metrics.serving.Inc()
	defer d.n.metrics.serving.Dec()

	if r.URL.Path == helloPath {
		if r.Method != http.MethodGet {
			d.refuse(w, http.StatusMethodNotAllowed, "method")
			return
		}
		d.serveHello(w)
		return
	}
	from, ok := d.whoAsks(r)
	if !ok || !d.admitted(from) {
		w.Header().Set("Connection", "close") // no idle connections for strangers
		d.refuse(w, http.StatusForbidden, "denied")
		return
	}
	if !d.enter(from) {
		d.busy(w, &BusyError{After: overBusy})
		return
	}
	defer d.leave(from)
	r, end := d.traced(r, from)
	defer end()

	if r.URL.Path == contentsPath && r.Method == http.MethodPost {
		d.serveContents(w, r, from)
		return
	}
	if r.URL.Path == reachPath && r.Method == http.MethodPost {
		d.serveReach(w, r, from)
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, blobsPath)
	name, pieces := strings.CutSuffix(rest, "/pieces")
	dg := digest.Digest(name)
	if !ok || len(name) > maxDigest || dg.Validate() != nil {
		d.refuse(w, http.StatusBadRequest, "bad")
		return
	}
	switch {
	case pieces && r.Method == http.MethodPost:
		d.servePieces(w, r, from, dg)
	case !pieces && r.Method == http.MethodGet:
		d.serveContent(w, r, from, dg)
	default:
		d.refuse(w, http.StatusMethodNotAllowed, "method")
	}
}

// whoAsks tells whose request it is: proved by the TLS handshake or the libp2p
// connection, or claimed in a trusted network and then held against the source
// address.
func (d *dataPlane) whoAsks(r *http.Request) (peer.ID, bool) {
	switch c := r.Context().Value(connKey{}).(type) {
	case *tls.Conn:
		id := c.NetConn().(*identConn).peer
		return id, id != ""
	case *streamConn:
		return c.Conn().RemotePeer(), true
	case *net.TCPConn:
		id, err := peer.Decode(r.Header.Get(hdrPeer))
		if err != nil {
			return "", false
		}
		return id, d.n.comesFrom(id, c.RemoteAddr())
	}
	return "", false
}

// comesFrom tells whether p is connected from the IP address of a.
func (n *Node) comesFrom(p peer.ID, a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if ip, err := manet.ToIP(c.RemoteMultiaddr()); err == nil && ip.Equal(tcp.IP) {
			return true
		}
	}
	return false
}

// admitted tells whether p may use the data plane: it has a control stream, or
// had one lately, or is just getting one.
func (d *dataPlane) admitted(p peer.ID) bool {
	n := d.n
	if n.gate.check(p) != nil {
		return false
	}
	n.mu.Lock()
	now := n.sessions[p] != nil || n.attempts[p] != nil
	n.mu.Unlock()
	if now {
		return true
	}
	_, lately := n.gate.metLately(p)
	return lately
}

func (d *dataPlane) enter(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.perPeer[p] >= maxPeerRequests || len(d.perPeer) >= maxRequests || d.requests.Load() >= maxRequests {
		return false
	}
	d.perPeer[p]++
	d.requests.Add(1)
	return true
}

func (d *dataPlane) leave(p peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.perPeer[p]--; d.perPeer[p] <= 0 {
		delete(d.perPeer, p)
	}
	d.requests.Add(-1)
}

func (d *dataPlane) refuse(w http.ResponseWriter, status int, result string) {
	d.n.metrics.served.WithLabelValues(result).Inc()
	bare(w.Header())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// bare leaves out of an answer what net/http adds to it unasked: a quarter of its
// bytes, which nobody reads.
func bare(h http.Header) { h["Date"], h["Content-Type"] = nil, nil }

func (d *dataPlane) busy(w http.ResponseWriter, e *BusyError) {
	d.n.metrics.served.WithLabelValues("busy").Inc()
	body, _ := proto.Marshal(&pb.Busy{Try: peerInfosToPB(e.Try)})
	if len(body) > maxBusyBody {
		body = nil
	}
	h := w.Header()
	bare(h)
	h.Set(hdrBusy, strconv.FormatInt(min(max(e.After, minBusy), maxBusy).Milliseconds(), 10))
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write(body)
}

// fail answers an error of the PieceServer.
func (d *dataPlane) fail(ctx context.Context, w http.ResponseWriter, from peer.ID, dg digest.Digest, err error) {
	var be *BusyError
	switch {
	case ctx.Err() != nil: // nobody listens any more
		d.n.metrics.served.WithLabelValues("gone").Inc()
		panic(http.ErrAbortHandler)
	case errors.As(err, &be):
		d.busy(w, be)
	case errors.Is(err, ErrNotHeld):
		d.refuse(w, http.StatusNotFound, "not_held")
	case errors.Is(err, ErrDenied):
		d.refuse(w, http.StatusForbidden, "denied")
	default:
		d.n.log.Warn("ask failed here", zap.Stringer("peer", from), zap.Stringer("digest", dg), zap.Error(err))
		d.refuse(w, http.StatusInternalServerError, "failed")
	}
}

func (d *dataPlane) servePieces(w http.ResponseWriter, r *http.Request, from peer.ID, dg digest.Digest) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAskBody))
	if err != nil {
		d.refuse(w, http.StatusBadRequest, "bad")
		return
	}
	_ = rc.SetReadDeadline(time.Time{}) // the ask may be parked; a client that leaves ends r.Context
	a, err := parseAsk(dg, body)
	if err != nil {
		d.refuse(w, http.StatusBadRequest, "bad")
		return
	}
	g, err := d.n.cfg.Pieces.Give(r.Context(), from, a)
	if err == nil && g == nil {
		err = errors.New("p2p: no gift and no error")
	}
	if err != nil {
		d.fail(r.Context(), w, from, dg, err)
		return
	}
	ok := false
	defer func() {
		if g.Done != nil {
			g.Done(ok)
		}
	}()
	if len(g.Pieces) != len(g.Lengths) || len(g.Pieces) == 0 || len(g.Pieces) > maxPiecesPerAnswer {
		d.fail(r.Context(), w, from, dg, errors.New("p2p: gift without pieces, or with too many"))
		return
	}
	var total int64
	var list strings.Builder
	for i, p := range g.Pieces {
		if i > 0 {
			list.WriteByte(',')
		}
		list.WriteString(strconv.Itoa(p))
		list.WriteByte(':')
		list.WriteString(strconv.Itoa(g.Lengths[i]))
		total += int64(g.Lengths[i])
	}
	h := w.Header()
	bare(h)
	h.Set(hdrPieces, list.String())
	h.Set("Content-Length", strconv.FormatInt(total, 10))
	w.WriteHeader(http.StatusOK)
	pw := d.progressWriter(w, r)
	_, err = g.Body(pw)
	ok = err == nil && pw.n == total
	if !ok {
		d.n.metrics.served.WithLabelValues("cut").Inc()
		if err != nil && pw.err == nil { // not the network's fault
			d.n.log.Warn("giving pieces failed", zap.Stringer("peer", from), zap.Stringer("digest", dg), zap.Error(err))
		}
		panic(http.ErrAbortHandler) // the client must not take what came for all
	}
	d.n.metrics.served.WithLabelValues("ok").Inc()
}

func (d *dataPlane) serveContent(w http.ResponseWriter, r *http.Request, from peer.ID, dg digest.Digest) {
	c, size, mediaType, err := d.n.cfg.Pieces.Content(r.Context(), from, dg)
	if err != nil {
		d.fail(r.Context(), w, from, dg, err)
		return
	}
	defer c.Close()
	h := w.Header()
	if _, _, err := mime.ParseMediaType(mediaType); err == nil {
		h.Set("Content-Type", mediaType)
	} else {
		h.Set("Content-Type", "application/octet-stream")
	}
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	pw := d.progressWriter(w, r)
	if _, err := io.Copy(pw, io.LimitReader(c, size)); err != nil || pw.n != size {
		d.n.metrics.served.WithLabelValues("cut").Inc()
		panic(http.ErrAbortHandler)
	}
	d.n.metrics.served.WithLabelValues("ok").Inc()
}

// parseAsk checks the body of an ask.
func parseAsk(dg digest.Digest, body []byte) (Ask, error) {
	var m pb.Ask
	if err := proto.Unmarshal(body, &m); err != nil {
		return Ask{}, err
	}
	a := Ask{Digest: dg, Any: m.Any, Max: int(min(m.Max, maxPiecesPerAnswer)), Urgent: m.Urgent}
	var err error
	if a.Pieces, err = checkPieces(m.Pieces, maxPiecesPerAnswer); err != nil {
		return Ask{}, err
	}
	if len(a.Any) > maxHaveBytes || (len(a.Pieces) == 0) == (len(a.Any) == 0) {
		return Ask{}, errors.New("p2p: an ask names pieces or a bitfield, one of them")
	}
	if len(a.Any) > 0 {
		a.Max = max(a.Max, 1)
	}
	return a, nil
}

// progressWriter sends a body in chunks, each of which must get away in time.
type progressWriter struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	d    *dataPlane
	conn *gatherConn // below TLS; nil elsewhere
	n    int64
	err  error // of the network
}

func (d *dataPlane) progressWriter(w http.ResponseWriter, r *http.Request) *progressWriter {
	p := &progressWriter{w: w, rc: http.NewResponseController(w), d: d}
	if c, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
		p.conn = &c.NetConn().(*identConn).gatherConn
	}
	return p
}

func (p *progressWriter) sent(n int64, err error) {
	p.n += n
	p.d.n.metrics.dataOut.Add(float64(n))
	if err != nil {
		p.err = err
	}
}

func (p *progressWriter) extend() {
	_ = p.rc.SetWriteDeadline(time.Now().Add(p.d.n.cfg.timing.sendStall))
}

// Write is part of io.Writer.
func (p *progressWriter) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		p.extend()
		n, err := p.writeChunk(b[:min(len(b), chunk)])
		p.sent(int64(n), err)
		total += n
		if err != nil {
			return total, err
		}
		b = b[n:]
	}
	return total, nil
}

// writeChunk writes at most a chunk, under TLS in one system call.
func (p *progressWriter) writeChunk(b []byte) (int, error) {
	if p.conn == nil {
		return p.w.Write(b)
	}
	p.conn.gather()
	n, err := p.w.Write(b)
	return n, errors.Join(err, p.conn.release())
}

var chunks = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// ReadFrom is part of io.ReaderFrom. On a plain TCP connection a file, or an
// io.LimitedReader of one, goes out by sendfile; elsewhere it is copied in
// large chunks, since io.Copy's 32 KiB would cost more.
func (p *progressWriter) ReadFrom(r io.Reader) (int64, error) {
	limited := &io.LimitedReader{R: r, N: 1<<63 - 1}
	if l, ok := r.(*io.LimitedReader); ok {
		limited = &io.LimitedReader{R: l.R, N: l.N}
		defer func(all int64) { l.N -= all - limited.N }(l.N)
	}
	_, file := limited.R.(*os.File)
	if rf, ok := p.w.(io.ReaderFrom); ok && file && p.d.n.cfg.TrustedNetwork {
		return p.sendFile(rf, limited)
	}
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	var total int64
	for {
		n, rerr := limited.Read(*buf)
		if n > 0 {
			w, err := p.Write((*buf)[:n])
			total += int64(w)
			if err != nil {
				return total, err
			}
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}

func (p *progressWriter) sendFile(rf io.ReaderFrom, src *io.LimitedReader) (int64, error) {
	var total int64
	for src.N > 0 {
		part := &io.LimitedReader{R: src.R, N: min(src.N, fileChunk)}
		p.extend()
		n, err := rf.ReadFrom(part)
		p.sent(n, err)
		total += n
		src.N -= n
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}
