package p2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

const (
	controlProtocol = protocol.ID("/samara/swarm/1.0.0")
	connTag         = "samara-neighbour"

	// A neighbour that says more is read no faster. 20 blobs at 60 Haves a
	// second are 1,200.
	messageRate  = 4000 // a second
	messageBurst = 8000

	readBuffer = 16 << 10
)

// Handler takes what neighbours say. All calls about one neighbour come from
// one goroutine, in order: PeerUp, then Messages, then PeerDown; they must not
// block for long, since the neighbour's messages wait meanwhile.
type Handler interface {
	PeerUp(Neighbour)
	PeerDown(peer.ID)
	Message(from peer.ID, m Message)
}

// attempt is an outbound stream whose Hello we have sent and whose answer we
// wait for.
type attempt struct {
	stream network.Stream
	lost   bool // the neighbour's own stream won
}

// call is one Connect under way, shared by all who want the same peer.
type call struct {
	done chan struct{}
	err  error
}

// Connect makes the peer a neighbour: it dials, opens the control stream and
// exchanges Hellos. It is a no-op for a neighbour. Errors: ErrClosed,
// ErrBanned, *NetworkKeyError, otherwise what libp2p says. An attempt goes on
// after ctx ends, within its own deadlines.
func (n *Node) Connect(ctx context.Context, ai peer.AddrInfo) error {
	if ai.ID == n.id {
		return errors.New("p2p: connect: that is this node itself")
	}
	n.mu.Lock()
	if !n.running {
		n.mu.Unlock()
		return ErrClosed
	}
	if n.liveLocked(ai.ID) != nil {
		n.mu.Unlock()
		return nil
	}
	c := n.calls[ai.ID]
	if c == nil {
		c = &call{done: make(chan struct{})}
		n.calls[ai.ID] = c
		n.wg.Add(1)
		go func() {
			defer n.wg.Done()
			c.err = n.dial(ai)
			n.mu.Lock()
			delete(n.calls, ai.ID)
			n.mu.Unlock()
			close(c.done)
		}()
	}
	n.mu.Unlock()
	select {
	case <-c.done:
		if c.err != nil {
			return fmt.Errorf("p2p: connect to %s: %w", ai.ID, c.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("p2p: connect to %s: %w", ai.ID, context.Cause(ctx))
	}
}

func (n *Node) dial(ai peer.AddrInfo) error {
	if err := n.gate.check(ai.ID); err != nil {
		return err
	}
	if err := n.link(n.ctx, ai); err != nil {
		n.metrics.dialFailures.Inc()
		return err
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.timing.hello)
	defer cancel()
	s, err := n.host.NewStream(network.WithNoDial(ctx, "link is up"), ai.ID, controlProtocol)
	if err != nil {
		if n.host.Network().Connectedness(ai.ID) != network.Connected {
			err = n.explainDial(err, ai.ID)
		}
		n.metrics.dialFailures.Inc()
		return err
	}

	n.mu.Lock()
	if n.liveLocked(ai.ID) != nil || !n.running {
		n.mu.Unlock()
		_ = s.Reset()
		return nil
	}
	if len(n.sessions) >= n.cfg.MaxNeighbours {
		n.mu.Unlock()
		_ = s.Reset()
		return ErrTooManyNeighbours
	}
	at := &attempt{stream: s}
	n.attempts[ai.ID] = at
	up := n.upSignal(ai.ID)
	h := n.helloLocked()
	n.mu.Unlock()

	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	stop := context.AfterFunc(n.ctx, func() { _ = s.Reset() })
	defer stop()
	start := time.Now()
	err = writeFrame(s, &pb.Frame{Body: &pb.Frame_Hello{Hello: h}})
	r := bufio.NewReaderSize(s, readBuffer)
	var theirs *pb.Hello
	if err == nil {
		theirs, err = readHello(r)
	}
	rtt := time.Since(start)

	n.mu.Lock()
	delete(n.attempts, ai.ID)
	if n.liveLocked(ai.ID) != nil || at.lost {
		n.mu.Unlock()
		_ = s.Reset()
		return nil
	}
	if err == nil {
		ss := n.newSession(ai.ID, s, r, true, theirs)
		ss.measured(rtt)
		err = n.registerLocked(ss, nil)
		n.mu.Unlock()
		if err != nil {
			_ = s.Reset()
		}
		return err
	}
	n.mu.Unlock()
	_ = s.Reset()

	// The neighbour refuses a stream that crosses its own; then its own is
	// about to arrive.
	select {
	case <-up:
		return nil
	case <-ctx.Done():
	}
	n.mu.Lock()
	delete(n.up, ai.ID)
	n.mu.Unlock()
	n.metrics.dialFailures.Inc()
	return fmt.Errorf("hello: %w", err)
}

// accept is the stream handler of the control protocol.
func (n *Node) accept(s network.Stream) {
	if !n.begin() {
		_ = s.Reset()
		return
	}
	defer n.wg.Done()
	stop := context.AfterFunc(n.ctx, func() { _ = s.Reset() })
	defer stop()
	p := s.Conn().RemotePeer()
	_ = s.SetDeadline(time.Now().Add(n.cfg.timing.hello))
	r := bufio.NewReaderSize(s, readBuffer)
	theirs, err := readHello(r)
	if err == nil {
		err = n.gate.check(p)
	}
	if err != nil {
		n.log.Debug("control stream refused", zap.Stringer("peer", p), zap.Error(err))
		_ = s.Reset()
		return
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.liveLocked(p)
	if old != nil && string(old.hello.Instance) == string(theirs.Instance) && theirs.Epoch < old.hello.Epoch {
		_ = s.Reset() // sent before the Hello of the session we have
		return
	}
	if at := n.attempts[p]; at != nil {
		if n.id < p {
			_ = s.Reset() // the streams crossed: the one from the lower ID stays
			return
		}
		at.lost = true
		_ = at.stream.Reset()
	}
	if old == nil && len(n.sessions) >= n.cfg.MaxNeighbours {
		n.metrics.refused.Inc()
		_ = s.Reset()
		return
	}
	ss := n.newSession(p, s, r, false, theirs)
	if old != nil {
		old.close(errors.New("replaced: the neighbour opened a new stream"), false)
	}
	if err := n.registerLocked(ss, n.helloLocked()); err != nil {
		_ = s.Reset()
	}
}

// registerLocked makes ss the session with its peer and starts it. n.mu is held.
func (n *Node) registerLocked(ss *session, reply *pb.Hello) error {
	if !n.running {
		return ErrClosed
	}
	_ = ss.stream.SetDeadline(time.Time{})
	ss.prev = n.sessions[ss.peer] // ending; its PeerDown comes before our PeerUp
	n.sessions[ss.peer] = ss
	n.crowd.Store(int32(len(n.sessions)))
	n.gate.seen(ss.peer, ss.plane)
	n.metrics.neighbours.Set(float64(len(n.sessions)))
	if ch := n.up[ss.peer]; ch != nil {
		close(ch)
		delete(n.up, ss.peer)
	}
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		ss.run(reply)
	}()
	return nil
}

// upSignal returns a channel that is closed when p becomes a neighbour. n.mu is held.
func (n *Node) upSignal(p peer.ID) <-chan struct{} {
	ch := n.up[p]
	if ch == nil {
		ch = make(chan struct{})
		n.up[p] = ch
	}
	return ch
}

// liveLocked returns the session with p unless it is ending. n.mu is held.
func (n *Node) liveLocked(p peer.ID) *session {
	ss := n.sessions[p]
	if ss == nil || ss.ended() {
		return nil
	}
	return ss
}

// forget removes an ended session, unless another has taken its place.
func (n *Node) forget(ss *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sessions[ss.peer] == ss {
		delete(n.sessions, ss.peer)
		n.crowd.Store(int32(len(n.sessions)))
	}
	n.gate.seen(ss.peer, ss.plane)
	n.metrics.neighbours.Set(float64(len(n.sessions)))
	select {
	case n.lost <- struct{}{}: // bootstrap looks whether it was one of its own
	default:
	}
}

// flushEvery is the least time between two writes of nothing but Haves: a
// millisecond for each neighbour. Announcing a piece costs about 90 bytes and
// 20 microseconds for each of them and each write, so with 60 neighbours, 256
// KiB pieces and 100 Mbit/s, writing at once would cost 4% of the link; and the
// more neighbours, the less it matters that one of them learns 50 ms later. While
// few pieces wait it is patientHaves times as long.
func (n *Node) flushEvery() time.Duration {
	t := n.cfg.timing
	return min(max(time.Duration(n.crowd.Load())*time.Millisecond, t.flush), t.flushMax)
}

// helloLocked makes the next Hello of this instance. n.mu is held.
func (n *Node) helloLocked() *pb.Hello {
	n.epoch++
	h := &pb.Hello{
		Instance: n.instance[:], Epoch: n.epoch, Agent: n.cfg.Agent, Zone: n.cfg.Zone, Seeder: n.cfg.Seeder,
		PiecesPlain: n.cfg.TrustedNetwork,
	}
	h.PiecesHost, h.PiecesPort = n.data.advertised()
	return h
}

func writeFrame(w io.Writer, f *pb.Frame) error {
	b, err := appendFrame(nil, f)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// readHello reads the first frame of a stream, which must be a Hello.
func readHello(r *bufio.Reader) (*pb.Hello, error) {
	var scratch []byte
	f, _, err := readFrame(r, &scratch)
	if err != nil {
		return nil, err
	}
	h := f.GetHello()
	if h == nil {
		return nil, fmt.Errorf("%w: no hello", errFrame)
	}
	if len(h.Instance) == 0 || len(h.Instance) > 32 || len(h.Agent) > 256 || len(h.Zone) > 256 || len(h.PiecesHost) > 256 ||
		h.PiecesPort > 65535 {
		return nil, fmt.Errorf("%w: hello with a field out of bounds", errFrame)
	}
	return h, nil
}
