package accesslog

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/samara-p2p/samara/pkg/registry"
)

type contextKey struct{}

// Identify notes who sent the request that ctx belongs to. Without a Log before
// the handler it does nothing.
func Identify(ctx context.Context, user, auth string) {
	if e, ok := ctx.Value(contextKey{}).(*Line); ok {
		e.User, e.Auth = user, auth
	}
}

// Wrap writes a line for each request that next has answered. It belongs behind
// whatever finds out the client's address, and before everything else.
func (l *Log) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := l.o.Now()
		rt := registry.ParsePath(r.URL.Path)
		e := &Line{Time: began.UTC(), Client: clientOf(r), Method: r.Method, Path: r.URL.Path,
			Kind: string(rt.Endpoint), Reference: rt.Reference, UserAgent: r.UserAgent()}
		if rt.Repository != "" {
			e.Repository = l.o.Canonical(rt.Repository, r.URL.Query().Get("ns"))
		}
		sent := &writer{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), contextKey{}, e))
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &body{ReadCloser: r.Body, n: &e.Received}
		}
		defer func() { // also of a handler that panics, to cut the connection
			e.Status, e.Sent = sent.status, sent.n
			h := w.Header()
			e.Cache, e.Source = h.Get("X-Cache"), h.Get("X-Cache-Source")
			if size, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil && r.Method != http.MethodHead {
				e.Cut = e.Sent < size
			}
			e.Seconds = float64(l.o.Now().Sub(began).Microseconds()) / 1e6
			l.Record(*e)
		}()
		next.ServeHTTP(sent, r)
	})
}

// clientOf is the address without the port, which says nothing.
func clientOf(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return ap.Addr().Unmap().String()
}

// body counts what is read of it.
type body struct {
	io.ReadCloser
	n *int64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	*b.n += int64(n)
	return n, err
}

// writer remembers the status and counts bytes, and hides nothing else of the
// writer below: a body still goes out by sendfile, and its deadlines can be set.
type writer struct {
	http.ResponseWriter
	status int
	n      int64
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := io.Copy(w.ResponseWriter, r) // asks the writer's own ReadFrom
	w.n += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
