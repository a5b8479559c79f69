package fetch

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

// announcements are the digests that this host has the DHT told of.
type announcements struct {
	mu  sync.Mutex
	all map[digest.Digest]cid.Cid
}

func (a *announcements) init() { a.all = make(map[digest.Digest]cid.Cid) }

// retractEvery is how often it is looked at what the store has evicted.
const retractEvery = 5 * time.Minute

// announced tells which content has a DHT record: blobs of SmallBlob or more,
// and manifests, so that an image can be found when no seeder answers.
// Configs and small layers are found with the manifest's holders.
func announced(size int64, mediaType string) bool {
	return size >= SmallBlob || strings.Contains(mediaType, "manifest") || strings.Contains(mediaType, "index")
}

// blobCID is piece.BlobCID.
func blobCID(d digest.Digest) (cid.Cid, error) { return piece.BlobCID(d) }

// announceStore tells the DHT of every complete blob and manifest in the store,
// and of the blobs of which it holds pieces.
func (e *Engine) announceStore() {
	var held []digest.Digest
	for _, in := range e.o.Store.Infos() {
		if in.Complete && announced(in.Size, in.Meta.MediaType) || !in.Complete && in.Have > 0 && in.Size >= SmallBlob {
			held = append(held, in.Digest)
		}
	}
	e.provide(held...)
}

// Share makes content known to the swarm that the store holds whole and the
// engine did not fetch: its pieces are hashed and signed, and the DHT is told.
// It waits for neither.
func (e *Engine) Share(d digest.Digest) {
	in, err := e.o.Store.Stat(d)
	if err != nil || !in.Complete || e.network() == nil {
		return // what the store holds at the start is announced then
	}
	if announced(in.Size, in.Meta.MediaType) {
		e.provide(d)
	}
	if in.Size >= SmallBlob {
		e.serving(d)
	}
}

// provide has the DHT told that this host has these. Only some algorithms have
// a key there.
func (e *Engine) provide(ds ...digest.Digest) {
	var keys []cid.Cid
	e.dht.mu.Lock()
	for _, d := range ds {
		if c, err := blobCID(d); err == nil {
			e.dht.all[d] = c
			keys = append(keys, c)
		}
	}
	e.dht.mu.Unlock()
	if len(keys) == 0 || e.ctx.Err() != nil {
		return
	}
	if err := e.network().Provide(keys...); err != nil {
		e.log.Warn("cannot announce blobs", zap.Int("blobs", len(keys)), zap.Error(err))
	}
}

// provide announces the blob at its first verified piece, and again when it is
// complete: how many others there are decides each time whether that is done.
// In a herd nobody has seen a provider yet, and all would tell the same 20 hosts
// within seconds: the seeder's word on the swarm's size counts then.
func (s *swarm) provide() {
	if s.geom.Size() < SmallBlob {
		return
	}
	if n := max(s.size, len(s.members)); !s.e.o.Seeder && n > p2p.Crowd && s.lot() >= p2p.Crowd/float64(n) {
		return
	}
	s.e.provide(s.digest)
}

// lot is this host's draw for the blob, from 0 to 1: always the same, so that to
// announce twice is no second chance.
func (s *swarm) lot() float64 {
	h := sha256.Sum256([]byte(string(s.e.network().ID()) + s.digest.String()))
	return float64(binary.BigEndian.Uint64(h[:8])) / (1 << 64)
}

// retract takes back, now and then, what the store holds nothing of any more:
// it was evicted, or proved wrong.
func (e *Engine) retract() {
	tick := time.NewTicker(retractEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.retractGone()
		case <-e.ctx.Done():
			return
		}
	}
}

func (e *Engine) retractGone() {
	var gone []cid.Cid
	e.dht.mu.Lock()
	for d, c := range e.dht.all {
		in, err := e.o.Store.Stat(d)
		if errors.Is(err, store.ErrNotFound) || err == nil && !in.Complete && in.Have == 0 {
			gone = append(gone, c)
			delete(e.dht.all, d)
		}
	}
	e.dht.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	if err := e.network().Unprovide(gone...); err != nil {
		e.log.Warn("cannot take back announcements", zap.Int("blobs", len(gone)), zap.Error(err))
	}
}
