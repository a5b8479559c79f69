package fetch

import (
	"context"
	"errors"
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
	proof   chan struct{} // closed once the digest has proved right, or the download has failed
	outcome chan struct{} // closed once the blob's fate for new readers is known
	err     error         // why it failed; nil when it is to be had
	decided bool
	proved  bool                  // proof is closed
	awaited map[int]chan struct{} // pieces that readers of parts begin with; closed when they can be read
}

func (r *readers) init() {
	r.awaited = make(map[int]chan struct{})
	r.hurry = make(chan struct{})
	r.proof = make(chan struct{})
	r.outcome = make(chan struct{})
}

// ready lets readers in: the blob is here, or a source has taken the job.
func (r *readers) ready() { r.decide(nil) }

// fail turns away readers that wait to be let in.
func (r *readers) fail(err error) {
	r.decide(err)
	r.sure()
}

// sure ends the wait for the digest: it has proved right, or never will.
func (r *readers) sure() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.proved {
		r.proved = true
		close(r.proof)
	}
}

func (r *readers) isSure() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proved && r.err == nil
}

// whole lets readers in: all of the blob is here, and right.
func (r *readers) whole() {
	r.ready()
	r.sure()
}

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

// await returns what is closed when piece i has come.
func (r *readers) await(i int) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.awaited[i] == nil {
		r.awaited[i] = make(chan struct{})
	}
	return r.awaited[i]
}

// came tells those who await piece i that it can be read.
func (r *readers) came(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ch := r.awaited[i]; ch != nil {
		close(ch)
		delete(r.awaited, i)
	}
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

// reader is a client's view of a growing blob. When the swarm ends it goes on
// as far as the bytes are there, and fails where it would have to wait for
// what nobody fetches any more. Close must be called.
type reader struct {
	s       *swarm
	id      int
	from    *store.Reader
	life    context.Context // the client's
	ctx     context.Context // of from
	cancel  context.CancelFunc
	unwatch func() bool
	once    sync.Once

	mu      sync.Mutex
	waiting bool // a read waits for a piece
	ended   bool // the swarm has
}

// longer is how much longer than Options.Gap a client waits for a piece that it
// has waited for so long already. It is a last resort: the scheduler turns to
// other sources long before. While bytes of the blob are arriving, the link is
// slow and the client's next host no better: three times Gap. A seeder may be the
// only host that its clients have.
func (s *swarm) longer(waited time.Duration) time.Duration {
	gap, since := s.e.o.Gap, s.e.now()-time.Duration(s.moved.Load())
	switch {
	case s.e.o.Seeder && waited < 3*gap:
		return 3*gap - waited
	case waited >= 3*gap:
		s.e.metrics.deadlines.WithLabelValues("slow").Inc()
		return 0
	case since >= s.e.o.Switch:
		s.e.metrics.deadlines.WithLabelValues("gap").Inc()
		return 0
	}
	return min(s.e.o.Switch-since, 3*gap-waited)
}

func (s *swarm) newReader(life context.Context, part bool) *reader {
	r := &reader{s: s, id: s.readers.add(), life: life}
	r.ctx, r.cancel = context.WithCancel(life)
	o := store.ReadOptions{Stall: s.e.o.Gap, Longer: s.longer, OnWait: r.waits, OnResume: r.resumes, Part: part}
	if part { // what it will want next is known, and asked for together
		o.Window = max(store.DefaultWindow, int(sideLength/s.geom.PieceSize()))
	}
	r.from = s.blob.NewReader(r.ctx, o)
	r.unwatch = context.AfterFunc(s.ctx, func() { r.note(&r.ended) })
	return r
}

// waits is called when a read begins to wait for a piece.
func (r *reader) waits(first, end int) {
	r.note(&r.waiting)
	r.s.post(func() { r.s.wantPieces(r.id, first, end) })
}

// resumes is called when a read has waited.
func (r *reader) resumes() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = false
}

// note sets a flag; with both set nothing will come.
func (r *reader) note(flag *bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*flag = true
	if r.waiting && r.ended {
		r.cancel()
	}
}

