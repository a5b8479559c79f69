// Command liar is a peer that claims to hold every blob it is told of and does not
// give it. It is made of pkg/p2p, so all else is right: the network key, the
// protocol, the lengths. -how says what it answers: wrong (random bytes), refuse
// (it does not have it after all), busy, fail (an error of its own), short (half of
// the bytes), stall (half of them, and then silence). It prints a line for each ask:
//
//	asked PEER DIGEST PIECES
//
// For test/scenario and test/clients.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
)

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var blobs, join list
	key := flag.String("key", "liar.key", "file for the identity")
	swarmKey := flag.String("swarm-key", "", "file with the network's key; none = open swarm")
	listen := flag.String("p2p-listen", "/ip4/127.0.0.1/tcp/4001", "multiaddr")
	pieces := flag.String("pieces-listen", "127.0.0.1:4002", "HOST:PORT")
	how := flag.String("how", "wrong", "what to answer: wrong, refuse, busy, fail, short or stall")
	zone := flag.String("zone", "lab", "zone to claim")
	flag.Var(&blobs, "blob", "DIGEST=SIZE to lie about; repeatable")
	flag.Var(&join, "join", "multiaddr with /p2p/ID of a peer to join; repeatable")
	flag.Parse()
	if err := run(*how, *key, *swarmKey, *listen, *pieces, *zone, blobs, join); err != nil {
		fmt.Fprintln(os.Stderr, "liar:", err)
		os.Exit(1)
	}
}

func run(how, keyFile, swarmKeyFile, listen, pieces, zone string, blobs, join []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !slices.Contains([]string{"wrong", "refuse", "busy", "fail", "short", "stall"}, how) {
		return fmt.Errorf("--how %s: is not known", how)
	}
	l := &liar{ctx: ctx, how: how, blobs: map[digest.Digest]piece.Geometry{}, met: map[peer.ID]bool{}}
	for _, b := range blobs {
		d, s, _ := strings.Cut(b, "=")
		size, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("--blob %s: %w", b, err)
		}
		if l.blobs[digest.Digest(d)], err = piece.GeometryOf(size); err != nil {
			return fmt.Errorf("--blob %s: %w", b, err)
		}
	}
	key, err := p2p.LoadOrCreateKey(keyFile)
	if err != nil {
		return err
	}
	addr, err := multiaddr.NewMultiaddr(listen)
	if err != nil {
		return err
	}
	c := p2p.Config{Key: key, Listen: []multiaddr.Multiaddr{addr}, PiecesListen: pieces, Zone: zone, Agent: "liar",
		Handler: l, Pieces: l, Log: zap.NewNop()}
	if swarmKeyFile != "" {
		if c.PSK, err = p2p.LoadSwarmKey(swarmKeyFile); err != nil {
			return err
		}
	}
	for _, j := range join {
		ai, err := peer.AddrInfoFromString(j)
		if err != nil {
			return fmt.Errorf("--join %s: %w", j, err)
		}
		c.Bootstrap = append(c.Bootstrap, *ai)
	}
	if l.node, err = p2p.New(c); err != nil {
		return err
	}
	if err := l.node.Start(ctx); err != nil {
		return err
	}
	fmt.Println("liar", l.node.ID())
	for d := range l.blobs {
		if k, err := piece.BlobCID(d); err == nil {
			_ = l.node.Provide(k)
		}
	}
	l.pester()
	l.wg.Wait()
	return l.node.Close()
}

// liar implements p2p.Handler and p2p.PieceServer.
type liar struct {
	ctx   context.Context
	how   string
	node  *p2p.Node
	blobs map[digest.Digest]piece.Geometry
	wg    sync.WaitGroup

	mu  sync.Mutex
	met map[peer.ID]bool
}

// pester tells every neighbour again and again that we hold everything.
func (l *liar) pester() {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		for _, n := range l.node.Neighbours() {
			for d, g := range l.blobs {
				_ = l.node.Send(n.ID, p2p.Join{Digest: d, Size: g.Size(), Have: full(g), Complete: true, WantPeers: 30})
			}
		}
	}
}

