package registry

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

const (
	// defaultStall is how long a client may take to read one chunk.
	defaultStall = 5 * time.Minute
	// bodyTimeout bounds how long a request's own body is waited for. No
	// request answered here has a use for one.
	bodyTimeout = 10 * time.Second
)

// HandlerOptions configures NewHandler. Only Resolver is required.
type HandlerOptions struct {
	Resolver   *Resolver
	Log        *zap.Logger           // nil: no logs
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // "seeder" or "peerd", the metrics' prefix

	// Writer takes pushes and deletes; nil: the registry is read-only.
	Writer Writer
	// Referrers lists referrers; nil: their endpoint is 404.
	Referrers ReferrerLister
	// Cataloger lists repositories; nil: /v2/_catalog is 404.
	Cataloger Cataloger

	// NotFoundOnly is for the localhost mirror: a backend that cannot help is
	// answered 404 whatever the reason, so that clients move on to their next
	// host at once (contract 11), but for a challenge (contract 25), and a blob whose body had to be cut is 404
	// for a while (contract 14).
	NotFoundOnly bool
	// Refusals are the blobs whose body had to be cut; nil: none are known but to
	// the handler, which refuses each for 90 s.
	Refusals *Refusals
	// UpstreamHeaders name the upstream of requests that do not name it
	// themselves, by ns or in the path: a host, or a URL of it (contract 20).
	UpstreamHeaders []string
	// Cause is a word for why a body had to be cut, of a few; a metric counts
	// them. nil: none are counted.
	Cause func(error) string

	// DecisionTimeout is the longest time from the request until headers are
	// sent once the backend has returned content. Until then, or until the
	// first byte, content that fails can still be answered with an error. 0:
	// headers go out with the first byte. How long the backend itself takes
	// to decide is the backend's to bound.
	DecisionTimeout time.Duration
	// Account is told, at the end of each request for a manifest, a blob or a
	// list of tags, how many body bytes went out. May be nil.
	Account func(bytes int64)
	// Notify is told of each push, pull and delete that succeeds. It must not
	// wait for anything but the disk. May be nil.
	Notify func(r *http.Request, n Notice)

	// Stall is how long a client may go without reading (in steps of 1 MiB)
	// before its connection is closed. Default 5 min; negative: for ever.
	Stall time.Duration
}

type handler struct {
	HandlerOptions
	backend Backend
	metrics *metrics
}

