package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errRefused says that a stage does not give the rest of a body.
var errRefused = errors.New("handover: the rest of the body is refused")

// clientStall is how long a client may take to read what is relayed at a time.
const clientStall = 5 * time.Minute

// exchange is a client's request, and what it has got of the answer, over all the
// stages that take part in it. It is used by one goroutine.
type exchange struct {
	w         http.ResponseWriter
	r         *http.Request
	continued bool // by an earlier process

	status int // 0 until the header was sent
	etag   string
	first  int64     // of the content, the byte that the body begins with
	size   int64     // of the content; -1 unknown
	length int64     // of the body; -1 unknown
	sent   int64     // of the body
	since  time.Time // when a stage that began the body ended
}

func newExchange(w http.ResponseWriter, r *http.Request) (*exchange, error) {
	q := &exchange{w: w, r: r, size: -1, length: -1}
	if !isRelayed(r.Context()) {
		return q, nil
	}
	var err error
	q.r, q.continued, err = unwrap(r)
	return q, err
}

// writes tells whether the request may change something: it is not repeated.
func (q *exchange) writes() bool {
	return q.r.Method != http.MethodGet && q.r.Method != http.MethodHead
}

func (q *exchange) begun() bool { return q.status != 0 }

// attempt has a stage answer, or go on with the answer. Errors: errStageOver,
// where another stage is to go on; errRefused; what else keeps the answer from
// being finished.
func (q *exchange) attempt(s *stage) error {
	ctx, cancel := context.WithCancelCause(q.r.Context())
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer stop()
	h, r := s.whole, q.r.WithContext(ctx)
	if q.continued {
		h = s.continued
	}
	if q.begun() {
		h, r = s.continued, q.rest(ctx)
	}
	a := &attempt{q: q, s: s, header: make(http.Header)}
	if err := a.run(h, r); err != nil {
		return err
	}
	if a.refused {
		return errRefused
	}
	if !s.over() || q.complete(a.denied) {
		return nil
	}
	if q.since.IsZero() {
		q.since = time.Now()
	}
	switch {
	case !q.begun() && !q.writes(), q.begun() && q.resumable():
		return errStageOver
	case q.writes():
		return errors.New("handover: the request was cut off, and cannot be repeated")
	}
	return errors.New("handover: the body cannot be continued")
}

