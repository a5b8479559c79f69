package p2p

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// prewarmProtocol is how a seeder tells a host what to fetch ahead, and hears how
// far it is. Who sends orders is who the connection's handshake proved.
const prewarmProtocol protocol.ID = "/samara/prewarm/1.0.0"

const (
	// MaxOrderImages is how many images one order may name.
	MaxOrderImages = 1000

	maxOrders      = 64 // in one exchange
	maxOrderBytes  = 1 << 20
	maxStateBytes  = 64 << 10
	maxOrderID     = 64
	maxPlatforms   = 16
	maxPlatform    = 64
	maxTag         = 128
	maxOrderError  = 300
	maxOrderLeft   = 366 * 24 * time.Hour
	maxOrderTaking = 4 // exchanges at once; others are told nothing
	prewarmTime    = 5 * time.Second
)

// Phase is how far a host is with an order.
type Phase uint8

// The phases of an order. A host that failed tries again until the deadline.
const (
	OrderUnknown = Phase(pb.OrderPhase_ORDER_UNKNOWN)
	OrderQueued  = Phase(pb.OrderPhase_ORDER_QUEUED)
	OrderRunning = Phase(pb.OrderPhase_ORDER_RUNNING)
	OrderDone    = Phase(pb.OrderPhase_ORDER_DONE)
	OrderFailed  = Phase(pb.OrderPhase_ORDER_FAILED)
	OrderRefused = Phase(pb.OrderPhase_ORDER_REFUSED)
)

// Order tells a host what to fetch ahead. Its times are told as spans, so that
// the clocks of the two need not agree.
type Order struct {
	ID        string
	Images    []OrderedImage // none: the host has it, and tells how far it is
	Platforms []string       // none: the host's own
	Rate      int64          // bytes per second; 0: no limit
	Left      time.Duration  // until the deadline
	Cancel    bool
}

// OrderedImage is one image of an order.
type OrderedImage struct {
	Repository string        // "docker.io/library/nginx"
	Tag        string        // may be empty
	Digest     digest.Digest // of the manifest
	Age        time.Duration // since the tag meant it
}

// OrderState is how far a host is with an order.
type OrderState struct {
	ID                 string
	Phase              Phase
	Images, ImagesDone int
	Bytes, BytesTotal  int64
	Error              string
}

// TakeOrders has the node take orders of those that f is told of. f answers each,
// or none where it takes none of this peer. It is called concurrently, and must
// not block. Without it the node does not speak that protocol. Call it before
// Start.
func (n *Node) TakeOrders(f func(from peer.ID, orders []Order) ([]OrderState, error)) {
	n.answer(prewarmProtocol, maxOrderTaking, func(s network.Stream) {
		if err := n.takeOrders(s, f); err != nil {
			n.log.Warn("orders were not taken", zap.Stringer("peer", s.Conn().RemotePeer()), zap.Error(err))
			_ = s.Reset()
		}
	})
}

func (n *Node) takeOrders(s network.Stream, f func(peer.ID, []Order) ([]OrderState, error)) error {
	from := s.Conn().RemotePeer()
	if err := n.gate.check(from); err != nil {
		return err
	}
	_ = s.SetDeadline(time.Now().Add(prewarmTime))
	b, err := readShort(s, maxOrderBytes)
	if err != nil {
		return err
	}
	orders, err := parseOrders(b)
	if err != nil {
		return err
	}
	states, err := f(from, orders)
	if err != nil {
		return err
	}
	m := &pb.OrderStates{}
	for _, st := range states {
		m.States = append(m.States, &pb.OrderState{Id: st.ID, Phase: pb.OrderPhase(st.Phase), Images: uint32(st.Images), ImagesDone: uint32(st.ImagesDone),
			Bytes: uint64(st.Bytes), BytesTotal: uint64(st.BytesTotal), Error: strings.ToValidUTF8(st.Error[:min(len(st.Error), maxOrderError)], "")})
	}
	if err := writeShort(s, m); err != nil {
		return err
	}
	return s.Close()
}

// Prewarm sends a neighbour orders and returns how far it is with each, in their
// order. ErrNotNeighbour where it is none; a peer that does not speak the
// protocol is ErrNoOrders.
func (n *Node) Prewarm(ctx context.Context, to peer.ID, orders []Order) ([]OrderState, error) {
	states, err := n.prewarm(ctx, to, orders)
	if err != nil {
		return nil, fmt.Errorf("p2p: orders to %s: %w", to, err)
	}
	return states, nil
}

// ErrNoOrders says that a peer takes no orders.
var ErrNoOrders = errors.New("it takes no orders")

