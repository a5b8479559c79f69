package p2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// reportProtocol is by which a peer tells its seeder of itself: a stream that
// stays, in one direction, so that what was told once need not be told again.
const reportProtocol protocol.ID = "/samara/report/1.0.0"

// Bounds of a Report.
const (
	MaxFetches    = 64   // blobs under way that one names
	MaxHeld       = 4096 // blobs that one adds to, or takes from, what is held
	MaxReportText = 256  // bytes of a host's name, and of an error

	maxReport     = 128 << 10 // bytes of a frame
	maxReportSum  = 1 << 60   // bytes of anything that is counted
	maxReportAge  = 1 << 31   // seconds
	reportRate    = 0.5       // a second; more are read late
	reportBurst   = 8
	reportSilence = 150 * time.Second // a peer that has nothing to tell says so each minute
	reportWrite   = 5 * time.Second
)

// Report is what a peer tells its seeder of itself. It is the peer's word only:
// nothing but what people are shown may depend on it.
type Report struct {
	Name        string // of its host
	Used, Quota int64  // bytes of content, and how many may be; 0: no quota
	// Bytes since its start, by where they came from and went to. FromNear are
	// those of peers of its own zone.
	FromNear, FromFar, FromSeeder, FromUpstream int64
	ToPeers, ToClients                          int64

	Fetches []Fetch // under way, and those that ended since the report before
	More    int     // under way, beyond MaxFetches

	// Complete blobs that it holds since the report before, and that it does not
	// hold any more: of each the first 8 bytes of the digest, which are enough to
	// know those that the seeder has heard of.
	Held, Gone []uint64
}

// Fetch is a blob on its way to a peer.
type Fetch struct {
	Digest     digest.Digest
	Source     string // "docker.io/library/nginx"; may be empty
	Size, Have int64
	// Bytes received, by source.
	FromPeers, FromSeeder, FromUpstream int64
	Age                                 time.Duration // since it began, to the second
	Readers                             int           // clients that wait for it
	Ended                               bool          // nothing more comes: it is complete, or
	Error                               string        // has failed
}

// ReportTaker takes what peers tell. Its methods are called concurrently, in
// order for each peer, and must not block.
type ReportTaker interface {
	// Report takes one. The first of a stream begins anew: what the peer told
	// before counts no more.
	Report(from peer.ID, first bool, r Report)
	// Gone says that nothing more comes from the peer.
	Gone(peer.ID)
}

// TakeReports has the node take the reports of its neighbours. Without it the
// node does not speak that protocol. Call it before Start.
func (n *Node) TakeReports(t ReportTaker) {
	in := reportStreams{of: make(map[peer.ID]*reportStream)}
	n.host.SetStreamHandler(reportProtocol, func(s network.Stream) {
		defer func() { _ = s.Reset() }() // what is left of it
		if !n.begin() {
			return
		}
		defer n.wg.Done()
		stop := context.AfterFunc(n.ctx, func() { _ = s.Reset() })
		defer stop()
		from := s.Conn().RemotePeer()
		if _, ok := n.Neighbour(from); !ok || n.gate.check(from) != nil {
			return
		}
		me := in.enter(from, s)
		err := n.readReports(from, s, t)
		if in.leave(from, me) {
			t.Gone(from)
		}
		close(me.done)
		n.log.Debug("the reports of a peer ended", zap.Stringer("peer", from), zap.Error(err))
	})
}

// reportStreams are those that reports come by now: one of each peer, the last
// that it opened.
type reportStreams struct {
	mu sync.Mutex
	of map[peer.ID]*reportStream
}

type reportStream struct {
	network.Stream
	done chan struct{}
}

// enter ends the stream that the peer had, and waits until nothing more comes of
// it.
func (in *reportStreams) enter(from peer.ID, s network.Stream) *reportStream {
	me := &reportStream{s, make(chan struct{})}
	in.mu.Lock()
	before := in.of[from]
	in.of[from] = me
	in.mu.Unlock()
	if before != nil {
		_ = before.Reset()
		<-before.done
	}
	return me
}

// leave tells whether no other took the place of this one.
func (in *reportStreams) leave(from peer.ID, me *reportStream) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.of[from] != me {
		return false
	}
	delete(in.of, from)
	return true
}

// readReports reads until the stream ends, or what comes is no report.
func (n *Node) readReports(from peer.ID, s network.Stream, t ReportTaker) error {
	r := bufio.NewReaderSize(s, 4<<10)
	limit := rate.NewLimiter(reportRate, reportBurst)
	for first := true; ; first = false {
		_ = s.SetReadDeadline(time.Now().Add(reportSilence))
		b, err := readMessage(r, maxReport)
		if err != nil {
			return err
		}
		n.metrics.reportBytes.Add(float64(len(b)))
		m, err := parseReport(b)
		if err != nil {
			return err
		}
		if _, ok := n.Neighbour(from); !ok {
			return ErrNotNeighbour
		}
		t.Report(from, first, m)
		if err := limit.Wait(n.ctx); err != nil {
			return err
		}
	}
}