// wait passes the time until the rest of a body is asked for once more; false
// where it has been asked for long enough.
func (q *exchange) wait(ctx context.Context, within time.Duration) bool {
	if time.Since(q.since) > within {
		return false
	}
	t := time.NewTimer(resumeEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// begin notes what the header promises.
func (q *exchange) begin(status int, h http.Header) {
	q.status, q.etag = status, h.Get("ETag")
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
		q.length = n
	}
	switch status {
	case http.StatusOK:
		q.size = q.length
	case http.StatusPartialContent:
		if first, last, size, ok := parseContentRange(h.Get("Content-Range")); ok && last-first+1 == q.length {
			q.first, q.size = first, size
		}
	}
}

// complete tells whether the client has all of the answer. denied: the stage had
// more to say.
func (q *exchange) complete(denied bool) bool {
	switch {
	case !q.begun():
		return false
	case q.r.Method == http.MethodHead, q.status < 200, q.status == http.StatusNoContent, q.status == http.StatusNotModified:
		return true
	case q.length < 0:
		return !denied
	}
	return q.sent == q.length
}

// resumable tells whether the rest of the body can be asked for by a range.
func (q *exchange) resumable() bool {
	return q.r.Method == http.MethodGet && q.etag != "" && q.length >= 0 && q.size >= 0
}

// rest asks for what is still to come.
func (q *exchange) rest(ctx context.Context) *http.Request {
	r := q.r.Clone(ctx)
	for _, name := range []string{"Authorization", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		r.Header.Del(name)
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", q.first+q.sent, q.first+q.length-1))
	return r
}

// follows tells whether an answer is that rest.
func (q *exchange) follows(status int, h http.Header) bool {
	first, last, size, ok := parseContentRange(h.Get("Content-Range"))
	return status == http.StatusPartialContent && ok && h.Get("ETag") == q.etag &&
		first == q.first+q.sent && last == q.first+q.length-1 && size == q.size
}

// parseContentRange reads "bytes FIRST-LAST/SIZE".
func parseContentRange(s string) (first, last, size int64, ok bool) {
	rest, ok1 := strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	var err error
	for _, f := range []struct {
		to   *int64
		text string
	}{{&first, from}, {&last, to}, {&size, total}} {
		if err == nil {
			*f.to, err = strconv.ParseInt(f.text, 10, 64)
		}
	}
	return first, last, size, ok1 && ok2 && ok3 && err == nil
}

// attempt is what one stage writes its answer to.
type attempt struct {
	q      *exchange
	s      *stage
	header http.Header

	mu      sync.Mutex // a handler may send the header by a timer
	done    bool       // the stage has returned
	status  int
	denied  bool // what it has to say is not sent
	refused bool // it does not give the rest of a body
}

// run calls a handler. What it says once its stage is over, or after it has
// returned, is dropped.
func (a *attempt) run(h http.Handler, r *http.Request) (err error) {
	defer func() {
		a.mu.Lock()
		a.done = true
		a.mu.Unlock()
		e := recover()
		switch {
		case e == nil:
		case e == http.ErrAbortHandler && a.s.over(): //nolint:errorlint // a panic's value, not an error's chain
		case e == http.ErrAbortHandler && a.q.begun(): //nolint:errorlint
			err = http.ErrAbortHandler
		default:
			panic(e)
		}
	}()
	h.ServeHTTP(a, r)
	a.WriteHeader(http.StatusOK) // unless it did
	return nil
}

// Header implements http.ResponseWriter.
func (a *attempt) Header() http.Header { return a.header }

// Unwrap is for http.ResponseController: deadlines are the connection's.
func (a *attempt) Unwrap() http.ResponseWriter { return a.q.w }

// WriteHeader sends the header, if there is none yet; else it looks whether it is
// that of the rest.
func (a *attempt) WriteHeader(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done || a.status != 0 || status < 200 {
		return
	}
	a.status = status
	switch {
	case a.s.over(): // an error may come of that: the next stage answers
		a.denied = true
	case a.q.begun():
		a.refused = !a.q.follows(status, a.header)
		a.denied = a.refused
	default:
		h := a.q.w.Header()
		maps.Copy(h, a.header)
		if a.s.relay {
			h.Set("Connection", "close") // the client's next request finds the new process
		}
		a.q.begin(status, h)
		a.q.w.WriteHeader(status)
	}
}

// open tells whether the body may go on.
func (a *attempt) open() error {
	a.WriteHeader(http.StatusOK)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.denied || a.done || a.s.over() {
		a.denied = true
		return errStageOver
	}
	return nil
}

// Write implements http.ResponseWriter.
func (a *attempt) Write(p []byte) (int, error) {
	if err := a.open(); err != nil {
		return 0, err
	}
	if a.s.relay { // else the handler sees to that
		_ = http.NewResponseController(a.q.w).SetWriteDeadline(time.Now().Add(clientStall))
	}
	n, err := a.q.w.Write(p)
	a.q.sent += int64(n)
	return n, err
}

// ReadFrom keeps the way by which the kernel sends files.
func (a *attempt) ReadFrom(src io.Reader) (int64, error) {
	if err := a.open(); err != nil {
		return 0, err
	}
	n, err := io.Copy(a.q.w, src)
	a.q.sent += n
	return n, err
}

// FlushError is for http.ResponseController.
func (a *attempt) FlushError() error {
	if err := a.open(); err != nil {
		return nil // there is nothing of it to be sent
	}
	return http.NewResponseController(a.q.w).Flush()
}
