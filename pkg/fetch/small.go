package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// smallCall is one fetch of a small blob that several callers wait for.
type smallCall struct {
	done    chan struct{}
	content []byte
	err     error
}

// Small returns a small blob whole: from the store, the seeder, neighbours,
// or the upstream. Callers of the same digest share one fetch, which goes on
// when they leave. Its digest has been verified and it is kept in the store.
// Errors: ErrUnavailable, ErrNotFound, ErrCorrupt, and the store's.
func (e *Engine) Small(ctx context.Context, w Want, limit int64) ([]byte, error) {
	if b, _, err := e.Held(w.Digest, limit); err == nil {
		return b, nil
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, ErrStopped
	}
	c := e.small[w.Digest]
	if c == nil {
		c = &smallCall{done: make(chan struct{})}
		e.small[w.Digest] = c
		e.wg.Add(1)
		go func() {
			defer e.wg.Done()
			fctx, cancel := context.WithTimeout(e.ctx, time.Minute)
			defer cancel()
			c.content, c.err = e.fetchSmall(fctx, w, limit)
			e.mu.Lock()
			delete(e.small, w.Digest)
			e.mu.Unlock()
			close(c.done)
		}()
	}
	e.mu.Unlock()
	select {
	case <-c.done:
		return c.content, c.err
	case <-ctx.Done():
		return nil, fmt.Errorf("fetch %s: no source answered in time: %w", w.Digest, ErrUnavailable)
	}
}

// Held returns content that the store holds whole, and its media type.
// It fails with store.ErrNotFound where it does not, or is larger than limit.
func (e *Engine) Held(d digest.Digest, limit int64) ([]byte, string, error) {
	if content, mediaType, err := e.keepingOf(d); err == nil && int64(len(content)) <= limit {
		return content, mediaType, nil
	}
	b, err := e.o.Store.Blob(d)
	if err != nil {
		return nil, "", err
	}
	defer b.Release()
	if !b.Complete() || b.Size() > limit {
		return nil, "", store.ErrNotFound
	}
	f, err := b.File()
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	buf := make([]byte, b.Size())
	if _, err := io.ReadFull(f, buf); err != nil {
		return nil, "", fmt.Errorf("read %s: %w", d, err)
	}
	return buf, b.Meta().MediaType, nil
}

// keepingOf returns content that is on its way to the disk.
func (e *Engine) keepingOf(d digest.Digest) ([]byte, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := e.keeping[d]; k != nil {
		return k.content, k.meta.MediaType, nil
	}
	return nil, "", store.ErrNotFound
}

// fetchSmall asks one source after the other: the seeder, which every host of
// a herd can afford for a small blob; the neighbours; the upstream.
func (e *Engine) fetchSmall(ctx context.Context, w Want, limit int64) ([]byte, error) {
	keep := func(content []byte, mediaType string) ([]byte, error) {
		return content, e.Keep(w.Digest, content, mediaType, w.Source)
	}
	var errs []error
	n := e.network()
	var seeders, others []p2p.Neighbour
	for _, nb := range n.Neighbours() {
		if nb.Seeder {
			seeders = append(seeders, nb)
		} else {
			others = append(others, nb)
		}
	}
	for _, nb := range seeders {
		c, cancel := context.WithTimeout(ctx, 10*time.Second)
		content, mt, err := n.Content(c, nb.ID, w.Digest, limit)
		cancel()
		if err == nil {
			e.noteSmall(nb.ID, true, len(content))
			return keep(content, mt)
		}
		errs = append(errs, fmt.Errorf("seeder: %w", err))
	}
	if content, mt, from, err := e.askAround(ctx, w.Digest, limit, ids(some(others, 16))); err == nil {
		e.noteSmall(from, false, len(content))
		return keep(content, mt)
	}
	content, err := e.smallFromUpstream(ctx, w, limit)
	if err == nil {
		e.ledger.fromUpstream(len(content))
		e.metrics.received(false, true, len(content), true)
		return keep(content, "")
	}
	errs = append(errs, err)
	kind := ErrUnavailable
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		return nil, fmt.Errorf("fetch %s: %w", w.Digest, errors.Join(errs...))
	}
	return nil, fmt.Errorf("fetch %s: %w: %w", w.Digest, kind, errors.Join(errs...))
}

func (e *Engine) noteSmall(from peer.ID, seeder bool, n int) {
	e.ledger.received(from, seeder, n)
	e.metrics.received(seeder, false, n, true)
}

func ids(nbs []p2p.Neighbour) []peer.ID {
	out := make([]peer.ID, len(nbs))
	for i, nb := range nbs {
		out[i] = nb.ID
	}
	return out
}

// askAround asks peers for content, three at a time, until one has it.
func (e *Engine) askAround(ctx context.Context, d digest.Digest, limit int64, peers []peer.ID) ([]byte, string, peer.ID, error) {
	if len(peers) == 0 {
		return nil, "", "", p2p.ErrNotHeld
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	type answer struct {
		content []byte
		media   string
		from    peer.ID
	}
	found := make(chan answer, len(peers))
	queue := make(chan peer.ID, len(peers))
	for _, p := range peers {
		queue <- p
	}
	close(queue)
	var wg sync.WaitGroup
	for range min(3, len(peers)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for p := range queue {
				if ctx.Err() != nil {
					return
				}
				if c, mt, err := e.network().Content(ctx, p, d, limit); err == nil {
					found <- answer{c, mt, p}
					cancel()
					return
				}
			}
		}()
	}
	wg.Wait()
	select {
	case a := <-found:
		return a.content, a.media, a.from, nil
	default:
		return nil, "", "", p2p.ErrNotHeld
	}
}

