package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
	"github.com/samara-p2p/samara/pkg/piece"
)

// Answer is a gift that is arriving. It must be closed.
type Answer struct {
	d       *dataPlane
	from    peer.ID
	pieces  []int
	lengths []int
	next    int
	body    io.ReadCloser
	watch   *watchdog
	water   lowWater
	total   int64       // bytes of all pieces
	got     int64       // bytes of the pieces so far
	onBytes func(int64) // see Watch; may be nil
}

// Ask asks one peer for pieces and returns once the answer begins, which can
// take up to 10 s where the peer parks the ask. The peer is a neighbour, or was
// one lately. Errors: *BusyError, ErrNotHeld, ErrDenied, ErrNotNeighbour,
// ctx's; any other means the peer failed.
func (n *Node) Ask(ctx context.Context, to peer.ID, a Ask) (*Answer, error) {
	ans, err := n.data.ask(ctx, to, a)
	n.metrics.asks.WithLabelValues(askResult(ctx, err)).Inc()
	if err != nil {
		return nil, fmt.Errorf("p2p: ask %s: %w", to, err)
	}
	return ans, nil
}

func askResult(ctx context.Context, err error) string {
	var be *BusyError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &be):
		return "busy"
	case errors.Is(err, ErrNotHeld):
		return "not_held"
	case errors.Is(err, ErrDenied):
		return "denied"
	case ctx.Err() != nil:
		return "canceled"
	}
	return "failed"
}

func (d *dataPlane) ask(ctx context.Context, to peer.ID, a Ask) (*Answer, error) {
	m := &pb.Ask{Any: a.Any, Max: uint32(max(a.Max, 0)), Urgent: a.Urgent, Pieces: make([]uint32, len(a.Pieces))}
	for i, p := range a.Pieces {
		m.Pieces[i] = uint32(p)
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := parseAsk(a.Digest, body); err != nil {
		return nil, err // a bug of the caller, better found here
	}
	var conn net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { conn = i.Conn }})
	//nolint:bodyclose // Answer.Close does
	resp, watch, err := d.request(ctx, to, http.MethodPost, blobsPath+string(a.Digest)+"/pieces", body)
	if err != nil {
		return nil, err
	}
	ans := &Answer{d: d, from: to, body: resp.Body, watch: watch, water: newLowWater(conn), total: resp.ContentLength}
	if ans.pieces, ans.lengths, err = parsePieces(resp.Header.Get(hdrPieces), resp.ContentLength); err == nil {
		err = checkAnswer(a, ans.pieces)
	}
	if err != nil {
		ans.Close()
		return nil, err
	}
	return ans, nil
}

// parsePieces reads "17:262144,18:100" and holds it against the body's length.
func parsePieces(s string, total int64) (pieces, lengths []int, err error) {
	if len(s) > maxHeaderBytes {
		return nil, nil, fmt.Errorf("%s of %d bytes", hdrPieces, len(s))
	}
	var sum int64
	for part := range strings.SplitSeq(s, ",") {
		ps, ls, ok := strings.Cut(part, ":")
		p, err1 := strconv.ParseUint(ps, 10, 32)
		l, err2 := strconv.ParseUint(ls, 10, 32)
		if !ok || err1 != nil || err2 != nil || p >= maxPieces || l == 0 || l > piece.MaxSize || len(pieces) >= maxPiecesPerAnswer {
			return nil, nil, fmt.Errorf("%s: %q", hdrPieces, part)
		}
		pieces, lengths = append(pieces, int(p)), append(lengths, int(l))
		sum += int64(l)
	}
	if sum != total {
		return nil, nil, fmt.Errorf("pieces of %d bytes in a body of %d", sum, total)
	}
	return pieces, lengths, nil
}

// checkAnswer refuses pieces that were not asked for, or twice.
func checkAnswer(a Ask, got []int) error {
	limit := len(a.Pieces)
	if len(a.Any) > 0 {
		limit = max(a.Max, 1)
	}
	if len(got) > limit {
		return fmt.Errorf("%d pieces given, %d asked for", len(got), limit)
	}
	wanted := make(map[int]bool, len(a.Pieces))
	for _, p := range a.Pieces {
		wanted[p] = true
	}
	seen := make(map[int]bool, len(got))
	for _, p := range got {
		ok := wanted[p]
		if len(a.Any) > 0 {
			ok = p>>3 < len(a.Any) && a.Any[p>>3]&(0x80>>(p&7)) != 0
		}
		if !ok || seen[p] {
			return fmt.Errorf("piece %d was not asked for", p)
		}
		seen[p] = true
	}
	return nil
}

// Pieces are the pieces of the answer, in the order Next yields them.
func (a *Answer) Pieces() []int { return a.pieces }

// Watch has Next call f after every read that brought bytes, with the bytes
// of all pieces so far.
func (a *Answer) Watch(f func(bytes int64)) { a.onBytes = f }

