package main

import (
	"context"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

// giver is a peer that holds the made-up layer: it needs no disk for it.
type giver struct {
	u    *upstream
	g    piece.Geometry
	node *p2p.Node // set before the node starts
}

func newGiver(layer digest.Digest, size int64) (*giver, error) {
	g, err := piece.GeometryOf(size)
	return &giver{u: &upstream{size: size, pattern: pattern(), layer: layer}, g: g}, err
}

// state says that all is here.
func (g *giver) state() p2p.State {
	return p2p.State{Digest: g.u.layer, Size: g.u.size, Have: piece.FullBitfield(g.g.Count()).Bytes(), Complete: true}
}

// join is how it takes part in the swarm.
func (g *giver) join() p2p.Join {
	s := g.state()
	return p2p.Join{Digest: s.Digest, Size: s.Size, Have: s.Have, Complete: true}
}

// PeerUp implements p2p.Handler.
func (g *giver) PeerUp(p2p.Neighbour) {}

// PeerDown implements p2p.Handler.
func (g *giver) PeerDown(peer.ID) {}

// Message implements p2p.Handler.
func (g *giver) Message(from peer.ID, m p2p.Message) {
	if j, ok := m.(p2p.Join); ok && j.Digest == g.u.layer {
		_ = g.node.Send(from, g.state()) // who is gone needs none
	}
}

// Give implements p2p.PieceServer.
func (g *giver) Give(_ context.Context, _ peer.ID, a p2p.Ask) (*p2p.Gift, error) {
	if a.Digest != g.u.layer || len(a.Pieces) == 0 {
		return nil, p2p.ErrNotHeld
	}
	gift := &p2p.Gift{Pieces: a.Pieces}
	for _, i := range a.Pieces {
		if g.g.Len(i) == 0 {
			return nil, p2p.ErrNotHeld
		}
		gift.Lengths = append(gift.Lengths, g.g.Len(i))
	}
	gift.Body = func(w io.Writer) (n int64, err error) {
		buf := make([]byte, 64<<10)
		for k, i := range a.Pieces {
			part := io.LimitReader(&layerReader{u: g.u, off: g.g.Offset(i)}, int64(gift.Lengths[k]))
			sent, err := io.CopyBuffer(struct{ io.Writer }{w}, part, buf)
			if n += sent; err != nil {
				return n, err
			}
		}
		return n, nil
	}
	return gift, nil
}

// Content implements p2p.PieceServer.
func (g *giver) Content(context.Context, peer.ID, digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	return nil, 0, "", p2p.ErrNotHeld
}
