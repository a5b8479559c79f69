package scheduler

import (
	"time"

	"github.com/samara-p2p/samara/pkg/piece"
)

// Blob is the caller's dense handle for a blob: 0, 1, 2, ... never reused
// within one Giver.
type Blob int32

// AskID numbers the asks that a Giver gets; chosen by the caller, never reused.
type AskID int64

// GiverEvent is what happened, told to Giver.Step.
type GiverEvent interface{ isGiverEvent() }

// GiverAction is what the caller must do now, in the order returned.
type GiverAction interface{ isGiverAction() }

// The events of a Giver. Tick is one too.
type (
	// BlobUp: this host gives pieces of the blob from now on.
	BlobUp struct {
		Blob     Blob
		Geometry piece.Geometry
		Have     *piece.Bitfield // nil = none. Not kept.
		// Superseed: this host is a seeder; a second copy of a piece is given
		// only to a peer that nobody else can feed.
		Superseed bool
		// Growing: more pieces will come (BlobGrew). A superseeding host parks
		// asks for them; an ordinary one answers NotHeld.
		Growing bool
	}
	// BlobGrew: this piece may be given now.
	BlobGrew struct {
		Blob  Blob
		Piece int
	}
	// BlobShrank: these pieces are held no more.
	BlobShrank struct {
		Blob   Blob
		Pieces []int
	}
	// BlobDone: no more pieces are to come; what is not held stays not held.
	BlobDone struct{ Blob Blob }
	// BlobDown: this host gives nothing of the blob any more.
	BlobDown struct{ Blob Blob }
	// PeerHas: a neighbour announced these pieces: Pieces are added to what is
	// known; a Bitfield that is not nil replaces it. Wanted for superseeding;
	// elsewhere it only makes Busy.Try better.
	PeerHas struct {
		Blob     Blob
		Peer     Peer
		Pieces   []int
		Bitfield *piece.Bitfield
	}
	// PeerGone: a neighbour went away: its copies count no more, its waiting
	// asks are dropped without an answer. Those being sent end by Sent.
	PeerGone struct{ Peer Peer }
	// Ask: a peer asks for pieces, as in RequestPieces.
	Ask struct {
		ID     AskID
		Blob   Blob
		Peer   Peer
		Pieces []int
		Any    *piece.Bitfield
		Max    int
		Urgent bool
	}
	// AskGone: the asker gave up before it got an answer. Harmless at any time.
	AskGone struct{ ID AskID }
	// Sent: what a Give told to send has been sent, or failed to be.
	Sent struct {
		ID AskID
		OK bool
	}
)

func (BlobUp) isGiverEvent()     {}
func (BlobGrew) isGiverEvent()   {}
func (BlobShrank) isGiverEvent() {}
func (BlobDone) isGiverEvent()   {}
func (BlobDown) isGiverEvent()   {}
func (PeerHas) isGiverEvent()    {}
func (PeerGone) isGiverEvent()   {}
func (Ask) isGiverEvent()        {}
func (AskGone) isGiverEvent()    {}
func (Sent) isGiverEvent()       {}
func (Tick) isGiverEvent()       {}

// The actions of a Giver. WakeAt is one too. Every Ask is answered by exactly
// one of Give, Busy and NotHeld, unless AskGone or PeerGone comes first.
type (
	// Give: send these pieces, in this order, then tell by Sent.
	Give struct {
		ID     AskID
		Pieces []int
	}
	// Busy: refuse for now. Try are peers that hold, or are just being sent,
	// what was asked for.
	Busy struct {
		ID    AskID
		After time.Duration
		Try   []Peer
	}
	// NotHeld: none of what was asked is held, nor will be soon.
	NotHeld struct{ ID AskID }
)

func (Give) isGiverAction()    {}
func (Busy) isGiverAction()    {}
func (NotHeld) isGiverAction() {}
func (WakeAt) isGiverAction()  {}