// Next reads the next piece whole into buf, which must hold a piece, and
// returns its index and length, or io.EOF after the last. It fails when no
// byte comes for Config.IdleTimeout.
func (a *Answer) Next(buf []byte) (index, n int, err error) {
	if a.next == len(a.pieces) {
		return 0, 0, io.EOF
	}
	i, l := a.pieces[a.next], a.lengths[a.next]
	if l > len(buf) {
		return 0, 0, fmt.Errorf("p2p: piece %d of %d bytes for a buffer of %d", i, l, len(buf))
	}
	for n < l {
		a.water.follow(a.total-a.got, a.got)
		m, err := a.body.Read(buf[n:l])
		if m > 0 {
			a.watch.moved()
			n += m
			if a.got += int64(m); a.onBytes != nil {
				a.onBytes(a.got)
			}
		}
		if err != nil && n < l {
			a.d.n.metrics.dataIn.Add(float64(n))
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, 0, fmt.Errorf("p2p: piece %d from %s: %w", i, a.from, a.watch.explain(err))
		}
	}
	a.d.n.metrics.dataIn.Add(float64(n))
	if a.next++; a.next == len(a.pieces) {
		a.water.follow(0, a.got) // one read may have brought all the rest
		// Reading the end lets the connection serve the next ask.
		var one [1]byte
		_, _ = a.body.Read(one[:])
	}
	return i, n, nil
}

// Close ends the transfer. Before the last piece that costs the connection.
func (a *Answer) Close() {
	a.body.Close()
	a.watch.stop()
}

// Content fetches a whole blob of at most limit bytes and checks its digest.
// Errors as Ask's.
func (n *Node) Content(ctx context.Context, to peer.ID, dg digest.Digest, limit int64) (content []byte, mediaType string, err error) {
	content, mediaType, err = n.data.content(ctx, to, dg, limit)
	n.metrics.asks.WithLabelValues(askResult(ctx, err)).Inc()
	if err != nil {
		return nil, "", fmt.Errorf("p2p: content of %s: %w", to, err)
	}
	return content, mediaType, nil
}

func (d *dataPlane) content(ctx context.Context, to peer.ID, dg digest.Digest, limit int64) ([]byte, string, error) {
	if err := dg.Validate(); err != nil {
		return nil, "", err
	}
	resp, watch, err := d.request(ctx, to, http.MethodGet, blobsPath+string(dg), nil)
	if err != nil {
		return nil, "", err
	}
	defer watch.stop()
	defer resp.Body.Close()
	if resp.ContentLength < 0 || resp.ContentLength > limit {
		return nil, "", fmt.Errorf("%d bytes, at most %d wanted", resp.ContentLength, limit)
	}
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.TeeReader(resp.Body, watch))
	d.n.metrics.dataIn.Add(float64(n))
	if err != nil {
		return nil, "", watch.explain(err)
	}
	if got := dg.Algorithm().FromBytes(buf.Bytes()); got != dg {
		return nil, "", fmt.Errorf("%w: they have digest %s, not %s", ErrWrongContent, got, dg)
	}
	return buf.Bytes(), resp.Header.Get("Content-Type"), nil
}

// request sends a request and returns a 200 answer; others become errors.
func (d *dataPlane) request(ctx context.Context, to peer.ID, method, path string, body []byte) (*http.Response, *watchdog, error) {
	if err := d.n.gate.check(to); err != nil {
		return nil, nil, err
	}
	host, err := hostOf(to)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(d.n.ctx, func() { cancel(ErrClosed) })
	watch := &watchdog{idle: d.n.cfg.timing.idle, cancel: cancel, release: stop, ctx: ctx}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, bytes.NewReader(body))
	if err != nil {
		watch.stop()
		return nil, nil, err
	}
	if body != nil {
		// A kept connection may have gone away meanwhile. This marks the ask
		// as one that may be sent again; a nil value is not sent itself.
		req.Header["Idempotency-Key"] = nil
	}
	// Asks are most of what a large swarm says: they carry no header that
	// tells nothing. Who asks whom, and by which program, both ends know.
	req.Host = "peer"
	req.Header.Set("User-Agent", "") // leaves it out
	if trace.SpanContextFromContext(ctx).IsSampled() {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	}
	if d.n.cfg.TrustedNetwork {
		req.Header.Set(hdrPeer, d.n.id.String())
	}
	resp, err := d.client.RoundTrip(req)
	if err != nil {
		err = watch.explain(err)
		watch.stop()
		return nil, nil, err
	}
	if resp.StatusCode == http.StatusOK {
		watch.start()
		return resp, watch, nil
	}
	defer watch.stop()
	defer resp.Body.Close()
	watch.start()
	small, err := io.ReadAll(io.LimitReader(resp.Body, maxBusyBody+1))
	if err != nil {
		return nil, nil, watch.explain(err)
	}
	switch resp.StatusCode {
	case http.StatusServiceUnavailable:
		be, err := parseBusy(resp.Header.Get(hdrBusy), small)
		if err != nil {
			return nil, nil, err
		}
		return nil, nil, be
	case http.StatusNotFound:
		return nil, nil, ErrNotHeld
	case http.StatusForbidden:
		return nil, nil, ErrDenied
	}
	return nil, nil, fmt.Errorf("status %s", resp.Status)
}

func parseBusy(after string, body []byte) (*BusyError, error) {
	ms, err := strconv.ParseUint(after, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", hdrBusy, err)
	}
	var m pb.Busy
	if len(body) > maxBusyBody {
		return nil, fmt.Errorf("busy answer of more than %d bytes", maxBusyBody)
	}
	if err := proto.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("busy answer: %w", err)
	}
	try, err := peerInfosFromPB(m.Try)
	if err != nil {
		return nil, fmt.Errorf("busy answer: %w", err)
	}
	return &BusyError{After: min(max(time.Duration(ms)*time.Millisecond, minBusy), maxBusy), Try: try}, nil
}