// NewHandler serves the OCI distribution API from b, at /v2/. Everything else
// is 404; without a Writer, every write is 405. It panics when o.Resolver is
// nil. The server's WriteTimeout must be 0: the handler keeps its own.
func NewHandler(b Backend, o HandlerOptions) http.Handler {
	if o.Resolver == nil {
		panic("registry: HandlerOptions.Resolver is nil")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Stall == 0 {
		o.Stall = defaultStall
	}
	if o.Refusals == nil {
		o.Refusals = NewRefusals(defaultRefuse)
	}
	return &handler{HandlerOptions: o, backend: b, metrics: newMetrics(o.Registerer, o.Namespace)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt := ParsePath(r.URL.Path)
	inFlight := h.metrics.inFlight.WithLabelValues(string(rt.Endpoint))
	inFlight.Inc()
	defer inFlight.Dec()
	resp := newResponse(w, h.Stall)
	if r.ContentLength != 0 && (h.Writer == nil || r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// Whatever is being sent is of no use; do not wait long for its end.
		_ = resp.rc.SetReadDeadline(time.Now().Add(bodyTimeout))
		resp.Header().Set("Connection", "close")
	}
	resp.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	err := h.route(resp, r, rt)
	if err == nil && resp.sourceErr != nil && resp.retract() {
		err = resp.sourceErr // not a byte was sent: there is still time to say no
		resp.sourceErr = nil
	}
	if err != nil {
		h.fail(resp, r, rt, err)
	}
	resp.finish()
	h.account(resp, r, rt, err)
}

// route answers the request, or returns why not with nothing sent.
func (h *handler) route(w *response, r *http.Request, rt Route) error {
	if rt.Endpoint == EndpointOther {
		return &Error{Status: http.StatusNotFound, Code: CodeUnsupported, Message: "no such endpoint"}
	}
	if read := r.Method == http.MethodGet || r.Method == http.MethodHead; !read || rt.Endpoint == EndpointUpload && h.Writer != nil {
		return h.write(w, r, rt)
	}
	switch rt.Endpoint {
	case EndpointPing:
		return h.ping(w)
	case EndpointCatalog:
		return h.catalog(w, r)
	}
	ns := r.URL.Query().Get("ns")
	name, named, err := h.Resolver.resolve(rt.Repository, h.upstreamOf(r, rt.Repository, ns))
	if err != nil {
		return err
	}
	if ns != "" {
		w.Header().Set("OCI-Namespace", ns)
	}
	req := Request{Name: name, Named: named, Reference: rt.Reference, Head: r.Method == http.MethodHead,
		Range: r.Header.Get("Range"), First: firstByte(r.Header.Get("Range")),
		Accept: r.Header.Values("Accept"), UserAgent: r.UserAgent()}
	if err := req.parseReference(rt.Endpoint); err != nil {
		return err
	}
	switch rt.Endpoint {
	case EndpointManifest:
		return h.manifest(w, r, req)
	case EndpointBlob:
		return h.blob(w, r, req)
	case EndpointTags:
		return h.tags(w, r, rt.Repository, req)
	case EndpointReferrers:
		return h.referrers(w, r, req)
	default:
		return &Error{Status: http.StatusNotFound, Code: CodeUnsupported, Message: "no such endpoint"}
	}
}

// upstreamOf is ns, or else what a header says, where the path says nothing.
func (h *handler) upstreamOf(r *http.Request, path, ns string) string {
	if _, _, named := cutHost(path); ns != "" || named {
		return ns
	}
	for _, name := range h.UpstreamHeaders {
		if v := r.Header.Get(name); v != "" {
			if _, rest, ok := strings.Cut(v, "://"); ok {
				v = rest
			}
			host, _, _ := strings.Cut(v, "/")
			return host
		}
	}
	return ""
}

// parseReference validates the last path component by what it has to be.
func (q *Request) parseReference(k Endpoint) (err error) {
	switch {
	case k == EndpointTags || k == EndpointUpload:
		return nil
	case k == EndpointManifest && !IsDigest(q.Reference):
		if !ValidTag(q.Reference) {
			return &Error{Status: http.StatusBadRequest, Code: CodeManifestInvalid, Message: strconv.Quote(short(q.Reference)) + " is neither a tag nor a digest"}
		}
		return nil
	default:
		q.Digest, err = ParseDigest(q.Reference)
		return err
	}
}

// ping answers contract 1: at once, and without asking anybody.
func (h *handler) ping(w *response) error {
	const body = "{}"
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write([]byte(body))
	return nil
}

// fail answers with the error that err stands for.
func (h *handler) fail(w *response, r *http.Request, rt Route, err error) {
	e := asError(err)
	if h.NotFoundOnly && e.Challenge == "" && e.Status != http.StatusBadRequest && e.Status != http.StatusMethodNotAllowed && e.Status != http.StatusRequestedRangeNotSatisfiable {
		e = &Error{Status: http.StatusNotFound, Code: unknownCode(rt.Endpoint, e.Code), Message: e.Message, Err: err}
	}
	if r.ContentLength != 0 {
		// What is still being sent is of no use; do not wait long for its end.
		wait := bodyTimeout
		if errors.Is(err, os.ErrDeadlineExceeded) {
			wait = 0 // it was waited for
		}
		_ = w.rc.SetReadDeadline(time.Now().Add(wait))
		w.Header().Set("Connection", "close")
	}
	writeError(w, r, e)
}

// unknownCode keeps a code that already goes with 404 and finds one otherwise.
func unknownCode(k Endpoint, code string) string {
	switch code {
	case CodeBlobUnknown, CodeManifestUnknown, CodeNameUnknown, CodeUnsupported:
		return code
	}
	switch k {
	case EndpointBlob:
		return CodeBlobUnknown
	case EndpointManifest:
		return CodeManifestUnknown
	default:
		return CodeNameUnknown
	}
}

// account writes the request's metrics and its log line, if it deserves one.
func (h *handler) account(w *response, r *http.Request, rt Route, err error) {
	code := w.status
	log := h.Log
	if w.sourceErr != nil || w.clientErr != nil || err != nil { // most requests have nothing to tell
		log = log.With(zap.String("kind", string(rt.Endpoint)), zap.String("method", methodLabel(r.Method)),
			zap.String("repository", short(rt.Repository)), zap.String("reference", short(rt.Reference)))
	}
	switch {
	case w.sourceErr != nil:
		h.metrics.cut.WithLabelValues(string(rt.Endpoint), "source").Inc()
		if h.Cause != nil {
			h.metrics.causes.WithLabelValues(h.Cause(w.sourceErr)).Inc()
		}
		log.Warn("body cut short: content could not be had", zap.Int64("sent", w.bytes), zap.Error(w.sourceErr))
	case w.clientErr != nil && errors.Is(w.clientErr, os.ErrDeadlineExceeded):
		h.metrics.cut.WithLabelValues(string(rt.Endpoint), "stall").Inc()
		log.Info("client stopped reading", zap.Int64("sent", w.bytes), zap.Duration("after", h.Stall))
	case w.clientErr != nil: // contract 7: every chunk of a chunked pull ends so
		h.metrics.cut.WithLabelValues(string(rt.Endpoint), "client").Inc()
		log.Debug("client left", zap.Int64("sent", w.bytes))
	case err != nil && errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		code = statusClientGone
		log.Debug("client left before an answer")
	case err != nil && asError(err).Status >= 500:
		log.Warn("request failed", zap.Int("status", code), zap.Error(err))
	case err != nil:
		log.Debug("request refused", zap.Int("status", code), zap.Error(err))
	}
	h.metrics.observe(rt.Endpoint, r.Method, code, w)
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		span.SetAttributes(attribute.Int("http.response.status_code", code), attribute.Int64("http.response.body.size", w.bytes),
			attribute.String("samara.cache", string(w.cached.Result)), attribute.String("samara.source", w.cached.From))
		if failed := cmp.Or(w.sourceErr, err); failed != nil {
			span.SetStatus(codes.Error, failed.Error())
		}
	}
	if h.Account != nil && rt.Endpoint != EndpointPing && rt.Endpoint != EndpointOther {
		h.Account(w.bytes)
	}
}

func isDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
