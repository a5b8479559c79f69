package fetch

import (
	"sync"
	"time"
)

// pull is what a client's request for an image has made this host fetch. When
// the last of its blobs has come, or failed, it is measured. A nil pull takes no
// notice.
type pull struct {
	e     *Engine
	began time.Duration // Engine.now

	mu   sync.Mutex
	left int // blobs on their way; one more until all have been begun
	any  bool
	err  error // of the first blob that failed

	ended chan struct{} // of one that nobody measures: closed when it has ended
}

// maxPulls bounds those that one blob remembers: clients may ask for an image
// again and again while nothing comes.
const maxPulls = 64

func (e *Engine) newPull() *pull { return &pull{e: e, began: e.now(), left: 1} }

// add counts a blob that is about to be fetched.
func (p *pull) add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left++
	p.any = true
}

// begun tells that there are no more blobs to add.
func (p *pull) begun() { p.done(nil) }

// done tells what became of one blob.
func (p *pull) done(err error) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	if p.left--; p.left == 0 && p.ended != nil {
		close(p.ended)
	} else if p.left == 0 && p.any {
		p.e.metrics.pulls.WithLabelValues(resultOf(p.err)).Observe((p.e.now() - p.began).Seconds())
	}
}

// pulled tells the pulls that wait for the blob what became of it.
func (s *swarm) pulled(err error) {
	for _, p := range s.pulls {
		p.done(err)
	}
	s.pulls = nil
}
