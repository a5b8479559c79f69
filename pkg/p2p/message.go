package p2p

import (
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
	"github.com/samara-p2p/samara/pkg/piece"
)

// Message is what neighbours say to each other on the control stream: Join,
// State, Have, Leave, Peers, Runs or Revoke. Slices in a received message
// belong to the receiver; slices in a sent one must not change afterwards.
type Message interface{ isMessage() }

// Join says "I want, or hold, this blob; count me in". A neighbour that holds
// or wants it answers with State (and Runs unless NoRuns, and Peers where
// WantPeers > 0), one that does neither with Leave. Another Join changes what an
// earlier one said.
type Join struct {
	Digest    digest.Digest
	Size      int64  // bytes, 0 = unknown
	Source    string // upstream/repository that has it, "docker.io/library/nginx", or empty
	Have      []byte // piece.Bitfield bytes, nil = none
	Complete  bool   // holds all of it
	WantPeers int    // so many further peers are welcome, at most 256
	NoRuns    bool   // no Runs are wanted: the sender has the final list of piece hashes, or asks others
	CanWait   bool   // the Runs may be left to others, see State.Elsewhere
	Known     int    // piece hashes that the sender knows
	Part      bool   // only pieces that are asked for by number are wanted, not the whole blob
	Near      int    // members of its own zone that the sender has
}

// State answers a Join: what the sender holds of the blob.
type State struct {
	Digest    digest.Digest
	Size      int64 // bytes, 0 = unknown
	Have      []byte
	Complete  bool
	Elsewhere bool // Runs were asked for, but others have to be asked for them
	Known     int  // piece hashes that the sender knows
	Swarm     int  // peers in the swarm, as far as the sender knows
	Doubt     bool // of a seeder: the blob's upstream has sent wrong bytes lately; what comes of it has to prove right first
}

// Have says that further pieces were verified and can be asked for.
type Have struct {
	Digest   digest.Digest
	Pieces   []int
	Complete bool // with it, all of them
	Rare     bool // not sent: few have these pieces, so that it hardly waits for company
}

// Leave says that the sender takes no part in the blob's swarm (any more).
type Leave struct {
	Digest digest.Digest
	Reason string // for a log, at most 256 bytes
}

// Peers names other peers that hold or want the blob.
type Peers struct {
	Digest digest.Digest
	Peers  []peer.AddrInfo // at most 256
}

// Runs passes signed runs of piece hashes on (piece.Open).
type Runs struct {
	Digest    digest.Digest
	Envelopes [][]byte
}

// Revoke passes on that a seeder takes its runs back (piece.OpenRevocation).
type Revoke struct {
	Digest   digest.Digest
	Envelope []byte
}

func (Join) isMessage()   {}
func (State) isMessage()  {}
func (Have) isMessage()   {}
func (Leave) isMessage()  {}
func (Peers) isMessage()  {}
func (Runs) isMessage()   {}
func (Revoke) isMessage() {}

// Bounds of message fields. A frame outside them ends the control stream.
const (
	maxPieces     = piece.MaxBlobSize / piece.MaxSize // of one blob
	maxDigest     = 256                               // bytes
	maxSource     = 1024
	maxReason     = 256
	maxWantPeers  = 256
	maxPeerInfos  = 256
	maxPeerAddrs  = 16
	maxAddrBytes  = 256
	maxHaveBytes  = (maxPieces + 7) / 8
	maxHavePieces = 8192 // in one Have; more are split
	maxSwarm      = 1 << 20
)

