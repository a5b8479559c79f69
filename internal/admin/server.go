package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/prewarm"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Prefix is where the API is.
const Prefix = "/samara/v1/admin"

const (
	maxBody = 1 << 20
	maxWait = time.Minute // of ?wait=
)

//go:embed openapi.yaml
var openAPI []byte

// Error is an answer with a status of its own.
type Error struct {
	Status  int
	Message string // for people
}

func (e *Error) Error() string { return e.Message }

// Caller is who sent a request, and how that was proved.
type Caller struct {
	User, Auth, Client string
	Admin              bool // it may do more than look
	Page               bool // it is a page that looks again and again
}

// Options of a Server. Cache, View, Scrub and Caller are required.
type Options struct {
	Cache  Cache
	View   Viewer
	Scrub  Scrubber
	Local  Local                      // nil: there are no local repositories
	Hosts  Hosts                      // nil: no host takes orders
	Caller func(*http.Request) Caller // what stands before the server found that out
	Audit  func(audit.Event)          // is told of every request; nil: nobody is
	Log    *zap.Logger                // nil: no logs
}

// Server answers requests below Prefix. It must be closed.
type Server struct {
	o    Options
	mux  *http.ServeMux
	jobs *jobs
}

// New makes a Server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	s := &Server{o: o, mux: http.NewServeMux(), jobs: &jobs{log: o.Log}}
	for _, rt := range s.routes() {
		s.mux.Handle(rt.method+" "+Prefix+rt.path, rt.handler)
	}
	s.mux.HandleFunc("GET "+Prefix+"/openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(openAPI) // nobody is left to tell
	})
	return s
}

// Close ends all jobs and waits for them.
func (s *Server) Close() { s.jobs.close() }

// none stands for no body.
type none struct{}

// route is one operation. in and out are values of the types of its bodies.
type route struct {
	method, path string
	in, out      any
	status       int
	handler      http.Handler
}

// routes are all operations but the document's own.
func (s *Server) routes() []route {
	return append(s.views(),
		handle("GET", "/usage", http.StatusOK, func(r *http.Request, _ none) (Usage, error) {
			return s.o.Cache.Usage(r.Context(), r.URL.Query().Get("prefix"))
		}),
		handle("POST", "/prewarm", http.StatusAccepted, s.prewarm),
		handle("POST", "/prewarm/orders", http.StatusAccepted, s.order),
		handle("GET", "/prewarm/orders", http.StatusOK, s.orders),
		handle("GET", "/prewarm/orders/{id}", http.StatusOK, s.getOrder),
		handle("DELETE", "/prewarm/orders/{id}", http.StatusOK, s.cancelOrder),
		handle("GET", "/prewarm/schedules", http.StatusOK, s.schedules),
		handle("PUT", "/prewarm/schedules/{name}", http.StatusOK, s.setSchedule),
		handle("DELETE", "/prewarm/schedules/{name}", http.StatusOK, s.removeSchedule),
		handle("POST", "/purge", http.StatusOK, func(r *http.Request, in PurgeRequest) (Purged, error) {
			if in.Repository == "" {
				return Purged{}, &Error{http.StatusBadRequest, "repository is missing"}
			}
			return s.o.Cache.Purge(r.Context(), in)
		}),
		handle("GET", "/upstreams", http.StatusOK, func(*http.Request, none) (Upstreams, error) {
			return Upstreams{s.o.Cache.Upstreams()}, nil
		}),
		handle("GET", "/events", http.StatusOK, func(*http.Request, none) (Endpoints, error) {
			return Endpoints{s.o.Cache.Events()}, nil
		}),
		handle("POST", "/collect", http.StatusAccepted, s.collect),
		handle("GET", "/trash", http.StatusOK, s.trash),
		handle("POST", "/trash/restore", http.StatusOK, s.restore),
		handle("DELETE", "/trash", http.StatusOK, s.emptyTrash),
		handle("GET", "/scrub", http.StatusOK, func(*http.Request, none) (status.Scrub, error) { return s.o.Scrub.Scrub(), nil }),
		handle("POST", "/scrub", http.StatusAccepted, func(*http.Request, none) (status.Scrub, error) {
			if !s.o.Scrub.ScrubNow() {
				return status.Scrub{}, &Error{http.StatusConflict, "a round is under way; repairs that wait are tried now"}
			}
			return s.o.Scrub.Scrub(), nil
		}),
		handle("GET", "/jobs", http.StatusOK, func(*http.Request, none) (Jobs, error) { return Jobs{s.jobs.all()}, nil }),
		handle("GET", "/jobs/{id}", http.StatusOK, s.job),
		handle("DELETE", "/jobs/{id}", http.StatusOK, func(r *http.Request, _ none) (Job, error) {
			return s.jobs.cancel(r.PathValue("id"))
		}),
	)
}

