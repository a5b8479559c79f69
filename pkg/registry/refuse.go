package registry

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxRefusals bounds the memory of cut blobs; the oldest goes first.
const maxRefusals = 1024

// refusals remembers blobs whose body had to be cut, so that the client's
// attempt to resume goes to its next host instead of being cut again
// (contract 14).
type refusals struct {
	now func() time.Time

	mu    sync.Mutex
	until map[digest.Digest]time.Time
}

func newRefusals(now func() time.Time) *refusals {
	return &refusals{now: now, until: map[digest.Digest]time.Time{}}
}

func (f *refusals) add(d digest.Digest, keep time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	var oldest digest.Digest
	for k, t := range f.until {
		if !t.After(now) {
			delete(f.until, k)
		} else if oldest == "" || t.Before(f.until[oldest]) {
			oldest = k
		}
	}
	if len(f.until) >= maxRefusals {
		delete(f.until, oldest)
	}
	f.until[d] = now.Add(keep)
}

func (f *refusals) has(d digest.Digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.until[d]
	return ok && t.After(f.now())
}
