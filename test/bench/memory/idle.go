package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/test/bench/proc"
	"github.com/samara-p2p/samara/test/lab"
)

const (
	crowdCommand   = "crowd"
	idleBlob       = 64 * mib
	crowdP2PPort   = 10000 // of the first; the others follow
	crowdPiecePort = 20000
	crowdWithin    = 4 * time.Minute
)

// idle measures a peerd that has pulled an image and is left alone with a swarm.
func (b *bench) idle(ctx context.Context) (u usage, err error) {
	w, err := b.world(ctx, idleBlob, true)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	client := w.peerd.Host.HTTPClient()
	puller := &lab.HTTPPuller{Client: client, Mirror: w.peerd.Mirror, NS: upstreamName}
	if _, err := puller.Pull(ctx, repository, tag); err != nil {
		return u, err
	}
	client.CloseIdleConnections()
	others, err := b.startCrowd(ctx, w)
	if err != nil {
		return u, err
	}
	within, cancel := context.WithTimeout(ctx, crowdWithin)
	defer cancel()
	neighbours := 0
	err = lab.Eventually(within, func() error {
		select {
		case <-others.Done():
			return fmt.Errorf("the crowd has left:\n%s", others.Tail(5))
		default:
		}
		st, err := w.peerd.Status(ctx)
		if err != nil {
			return err
		}
		if neighbours = st.Swarm.Neighbours; neighbours < b.peers-1 {
			return fmt.Errorf("%d of %d neighbours", neighbours, b.peers-1)
		}
		return nil
	})
	if err != nil {
		return u, err
	}
	select {
	case <-time.After(b.settle):
	case <-ctx.Done():
		return u, ctx.Err()
	}
	u.Memory, err = proc.MemoryOf(w.peerd.Pid())
	b.heap(ctx, "idle-peerd", w.peerd.Heap)
	u.note = fmt.Sprintf("%d neighbours, %s after the last came", neighbours, b.settle)
	return u, err
}

// startCrowd starts this program again, as the other peers.
func (b *bench) startCrowd(ctx context.Context, w *world) (*lab.Process, error) {
	h, err := w.lab.NewHost("crowd", 0)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	join := []string{}
	p, err := w.peerd.Status(ctx)
	if err != nil {
		return nil, err
	}
	s, err := w.seeder.Status(ctx)
	if err != nil {
		return nil, err
	}
	join = append(join, p.Addrs[0]+"/p2p/"+p.PeerID, s.Addrs[0]+"/p2p/"+s.PeerID)
	return h.Start(ctx, lab.Command{Name: "crowd", Path: self, Args: []string{crowdCommand,
		"-n", fmt.Sprint(b.peers - 2), "-ip", h.IP, "-swarm-key", w.seeder.SwarmKey, "-dir", h.Dir(),
		"-join", strings.Join(join, ","), "-blob", w.up.layer.String(), "-size", fmt.Sprint(w.up.size)}})
}

// crowd is a process with many peers. Each is a neighbour of those it is told
// to join and takes part in the swarm of the blob, with nothing of it.
func crowd(args []string) error {
	f := flag.NewFlagSet(crowdCommand, flag.ContinueOnError)
	n := f.Int("n", 10, "peers")
	ip := f.String("ip", "127.0.0.1", "address to listen on")
	swarmKey := f.String("swarm-key", "", "file")
	dir := f.String("dir", ".", "for stores")
	join := f.String("join", "", "multiaddrs with /p2p/ID, comma separated")
	blob := f.String("blob", "", "digest")
	size := f.Int64("size", 0, "of the blob")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	psk, err := p2p.LoadSwarmKey(*swarmKey)
	if err != nil {
		return err
	}
	var known []peer.AddrInfo
	for _, a := range strings.Split(*join, ",") {
		ai, err := peer.AddrInfoFromString(a)
		if err != nil {
			return err
		}
		known = append(known, *ai)
	}
	var g errgroup.Group
	g.SetLimit(4) // starting at a time
	for i := range *n {
		g.Go(func() error {
			key, _, err := crypto.GenerateEd25519Key(rand.Reader)
			if err != nil {
				return err
			}
			st, err := store.Open(fmt.Sprintf("%s/store-%d", *dir, i), store.Options{})
			if err != nil {
				return err
			}
			e := fetch.New(fetch.Options{Store: st, Key: key, Trusted: func(p peer.ID) bool { return p == known[1].ID }, Log: zap.NewNop()})
			node, err := p2p.New(p2p.Config{
				Key: key, PSK: psk, Agent: "crowd", Zone: "lab", Bootstrap: known, Handler: e, Pieces: e, Log: zap.NewNop(),
				Listen:       []multiaddr.Multiaddr{multiaddr.StringCast(fmt.Sprintf("/ip4/%s/tcp/%d", *ip, crowdP2PPort+i))},
				PiecesListen: fmt.Sprintf("%s:%d", *ip, crowdPiecePort+i),
			})
			if err != nil {
				return err
			}
			if err := node.Start(ctx); err != nil {
				return err
			}
			e.Start(node)
			for _, ai := range known {
				if err := takePart(ctx, node, ai, p2p.Join{Digest: digest.Digest(*blob), Size: *size, WantPeers: 30}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil // the process ends, and with it everything
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
