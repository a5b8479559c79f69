package scrub

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/store"
)

// How often a repair is tried: after a minute, then twice as long each time.
const (
	firstPause  = time.Minute
	longestWait = 6 * time.Hour
	// repairTime bounds one try. A blob of a terabyte takes more than one.
	repairTime = time.Hour
)

// Repair is a damaged blob that has not been had again yet.
type Repair struct {
	Info  store.Info // as it was found
	Tries int
	Next  time.Time // when it is tried again; zero: it is being tried
	Err   error     // of the last try
}

// repairs are the damaged blobs, each tried until it is whole or gone.
type repairs struct {
	s    *Scrubber
	wake chan struct{} // holds one

	mu   sync.Mutex
	open map[digest.Digest]*Repair
}

// newRepairs takes up what an earlier process has found.
func newRepairs(s *Scrubber) *repairs {
	r := &repairs{s: s, wake: make(chan struct{}, 1), open: make(map[digest.Digest]*Repair)}
	for _, in := range s.o.Store.Infos() {
		if in.Damaged {
			r.add(in)
		}
	}
	return r
}

// add has a blob repaired.
func (r *repairs) add(in store.Info) {
	r.mu.Lock()
	r.open[in.Digest] = &Repair{Info: in, Next: time.Now()}
	r.mu.Unlock()
	r.look()
}

func (r *repairs) look() {
	select {
	case r.wake <- struct{}{}:
	default: // it will
	}
}

// hurry has those that wait tried now.
func (r *repairs) hurry() {
	r.mu.Lock()
	for _, x := range r.open {
		if !x.Next.IsZero() {
			x.Next = time.Now()
		}
	}
	r.mu.Unlock()
	r.look()
}

// list is what is damaged now, ordered by digest: whoever pushes or pulls a blob
// may have mended it.
func (r *repairs) list() []Repair {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Repair, 0, len(r.open))
	for d, x := range r.open {
		if in, err := r.s.o.Store.Stat(d); err == nil && in.Damaged || err != nil && x.Tries == 0 {
			all = append(all, *x)
		}
	}
	slices.SortFunc(all, func(a, b Repair) int { return cmp.Compare(a.Info.Digest, b.Info.Digest) })
	return all
}

// run tries what is due, one at a time.
func (r *repairs) run(ctx context.Context) {
	for ctx.Err() == nil {
		d, wait, ok := r.due()
		if ok && wait <= 0 {
			r.try(ctx, d)
			continue
		}
		timer := time.NewTimer(wait)
		at := timer.C
		if !ok {
			at = nil
		}
		select {
		case <-at:
		case <-r.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// due is what is tried next, and in how long; not ok: there is nothing.
func (r *repairs) due() (d digest.Digest, wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first time.Time
	for x, rep := range r.open {
		if !ok || rep.Next.Before(first) || rep.Next.Equal(first) && x < d {
			d, first, ok = x, rep.Next, true
		}
	}
	return d, time.Until(first), ok
}

// try repairs one blob, unless somebody has done so. What the store has dropped
// is tried once: after that it is like what was never here.
func (r *repairs) try(ctx context.Context, d digest.Digest) {
	r.mu.Lock()
	x := r.open[d]
	in := x.Info
	x.Next = time.Time{}
	r.mu.Unlock()
	now, err := r.s.o.Store.Stat(d)
	dropped := errors.Is(err, store.ErrNotFound)
	if dropped && x.Tries > 0 || err == nil && !now.Damaged {
		r.done(d, "mended")
		return
	}
	if !dropped {
		in.Meta, in.Kept = now.Meta, now.Kept
	}
	tctx, cancel := context.WithTimeout(ctx, repairTime)
	defer cancel()
	err = r.s.o.Repair(tctx, in)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		r.done(d, "ok")
	default:
		r.failed(d, in, err)
	}
}

func (r *repairs) done(d digest.Digest, result string) {
	r.mu.Lock()
	delete(r.open, d)
	r.mu.Unlock()
	r.s.m.repairs.WithLabelValues(result).Inc()
	r.s.log.Info("damaged content has been seen to", zap.Stringer("digest", d), zap.String("how", result))
}

func (r *repairs) failed(d digest.Digest, in store.Info, err error) {
	r.mu.Lock()
	x := r.open[d]
	x.Tries++
	x.Err = err
	pause := min(firstPause<<min(x.Tries-1, 20), longestWait)
	x.Next = time.Now().Add(pause)
	r.mu.Unlock()
	r.s.m.repairs.WithLabelValues("failed").Inc()
	remedy := "it is fetched when it is asked for and a source has it"
	if in.Kept {
		remedy = "push it again, or let a host that has pulled it run"
	}
	r.s.log.Error("damaged content cannot be had again now", zap.Stringer("digest", d), zap.Strings("sources", in.Meta.Sources),
		zap.Error(err), zap.Duration("again in", pause), zap.String("remedy", remedy))
}
