package p2p

import (
	"errors"
	"sync"

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
	for _, f := range fs {
		if h := f.GetHave(); h != nil {
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
	select {
	case o.notify <- struct{}{}:
	default:
	}
	return nil
}

// take empties the queue.
func (o *outbox) take() []*pb.Frame {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queue
	o.queue, o.bytes, o.urgent = nil, 0, false
	clear(o.haves)
	return q
}

// hasUrgent tells whether more than Haves wait.
func (o *outbox) hasUrgent() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.urgent
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
