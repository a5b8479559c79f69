package registry

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxRefusals bounds the memory of cut blobs; the oldest goes first.
const maxRefusals = 1024

// defaultRefuse is how long a blob is answered 404 after its body had to be cut.
// Contract 14 asks for at least 60 s.
const defaultRefuse = 90 * time.Second

// Refusals remembers blobs whose body had to be cut, so that the client's
// attempt to resume goes to its next host instead of being cut again
// (contract 14). It is safe for concurrent use.
type Refusals struct {
	keep time.Duration

	mu    sync.Mutex
	until map[digest.Digest]time.Time
}

// NewRefusals remembers each blob for so long.
func NewRefusals(keep time.Duration) *Refusals {
	return &Refusals{keep: keep, until: map[digest.Digest]time.Time{}}
}

func (f *Refusals) add(d digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
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
	f.until[d] = now.Add(f.keep)
}

// Has tells whether the body of d had to be cut lately.
func (f *Refusals) Has(d digest.Digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.until[d]
	return ok && t.After(time.Now())
}
