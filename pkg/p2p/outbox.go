package p2p

import (
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// errOverflow: a neighbour takes messages slower than they are made.
var errOverflow = errors.New("p2p: neighbour too slow: its queue is full")

// outbox is what waits to be written to one neighbour. Haves of one blob that
// wait together leave as one frame: a piece's announcement costs a few bytes,
// however many neighbours there are.
type outbox struct {
	notify chan struct{} // has a token when the writer has something to look at

	mu     sync.Mutex
	queue  []*pb.Frame
	bytes  int
	urgent bool                // something other than a Have waits
	pieces int                 // that the Haves name
	rare   bool                // and some of them are rare
	haves  map[string]*pb.Have // by digest: waiting, and nothing of that blob waits behind it
	closed bool
}

func newOutbox() *outbox {
	return &outbox{notify: make(chan struct{}, 1), haves: make(map[string]*pb.Have)}
}

// push queues frames, all or none. It fails with errOverflow or ErrNotNeighbour.
func (o *outbox) push(fs ...*pb.Frame) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrNotNeighbour
	}
	before, few := len(o.queue), o.pieces < enoughHaves
	for _, f := range fs {
		if h := f.GetHave(); h != nil {
			o.pieces += len(h.Pieces)
			if w := o.haves[h.Digest]; w != nil && len(w.Pieces)+len(h.Pieces) <= maxHavePieces {
				w.Pieces = append(w.Pieces, h.Pieces...)
				w.Complete = w.Complete || h.Complete
				o.bytes += 3 * len(h.Pieces)
				continue
			}
			o.haves[h.Digest] = h
		} else {
			o.urgent = true
			delete(o.haves, digestOf(f))
		}
		o.queue = append(o.queue, f)
		o.bytes += proto.Size(f)
	}
	if len(o.queue) > maxQueueMessages || o.bytes > maxQueueBytes {
		return errOverflow
	}
	// The writer looks again only where that changes when it writes: it would
	// wake for each piece on behalf of each neighbour.
	if before == 0 || o.urgent || few && o.pieces >= enoughHaves {
		select {
		case o.notify <- struct{}{}:
		default:
		}
	}
	return nil
}

// Haves are gathered: what a neighbour reads costs it as much for one piece as for
// many. It waits for enough of them for as long as that is little beside the
// time an upload takes.
const (
	enoughHaves  = 16
	patientHaves = 5 // times the least time between two writes
)

// hold is how long after the last write the next one comes; least is the
// least time between two writes of nothing but Haves, soon that where some of
// their pieces are rare.
func (o *outbox) hold(soon, least time.Duration) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.urgent:
		return 0
	case o.rare:
		return soon
	case o.pieces >= enoughHaves:
		return least
	}
	return patientHaves * least
}

// hasten has the Haves that wait written soon: a piece that few have is what a
// herd's other hosts wait for.
func (o *outbox) hasten() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.rare || len(o.queue) == 0 {
		return
	}
	o.rare = true
	select {
	case o.notify <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (o *outbox) take() []*pb.Frame {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queue
	o.queue, o.bytes, o.pieces, o.urgent, o.rare = nil, 0, 0, false, false
	clear(o.haves)
	return q
}

func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
}

// digestOf names the blob a frame is about, or "".
func digestOf(f *pb.Frame) string {
	switch b := f.GetBody().(type) {
	case *pb.Frame_Join:
		return b.Join.Digest
	case *pb.Frame_State:
		return b.State.Digest
	case *pb.Frame_Leave:
		return b.Leave.Digest
	case *pb.Frame_Peers:
		return b.Peers.Digest
	case *pb.Frame_Runs:
		return b.Runs.Digest
	case *pb.Frame_Revoke:
		return b.Revoke.Digest
	}
	return ""
}