func full(g piece.Geometry) []byte {
	b := piece.NewBitfield(g.Count())
	for i := range g.Count() {
		b.Set(i)
	}
	return b.Bytes()
}

// PeerUp implements p2p.Handler.
func (l *liar) PeerUp(p2p.Neighbour) {}

// PeerDown implements p2p.Handler.
func (l *liar) PeerDown(p peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.met, p)
}

// Message implements p2p.Handler.
func (l *liar) Message(from peer.ID, m p2p.Message) {
	switch m := m.(type) {
	case p2p.Join:
		if g, ok := l.blobs[m.Digest]; ok {
			_ = l.node.Send(from, p2p.State{Digest: m.Digest, Size: g.Size(), Have: full(g), Complete: true})
		}
	case p2p.Peers:
		for _, ai := range m.Peers {
			l.meet(ai)
		}
	}
}

// meet connects to a peer once.
func (l *liar) meet(ai peer.AddrInfo) {
	l.mu.Lock()
	known := l.met[ai.ID]
	l.met[ai.ID] = true
	l.mu.Unlock()
	if known || ai.ID == l.node.ID() {
		return
	}
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		if err := l.node.Connect(ctx, ai); err != nil {
			fmt.Println("not met", ai.ID, err)
		}
	}()
}

// refusal is the answer to an ask in the ways that give nothing.
func (l *liar) refusal() error {
	switch l.how {
	case "refuse":
		return p2p.ErrNotHeld
	case "busy":
		return &p2p.BusyError{After: time.Second}
	case "fail":
		return errors.New("as told")
	}
	return nil
}

// Give implements p2p.PieceServer: lengths are right, bytes are not.
func (l *liar) Give(_ context.Context, from peer.ID, a p2p.Ask) (*p2p.Gift, error) {
	g, ok := l.blobs[a.Digest]
	if !ok {
		return nil, p2p.ErrNotHeld
	}
	want := a.Pieces
	if len(want) == 0 {
		any, err := piece.BitfieldFromBytes(g.Count(), a.Any)
		if err != nil {
			return nil, err
		}
		for i := range any.All() {
			if want = append(want, i); len(want) >= max(1, a.Max) {
				break
			}
		}
	}
	fmt.Println("asked", from, a.Digest, want)
	if err := l.refusal(); err != nil {
		return nil, err
	}
	gift := &p2p.Gift{Pieces: want}
	var total int64
	for _, i := range want {
		gift.Lengths = append(gift.Lengths, g.Len(i))
		total += int64(g.Len(i))
	}
	gift.Body = func(w io.Writer) (int64, error) {
		if l.how == "wrong" {
			return io.Copy(w, io.LimitReader(noise(), total))
		}
		n, err := io.Copy(w, io.LimitReader(noise(), total/2))
		if l.how == "stall" && err == nil {
			<-l.ctx.Done()
		}
		return n, errors.Join(err, errors.New("as told"))
	}
	return gift, nil
}

// Content implements p2p.PieceServer.
func (l *liar) Content(_ context.Context, from peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	fmt.Println("asked", from, d, "whole")
	if err := l.refusal(); err != nil {
		return nil, 0, "", err
	}
	size := int64(500)
	if g, ok := l.blobs[d]; ok {
		size = g.Size()
	}
	if size > 4<<20 {
		return nil, 0, "", p2p.ErrNotHeld
	}
	b, err := io.ReadAll(io.LimitReader(noise(), size))
	if err != nil {
		return nil, 0, "", errors.New("no noise")
	}
	return content{strings.NewReader(string(b))}, size, "application/vnd.oci.image.manifest.v1+json", nil
}

type content struct{ *strings.Reader }

func (content) Close() error { return nil }

func noise() io.Reader {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	return rand.NewChaCha8(seed)
}
