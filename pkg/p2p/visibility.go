package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// visibilityProtocol asks a peer whose something is. It is a stream of the
// libp2p port, where whoever answers has shown the private network key: no hash
// tells whether an answer is true, so a trusted network's plain data plane is no
// way for it.
const visibilityProtocol protocol.ID = "/samara/visibility/1.0.0"

const (
	maxWhose       = 2 << 10 // bytes of a question
	maxVisibility  = 64      // bytes of an answer
	maxRepository  = 1 << 10
	maxVisibleAge  = 366 * 24 * time.Hour
	maxAnswering   = 64 // at once; others are told nothing
	visibilityTime = 2 * time.Second
)

// Visibility is what a peer knows of a repository.
type Visibility struct {
	Public bool          // the upstream gives it to anybody
	Age    time.Duration // since the upstream said so, to the second
	Has    bool          // it is public, and has the digest that was asked for
}

// TellVisibility has the node answer peers that ask whose something is, false
// where it does not know. Without it the node does not speak that protocol. f is
// called concurrently and must not block. Call it before Start.
func (n *Node) TellVisibility(f func(repository string, d digest.Digest) (Visibility, bool)) {
	n.answer(visibilityProtocol, maxAnswering, func(s network.Stream) {
		if err := n.answerVisibility(s, f); err != nil {
			n.log.Debug("a question of visibility was not answered", zap.Stringer("peer", s.Conn().RemotePeer()), zap.Error(err))
			_ = s.Reset()
		}
	})
}

// answer has f handle streams of a protocol of short messages, so many at a time;
// further ones are reset. They end with the node.
func (n *Node) answer(id protocol.ID, most int, f func(network.Stream)) {
	busy := make(chan struct{}, most)
	n.host.SetStreamHandler(id, func(s network.Stream) {
		if !n.begin() {
			_ = s.Reset()
			return
		}
		defer n.wg.Done()
		stop := context.AfterFunc(n.ctx, func() { _ = s.Reset() })
		defer stop()
		select {
		case busy <- struct{}{}:
			defer func() { <-busy }()
			f(s)
		default:
			_ = s.Reset()
		}
	})
}

func (n *Node) answerVisibility(s network.Stream, f func(string, digest.Digest) (Visibility, bool)) error {
	if err := n.gate.check(s.Conn().RemotePeer()); err != nil {
		return err
	}
	_ = s.SetDeadline(time.Now().Add(visibilityTime))
	b, err := readShort(s, maxWhose)
	if err != nil {
		return err
	}
	repository, d, err := parseWhose(b)
	if err != nil {
		return err
	}
	m := &pb.Visibility{}
	if v, ok := f(repository, d); ok {
		m.Known, m.Public, m.Has = true, v.Public, v.Public && v.Has
		m.Age = uint64(max(v.Age, 0) / time.Second)
	}
	if err := writeShort(s, m); err != nil {
		return err
	}
	return s.Close()
}

// Visibility asks a peer what it knows of a repository and, where d is not
// empty, whether the repository has it. ErrNotHeld says that the peer does not
// know; a peer that does not speak the protocol is one of the other errors. Who
// is not connected is dialled.
func (n *Node) Visibility(ctx context.Context, to peer.AddrInfo, repository string, d digest.Digest) (Visibility, error) {
	v, err := n.visibility(ctx, to, repository, d)
	if err != nil {
		return Visibility{}, fmt.Errorf("p2p: visibility of %s from %s: %w", repository, to.ID, err)
	}
	return v, nil
}

func (n *Node) visibility(ctx context.Context, to peer.AddrInfo, repository string, d digest.Digest) (Visibility, error) {
	if err := n.gate.check(to.ID); err != nil {
		return Visibility{}, err
	}
	if !n.begin() {
		return Visibility{}, ErrClosed
	}
	defer n.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.timing.dial+visibilityTime)
	defer cancel()
	closing := context.AfterFunc(n.ctx, cancel)
	defer closing()
	if n.host.Network().Connectedness(to.ID) != network.Connected {
		if err := n.link(ctx, to); err != nil {
			return Visibility{}, err
		}
	}
	s, err := n.host.NewStream(network.WithNoDial(ctx, "link is up"), to.ID, visibilityProtocol)
	if err != nil {
		return Visibility{}, err
	}
	defer func() { _ = s.Reset() }() // what is left of it
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(visibilityTime))
	if err := writeShort(s, &pb.Whose{Repository: repository, Digest: d.String()}); err != nil {
		return Visibility{}, err
	}
	b, err := readShort(s, maxVisibility)
	if err != nil {
		return Visibility{}, err
	}
	return parseVisibility(b)
}

// parseWhose checks a question.
func parseWhose(b []byte) (string, digest.Digest, error) {
	var m pb.Whose
	if err := proto.Unmarshal(b, &m); err != nil {
		return "", "", err
	}
	d := digest.Digest(m.Digest)
	if m.Repository == "" || len(m.Repository) > maxRepository {
		return "", "", errors.New("p2p: a question of visibility names no repository")
	}
	if d != "" && (len(d) > maxDigest || d.Validate() != nil) {
		return "", "", fmt.Errorf("p2p: %.80q is no digest", m.Digest)
	}
	return m.Repository, d, nil
}

// parseVisibility checks an answer.
func parseVisibility(b []byte) (Visibility, error) {
	var m pb.Visibility
	if err := proto.Unmarshal(b, &m); err != nil {
		return Visibility{}, err
	}
	switch {
	case !m.Known:
		return Visibility{}, ErrNotHeld
	case m.Age > uint64(maxVisibleAge/time.Second):
		return Visibility{}, fmt.Errorf("p2p: an answer that is %d s old", m.Age)
	case m.Has && !m.Public:
		return Visibility{}, errors.New("p2p: an answer that contradicts itself")
	}
	return Visibility{Public: m.Public, Age: time.Duration(m.Age) * time.Second, Has: m.Has}, nil
}

// writeShort writes a message in one frame.
func writeShort(w io.Writer, m proto.Message) error {
	b := binary.AppendUvarint(nil, uint64(proto.Size(m)))
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

// readShort reads a frame of at most limit bytes.
func readShort(r io.Reader, limit int) ([]byte, error) {
	br := bufio.NewReaderSize(io.LimitReader(r, int64(limit)+binary.MaxVarintLen32), 128)
	size, err := readUvarint(br)
	if err != nil {
		return nil, err
	}
	if size > uint64(limit) {
		return nil, fmt.Errorf("%w: %d bytes announced, at most %d allowed", errFrame, size, limit)
	}
	b := make([]byte, size)
	_, err = io.ReadFull(br, b)
	return b, short(err)
}
