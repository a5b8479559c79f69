package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
	maxAsked     = 10 * time.Minute // of a Retry-After
	// breakAfter is how many failures in a row open the breaker: from then on the
	// endpoint is tried once in maxBackoff, and its state is a warning.
	breakAfter = 5
	// refusals is how often an endpoint may refuse an event as such before it is
	// dropped: it would stand before all others for ever.
	refusals  = 3
	maxAnswer = 4 << 10
)

// endpoint delivers what is in its queue.
type endpoint struct {
	c        Endpoint
	q        *queue
	instance string
	log      *zap.Logger
	client   *http.Client
	m        *metrics

	mu        sync.Mutex
	oldest    time.Time // of what is queued
	delivered uint64
	dropped   uint64
	failing   int
	lastError string
	nextTry   time.Time
	full      bool // events are being dropped, and that was said
	broken    bool // the queue cannot be written, and that was said
}

func newEndpoint(c Endpoint, q *queue, o Options) *endpoint {
	tr := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12},
		MaxIdleConns:    1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: c.Timeout,
		MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
	}
	var rt http.RoundTripper = tr
	if o.transport != nil {
		rt = o.transport
	}
	return &endpoint{c: c, q: q, instance: o.Instance, log: o.Log.With(zap.String("endpoint", c.Name)),
		// A redirect could take secrets elsewhere.
		client: &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// enter puts an event into the queue.
func (e *endpoint) enter(line []byte) {
	dropped, err := e.q.append(line)
	if err == nil {
		e.m.queued.WithLabelValues(e.c.Name).Inc()
	}
	if dropped > 0 {
		e.drop("full", dropped)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.m.dropped.WithLabelValues(e.c.Name, "disk").Inc()
		e.dropped++
	}
	if err != nil && !e.broken { // once, until it works again
		e.log.Error("the queue of events cannot be written; events are lost until it can", zap.Error(err))
	}
	if dropped > 0 && !e.full {
		e.log.Error("the queue of events is full; the oldest are dropped until the endpoint takes some", zap.Int("MiB", e.c.Queue), zap.Uint64("dropped", dropped))
	}
	e.broken, e.full = err != nil, e.full || dropped > 0
}

func (e *endpoint) drop(reason string, n uint64) {
	e.m.dropped.WithLabelValues(e.c.Name, reason).Add(float64(n))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropped += n
}

// run delivers until ctx ends.
func (e *endpoint) run(ctx context.Context) {
	for ctx.Err() == nil {
		lines, last, err := e.q.peek(e.c.Batch)
		if err != nil {
			e.fail(ctx, fmt.Errorf("read the queue: %w", err), 0)
			continue
		}
		if len(lines) == 0 {
			e.note(time.Time{})
			select {
			case <-ctx.Done():
			case <-e.q.wake:
			}
			continue
		}
		if !e.settle(ctx, lines) {
			return
		}
		var n int64
		for _, l := range lines {
			n += int64(len(l))
		}
		if err := e.q.done(last, n); err != nil { // after a restart they are delivered again
			e.fail(ctx, fmt.Errorf("note what is delivered: %w", err), 0)
		}
	}
}

// note remembers how old the oldest event is.
func (e *endpoint) note(oldest time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.oldest = oldest; oldest.IsZero() {
		e.full = false
	}
}

// settle tries until the events are delivered, or not worth another try; false
// when ctx ended before.
func (e *endpoint) settle(ctx context.Context, lines [][]byte) bool {
	list := e.decode(lines)
	refused := 0
	for {
		if list = e.young(list); len(list) == 0 {
			return true
		}
		e.note(list[0].Time)
		err := e.post(ctx, list)
		var answer *refusal
		switch {
		case err == nil:
			e.success(len(list))
			return true
		case ctx.Err() != nil:
			return false
		case errors.As(err, &answer) && answer.final():
			if refused++; refused >= refusals {
				e.log.Error("the endpoint refuses an event; it is dropped", zap.String("event", list[0].ID), zap.Int("events", len(list)), zap.Error(err))
				e.drop("refused", uint64(len(list)))
				return true
			}
		}
		wait := time.Duration(0)
		if answer != nil {
			wait = answer.retry
		}
		if e.fail(ctx, err, wait); ctx.Err() != nil {
			return false
		}
	}
}

// decode reads lines of the queue. One that cannot be read was damaged.
func (e *endpoint) decode(lines [][]byte) []*Event {
	var list []*Event
	for _, l := range lines {
		v := new(Event)
		if err := json.Unmarshal(l, v); err != nil {
			e.log.Error("an event in the queue cannot be read; it is dropped", zap.Error(err))
			e.drop("damaged", 1)
			continue
		}
		list = append(list, v)
	}
	return list
}

// young leaves out events that nobody waits for any more.
func (e *endpoint) young(list []*Event) []*Event {
	n := 0
	for n < len(list) && time.Since(list[n].Time) > e.c.MaxAge {
		n++
	}
	if n > 0 {
		e.log.Error("events are too old and were dropped", zap.Int("events", n), zap.Duration("max-age", e.c.MaxAge))
		e.drop("old", uint64(n))
	}
	return list[n:]
}

func (e *endpoint) success(n int) {
	e.m.delivered.WithLabelValues(e.c.Name).Add(float64(n))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failing >= breakAfter {
		e.log.Info("the endpoint takes events again", zap.Int("failures", e.failing))
	}
	e.delivered += uint64(n)
	e.failing, e.lastError, e.nextTry = 0, "", time.Time{}
}

// fail notes a failure and waits before the next try, for as long as asked, or
// longer with each.
func (e *endpoint) fail(ctx context.Context, err error, asked time.Duration) {
	e.m.failed.WithLabelValues(e.c.Name).Inc()
	e.mu.Lock()
	e.failing++
	wait := maxBackoff
	if e.failing < breakAfter {
		wait = min(maxBackoff, firstBackoff<<(2*(e.failing-1)))
	}
	wait = max(min(asked, maxAsked), wait/2+rand.N(wait/2)) // not all at the same time
	if e.failing == breakAfter {
		e.log.Warn("the endpoint does not take events; they are kept and it is tried once a minute", zap.Error(err))
	}
	e.lastError, e.nextTry = err.Error(), time.Now().Add(wait)
	e.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// refusal is an answer other than success.
type refusal struct {
	status int
	retry  time.Duration
}

func (r *refusal) Error() string { return "answered " + strconv.Itoa(r.status) }

// final tells whether the event is to blame, and not the endpoint's state or
// its configuration.
func (r *refusal) final() bool {
	switch r.status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// post makes one delivery. Errors tell nothing of the URL.
func (e *endpoint) post(ctx context.Context, list []*Event) error {
	body, contentType, err := encode(e.c.Format, e.instance, e.c.Batch > 1, list)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.c.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL is none") // it was checked
	}
	for k, v := range e.c.Headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "samara-seeder")
	if err := e.authorize(req, list, body); err != nil {
		return err
	}
	resp, err := e.client.Do(req)
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // the connection is used again where that is all
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		retry, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &refusal{status: resp.StatusCode, retry: time.Duration(max(0, retry)) * time.Second}
	}
	return nil
}