// Read is part of io.Reader. Errors: those of the swarm's failure
// (ErrUnavailable, ErrNotFound, ErrCorrupt, ErrStopped), the store's, and the
// client's context's.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	return n, r.explain(err)
}

// WriteTo is part of io.WriterTo: what is there goes to the client by sendfile.
// Errors: as Read's, and w's.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	n, err := r.from.WriteTo(w)
	return n, r.explain(err)
}

func (r *reader) explain(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	r.mu.Lock()
	ended := r.ended
	r.mu.Unlock()
	var kind error
	switch {
	case errors.Is(err, context.Canceled) && ended && r.life.Err() == nil:
		if _, err = r.s.readers.state(); err == nil || errors.Is(err, errGone) {
			err = ErrStopped
		}
		return fmt.Errorf("read %s: %w", r.s.digest, err)
	case errors.Is(err, store.ErrCorrupt):
		kind = ErrCorrupt
	case errors.Is(err, store.ErrStalled):
		kind = errors.Join(ErrStalled, ErrUnavailable)
	default:
		return err
	}
	return fmt.Errorf("read %s: %w: %w", r.s.digest, kind, err)
}

// Seek is part of io.Seeker. It never waits.
func (r *reader) Seek(offset int64, whence int) (int64, error) { return r.from.Seek(offset, whence) }

// Close is part of io.Closer. The download goes on.
func (r *reader) Close() error {
	err := r.from.Close()
	r.once.Do(func() {
		r.unwatch()
		r.cancel()
		r.s.readers.remove()
		r.s.touch()
		r.s.post(func() { r.s.unwant(r.id) })
	})
	return err
}

// open lets a client in once a first piece has come, which shows a source; one
// that reads a part only, once the first of its own has. When ctx ends before
// that, a source that is at it is good enough. Where the digest is waited for, it
// has to prove right first. errGone says that the swarm ended for no reason of
// its own.
func (s *swarm) open(ctx, life context.Context, w Want) (*reader, error) {
	part := !w.whole(s.e.o.Rest)
	r := s.newReader(life, part)
	err := s.awaitFirst(ctx, r, w, part)
	if err == nil {
		err = s.awaitProof(ctx, part)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// awaitFirst waits for the first piece that a reader needs.
func (s *swarm) awaitFirst(ctx context.Context, r *reader, w Want, part bool) error {
	shown, _ := s.readers.state()
	if part && len(w.Parts) > 0 {
		first, end := s.geom.Span(w.Parts[0].Offset, w.Parts[0].Length)
		if shown = s.readers.await(first); s.blob.Readable(first) {
			return nil
		}
		// Where the whole blob is on its way, this is not its turn yet.
		s.post(func() { s.wantPieces(r.id, first, end) })
	}
	select {
	case <-shown:
		if part {
			return nil
		}
		_, err := s.readers.state()
		return err
	case <-s.done:
		if _, err := s.readers.state(); err != nil {
			return err
		}
		return errGone
	case <-ctx.Done():
		if s.sourced.Load() { // it is slow, but somebody who has the bytes is giving them
			return nil
		}
		return fmt.Errorf("fetch %s: no source answered in time: %w", s.digest, ErrUnavailable)
	}
}

// wantPieces passes a reader's position on to whoever chooses what comes next.
func (s *swarm) wantPieces(id, first, end int) {
	if id != 0 && !s.whole {
		s.needPieces(first, first+1)
		end = s.upTo(first, end)
	}
	s.lastNeed = s.e.now()
	switch {
	case s.origin != nil:
		s.origin.want(id, first, end)
	case s.dl != nil:
		s.dl.wants[id] = [2]int{first, end}
		s.dl.step(scheduler.Want{ID: id, First: first, End: end})
	case !s.e.o.Seeder && s.wanted:
		s.early[id] = [2]int{first, end}
	}
}

func (s *swarm) unwant(id int) {
	delete(s.early, id)
	if s.origin != nil {
		s.origin.unwant(id)
	}
	if s.dl != nil {
		delete(s.dl.wants, id)
		s.dl.step(scheduler.Unwant{ID: id})
	}
}