// handle makes an operation of a function.
func handle[In, Out any](method, path string, status int, f func(*http.Request, In) (Out, error)) route {
	var in In
	var out Out
	return route{method, path, in, out, status, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in In
		var out Out
		err := decode(r, &in)
		if err == nil {
			out, err = f(r, in)
		}
		if err != nil {
			code, message := explain(err)
			answer(w, code, Problem{message})
			return
		}
		give(w, r, status, out)
	})}
}

// decode reads a body that is JSON, all of it known. A browser that was led here
// cannot send one: it would have to ask first.
func decode(r *http.Request, in any) error {
	if _, ok := in.(*none); ok {
		return nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &Error{http.StatusUnsupportedMediaType, "the body has to be JSON, with Content-Type: application/json"}
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(in); err != nil {
		return &Error{http.StatusBadRequest, "the body: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if dec.More() {
		return &Error{http.StatusBadRequest, "the body: more than one value"}
	}
	return nil
}

// explain chooses the status of an error.
func explain(err error) (code int, message string) {
	var own *Error
	var re *registry.Error
	switch {
	case errors.As(err, &own):
		return own.Status, own.Message
	case errors.As(err, &re):
		return re.Status, re.Message
	case errors.As(err, new(*prewarm.BadRequest)):
		return http.StatusBadRequest, err.Error()
	case errors.Is(err, prewarm.ErrNotFound):
		return http.StatusNotFound, err.Error()
	case errors.Is(err, prewarm.ErrMany):
		return http.StatusTooManyRequests, err.Error()
	case errors.Is(err, local.ErrCollecting):
		return http.StatusConflict, err.Error()
	}
	return http.StatusInternalServerError, err.Error()
}

// give answers a look with 304 where it shows what the client has, which looks
// again and again.
func give(w http.ResponseWriter, r *http.Request, code int, v any) {
	if r.Method != http.MethodGet || code != http.StatusOK {
		answer(w, code, v)
		return
	}
	body, code := encode(code, v)
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	w.Header().Set("ETag", tag)
	if code == http.StatusOK && r.Header.Get("If-None-Match") == tag {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	send(w, code, body)
}

func answer(w http.ResponseWriter, code int, v any) {
	body, code := encode(code, v)
	send(w, code, body)
}

func encode(code int, v any) (body []byte, status int) {
	body, err := json.Marshal(v)
	if err != nil { // a type of this package always marshals
		return []byte(`{"error":"the answer cannot be written"}`), http.StatusInternalServerError
	}
	return append(body, '\n'), code
}

func send(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(body) // nobody is left to tell
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	sw := &statusWriter{ResponseWriter: w}
	if err != nil {
		answer(sw, http.StatusBadRequest, Problem{fmt.Sprintf("the body did not come whole, or has more than %d bytes", maxBody)})
	} else {
		r.Body = io.NopCloser(bytes.NewReader(body))
		if _, pattern := s.mux.Handler(r); pattern == "" {
			s.unknown(sw, r)
		} else {
			s.mux.ServeHTTP(sw, r)
		}
	}
	s.record(r, body, sw.status)
}

// unknown answers what is no operation.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	for _, rt := range s.routes() {
		if rt.path == strings.TrimPrefix(r.URL.Path, Prefix) {
			answer(w, http.StatusMethodNotAllowed, Problem{fmt.Sprintf("%.20s is no method of this; see %s/openapi.yaml", r.Method, Prefix)})
			return
		}
	}
	answer(w, http.StatusNotFound, Problem{"there is no such operation; see " + Prefix + "/openapi.yaml"})
}

// record tells the audit log, but of looks at a job or an order, and of what a page shows to
// somebody whose sign-in was told. Bodies of this API hold no secrets.
func (s *Server) record(r *http.Request, body []byte, code int) {
	if s.o.Audit == nil || r.Method == http.MethodGet && (strings.HasPrefix(r.URL.Path, Prefix+"/jobs/") || strings.HasPrefix(r.URL.Path, Prefix+"/prewarm/orders/")) {
		return // to wait for a job, or an order, is to look again and again
	}
	c := s.o.Caller(r)
	if r.Method == http.MethodGet && c.Page && code < http.StatusBadRequest {
		return
	}
	e := audit.Event{User: c.User, Auth: c.Auth, Client: c.Client, Action: "admin", Method: r.Method, Outcome: "allowed", Status: code,
		Reference: strings.TrimPrefix(r.URL.Path, Prefix)}
	e.Note = strings.TrimSpace(r.URL.RawQuery + " " + string(bytes.TrimSpace(body)))
	if code >= http.StatusBadRequest {
		e.Outcome = "failed"
	}
	s.o.Audit(e)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

func (s *Server) prewarm(r *http.Request, in PrewarmRequest) (Job, error) {
	if len(in.Images) == 0 || len(in.Images) > 1000 {
		return Job{}, &Error{http.StatusBadRequest, fmt.Sprintf("images: %d are given, not 1 to 1000", len(in.Images))}
	}
	if in.Parallel < 0 || in.Parallel > 16 {
		return Job{}, &Error{http.StatusBadRequest, fmt.Sprintf("parallel: %d is not within 1 to 16", in.Parallel)}
	}
	for _, p := range in.Platforms {
		if _, err := registry.ParsePlatform(p); err != nil && p != "all" {
			return Job{}, &Error{http.StatusBadRequest, err.Error()}
		}
	}
	return s.jobs.start("prewarm", s.o.Caller(r).User, false, func(ctx context.Context, p *Progress, j *Job) error {
		result, err := s.o.Cache.Prewarm(ctx, in, p)
		j.Prewarm = &result
		return err
	})
}

var errNoLocal = &Error{http.StatusNotFound, "there are no local repositories: `seeder serve --local PREFIX` makes some"}

func (s *Server) collect(r *http.Request, in CollectRequest) (Job, error) {
	if s.o.Local == nil {
		return Job{}, errNoLocal
	}
	return s.jobs.start("collect", s.o.Caller(r).User, true, func(ctx context.Context, _ *Progress, j *Job) error {
		report, err := s.o.Local.Collect(ctx, local.CollectOptions{DryRun: in.DryRun})
		j.Collect = &report
		return err
	})
}

func (s *Server) trash(r *http.Request, _ none) (Trash, error) {
	if s.o.Local == nil {
		return Trash{}, errNoLocal
	}
	t := Trash{Entries: []TrashEntry{}}
	for _, e := range s.o.Local.Trash(r.URL.Query().Get("repository")) {
		t.Entries = append(t.Entries, TrashEntry{Repository: e.Repository, Kind: e.Kind, Tags: e.Tags, Digest: e.Digest,
			Blobs: len(e.Blobs), Bytes: e.Bytes, Reason: e.Reason, Deleted: e.Deleted, Expires: e.Expires})
	}
	return t, nil
}

func (s *Server) restore(r *http.Request, in RestoreRequest) (local.Restored, error) {
	if s.o.Local == nil {
		return local.Restored{}, errNoLocal
	}
	if in.Repository == "" || in.Reference == "" {
		return local.Restored{}, &Error{http.StatusBadRequest, "repository or reference is missing"}
	}
	return s.o.Local.Restore(r.Context(), in.Repository, in.Reference)
}

func (s *Server) emptyTrash(r *http.Request, _ none) (local.Freed, error) {
	if s.o.Local == nil {
		return local.Freed{}, errNoLocal
	}
	q := r.URL.Query()
	if q.Get("repository") == "" && q.Get("all") != "true" {
		return local.Freed{}, &Error{http.StatusBadRequest, "say which repository's, or all=true"}
	}
	return s.o.Local.EmptyTrash(r.Context(), q.Get("repository"))
}

// job answers at once, or with ?wait=SECONDS when the job has ended, at the latest
// after these.
func (s *Server) job(r *http.Request, _ none) (Job, error) {
	wait, err := waitOf(r)
	if err != nil {
		return Job{}, err
	}
	return s.jobs.get(r.Context(), r.PathValue("id"), wait)
}

// waitOf is how long a request waits for the end of something.
func waitOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || time.Duration(n)*time.Second > maxWait {
		return 0, &Error{http.StatusBadRequest, fmt.Sprintf("wait: want 0 to %d seconds", int(maxWait/time.Second))}
	}
	return time.Duration(n) * time.Second, nil
}
