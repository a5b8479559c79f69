package p2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// Neighbour is a peer with which a control stream is open.
type Neighbour struct {
	ID         peer.ID
	Zone       string
	Seeder     bool
	RTT        time.Duration // smoothed; 0 = not measured yet
	PiecesAddr string        // host:port of its data plane, "" = libp2p streams only
	Since      time.Time
	Agent      string
}

// session is one control stream with one neighbour. Its run goroutine reads
// and calls the handler; a second one writes.
type session struct {
	n        *Node
	peer     peer.ID
	stream   network.Stream
	r        *bufio.Reader // of stream
	outbound bool
	hello    *pb.Hello // the neighbour's
	plane    plane     // where it serves pieces
	since    time.Time
	prev     *session // the one before with this peer: its PeerDown comes first

	out  *outbox
	refs refWriter // of the write goroutine
	rtt  atomic.Int64

	closeOnce sync.Once
	closing   chan struct{} // closed: no more is sent or read
	reason    error         // why; set before closing is closed
	graceful  bool          // what waits is still written; likewise
	done      chan struct{} // closed after PeerDown
}

func (n *Node) newSession(p peer.ID, s network.Stream, r *bufio.Reader, outbound bool, h *pb.Hello) *session {
	ss := &session{
		n: n, peer: p, stream: s, r: r, outbound: outbound, hello: h, since: n.now(),
		out: newOutbox(), closing: make(chan struct{}), done: make(chan struct{}),
	}
	ss.plane = planeOf(s.Conn(), h)
	return ss
}

func (s *session) neighbour() Neighbour {
	return Neighbour{
		ID: s.peer, Zone: s.hello.Zone, Seeder: s.hello.Seeder, RTT: time.Duration(s.rtt.Load()),
		PiecesAddr: s.plane.addr, Since: s.since, Agent: s.hello.Agent,
	}
}

// close ends the session; the first reason counts.
func (s *session) close(reason error, graceful bool) {
	s.closeOnce.Do(func() {
		s.reason, s.graceful = reason, graceful
		s.out.close()
		close(s.closing)
		if !graceful {
			_ = s.stream.Reset()
		}
	})
}

func (s *session) ended() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// run lives as long as the session. reply is our Hello where the neighbour
// opened the stream, nil where it has been exchanged.
func (s *session) run(reply *pb.Hello) {
	defer close(s.done)
	defer s.n.forget(s)
	if reply != nil {
		_ = s.stream.SetWriteDeadline(time.Now().Add(s.n.cfg.timing.hello))
		if err := writeFrame(s.stream, &pb.Frame{Body: &pb.Frame_Hello{Hello: reply}}); err != nil {
			s.close(fmt.Errorf("hello: %w", err), false)
			return
		}
	}
	if s.prev != nil {
		<-s.prev.done
		s.prev = nil
	}

	s.n.host.ConnManager().Protect(s.peer, connTag)
	s.n.log.Info("neighbour up", zap.Stringer("peer", s.peer), zap.String("zone", s.hello.Zone),
		zap.Bool("seeder", s.hello.Seeder), zap.String("pieces", s.plane.addr), zap.Bool("outbound", s.outbound))
	s.n.cfg.Handler.PeerUp(s.neighbour())
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		s.write()
	}()
	err := s.read()
	s.close(err, false)
	<-writer
	_ = s.stream.Reset()
	s.n.host.ConnManager().Unprotect(s.peer, connTag)
	s.n.log.Info("neighbour down", zap.Stringer("peer", s.peer), zap.NamedError("reason", s.reason))
	s.n.cfg.Handler.PeerDown(s.peer)
}

// read hands messages to the handler until the stream ends.
func (s *session) read() error {
	n := s.n
	limit := rate.NewLimiter(messageRate, messageBurst)
	var scratch []byte
	var refs refReader
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(n.ctx, cancel)
	defer stop()
	for {
		_ = s.stream.SetReadDeadline(time.Now().Add(n.cfg.timing.silence))
		f, size, err := readFrame(s.r, &scratch)
		if err != nil {
			return s.explain(err)
		}
		n.metrics.received(f, size)
		if !limit.Allow() {
			// Not reading is the answer to a flood: TCP carries it back.
			n.metrics.throttled.Inc()
			if err := limit.Wait(ctx); err != nil {
				return ErrClosed
			}
		}
		switch b := f.GetBody().(type) {
		case *pb.Frame_Ping:
			if err := s.send(&pb.Frame{Body: &pb.Frame_Pong{Pong: &pb.Pong{Token: b.Ping.Token}}}); err != nil {
				return err
			}
			continue
		case *pb.Frame_Pong:
			s.pong(b.Pong.Token)
			continue
		case *pb.Frame_Hello:
			return fmt.Errorf("%w: a second hello", errFrame)
		case *pb.Frame_Have:
			if err := refs.resolve(b.Have); err != nil {
				return err
			}
		}
		m, err := message(f)
		if err != nil {
			return err
		}
		if s.ended() {
			return s.reason
		}
		if m != nil {
			n.cfg.Handler.Message(s.peer, m)
		}
	}
}

