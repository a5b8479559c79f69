package local

import (
	"context"
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
// tried again by the next collection, and so is what ctx leaves no time for.
func (r *Registry) releaseLoose(ctx context.Context) (Freed, error) {
	var f Freed
	var errs []error
	loose := r.index.takeLoose()
	for _, d := range slices.Sorted(maps.Keys(loose)) {
		if ctx.Err() != nil {
			r.index.loosen(d, loose[d])
			continue
		}
		gone, err := r.release(ctx, d)
		if err != nil {
			r.index.loosen(d, loose[d])
			errs = append(errs, fmt.Errorf("release %s: %w", d, err))
		}
		if gone {
			f.add(loose[d])
		}
	}
	r.m.freedBlobs.Add(float64(f.Blobs))
	r.m.freedBytes.Add(float64(f.Bytes))
	return f, errors.Join(append(errs, ctx.Err())...)
}

// release drops content unless something links to it again. What an upstream
// has, too, becomes evictable instead.
func (r *Registry) release(ctx context.Context, d digest.Digest) (gone bool, err error) {
	unhold := r.hold(d)
	defer unhold()
	if _, linked := r.index.get(d); linked {
		return false, nil
	}
	if r.o.Durable != nil {
		if err := r.o.Durable.Drop(ctx, d); err != nil {
			return false, err
		}
	}
	in, err := r.o.Store.Stat(d)
	switch {
	case err != nil:
	case r.ours(in):
		err = r.o.Store.Delete(d)
	case in.Kept:
		err = r.evictable(d)
	}
	if errors.Is(err, store.ErrNotFound) {
		return r.o.Durable != nil, nil
	}
	return err == nil, err
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
