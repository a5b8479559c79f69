package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/test/lab"
)

const (
	crowdCommand   = "crowd"
	crowdP2PPort   = 10000 // of the first; the others follow
	crowdPiecePort = 20000
	crowdSize      = 40 // peers in one process: a limit of 20,000 open files is common
	crowdWithin    = 4 * time.Minute
)

// startCrowds starts this program again, a few times, as n other peers, which
// give the layer or have nothing.
func (b *bench) startCrowds(ctx context.Context, w *world, n int, give bool) (crowds []*lab.Process, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := w.peerd.Status(ctx)
	if err != nil {
		return nil, err
	}
	s, err := w.seeder.Status(ctx)
	if err != nil {
		return nil, err
	}
	join := p.Addrs[0] + "/p2p/" + p.PeerID + "," + s.Addrs[0] + "/p2p/" + s.PeerID
	for left := n; left > 0; left -= crowdSize {
		h, err := w.lab.NewHost(fmt.Sprintf("crowd%d", len(crowds)+1), 0)
		if err != nil {
			return nil, err
		}
		c, err := h.Start(ctx, lab.Command{Name: crowdCommand, Path: self, Args: []string{crowdCommand,
			"-n", fmt.Sprint(min(left, crowdSize)), "-ip", h.IP, "-swarm-key", w.seeder.SwarmKey, "-dir", h.Dir(),
			"-join", join, "-blob", w.up.layer.String(), "-size", fmt.Sprint(w.up.size), fmt.Sprintf("-give=%t", give)}})
		if err != nil {
			return nil, err
		}
		crowds = append(crowds, c)
	}
	return crowds, nil
}

// gathered waits until a peerd has n neighbours.
func gathered(ctx context.Context, p *lab.Peerd, crowds []*lab.Process, n int) error {
	ctx, cancel := context.WithTimeout(ctx, crowdWithin)
	defer cancel()
	return lab.Eventually(ctx, func() error {
		for _, c := range crowds {
			if !c.Running() {
				cancel()
				return fmt.Errorf("%s has left:\n%s", c.Title(), c.Tail(5))
			}
		}
		st, err := p.Status(ctx)
		if err == nil && st.Swarm.Neighbours < n {
			err = fmt.Errorf("%d of %d neighbours", st.Swarm.Neighbours, n)
		}
		return err
	})
}

// crowd is a process with many peers. Each is a neighbour of those it is told
// to join and takes part in the swarm of the blob.
func crowd(args []string) error {
	var m member
	f := flag.NewFlagSet(crowdCommand, flag.ContinueOnError)
	n := f.Int("n", 10, "peers")
	f.StringVar(&m.ip, "ip", "127.0.0.1", "address to listen on")
	swarmKey := f.String("swarm-key", "", "file")
	f.StringVar(&m.dir, "dir", ".", "for stores")
	join := f.String("join", "", "multiaddrs with /p2p/ID, comma separated; the last is a seeder's")
	blob := f.String("blob", "", "digest")
	f.Int64Var(&m.size, "size", 0, "of the blob")
	f.BoolVar(&m.give, "give", false, "hold the blob")
	if err := f.Parse(args); err != nil {
		return err
	}
	m.blob = digest.Digest(*blob)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if m.psk, err = p2p.LoadSwarmKey(*swarmKey); err != nil {
		return err
	}
	for _, a := range strings.Split(*join, ",") {
		ai, err := peer.AddrInfoFromString(a)
		if err != nil {
			return err
		}
		m.known = append(m.known, *ai)
	}
	var g errgroup.Group
	g.SetLimit(2) // starting at a time
	for i := range *n {
		g.Go(func() error { return m.start(ctx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil // the process ends, and with it everything
}

// member is what the peers of a crowd have in common.
type member struct {
	ip, dir string
	psk     pnet.PSK
	known   []peer.AddrInfo
	blob    digest.Digest
	size    int64
	give    bool
}

// start makes the i-th peer of a crowd.
func (m *member) start(ctx context.Context, i int) error {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return err
	}
	c := p2p.Config{
		Key: key, PSK: m.psk, Agent: crowdCommand, Zone: "lab", Bootstrap: m.known, Log: zap.NewNop(),
		Listen:       []multiaddr.Multiaddr{multiaddr.StringCast(fmt.Sprintf("/ip4/%s/tcp/%d", m.ip, crowdP2PPort+i))},
		PiecesListen: fmt.Sprintf("%s:%d", m.ip, crowdPiecePort+i),
	}
	join := p2p.Join{Digest: m.blob, Size: m.size, WantPeers: 30}
	var began func(*p2p.Node)
	if m.give {
		g, err := newGiver(m.blob, m.size)
		if err != nil {
			return err
		}
		c.Handler, c.Pieces, join = g, g, g.join()
		began = func(n *p2p.Node) { g.node = n }
	} else {
		st, err := store.Open(filepath.Join(m.dir, fmt.Sprintf("store-%d", i)), store.Options{})
		if err != nil {
			return err
		}
		e := fetch.New(fetch.Options{Store: st, Key: key, Trusted: func(p peer.ID) bool { return p == m.known[len(m.known)-1].ID }, Log: zap.NewNop()})
		c.Handler, c.Pieces = e, e
		began = func(n *p2p.Node) { e.Start(n) }
	}
	node, err := p2p.New(c)
	if err != nil {
		return err
	}
	began(node)
	if err := node.Start(ctx); err != nil {
		return err
	}
	for _, ai := range m.known {
		if err := takePart(ctx, node, ai, join); err != nil {
			return err
		}
	}
	return nil
}

// takePart makes a node a neighbour of a peer and joins its swarm. A dial may
// take too long while hundreds of nodes start.
func takePart(ctx context.Context, node *p2p.Node, ai peer.AddrInfo, j p2p.Join) (err error) {
	for range 20 {
		if err = node.Connect(ctx, ai); err == nil {
			if err = node.Send(ai.ID, j); err == nil {
				return nil
			}
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}