// smallFromUpstream reads a small blob from its upstream and checks its digest.
func (e *Engine) smallFromUpstream(ctx context.Context, w Want, limit int64) ([]byte, error) {
	if e.o.Upstream == nil || w.Source == (Source{}) {
		return nil, errors.New("no upstream is known for it")
	}
	r, err := e.o.Upstream.Blob(ctx, w.Source.Upstream, w.Source.Repository, w.Digest, 0, -1)
	if err != nil {
		if upstream.KindOf(err) == upstream.NotFound {
			return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return nil, err
	}
	defer r.Close()
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(r, limit+1)); err != nil {
		return nil, err
	}
	if int64(buf.Len()) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", w.Digest, limit)
	}
	if w.Digest.Algorithm().FromBytes(buf.Bytes()) != w.Digest {
		return nil, &CorruptError{Digest: w.Digest, Source: w.Source}
	}
	return buf.Bytes(), nil
}

// FromPeers finds content by digest among peers alone: the neighbours, then
// the providers that the DHT names. It is the way that works when seeder and
// upstream are gone. It fails with ErrUnavailable.
func (e *Engine) FromPeers(ctx context.Context, d digest.Digest, limit int64) ([]byte, string, error) {
	n := e.network()
	e.awaitNeighbour(ctx)
	var near []peer.ID
	for _, nb := range some(n.Neighbours(), 16) {
		near = append(near, nb.ID)
	}
	if content, mt, from, err := e.askAround(ctx, d, limit, near); err == nil {
		e.noteSmall(from, false, len(content))
		return content, mt, nil
	}
	key, err := blobCID(d)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for ai := range n.Providers(ctx, key, 10) {
		if ai.ID == n.ID() {
			continue
		}
		if err := n.Connect(ctx, ai); err != nil {
			continue
		}
		if content, mt, err := n.Content(ctx, ai.ID, d, limit); err == nil {
			e.noteSmall(ai.ID, false, len(content))
			return content, mt, nil
		}
	}
	return nil, "", fmt.Errorf("no peer has %s: %w", d, ErrUnavailable)
}

// awaitNeighbour gives a host that has just started a moment to find its way
// into the network.
func (e *Engine) awaitNeighbour(ctx context.Context) {
	if time.Since(e.epoch) > time.Minute {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for len(e.network().Neighbours()) == 0 {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// kept is small content that waits for the disk.
type kept struct {
	content []byte
	meta    store.Meta
}

// Keep stores a manifest or other small content and announces it. It can be
// served at once; the disk follows, since a client need not wait for a flush.
// A store that is full, or fails, is logged: the caller has the content.
// The only error is ErrCorrupt, for content that does not have this digest.
func (e *Engine) Keep(d digest.Digest, content []byte, mediaType string, src Source) error {
	if d.Algorithm().FromBytes(content) != d {
		return &CorruptError{Digest: d, Source: src}
	}
	k := &kept{content: content, meta: store.Meta{MediaType: mediaType}}
	if src != (Source{}) {
		k.meta.Sources = []string{src.String()}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.keeping[d] != nil {
		return nil
	}
	e.keeping[d] = k
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		if err := e.o.Store.Put(d, content, k.meta); err != nil {
			e.log.Warn("cannot keep small content", zap.Stringer("digest", d), zap.Error(err))
		}
		e.mu.Lock()
		delete(e.keeping, d)
		e.mu.Unlock()
		if !announced(int64(len(content)), mediaType) {
			return
		}
		if c, err := blobCID(d); err == nil {
			if err := e.network().Provide(c); err != nil {
				e.log.Debug("cannot provide", zap.Stringer("digest", d), zap.Error(err))
			}
		}
	}()
	return nil
}

// Content serves small content to a peer. A seeder fetches what it lacks when
// it knows where it comes from. Part of p2p.PieceServer.
func (e *Engine) Content(ctx context.Context, from peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	if content, mediaType, err := e.keepingOf(d); err == nil {
		e.ledger.sent(from, int64(len(content)))
		e.metrics.given.Add(float64(len(content)))
		return memory{bytes.NewReader(content)}, int64(len(content)), mediaType, nil
	}
	if b, err := e.o.Store.Blob(d); err == nil {
		defer b.Release()
		if b.Complete() {
			f, err := b.File()
			if err != nil {
				return nil, 0, "", p2p.ErrNotHeld
			}
			e.ledger.sent(from, b.Size())
			e.metrics.given.Add(float64(b.Size()))
			return f, b.Size(), b.Meta().MediaType, nil
		}
	}
	if !e.o.Seeder {
		return nil, 0, "", p2p.ErrNotHeld
	}
	w, ok := e.o.Locate(d)
	if !ok || w.Size >= SmallBlob {
		return nil, 0, "", p2p.ErrNotHeld
	}
	r, size, err := e.Open(ctx, ctx, w)
	if err != nil {
		return nil, 0, "", err
	}
	e.ledger.sent(from, size)
	e.metrics.given.Add(float64(size))
	return r, size, "", nil
}
