package clients

import (
	"context"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// web is an HTTP server that answers as another handler does, with the trouble
// it is told of. Safe for concurrent use.
type web struct {
	next http.Handler
	srv  *http.Server
	wg   sync.WaitGroup

	struck    atomic.Int64 // answers that met trouble
	blobBytes atomic.Int64 // of blobs' bodies

	mu    sync.Mutex
	state doorState
	asked []asked
}

// asked is a request for a blob.
type asked struct {
	digest string
	from   int64 // the first byte
}

func newWeb(ln net.Listener, next http.Handler) *web {
	w := &web{next: next}
	w.state.ended = make(chan struct{})
	w.srv = &http.Server{Handler: w, ReadHeaderTimeout: 10 * time.Second}
	w.wg.Go(func() { _ = w.srv.Serve(ln) })
	return w
}

// set begins a trouble, ends the one before and counts anew.
func (w *web) set(t *Trouble) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.state.ended)
	w.state = doorState{trouble: t, ended: make(chan struct{})}
	if t != nil && t.How == Slow {
		w.state.limit = rate.NewLimiter(rate.Limit(t.Rate), 16<<10)
	}
	w.asked = nil
	w.struck.Store(0)
	w.blobBytes.Store(0)
}

func (w *web) close() {
	w.set(nil)
	_ = w.srv.Close()
	w.wg.Wait()
}

// blobsAsked are the requests for blobs since the last set, in their order.
func (w *web) blobsAsked() []asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]asked(nil), w.asked...)
}

func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	blob := strings.Contains(r.URL.Path, "/blobs/")
	w.mu.Lock()
	st := w.state
	if blob && r.Method == http.MethodGet {
		from, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
		n, _ := strconv.ParseInt(from, 10, 64) // none: from 0
		w.asked = append(w.asked, asked{path.Base(r.URL.Path), n})
	}
	w.mu.Unlock()
	t := st.trouble
	if t != nil && t.Blobs && !blob {
		t = nil
	}
	out := &troubled{ResponseWriter: rw, ctx: r.Context(), st: st, t: t}
	if blob && r.Method == http.MethodGet {
		out.count = &w.blobBytes
	}
	switch {
	case t == nil:
	case t.How == Drop:
		w.struck.Add(1)
		panic(http.ErrAbortHandler)
	case t.How == Status:
		w.struck.Add(1)
		refuse(rw, t.Code)
		return
	}
	defer func() {
		if out.hit {
			w.struck.Add(1)
		}
		if out.end != nil {
			out.end()
		}
	}()
	w.next.ServeHTTP(out, r)
	if !out.wrote { // nothing in the body
		out.strike(nil)
	}
}

// refuse answers as registries do.
func refuse(rw http.ResponseWriter, code int) {
	name := map[int]string{401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 429: "TOOMANYREQUESTS"}[code]
	if name == "" {
		name = "UNKNOWN"
	}
	if code == http.StatusUnauthorized {
		rw.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(code)
	_, _ = rw.Write([]byte(`{"errors":[{"code":"` + name + `","message":"as told"}]}`))
}

// troubled is an answer's body with trouble at an offset.
type troubled struct {
	http.ResponseWriter
	ctx   context.Context
	st    doorState
	t     *Trouble
	sent  int64
	wrote bool
	hit   bool
	count *atomic.Int64
	end   func() // how the handler's answer ends, if not by itself
}

// Unwrap is for http.ResponseController.
func (o *troubled) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// Flush implements http.Flusher.
func (o *troubled) Flush() {
	if o.end == nil {
		_ = http.NewResponseController(o.ResponseWriter).Flush()
	}
}

func (o *troubled) Write(b []byte) (int, error) {
	if o.end != nil {
		return 0, http.ErrAbortHandler
	}
	o.wrote = true
	for done := 0; done < len(b); {
		part := b[done:min(len(b), done+16<<10)]
		if err := o.part(part); err != nil {
			return done, err
		}
		done += len(part)
	}
	return len(b), nil
}

func (o *troubled) part(b []byte) error {
	if o.t != nil && o.t.How == Slow {
		o.hit = true
		if err := o.st.limit.WaitN(o.ctx, len(b)); err != nil {
			return err
		}
	}
	at, strikes := o.offset(), false
	if at >= 0 && at >= o.sent && at < o.sent+int64(len(b)) {
		strikes = true
	}
	if !strikes {
		return o.pass(b)
	}
	return o.strike(b)
}

// offset is where trouble is in this body; -1: nowhere.
func (o *troubled) offset() int64 {
	if o.t == nil {
		return -1
	}
	switch o.t.How {
	case Fin, Reset, Stall, Flip:
	default:
		return -1
	}
	if o.t.At == LastByte {
		n, err := strconv.ParseInt(o.Header().Get("Content-Length"), 10, 64)
		if err != nil {
			return -1
		}
		return n - 1
	}
	return o.t.At
}

func (o *troubled) pass(b []byte) error {
	n, err := o.ResponseWriter.Write(b)
	o.sent += int64(n)
	if o.count != nil {
		o.count.Add(int64(n))
	}
	return err
}

// strike does at the offset, which is in b, what the trouble says.
func (o *troubled) strike(b []byte) error {
	at := o.offset() - o.sent
	if b == nil && o.offset() != 0 || o.t == nil {
		return nil
	}
	o.hit = true
	if o.t.How == Flip {
		c := append([]byte(nil), b...)
		if len(c) > 0 {
			c[at] ^= 1
		}
		return o.pass(c)
	}
	if err := o.pass(b[:at]); err != nil {
		return err
	}
	_ = http.NewResponseController(o.ResponseWriter).Flush()
	how, ended := o.t.How, o.st.ended
	o.end = func() {
		switch how {
		case Fin:
			panic(http.ErrAbortHandler) // the server closes
		case Reset:
			c, _, err := http.NewResponseController(o.ResponseWriter).Hijack()
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			if tc, ok := c.(*net.TCPConn); ok {
				_ = tc.SetLinger(0)
			}
			c.Close()
		case Stall:
			select {
			case <-ended:
			case <-o.ctx.Done():
			}
			panic(http.ErrAbortHandler)
		}
	}
	return http.ErrAbortHandler
}