func (n *Node) prewarm(ctx context.Context, to peer.ID, orders []Order) ([]OrderState, error) {
	m := &pb.Orders{}
	for _, o := range orders {
		w := &pb.Order{Id: o.ID, Platforms: o.Platforms, Rate: uint64(o.Rate), Left: uint64(max(o.Left, 0) / time.Second), Cancel: o.Cancel}
		for _, i := range o.Images {
			w.Images = append(w.Images, &pb.OrderedImage{Repository: i.Repository, Tag: i.Tag, Digest: i.Digest.String(), Age: uint64(max(i.Age, 0) / time.Second)})
		}
		m.Orders = append(m.Orders, w)
	}
	if proto.Size(m) > maxOrderBytes {
		return nil, fmt.Errorf("they have more than %d bytes", maxOrderBytes)
	}
	if !n.begin() {
		return nil, ErrClosed
	}
	defer n.wg.Done()
	if n.host.Network().Connectedness(to) != network.Connected {
		return nil, ErrNotNeighbour
	}
	ctx, cancel := context.WithTimeout(ctx, prewarmTime)
	defer cancel()
	closing := context.AfterFunc(n.ctx, cancel)
	defer closing()
	s, err := n.host.NewStream(network.WithNoDial(ctx, "link is up"), to, prewarmProtocol)
	if err != nil {
		if known, perr := n.host.Peerstore().SupportsProtocols(to, prewarmProtocol); perr == nil && len(known) == 0 {
			return nil, fmt.Errorf("%w: %w", ErrNoOrders, err)
		}
		return nil, err
	}
	defer func() { _ = s.Reset() }() // what is left of it
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(prewarmTime))
	if err := writeShort(s, m); err != nil {
		return nil, err
	}
	b, err := readShort(s, maxStateBytes)
	if err != nil {
		return nil, err
	}
	return parseStates(b, orders)
}

// parseOrders checks what a seeder sent.
func parseOrders(b []byte) ([]Order, error) {
	var m pb.Orders
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if len(m.Orders) == 0 || len(m.Orders) > maxOrders {
		return nil, fmt.Errorf("p2p: %d orders at once", len(m.Orders))
	}
	orders := make([]Order, len(m.Orders))
	for i, w := range m.Orders {
		o := Order{ID: w.Id, Platforms: w.Platforms, Rate: int64(w.Rate), Left: time.Duration(w.Left) * time.Second, Cancel: w.Cancel}
		switch {
		case o.ID == "" || len(o.ID) > maxOrderID:
			return nil, fmt.Errorf("p2p: an order without a name, or one of %d bytes", len(o.ID))
		case w.Rate > 1<<50 || w.Left > uint64(maxOrderLeft/time.Second):
			return nil, fmt.Errorf("p2p: order %.64q: rate %d, left %d", o.ID, w.Rate, w.Left)
		case len(w.Images) > MaxOrderImages || len(w.Platforms) > maxPlatforms:
			return nil, fmt.Errorf("p2p: order %.64q: %d images for %d platforms", o.ID, len(w.Images), len(w.Platforms))
		}
		for _, p := range w.Platforms {
			if len(p) > maxPlatform {
				return nil, fmt.Errorf("p2p: order %.64q: a platform of %d bytes", o.ID, len(p))
			}
		}
		for _, im := range w.Images {
			x := OrderedImage{Repository: im.Repository, Tag: im.Tag, Digest: digest.Digest(im.Digest), Age: time.Duration(im.Age) * time.Second}
			if x.Repository == "" || len(x.Repository) > maxRepository || len(x.Tag) > maxTag || len(im.Digest) > maxDigest || x.Digest.Validate() != nil ||
				im.Age > uint64(maxOrderLeft/time.Second) {
				return nil, fmt.Errorf("p2p: order %.64q: %.80q is no image", o.ID, im.Digest)
			}
			o.Images = append(o.Images, x)
		}
		orders[i] = o
	}
	return orders, nil
}

// parseStates checks an answer to orders.
func parseStates(b []byte, orders []Order) ([]OrderState, error) {
	var m pb.OrderStates
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if len(m.States) != len(orders) {
		return nil, fmt.Errorf("p2p: %d states of %d orders", len(m.States), len(orders))
	}
	states := make([]OrderState, len(orders))
	for i, w := range m.States {
		const most = 1 << 50
		if w.Id != orders[i].ID || len(w.Error) > maxOrderError || w.Images > MaxOrderImages || w.ImagesDone > w.Images || w.Bytes > most || w.BytesTotal > most ||
			Phase(w.Phase) > OrderRefused || w.Phase < 0 {
			return nil, fmt.Errorf("p2p: a state of order %.64q that cannot be", w.Id)
		}
		states[i] = OrderState{ID: w.Id, Phase: Phase(w.Phase), Images: int(w.Images), ImagesDone: int(w.ImagesDone), Bytes: int64(w.Bytes), BytesTotal: int64(w.BytesTotal), Error: w.Error}
	}
	return states, nil
}
