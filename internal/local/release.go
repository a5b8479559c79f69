package local

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/store"
)

// Freed is content that went for good.
type Freed struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

func (f *Freed) add(n int64) {
	f.Blobs++
	f.Bytes += n
}

// hold keeps content from being linked and released at the same time. A push
// holds it from before the store has the content until the link is counted, a
// release while it looks whether there is a link and drops the content: the one
// that comes second sees what the other did.
func (r *Registry) hold(d digest.Digest) (unlock func()) {
	var sum uint32
	for _, c := range []byte(d.Encoded()[:8]) {
		sum = sum*31 + uint32(c)
	}
	l := &r.contents[sum%uint32(len(r.contents))]
	l.Lock()
	return l.Unlock
}

// releaseLoose drops the content that nothing links to any more. What fails is
// tried again by the next collection.
func (r *Registry) releaseLoose() (Freed, error) {
	var f Freed
	var errs []error
	loose := r.index.takeLoose()
	for _, d := range slices.Sorted(maps.Keys(loose)) {
		n, err := r.release(d)
		switch {
		case err != nil:
			errs = append(errs, err)
		case n >= 0:
			f.add(n)
		}
	}
	r.m.freedBlobs.Add(float64(f.Blobs))
	r.m.freedBytes.Add(float64(f.Bytes))
	return f, errors.Join(errs...)
}

// release drops content unless something links to it again, and returns its
// size; below 0 where it stays. What an upstream has, too, becomes evictable
// instead.
func (r *Registry) release(d digest.Digest) (int64, error) {
	defer r.hold(d)()
	if _, linked := r.index.get(d); linked {
		return -1, nil
	}
	in, err := r.o.Store.Stat(d)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return -1, nil
	case err != nil:
		return -1, err
	case r.ours(in):
		err = r.o.Store.Delete(d)
	case in.Kept:
		err = r.evictable(d)
	default:
		return -1, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return -1, fmt.Errorf("release %s: %w", d, err)
	}
	return in.Size, nil
}

// ours tells whether content came from nowhere but local repositories.
func (r *Registry) ours(in store.Info) bool {
	return len(in.Meta.Sources) > 0 && !slices.ContainsFunc(in.Meta.Sources, func(s string) bool {
		return !strings.HasPrefix(s, r.o.Upstream+"/")
	})
}

// orphans lists complete content of local repositories that nothing links to,
// and that nobody used for a lease: a crash came between the content and its
// link, or between the last link and the release.
func (r *Registry) orphans() []store.Info {
	old := r.o.Now().Add(-r.o.Lease)
	var list []store.Info
	for _, in := range r.o.Store.Infos() {
		if _, linked := r.index.get(in.Digest); !linked && in.Complete && r.ours(in) && in.LastUse.Before(old) {
			list = append(list, in)
		}
	}
	return list
}