// frames turns a message into the frames that carry it: one, or several
// where the contents of Have or Runs outgrow a frame.
func frames(m Message) ([]*pb.Frame, error) {
	switch m := m.(type) {
	case Join:
		return one(&pb.Frame{Body: &pb.Frame_Join{Join: &pb.Join{Digest: string(m.Digest), Size: m.Size, Source: m.Source,
			Have: m.Have, Complete: m.Complete, WantPeers: uint32(min(max(m.WantPeers, 0), maxWantPeers)),
			NoRuns: m.NoRuns, CanWait: m.CanWait, Known: uint32(m.Known), Part: m.Part, Near: uint32(m.Near)}}})
	case State:
		return one(&pb.Frame{Body: &pb.Frame_State{State: &pb.State{Digest: string(m.Digest), Size: m.Size, Have: m.Have, Complete: m.Complete,
			Elsewhere: m.Elsewhere, Known: uint32(m.Known), Swarm: uint32(m.Swarm), Doubt: m.Doubt}}})
	case Have:
		return haveFrames(m), nil
	case Leave:
		r := m.Reason
		if len(r) > maxReason {
			r = r[:maxReason]
		}
		return one(&pb.Frame{Body: &pb.Frame_Leave{Leave: &pb.Leave{Digest: string(m.Digest), Reason: r}}})
	case Peers:
		return one(&pb.Frame{Body: &pb.Frame_Peers{Peers: &pb.Peers{Digest: string(m.Digest), Peers: peerInfosToPB(m.Peers)}}})
	case Runs:
		return runsFrames(m)
	case Revoke:
		return one(&pb.Frame{Body: &pb.Frame_Revoke{Revoke: &pb.Revoke{Digest: string(m.Digest), Envelope: m.Envelope}}})
	}
	return nil, fmt.Errorf("p2p: %T is no message", m)
}

func one(f *pb.Frame) ([]*pb.Frame, error) { return []*pb.Frame{f}, nil }

func haveFrames(m Have) []*pb.Frame {
	var out []*pb.Frame
	for first := true; first || len(m.Pieces) > 0; first = false {
		n := min(len(m.Pieces), maxHavePieces)
		h := &pb.Have{Digest: string(m.Digest), Pieces: make([]uint32, n)}
		for i, p := range m.Pieces[:n] {
			h.Pieces[i] = uint32(p)
		}
		m.Pieces = m.Pieces[n:]
		h.Complete = m.Complete && len(m.Pieces) == 0
		out = append(out, &pb.Frame{Body: &pb.Frame_Have{Have: h}})
	}
	return out
}

func runsFrames(m Runs) ([]*pb.Frame, error) {
	var out []*pb.Frame
	var cur *pb.Runs
	size := 0
	for _, e := range m.Envelopes {
		if len(e) > maxMessage-2*maxDigest {
			return nil, fmt.Errorf("p2p: a signed run of %d bytes does not fit a message of %d", len(e), maxMessage)
		}
		n := protowire.SizeBytes(len(e)) + 1
		if cur == nil || size+n > maxMessage-maxDigest-16 {
			cur = &pb.Runs{Digest: string(m.Digest)}
			size = 0
			out = append(out, &pb.Frame{Body: &pb.Frame_Runs{Runs: cur}})
		}
		cur.Envelopes = append(cur.Envelopes, e)
		size += n
	}
	return out, nil
}

// message checks a frame from a neighbour and turns it into a Message. It
// returns nil, nil for a frame that carries none.
func message(f *pb.Frame) (Message, error) {
	switch b := f.GetBody().(type) {
	case *pb.Frame_Join:
		m := b.Join
		d, err := checkDigest(m.Digest)
		if err == nil {
			err = checkBlob(m.Size, m.Have)
		}
		if err == nil && (len(m.Source) > maxSource || m.WantPeers > maxWantPeers || m.Known > maxPieces || m.Near > maxSwarm) {
			err = fmt.Errorf("source of %d bytes, %d peers wanted, %d hashes and %d members known", len(m.Source), m.WantPeers, m.Known, m.Near)
		}
		return Join{Digest: d, Size: m.Size, Source: m.Source, Have: m.Have, Complete: m.Complete, WantPeers: int(m.WantPeers),
			NoRuns: m.NoRuns, CanWait: m.CanWait, Known: int(m.Known), Part: m.Part, Near: int(m.Near)}, wrapf(err, "join")
	case *pb.Frame_State:
		m := b.State
		d, err := checkDigest(m.Digest)
		if err == nil {
			err = checkBlob(m.Size, m.Have)
		}
		if err == nil && (m.Known > maxPieces || m.Swarm > maxSwarm) {
			err = fmt.Errorf("%d hashes known, %d peers in the swarm", m.Known, m.Swarm)
		}
		return State{Digest: d, Size: m.Size, Have: m.Have, Complete: m.Complete,
			Elsewhere: m.Elsewhere, Known: int(m.Known), Swarm: int(m.Swarm), Doubt: m.Doubt}, wrapf(err, "state")
	case *pb.Frame_Have:
		m := b.Have
		d, err := checkDigest(m.Digest)
		var ps []int
		if err == nil {
			ps, err = checkPieces(m.Pieces, maxHavePieces)
		}
		return Have{Digest: d, Pieces: ps, Complete: m.Complete}, wrapf(err, "have")
	case *pb.Frame_Leave:
		d, err := checkDigest(b.Leave.Digest)
		if err == nil && len(b.Leave.Reason) > maxReason {
			err = fmt.Errorf("reason of %d bytes", len(b.Leave.Reason))
		}
		return Leave{Digest: d, Reason: b.Leave.Reason}, wrapf(err, "leave")
	case *pb.Frame_Peers:
		d, err := checkDigest(b.Peers.Digest)
		var ps []peer.AddrInfo
		if err == nil {
			ps, err = peerInfosFromPB(b.Peers.Peers)
		}
		return Peers{Digest: d, Peers: ps}, wrapf(err, "peers")
	case *pb.Frame_Runs:
		d, err := checkDigest(b.Runs.Digest)
		return Runs{Digest: d, Envelopes: b.Runs.Envelopes}, wrapf(err, "runs")
	case *pb.Frame_Revoke:
		d, err := checkDigest(b.Revoke.Digest)
		return Revoke{Digest: d, Envelope: b.Revoke.Envelope}, wrapf(err, "revoke")
	}
	return nil, nil
}

