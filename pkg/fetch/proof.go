package fetch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Whether an upstream sends the right bytes shows at the end, when the digest of
// the whole is known: a seeder that fetches a blob for the first time vouches for
// what came, not for what the blob should be. A client that was given wrong bytes
// fails, and one that was given none goes on to its next host. So clients wait
// for the digest where that costs little, and where there is reason to; pieces go
// between hosts meanwhile as ever. What has proved right once is not waited for.

const (
	// provenFirst is the size in bytes up to which clients get nothing of a blob
	// that has not proved right, if that is in time: all they lose is that they
	// cannot read while the rest comes, from the page cache.
	provenFirst = 16 << 20
	// doubtFor is how long after wrong bytes nothing of an upstream is given to
	// clients before it has proved right, whatever its size.
	doubtFor = time.Hour
)

// doubts are the upstreams that have sent wrong bytes lately: as a cache between
// them and us does that has a wrong copy. The zero value has none. Safe for
// concurrent use.
type doubts struct {
	mu    sync.Mutex
	until map[string]time.Duration // by upstream; Engine.now
}

// note begins, or prolongs, a doubt; it reports whether it is a new one.
func (d *doubts) note(upstream string, now time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until == nil {
		d.until = make(map[string]time.Duration)
	}
	known := now < d.until[upstream]
	d.until[upstream] = now + doubtFor
	return !known
}

func (d *doubts) about(upstream string, now time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return now < d.until[upstream]
}

func (d *doubts) count(now time.Duration) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, until := range d.until {
		if now < until {
			n++
		}
	}
	return n
}

// doubt is told that an upstream sent wrong bytes.
func (e *Engine) doubt(src Source) {
	if src.Upstream != "" && e.doubts.note(src.Upstream, e.now()) {
		e.log.Error("an upstream sends wrong bytes: for a while, clients get nothing of it before its digest has proved right",
			zap.String("upstream", src.Upstream), zap.Duration("for", doubtFor))
	}
}

// doubted tells whether the blob's upstream has sent wrong bytes lately.
func (s *swarm) doubted() bool {
	return s.e.doubts.about(s.sources.current().Upstream, s.e.now())
}

// awaitProof holds a reader back until the digest of the blob has proved right,
// until ctx ends if the upstream is in doubt. Else it goes on without once half of
// Options.Gap is over, or ctx.
func (s *swarm) awaitProof(ctx context.Context, part bool) error {
	if s.readers.isSure() || (part || s.geom.Size() > provenFirst) && !s.doubted() {
		return nil
	}
	if !s.doubted() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.e.o.Gap/2)
		defer cancel()
	}
	select {
	case <-s.readers.proof:
		_, err := s.readers.state()
		return err
	case <-s.done:
		if _, err := s.readers.state(); err != nil {
			return err
		}
		return errGone
	case <-ctx.Done():
	}
	if s.doubted() {
		return fmt.Errorf("fetch %s: its upstream has sent wrong bytes lately, and the digest of this blob has not proved right in time: %w", s.digest, ErrUnavailable)
	}
	return nil
}
