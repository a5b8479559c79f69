package auth

import (
	"errors"
	"io"
	"net/http"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/pkg/registry"
)

// request is one request and what was decided about it.
type request struct {
	*http.Request
	route registry.Route
	id    *Identity
	needs []need
	err   error // why it is refused
}

// observe gives a writer that remembers the status, and what is to be called
// at the end. Without an audit log it costs nothing.
func (g *Guard) observe(w http.ResponseWriter, q *request) (http.ResponseWriter, func()) {
	if g.o.Audit == nil || q.route.Endpoint == registry.EndpointPing && (q.err == nil || errors.Is(q.err, errNoCredentials)) {
		return w, func() {}
	}
	s := &statusWriter{ResponseWriter: w}
	return s, func() { g.record(s, q) }
}

// record writes a line for what is worth one: each refusal, and each use of
// content. To look with HEAD is none, and of an upload only its end; nor is the
// first HEAD of every client, by which it learns that it has to log in.
func (g *Guard) record(s *statusWriter, q *request) {
	e := audit.Event{
		User: q.id.User, Auth: string(q.id.Method), Client: client(q.Request).String(),
		Action: "login", Method: q.Method, Repository: q.route.Repository, Reference: q.route.Reference,
		Digest: s.Header().Get("Docker-Content-Digest"), Outcome: "allowed", Status: s.status,
	}
	reads := false
	for _, n := range q.needs {
		e.Action, e.Repository = n.actions.String(), n.canonical
		reads = n.actions == Pull || n.actions == Catalog
	}
	if e.Digest == "" && registry.IsDigest(e.Reference) {
		e.Digest = e.Reference
	}
	var d *denied
	switch {
	case errors.Is(q.err, errNoCredentials) && q.Method == http.MethodHead:
		return
	case errors.As(q.err, &d):
		e.Outcome = d.reason
		if d.user != "" {
			e.User = d.user
		}
	case q.err != nil:
		return // no path of the API
	case q.Method == http.MethodHead, reads && !g.o.AuditPulls, q.route.Endpoint == registry.EndpointUpload && s.status < http.StatusBadRequest && s.status != http.StatusCreated:
		return
	case s.status >= http.StatusBadRequest:
		e.Outcome = "failed"
	}
	g.o.Audit(e)
}

// recordLogin writes a line for a request for a token.
func (g *Guard) recordLogin(r *http.Request, id *Identity, err error, scope string) {
	if g.o.Audit == nil || err == nil && id.Method == Anonymous && !g.o.AuditPulls {
		return
	}
	e := audit.Event{User: id.User, Auth: string(id.Method), Client: client(r).String(), Action: "login", Method: r.Method, Outcome: "allowed", Note: scope}
	var d *denied
	if errors.As(err, &d) {
		e.Outcome, e.User = d.reason, d.user
	}
	g.o.Audit(e)
}

// statusWriter remembers the status and hides nothing else of the writer: a
// body still goes out by sendfile, and its deadlines can be set.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(status int) {
	if s.status == 0 && status >= http.StatusOK {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (s *statusWriter) Write(p []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	return s.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (s *statusWriter) ReadFrom(r io.Reader) (int64, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	return io.Copy(s.ResponseWriter, r) // asks the writer's own ReadFrom
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