func (s *session) explain(err error) error {
	var ne net.Error
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("closed by the neighbour")
	case errors.As(err, &ne) && ne.Timeout():
		return fmt.Errorf("silent for %s", s.n.cfg.timing.silence)
	}
	return err
}

// send queues a frame; it never blocks. A full queue ends the session.
func (s *session) send(fs ...*pb.Frame) error {
	err := s.out.push(fs...)
	if errors.Is(err, errOverflow) {
		s.close(err, false)
	}
	return err
}

// write writes what is queued, and a ping every so often.
func (s *session) write() {
	t := s.n.cfg.timing
	ping := time.NewTicker(t.ping)
	defer ping.Stop()
	s.ping()
	var last time.Time // of the last write
	var buf []byte
	for {
		select {
		case <-s.closing:
			if s.graceful {
				_ = s.flush(&buf, time.Second)
				s.stream.Close()
			}
			return
		case <-ping.C:
			s.ping()
			continue
		case <-s.out.notify:
		}
		for !s.ended() {
			wait := s.out.hold(t.flush, s.n.flushEvery()) - time.Since(last)
			if wait <= 0 {
				break
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-s.out.notify: // something urgent, or enough
			case <-s.closing:
			}
			timer.Stop()
		}
		last = time.Now()
		if err := s.flush(&buf, t.write); err != nil {
			s.close(fmt.Errorf("write: %w", err), false)
			return
		}
	}
}

// flush writes all that is queued, in writes of about 64 KiB that may take
// limit each.
func (s *session) flush(buf *[]byte, limit time.Duration) error {
	fs := s.out.take()
	b := (*buf)[:0]
	for i, f := range fs {
		if h := f.GetHave(); h != nil {
			s.refs.shorten(h)
		}
		before := len(b)
		var err error
		if b, err = appendFrame(b, f); err != nil {
			return err
		}
		s.n.metrics.sent(f, len(b)-before)
		if len(b) >= 64<<10 || i == len(fs)-1 {
			_ = s.stream.SetWriteDeadline(time.Now().Add(limit))
			if _, err := s.stream.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if cap(b) <= 128<<10 {
		*buf = b
	} else {
		*buf = nil
	}
	return nil
}

// ping sends the time since the session began as a token: its pong tells the
// round trip without any state.
func (s *session) ping() {
	_ = s.send(&pb.Frame{Body: &pb.Frame_Ping{Ping: &pb.Ping{Token: uint64(time.Since(s.since))}}})
}

func (s *session) pong(token uint64) {
	rtt := time.Since(s.since) - time.Duration(token)
	if rtt > 0 && rtt < s.n.cfg.timing.silence {
		s.measured(rtt)
	}
}

// measured smooths the round trip as TCP does (RFC 6298: 1/8 of the new one).
func (s *session) measured(rtt time.Duration) {
	if old := time.Duration(s.rtt.Load()); old > 0 {
		rtt = old + (rtt-old)/8
	}
	s.rtt.Store(int64(rtt))
}

// plane is where and how a neighbour serves pieces.
type plane struct {
	addr  string // host:port, "" = libp2p streams only
	plain bool   // without TLS
}

// planeOf reads it from a Hello and, where that names no host, from the
// address the control connection comes from.
func planeOf(c network.Conn, h *pb.Hello) plane {
	if h.PiecesPort == 0 {
		return plane{}
	}
	host := h.PiecesHost
	if host == "" {
		a, err := manet.ToNetAddr(c.RemoteMultiaddr())
		tcp, ok := a.(*net.TCPAddr)
		if err != nil || !ok {
			return plane{} // relayed
		}
		host = (&net.IPAddr{IP: tcp.IP, Zone: tcp.Zone}).String()
	}
	return plane{addr: net.JoinHostPort(host, strconv.Itoa(int(h.PiecesPort))), plain: h.PiecesPlain}
}
