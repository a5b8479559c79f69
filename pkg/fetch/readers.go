package fetch

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/samara-p2p/samara/pkg/scheduler"
	"github.com/samara-p2p/samara/pkg/store"
)

// readers are the local clients of a swarm: who waits, and for what.
type readers struct {
	mu      sync.Mutex
	next    int
	open    int
	hurry   chan struct{} // closed once a client waits for the blob
	outcome chan struct{} // closed once the blob's fate for new readers is known
	err     error         // why it failed; nil when it is to be had
	decided bool
}

func (r *readers) init() {
	r.hurry = make(chan struct{})
	r.outcome = make(chan struct{})
}

// ready lets readers in: the blob is here, or a source has taken the job.
func (r *readers) ready() { r.decide(nil) }

// fail turns away readers that wait to be let in.
func (r *readers) fail(err error) { r.decide(err) }

func (r *readers) decide(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.decided && (r.err != nil) == (err != nil) {
		return
	}
	if !r.decided {
		close(r.outcome)
	}
	r.decided, r.err = true, err
}

func (r *readers) state() (<-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outcome, r.err
}

// wanted is closed once a client has asked for the blob.
func (r *readers) wanted() <-chan struct{} { return r.hurry }

func (r *readers) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

func (r *readers) add() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	r.open++
	if r.next == 1 {
		close(r.hurry)
	}
	return r.next
}

func (r *readers) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
}

// reader is a client's view of a growing blob. Close must be called.
type reader struct {
	*store.Reader
	s    *swarm
	id   int
	once sync.Once
}

func (r *reader) Close() error {
	err := r.Reader.Close()
	r.once.Do(func() {
		r.s.readers.remove()
		r.s.post(func() { r.s.unwant(r.id) })
	})
	return err
}

// readStall is the longest a reader waits for one piece before it gives up. It
// is a last resort: the scheduler turns to another source long before.
const readStall = 30 * time.Second

// open lets a client in once a first piece has come, which proves a source.
// When ctx ends before that, a source that is at it is good enough.
func (s *swarm) open(ctx, life context.Context) (io.ReadSeekCloser, int64, error) {
	id := s.readers.add()
	sr := s.blob.NewReader(life, store.ReadOptions{
		Stall:  readStall,
		OnWait: func(from, end int) { s.post(func() { s.wantPieces(id, from, end) }) },
	})
	r := &reader{Reader: sr, s: s, id: id}
	outcome, _ := s.readers.state()
	select {
	case <-outcome:
		if _, err := s.readers.state(); err != nil {
			r.Close()
			return nil, 0, err
		}
	case <-s.done:
		r.Close()
		return nil, 0, errGone
	case <-ctx.Done():
		if s.sourced.Load() {
			break // slow, but somebody who has the bytes is giving them
		}
		r.Close()
		return nil, 0, fmt.Errorf("fetch %s: no source answered in time: %w", s.digest, ErrUnavailable)
	}
	return r, s.geom.Size(), nil
}

// wantPieces passes a reader's position on to whoever chooses what comes next.
func (s *swarm) wantPieces(id, first, end int) {
	if s.origin != nil {
		s.origin.want(first, end)
	}
	if s.dl != nil {
		s.dl.wants[id] = [2]int{first, end}
		s.dl.step(scheduler.Want{ID: id, First: first, End: end})
	} else if !s.e.o.Seeder && s.wanted {
		s.early[id] = [2]int{first, end}
	}
}

func (s *swarm) unwant(id int) {
	delete(s.early, id)
	if s.dl != nil {
		delete(s.dl.wants, id)
		s.dl.step(scheduler.Unwant{ID: id})
	}
}
