package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// pulling is a set of hosts that pull the image, each from its own moment on.
type pulling struct {
	start time.Time
	done  chan struct{} // closed when every host has ended
	took  time.Duration // once done is closed

	hosts []*hostPull
}

// hostPull is one host's pull. What it says is final once done is closed.
type hostPull struct {
	done   chan struct{}
	began  time.Duration // after the first host
	took   time.Duration // from then on
	tries  int
	report *lab.PullReport // of the last try
	err    error

	state  atomic.Int32 // waiting, pulling, ended
	killed atomic.Bool
}

// The states of a host's pull.
const (
	waiting int32 = iota
	underway
	ended
)

// retryAfter is how long a client waits before it pulls again after a failure. A
// kubelet waits longer; here the mirror's return is what is measured.
const retryAfter = 250 * time.Millisecond

// startPulls begins all pulls. A scenario that kills daemons has its clients try
// again until ctx ends; else the first failure is final.
func (w *world) startPulls(ctx context.Context) *pulling {
	p := &pulling{done: make(chan struct{}), start: time.Now()}
	var wg sync.WaitGroup
	for i, puller := range w.pullers {
		h := &hostPull{done: make(chan struct{}), began: w.s.arrival(i)}
		p.hosts = append(p.hosts, h)
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer close(h.done)
			defer h.state.Store(ended)
			if h.err = sleep(ctx, time.Until(p.start.Add(h.began))); h.err != nil {
				return
			}
			h.began = time.Since(p.start)
			h.state.Store(underway)
			h.pull(ctx, puller, w.ref(), w.s.fault != nil)
			h.took = time.Since(p.start) - h.began
		}()
	}
	go func() {
		wg.Wait()
		p.took = time.Since(p.start)
		close(p.done)
	}()
	return p
}

// ref is how the image is asked for: by digest when nobody is left who knows tags.
func (w *world) ref() string {
	if w.holder != nil {
		return w.image.Digest()
	}
	return tag
}

func (h *hostPull) pull(ctx context.Context, p *lab.HTTPPuller, ref string, again bool) {
	defer p.Client.CloseIdleConnections()
	for {
		h.tries++
		h.report, h.err = p.Pull(ctx, repo, ref)
		if h.err == nil || !again || sleep(ctx, retryAfter) != nil {
			return
		}
	}
}

// wait waits for the end of all pulls and joins their errors.
func (p *pulling) wait() error {
	<-p.done
	var errs []error
	for i, h := range p.hosts {
		if h.err != nil {
			errs = append(errs, fmt.Errorf("host%02d: %w", i+1, h.err))
		}
	}
	return errors.Join(errs...)
}

// pullingNow is how many hosts have started and are not done.
func (p *pulling) pullingNow() int {
	n := 0
	for _, h := range p.hosts {
		if h.state.Load() == underway {
			n++
		}
	}
	return n
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
