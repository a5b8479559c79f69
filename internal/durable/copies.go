package durable

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/store"
)

const (
	copiers   = 2 // that copy what was pulled, in the background
	maxCopies = 100_000
	copyRest  = 15 * time.Second // after the object store has failed
)

// queue is what waits to be copied, the oldest first. Each has a file that
// outlives the process; power loss may take it, which costs the upstream a
// fetch when the local copy is evicted, no more.
type queue struct {
	mu    sync.Mutex
	list  []digest.Digest
	known map[digest.Digest]bool
	grown chan struct{} // there is something
}

func (q *queue) init() {
	q.known, q.grown = make(map[digest.Digest]bool), make(chan struct{}, 1)
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.known)
}

// add enters a digest; false where it is known, or there is no room.
func (q *queue) add(d digest.Digest) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known[d] || len(q.known) >= maxCopies {
		return false
	}
	q.known[d] = true
	q.list = append(q.list, d)
	q.wake()
	return true
}

func (q *queue) wake() {
	select {
	case q.grown <- struct{}{}:
	default:
	}
}

// take waits for the next; false when ctx ends.
func (q *queue) take(ctx context.Context) (digest.Digest, bool) {
	for {
		q.mu.Lock()
		if len(q.list) > 0 {
			d := q.list[0]
			q.list = q.list[1:]
			if len(q.list) > 0 {
				q.wake() // another copier
			}
			q.mu.Unlock()
			return d, true
		}
		q.mu.Unlock()
		select {
		case <-q.grown:
		case <-ctx.Done():
			return "", false
		}
	}
}

// again puts one that failed at the end.
func (q *queue) again(d digest.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, d)
	q.wake()
}

func (q *queue) done(d digest.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.known, d)
}

func (h *Home) marker(d digest.Digest) string {
	return h.state(copiesName, d.Algorithm().String()+"-"+d.Encoded())
}

// loadCopies takes up what an earlier process did not get to.
func (h *Home) loadCopies() error {
	entries, err := os.ReadDir(h.state(copiesName))
	if err != nil {
		return err
	}
	for _, e := range entries {
		alg, hex, _ := strings.Cut(e.Name(), "-")
		if d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex); d.Validate() == nil {
			h.copies.add(d)
		}
	}
	return nil
}

// Fetched implements fetch.Durable.
func (h *Home) Fetched(src fetch.Source, d digest.Digest) {
	if !h.o.CopyPulled || h.Only(src) {
		return
	}
	h.mu.Lock()
	_, there := h.known[d]
	h.mu.Unlock()
	if there {
		return
	}
	if err := os.WriteFile(h.marker(d), nil, 0o600); err != nil {
		h.log.Warn("cannot note what is to be copied to the object store", zap.Stringer("digest", d), zap.Error(err))
	}
	h.copies.add(d)
}

// copy copies one after the other.
func (h *Home) copy() {
	for {
		d, ok := h.copies.take(h.ctx)
		if !ok {
			return
		}
		err := h.usable()
		result := "skipped"
		if err == nil {
			result, err = h.copyContent(d)
		}
		if err != nil && h.ctx.Err() == nil {
			h.m.copies.WithLabelValues("failed").Inc()
			h.log.Debug("cannot copy what was pulled to the object store yet", zap.Stringer("digest", d), zap.Error(err))
			h.copies.again(d)
			rest := time.NewTimer(copyRest)
			select {
			case <-rest.C:
			case <-h.ctx.Done():
			}
			rest.Stop()
			continue
		}
		if h.ctx.Err() != nil {
			return
		}
		h.m.copies.WithLabelValues(result).Inc()
		h.copies.done(d)
		_ = os.Remove(h.marker(d)) // one that stays costs a look at the next start
	}
}

// copyContent copies content that the store has; what was evicted meanwhile is
// skipped.
func (h *Home) copyContent(d digest.Digest) (result string, err error) {
	b, err := h.o.Store.Blob(d)
	if errors.Is(err, store.ErrNotFound) {
		return "skipped", nil
	}
	if err != nil {
		return "", err
	}
	defer b.Release()
	f, err := b.File()
	if errors.Is(err, store.ErrNotHeld) || errors.Is(err, store.ErrNotFound) {
		return "skipped", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	o := objectstore.PutOptions{ContentType: b.Meta().MediaType}
	if sources := b.Meta().Sources; len(sources) > 0 {
		o.Source = sources[0]
	}
	if _, err := h.keep(h.ctx, key(cacheKey, d), f, o); err != nil {
		return "", err
	}
	h.remember(d)
	return "copied", nil
}
