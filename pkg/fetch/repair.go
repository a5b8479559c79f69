package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

const (
	repairAsk   = 16 << 20 // bytes that a peer is asked for at once
	repairPeers = 10       // neighbours, and as many providers of the DHT, that are asked
)

// Repair completes a blob that was whole until the store found it damaged: what
// is missing of it is fetched from where the want says that it comes from, else
// from peers, and it waits for that. A small blob that was dropped is fetched
// anew. Errors: ErrUnavailable with what was tried, ErrStopped, ctx's.
func (e *Engine) Repair(ctx context.Context, w Want) error {
	if !e.ready() {
		return ErrStopped
	}
	e.endSettled(w.Digest)
	err := errors.New("no upstream is known for it")
	if w.Source != (Source{}) {
		err = e.repairFromSource(ctx, w)
	}
	if err != nil && ctx.Err() == nil {
		perr := e.repairFromPeers(ctx, w)
		if perr == nil {
			e.Share(w.Digest)
			return nil
		}
		err = fmt.Errorf("%w: %w; %w", ErrUnavailable, err, perr)
	}
	if err != nil {
		return fmt.Errorf("repair %s: %w", w.Digest, err)
	}
	return nil
}

// endSettled ends a swarm that began when the blob was whole: it would go on
// giving what is not there any more, and fetch nothing.
func (e *Engine) endSettled(d digest.Digest) {
	s := e.find(d)
	if s == nil {
		return
	}
	ending := make(chan bool, 1)
	end := func() { s.stop = s.stop || s.settled; ending <- s.stop }
	if !s.postOr(end, func() { ending <- true }) || <-ending {
		<-s.done
	}
}

// repairFromSource fetches as for a client.
func (e *Engine) repairFromSource(ctx context.Context, w Want) error {
	if w.small() {
		content, err := e.Small(ctx, w, SmallBlob)
		if err != nil {
			return err
		}
		return e.complete(w.Digest, content)
	}
	r, _, err := e.Open(ctx, ctx, w)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := r.Seek(w.Size-1, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil { // the last byte comes when the whole is right
		return err
	}
	return e.commit(w.Digest)
}

// complete puts small content where a damaged blob is; one that was dropped is
// stored by whoever fetched it.
func (e *Engine) complete(d digest.Digest, content []byte) error {
	if in, err := e.o.Store.Stat(d); err != nil || in.Complete {
		return nil
	}
	return e.o.Store.Put(d, content, store.Meta{})
}

// commit waits for the blob's commit, or does it.
func (e *Engine) commit(d digest.Digest) error {
	b, err := e.o.Store.Blob(d)
	if err != nil {
		return err
	}
	defer b.Release()
	return b.Commit(true)
}

// repairFromPeers asks neighbours and providers for what is missing, one after
// the other.
func (e *Engine) repairFromPeers(ctx context.Context, w Want) error {
	if w.Size <= maxContent {
		content, _, err := e.FromPeers(ctx, w.Digest, maxContent)
		if err != nil {
			return err
		}
		return e.complete(w.Digest, content)
	}
	b, err := e.o.Store.Create(w.Digest, w.Size)
	if err != nil {
		return err
	}
	defer b.Release()
	hash := e.signedHashes(b)
	ask := func(peers <-chan peer.AddrInfo) error {
		for ai := range peers {
			if ctx.Err() != nil || e.network().Connect(ctx, ai) != nil {
				continue
			}
			if err := e.piecesFrom(ctx, ai.ID, b, hash); err != nil {
				e.log.Debug("a peer cannot repair a blob", zap.Stringer("digest", w.Digest), zap.Stringer("peer", ai.ID), zap.Error(err))
				continue
			}
			return nil
		}
		return fmt.Errorf("no peer has what is missing of %s: %w", w.Digest, ErrUnavailable)
	}
	seeders, others := e.company()
	if err := ask(each(some(append(others, seeders...), repairPeers))(ctx)); err == nil {
		return nil
	}
	key, err := blobCID(w.Digest)
	if err != nil {
		return err
	}
	found, stop := context.WithCancel(ctx)
	defer stop()
	return ask(e.network().Providers(found, key, repairPeers))
}

// signedHashes are those that the runs kept with a blob tell.
func (e *Engine) signedHashes(b *store.Blob) func(int) (piece.Hash, bool) {
	l := piece.NewList(b.Digest(), b.Geometry())
	for _, env := range b.Runs() {
		if r, signer, err := piece.Open(env); err == nil && e.trusts(signer) && r.Digest == b.Digest() && r.Size == b.Size() {
			_, _ = l.Add(r, env) // one that contradicts another adds nothing
		}
	}
	return l.Hash
}

// piecesFrom takes all that is missing of one peer, and commits. Pieces whose
// hash is not known count only if the whole is right; else the next peer begins
// with nothing.
func (e *Engine) piecesFrom(ctx context.Context, p peer.ID, b *store.Blob, hash func(int) (piece.Hash, bool)) error {
	g := b.Geometry()
	for {
		have, raw := b.Have(), b.Raw()
		var missing []int
		for i := 0; i < g.Count() && int64(len(missing))*g.PieceSize() < repairAsk; i++ {
			if !have.Has(i) && !raw.Has(i) {
				missing = append(missing, i)
			}
		}
		if len(missing) == 0 {
			return b.Commit(true)
		}
		n, err := e.askPieces(ctx, p, b, missing, hash)
		if err != nil {
			return err
		}
		if n == 0 {
			return p2p.ErrNotHeld
		}
	}
}

// askPieces does one request and returns how many pieces came of it.
func (e *Engine) askPieces(ctx context.Context, p peer.ID, b *store.Blob, pieces []int, hash func(int) (piece.Hash, bool)) (n int, err error) {
	ans, err := e.network().Ask(ctx, p, p2p.Ask{Digest: b.Digest(), Pieces: pieces})
	if err != nil {
		return 0, err
	}
	defer ans.Close()
	buf := getBuffer(int(b.Geometry().PieceSize()))
	defer putBuffer(buf)
	for {
		i, size, err := ans.Next(*buf)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		content := (*buf)[:size]
		if h, known := hash(i); !known {
			_, err = b.WriteRaw(i, content, false)
		} else if piece.Sum(content) == h {
			_, err = b.WritePiece(i, content)
		} else {
			e.blame(p, b.Digest())
			return n, fmt.Errorf("piece %d does not match its signed hash", i)
		}
		if err != nil {
			return n, err
		}
		e.ledger.received(p, false, size)
		e.metrics.received(false, false, size, true)
		n++
	}
}