// Reports is a stream of reports to one seeder. It is for one goroutine.
type Reports struct {
	n *Node
	s network.Stream
}

// OpenReports begins to tell a neighbour of this node. A neighbour that takes no
// reports is an error.
func (n *Node) OpenReports(ctx context.Context, to peer.ID) (*Reports, error) {
	ctx, cancel := context.WithTimeout(ctx, reportWrite)
	defer cancel()
	s, err := n.host.NewStream(network.WithNoDial(ctx, "it is a neighbour"), to, reportProtocol)
	if err != nil {
		return nil, fmt.Errorf("p2p: reports to %s: %w", to, err)
	}
	return &Reports{n, s}, nil
}

// Send tells it, and how many bytes that took. After an error the stream is of no
// more use.
func (r *Reports) Send(m Report) (int, error) {
	_ = r.s.SetWriteDeadline(time.Now().Add(reportWrite))
	p := m.pb()
	err := writeShort(r.s, p)
	n := proto.Size(p)
	if err != nil {
		return 0, fmt.Errorf("p2p: report: %w", err)
	}
	r.n.metrics.reportBytes.Add(float64(n))
	return n, nil
}

// Close ends the stream.
func (r *Reports) Close() { _ = r.s.Reset() }

// pb is the wire form.
func (m *Report) pb() *pb.Report {
	p := &pb.Report{Name: m.Name, Used: m.Used, Quota: m.Quota, FromNear: m.FromNear, FromFar: m.FromFar, FromSeeder: m.FromSeeder,
		FromUpstream: m.FromUpstream, ToPeers: m.ToPeers, ToClients: m.ToClients, More: uint32(m.More), Held: m.Held, Gone: m.Gone}
	for _, f := range m.Fetches {
		p.Fetches = append(p.Fetches, &pb.Fetch{Digest: f.Digest.String(), Source: f.Source, Size: f.Size, Have: f.Have,
			FromPeers: f.FromPeers, FromSeeder: f.FromSeeder, FromUpstream: f.FromUpstream,
			Age: uint32(f.Age / time.Second), Readers: uint32(f.Readers), Ended: f.Ended, Error: f.Error})
	}
	return p
}

// parseReport checks every bound.
func parseReport(b []byte) (Report, error) {
	var p pb.Report
	if err := proto.Unmarshal(b, &p); err != nil {
		return Report{}, err
	}
	bad := func(what string) (Report, error) { return Report{}, errors.New("p2p: a report " + what) }
	switch {
	case !reportText(p.Name):
		return bad("with a name that is none")
	case len(p.Fetches) > MaxFetches, len(p.Held) > MaxHeld, len(p.Gone) > MaxHeld:
		return bad("that is too long")
	case !counts(p.Used, p.Quota, p.FromNear, p.FromFar, p.FromSeeder, p.FromUpstream, p.ToPeers, p.ToClients), p.More > maxReportAge:
		return bad("with a number that is none")
	}
	m := Report{Name: p.Name, Used: p.Used, Quota: p.Quota, FromNear: p.FromNear, FromFar: p.FromFar, FromSeeder: p.FromSeeder,
		FromUpstream: p.FromUpstream, ToPeers: p.ToPeers, ToClients: p.ToClients, More: int(p.More), Held: p.Held, Gone: p.Gone}
	for _, f := range p.Fetches {
		d := digest.Digest(f.GetDigest())
		switch {
		case len(d) > maxDigest || d.Validate() != nil:
			return bad("of a blob without a digest")
		case !reportText(f.Error) || len(f.Source) > maxRepository || strings.ContainsFunc(f.Source, unicode.IsControl):
			return bad("with a text that is none")
		case !counts(f.Size, f.Have, f.FromPeers, f.FromSeeder, f.FromUpstream), f.Have > f.Size, f.Age > maxReportAge, f.Readers > maxReportAge:
			return bad("with a number that is none")
		}
		m.Fetches = append(m.Fetches, Fetch{Digest: d, Source: f.Source, Size: f.Size, Have: f.Have,
			FromPeers: f.FromPeers, FromSeeder: f.FromSeeder, FromUpstream: f.FromUpstream,
			Age: time.Duration(f.Age) * time.Second, Readers: int(f.Readers), Ended: f.Ended, Error: f.Error})
	}
	return m, nil
}

func reportText(s string) bool {
	return len(s) <= MaxReportText && !strings.ContainsFunc(s, unicode.IsControl)
}

func counts(list ...int64) bool {
	for _, n := range list {
		if n < 0 || n > maxReportSum {
			return false
		}
	}
	return true
}

// readMessage reads one of several frames of a stream.
func readMessage(r *bufio.Reader, limit uint64) ([]byte, error) {
	size, err := readUvarint(r)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%w: %d bytes announced, at most %d allowed", errFrame, size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(size))) // memory follows the bytes that come
	if err == nil && len(b) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
