package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	breakAfter   = 3                // failures in a row
	breakBackoff = time.Second      // before the first probe; twice as long before each further one
	breakLimit   = 30 * time.Second // longest time between probes
	probeTimeout = 3 * time.Second  // from dialling to the header
	breakSilence = 5 * time.Second  // a request given up after so long without an answer counts, too
)

// breaker keeps requests from a host that does not work, so that nobody waits
// for what will not come. It opens after three failures in a row (no
// connection, a gateway's error, another server error for something else), or
// one request that the host let wait in vain and had said nothing meanwhile.
//
// While it is open nothing is asked. After a back-off a probe, GET /v2/, is
// sent apart from any request; an answer closes the breaker on probation: one
// failure opens it again, for twice as long, until a request has gone well.
type breaker struct {
	c    *Client
	name string // of the upstream
	base *url.URL
	gate prometheus.Gauge

	ctx  context.Context // of the probes
	stop context.CancelFunc

	mu       sync.Mutex
	state    string
	failures int       // in a row
	opened   int       // in a row, without a request that went well in between
	heard    time.Time // last answer
	since    time.Time // open since then
	retryAt  time.Time // next probe
	last     string    // what was asked when a server error came last
	why      error
}

// States of a breaker, as Stats tells them.
const (
	closed  = "closed"
	open    = "open"
	probing = "probing"
)

func (c *Client) newBreaker(name, base, ns string) *breaker {
	u, err := url.Parse(base)
	if err != nil {
		panic("upstream: " + err.Error()) // made of one that was parsed
	}
	u.Path = "/v2/"
	if ns != "" {
		u.RawQuery = url.Values{"ns": {ns}}.Encode()
	}
	b := &breaker{c: c, name: name, base: u, state: closed, gate: c.metrics.breaker.WithLabelValues(name, u.Host)}
	b.ctx, b.stop = context.WithCancel(c.ctx)
	return b
}

// admit is nil when the host may be asked.
func (b *breaker) admit() *failure {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return nil
	}
	wait := max(time.Second, b.retryAt.Sub(b.c.now()))
	b.c.metrics.broken.WithLabelValues(b.name).Inc()
	return &failure{kind: Unavailable, retryAfter: wait, broken: true,
		err: fmt.Errorf("%s is not asked: it has failed since %s, the last time with: %w", b.base.Host, b.since.UTC().Format(time.RFC3339), b.why)}
}

// answered notes any answer that shows the host at work.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.opened, b.last, b.heard = 0, 0, "", b.c.now()
}

// refused5xx notes a server error for what was asked. One thing that the host
// cannot give says nothing about the rest.
func (b *breaker) refused5xx(status int, what string) {
	switch status {
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusLoopDetected:
		b.answered()
		return
	}
	b.mu.Lock()
	again := status == http.StatusInternalServerError && what == b.last
	b.last, b.heard = what, b.c.now()
	b.mu.Unlock()
	if !again {
		b.failed(1, fmt.Errorf("%d %s", status, http.StatusText(status)))
	}
}

// broke notes an exchange that ended without an answer. ctx is the caller's.
func (b *breaker) broke(ctx context.Context, began time.Time, err error) {
	now := b.c.now()
	var ne net.Error
	silent := errors.As(err, &ne) && ne.Timeout()
	if ctx.Err() != nil {
		if now.Sub(began) < breakSilence {
			return
		}
		silent, err = true, fmt.Errorf("no answer in %s", now.Sub(began).Round(time.Second))
	}
	b.mu.Lock()
	heard := b.heard.After(began)
	b.mu.Unlock()
	switch {
	case !silent:
		b.failed(1, safe(err))
	case !heard: // else it has only been slow with this
		b.failed(breakAfter, safe(err))
	}
}

// failed counts, and opens the breaker when it is time.
func (b *breaker) failed(n int, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures += n
	if b.state != closed || b.failures < breakAfter && b.opened == 0 || b.ctx.Err() != nil || b.c.o.NoBreaker {
		return
	}
	b.state, b.since, b.why = open, b.c.now(), why
	pause := b.pause()
	b.gate.Set(1)
	b.c.metrics.opened.WithLabelValues(b.name).Inc()
	b.c.o.Log.Warn("upstream does not work; it is not asked until it answers a probe", zap.String("upstream", b.name),
		zap.String("host", b.base.Host), zap.Duration("probe_in", pause), zap.Error(why))
	b.c.background.Go(func() { b.recover(pause) })
}

// pause plans the next probe; it is called locked.
func (b *breaker) pause() time.Duration {
	d := backoff(breakBackoff, breakLimit, b.opened, b.c.o.Jitter)
	b.opened++
	b.retryAt = b.c.now().Add(d)
	return d
}

// recover probes until the host answers.
func (b *breaker) recover(pause time.Duration) {
	for {
		if sleep(b.ctx, pause) != nil {
			return
		}
		b.mu.Lock()
		b.state = probing
		b.mu.Unlock()
		err := b.probe()
		if b.ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		if err == nil {
			b.state, b.failures, b.why, b.since = closed, 0, nil, time.Time{}
			b.mu.Unlock()
			b.gate.Set(0)
			b.c.o.Log.Info("upstream answers again", zap.String("upstream", b.name), zap.String("host", b.base.Host))
			return
		}
		b.state, b.why = open, err
		pause = b.pause()
		b.mu.Unlock()
	}
}

// probe asks whether the registry is there; whether we may enter does not
// matter.
func (b *breaker) probe() error {
	ctx, cancel := context.WithTimeout(b.ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", b.c.o.UserAgent)
	resp, err := b.c.transport.RoundTrip(req)
	if err != nil {
		return safe(err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // ends with ctx
	_ = resp.Body.Close()
	if resp.StatusCode >= 500 {
		return fmt.Errorf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return nil
}

// snapshot is what Stats tells: the state, and when the next probe is due.
func (b *breaker) snapshot() (state string, retryAt time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return closed, time.Time{}
	}
	return b.state, b.retryAt
}