// authorize adds what proves who sends this: a header from a file, and a
// signature as Standard Webhooks 1.0 has it.
func (e *endpoint) authorize(req *http.Request, list []*Event, body []byte) error {
	if e.c.AuthorizationFile != "" {
		s, err := readSecret(e.c.AuthorizationFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", s)
	}
	id := list[0].ID
	if len(list) > 1 { // the next try may have more of them
		id += "-" + strconv.Itoa(len(list))
	}
	now := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", now)
	if e.c.SecretFile == "" {
		return nil
	}
	secret, err := readSecret(e.c.SecretFile)
	if err != nil {
		return err
	}
	key := []byte(secret)
	if b64, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if key, err = base64.StdEncoding.DecodeString(b64); err != nil {
			return fmt.Errorf("%s: what follows whsec_ is not base64", e.c.SecretFile)
		}
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + now + "."))
	mac.Write(body)
	req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return nil
}

func (e *endpoint) status() State {
	queued, bytes := e.q.pending()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := State{Name: e.c.Name, Format: e.c.Format, Queued: queued, Bytes: bytes, Delivered: e.delivered, Dropped: e.dropped,
		Failing: e.failing, LastError: e.lastError, NextTry: e.nextTry}
	if queued > 0 {
		s.Oldest = e.oldest
	}
	return s
}