func wrapf(err error, what string) error {
	if err != nil {
		return fmt.Errorf("p2p: bad %s message: %w", what, err)
	}
	return nil
}

func checkDigest(s string) (digest.Digest, error) {
	if len(s) > maxDigest {
		return "", fmt.Errorf("digest of %d bytes", len(s))
	}
	d := digest.Digest(s)
	return d, d.Validate()
}

// checkBlob checks a size and a bitfield that may go with it.
func checkBlob(size int64, have []byte) error {
	g, err := piece.GeometryOf(size)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return nil
	}
	if size == 0 {
		if len(have) > maxHaveBytes {
			return fmt.Errorf("bitfield of %d bytes", len(have))
		}
		return nil
	}
	_, err = piece.BitfieldFromBytes(g.Count(), have)
	return err
}

func checkPieces(in []uint32, limit int) ([]int, error) {
	if len(in) > limit {
		return nil, fmt.Errorf("%d pieces in one message, more than %d", len(in), limit)
	}
	out := make([]int, len(in))
	for i, p := range in {
		if p >= maxPieces {
			return nil, fmt.Errorf("piece %d is outside any blob", p)
		}
		out[i] = int(p)
	}
	return out, nil
}

func peerInfosToPB(in []peer.AddrInfo) []*pb.PeerInfo {
	var out []*pb.PeerInfo
	for _, ai := range in[:min(len(in), maxPeerInfos)] {
		p := &pb.PeerInfo{Id: []byte(ai.ID)}
		for _, a := range ai.Addrs {
			if b := a.Bytes(); len(b) <= maxAddrBytes && len(p.Addrs) < maxPeerAddrs {
				p.Addrs = append(p.Addrs, b)
			}
		}
		out = append(out, p)
	}
	return out
}

func peerInfosFromPB(in []*pb.PeerInfo) ([]peer.AddrInfo, error) {
	if len(in) > maxPeerInfos {
		return nil, fmt.Errorf("%d peers in one message, more than %d", len(in), maxPeerInfos)
	}
	out := make([]peer.AddrInfo, 0, len(in))
	for _, p := range in {
		id, err := peer.IDFromBytes(p.GetId())
		if err != nil {
			return nil, fmt.Errorf("peer ID: %w", err)
		}
		if len(p.Addrs) > maxPeerAddrs {
			return nil, fmt.Errorf("%d addresses of one peer, more than %d", len(p.Addrs), maxPeerAddrs)
		}
		ai := peer.AddrInfo{ID: id}
		for _, b := range p.Addrs {
			if len(b) > maxAddrBytes {
				return nil, fmt.Errorf("address of %d bytes", len(b))
			}
			a, err := multiaddr.NewMultiaddrBytes(b)
			if err != nil {
				return nil, fmt.Errorf("address of %s: %w", id, err)
			}
			ai.Addrs = append(ai.Addrs, a)
		}
		out = append(out, ai)
	}
	return out, nil
}
