package scheduler

import (
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// Peer is the caller's dense handle for a peer: 1, 2, 3, ... Within one
// Download it is never given to another peer. A Giver forgets a peer at
// PeerGone, so there its handle may then be another's. Handles above MaxPeer
// are ignored.
type Peer int32

// Upstream is the registry the blob comes from, where it appears as a source.
const Upstream Peer = 0

// MaxPeer is the highest handle that is accepted.
const MaxPeer Peer = 1 << 20

// Request numbers what a Download asked for, from 1 on, in the order asked.
type Request int64

// Event is what happened, told to Download.Step.
type Event interface{ isEvent() }

// Action is what the caller must do now, in the order returned.
type Action interface{ isAction() }

// Result says how a request ended.
type Result uint8

const (
	// ResultOK: the giver sent all it had promised. Each piece was told by a
	// PieceOK or PieceBad before.
	ResultOK Result = iota
	// ResultBusy: try again after Done.After. The peer is alive and well.
	ResultBusy
	// ResultNotHeld: the peer has none of what was asked.
	ResultNotHeld
	// ResultFailed: anything else, a cut connection or a timeout.
	ResultFailed
)

func (r Result) String() string {
	switch r {
	case ResultOK:
		return "ok"
	case ResultBusy:
		return "busy"
	case ResultNotHeld:
		return "not-held"
	default:
		return "failed"
	}
}

// The events of a Download.
type (
	// PeerUp introduces a peer, or tells anew about one that is up: every
	// field replaces what was known. The Download keeps no reference to Have.
	PeerUp struct {
		Peer Peer
		// Seeder: has, or will soon have, every piece, and picks itself which
		// to give. It is asked with RequestPieces.Any.
		Seeder   bool
		SameZone bool
		RTT      time.Duration   // 0 = unknown, taken as near
		Have     *piece.Bitfield // nil = none
		// Complete: it holds everything, though Have may name less of it so far
		// (what can be verified). A seeder need not say so.
		Complete bool
		// Key is a number of this peer that every host of the swarm agrees on
		// (say, 8 bytes of a hash of its peer ID); 0 = unknown. See Config.Key.
		Key uint64
	}
	// PeerDown: the peer is gone; its requests are taken as failed, no Done is
	// needed for them. It may come back by PeerUp with the same handle.
	PeerDown struct{ Peer Peer }
	// Have: the peer announced these pieces.
	Have struct {
		Peer   Peer
		Pieces []int
	}
	// Granted: the giver of an Any request named the pieces it is going to
	// send. Optional; it spares duplicates.
	Granted struct {
		Request Request
		Pieces  []int
	}
	// Progress: Bytes of the request's pieces arrived so far, in all. The
	// caller sends it about every second for a request that moves, so that a
	// slow transfer is not taken for a stalled one.
	Progress struct {
		Request Request
		Bytes   int64
	}
	// PieceOK: the piece was verified (or came from the upstream itself) and
	// is held now. It comes before the request's Done.
	PieceOK struct {
		Request Request
		Peer    Peer
		Piece   int
		Bytes   int
	}
	// PieceBad: the peer sent wrong bytes. It is never asked again.
	PieceBad struct {
		Request Request
		Peer    Peer
		Piece   int
	}
	// Done: the request ended. Pieces of it that no PieceOK told of are open
	// again. Peers that a busy one named are introduced by PeerUp.
	Done struct {
		Request Request
		Result  Result
		After   time.Duration // with ResultBusy: ask that peer again after
	}
	// Want: the local reader ID waits for the pieces [First, End), First the
	// most. A later Want of the same ID replaces it.
	Want struct{ ID, First, End int }
	// Need: with Config.Lazy, the pieces [First, End) are to be had, whoever
	// waits for them. Once all are needed the download is lazy no more.
	Need struct{ First, End int }
	// Unwant: the reader is gone or has all it wanted.
	Unwant struct{ ID int }
	// Lost: these pieces are held no more (the store found them damaged);
	// they are wanted again.
	Lost struct{ Pieces []int }
	// Allow: with Config.Paced, so many bytes more may be asked for.
	Allow struct{ Bytes int64 }
	// Unpaced: from now on nothing has to be allowed.
	Unpaced struct{}
	// Tick: time passed. Wanted at the time of the last WakeAt; harmless at
	// any other.
	Tick struct{}
)

func (PeerUp) isEvent()   {}
func (PeerDown) isEvent() {}
func (Have) isEvent()     {}
func (Granted) isEvent()  {}
func (Progress) isEvent() {}
func (PieceOK) isEvent()  {}
func (PieceBad) isEvent() {}
func (Done) isEvent()     {}
func (Want) isEvent()     {}
func (Need) isEvent()     {}
func (Unwant) isEvent()   {}
func (Lost) isEvent()     {}
func (Allow) isEvent()    {}
func (Unpaced) isEvent()  {}
func (Tick) isEvent()     {}

// The actions of a Download.
type (
	// RequestPieces: ask Peer for these pieces. Exactly one of Pieces (send
	// exactly these) and Any (send up to Max of these, which is up to you) is
	// set. The caller owns both. It ends by Done, unless Cancel comes first.
	RequestPieces struct {
		Request Request
		Peer    Peer
		Pieces  []int
		Any     *piece.Bitfield
		Max     int
		Urgent  bool // a reader waits for it, or nobody else can feed us
		Hedge   bool // it is also asked elsewhere; the loser is cancelled
	}
	// Cancel: stop this request. It is forgotten: a Done for it may come or
	// not, and pieces that still arrive by it count.
	Cancel struct{ Request Request }
	// Announce: tell the neighbours that this piece is held. May be batched
	// over some milliseconds.
	Announce struct{ Piece int }
	// Fallback: take the pieces [First, End) from the upstream, in order. They
	// come back as PieceOK with Peer Upstream, then a Done.
	Fallback struct {
		Request    Request
		First, End int
		Reason     string
	}
	// Stuck: nothing came from anywhere for Config.GiveUp and nothing more can
	// be tried. Said once; the Download goes on by itself when that changes.
	Stuck struct{ Reason string }
	// Pay: what was allowed is used up. Send an Allow when more may be asked
	// for; said once until then.
	Pay struct{}
	// WakeAt: send a Tick at this time, or soon after. It replaces the WakeAt
	// before it.
	WakeAt struct{ At time.Duration }
)

func (RequestPieces) isAction() {}
func (Cancel) isAction()        {}
func (Announce) isAction()      {}
func (Fallback) isAction()      {}
func (Stuck) isAction()         {}
func (Pay) isAction()           {}
func (WakeAt) isAction()        {}
