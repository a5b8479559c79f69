package p2p

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
)

const (
	knownFile     = "peers.json"
	knownPeers    = 64
	knownFileSize = 1 << 20
	knownDials    = 8
	knownEvery    = 5 * time.Second // it is written when it changed, for the day of kill -9
)

// knownDoc is the file of known peers: the way back into the swarm for a node
// that restarts while its seeder is gone.
type knownDoc struct {
	Version int         `json:"version"` // 1
	Peers   []knownPeer `json:"peers"`
}

type knownPeer struct {
	ID    string   `json:"id"`
	Addrs []string `json:"addrs"`
}

// knownLoop saves known peers now and then, and dials saved ones while the
// node knows nobody.
func (b *bootstrap) knownLoop(dir string) {
	n := b.n
	path := filepath.Join(dir, knownFile)
	known, err := loadKnown(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("known peers cannot be read; starting without them", zap.String("file", path), zap.Error(err))
	}
	shuffle(n, known)
	save := time.NewTicker(knownEvery)
	defer save.Stop()
	delay := n.cfg.timing.retryMin
	for {
		if n.disc.size() == 0 && len(known) > 0 {
			k := min(knownDials, len(known))
			b.meetAll(known[:k])
			known = append(known[k:], known[:k]...)
			delay = min(2*delay, n.cfg.timing.retryMax)
		} else {
			delay = n.cfg.timing.retryMin
		}
		select {
		case <-n.ctx.Done():
			b.save(path)
			return
		case <-save.C:
			b.save(path)
		case <-time.After(b.jitter(max(delay, time.Second))):
		}
	}
}

func (b *bootstrap) meetAll(ais []peer.AddrInfo) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, ai := range ais {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx, cancel := context.WithTimeout(b.n.ctx, 2*b.n.cfg.timing.dial)
			defer cancel()
			b.meet(ctx, ai, "file")
		}()
	}
}

// save writes neighbours and peers of the routing table, unless there are
// none: an old list is better than an empty one.
func (b *bootstrap) save(path string) {
	n := b.n
	var ids []peer.ID
	for _, nb := range n.Neighbours() {
		ids = append(ids, nb.ID)
	}
	doc := knownDoc{Version: 1}
	seen := make(map[peer.ID]bool)
	for _, p := range append(ids, n.disc.dht.RoutingTable().ListPeers()...) {
		ai := n.AddrInfo(p)
		if seen[p] || len(ai.Addrs) == 0 || len(doc.Peers) == knownPeers {
			continue
		}
		seen[p] = true
		k := knownPeer{ID: p.String()}
		for _, a := range ai.Addrs[:min(len(ai.Addrs), maxPeerAddrs)] {
			k.Addrs = append(k.Addrs, a.String())
		}
		slices.Sort(k.Addrs)
		doc.Peers = append(doc.Peers, k)
	}
	if len(doc.Peers) == 0 {
		return
	}
	slices.SortFunc(doc.Peers, func(a, b knownPeer) int { return strings.Compare(a.ID, b.ID) })
	body, err := json.MarshalIndent(doc, "", " ")
	if err == nil {
		err = writeKnown(path, body)
	}
	if err != nil {
		n.log.Warn("known peers cannot be saved", zap.String("file", path), zap.Error(err))
	}
}

// writeKnown writes body unless that is what is there.
func writeKnown(path string, body []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, body) {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, body, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func loadKnown(path string) ([]peer.AddrInfo, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > knownFileSize {
		return nil, fmt.Errorf("p2p: %s has %d bytes", path, st.Size())
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseKnown(body)
}

func parseKnown(body []byte) ([]peer.AddrInfo, error) {
	var doc knownDoc
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("p2p: known peers: %w", err)
	}
	if doc.Version != 1 {
		return nil, fmt.Errorf("p2p: known peers: version %d, want 1", doc.Version)
	}
	var out []peer.AddrInfo
	for _, k := range doc.Peers[:min(len(doc.Peers), knownPeers)] {
		id, err := peer.Decode(k.ID)
		if err != nil {
			return nil, fmt.Errorf("p2p: known peers: %w", err)
		}
		ai := peer.AddrInfo{ID: id}
		for _, s := range k.Addrs[:min(len(k.Addrs), maxPeerAddrs)] {
			a, err := multiaddr.NewMultiaddr(s)
			if err != nil {
				return nil, fmt.Errorf("p2p: known peers: %w", err)
			}
			ai.Addrs = append(ai.Addrs, a)
		}
		out = append(out, ai)
	}
	return out, nil
}
