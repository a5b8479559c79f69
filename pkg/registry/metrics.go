package registry

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// statusClientGone is nginx's code for a client that left before the answer;
// it is only ever a label.
const statusClientGone = 499

type metrics struct {
	requests  *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	firstByte *prometheus.HistogramVec
	duration  *prometheus.HistogramVec
	inFlight  *prometheus.GaugeVec
	cut       *prometheus.CounterVec
	causes    *prometheus.CounterVec
	refused   prometheus.Counter

	cacheRequests *prometheus.CounterVec
	cacheBytes    *prometheus.CounterVec
}

// newMetrics registers with reg, or nowhere when it is nil.
func newMetrics(reg prometheus.Registerer, namespace string) *metrics {
	f := promauto.With(reg)
	buckets := []float64{.001, .005, .025, .1, .25, .5, 1, 2, 5, 10, 30, 60, 300}
	m := &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "http", Name: "requests_total",
			Help: "Requests to the registry API that ended, by what was asked for, method and status (499: the client left first)."},
			[]string{"kind", "method", "code"}),
		bytes: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "http", Name: "response_bytes_total",
			Help: "Bytes of response bodies handed to clients."}, []string{"kind"}),
		firstByte: f.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Subsystem: "http", Name: "time_to_first_byte_seconds",
			Help: "Time from the request to the first byte of a successful body.", Buckets: buckets}, []string{"kind"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Subsystem: "http", Name: "request_duration_seconds",
			Help: "Time from the request to the end of the response.", Buckets: buckets}, []string{"kind"}),
		inFlight: f.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "http", Name: "requests_in_flight",
			Help: "Requests being answered."}, []string{"kind"}),
		cut: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "http", Name: "bodies_cut_total",
			Help: "Bodies that ended early: the client left (normal for chunked pulls), the client stopped reading (stall), or the content could not be had (source)."},
			[]string{"kind", "by"}),
		causes: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "http", Name: "bodies_cut_causes_total",
			Help: "Bodies that a mirror had to cut because the content could not be had, by cause: stalled, unavailable, not_found, corrupt, stopped, other."},
			[]string{"cause"}),
		refused: f.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: "http", Name: "refused_total",
			Help: "Requests for a blob that a mirror answered 404 because its body had to be cut a moment ago, so that the client resumes at its next host."}),
		cacheRequests: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "cache", Name: "requests_total",
			Help: "GETs of manifests and blobs of upstreams that were answered, by X-Cache: HIT, MISS or STALE."}, []string{"upstream", "kind", "result"}),
		cacheBytes: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "cache", Name: "bytes_total",
			Help: "Bytes of their bodies handed to clients, by X-Cache."}, []string{"upstream", "kind", "result"}),
	}
	for _, kind := range []Endpoint{EndpointManifest, EndpointBlob} {
		for _, by := range []string{"client", "stall", "source"} {
			m.cut.WithLabelValues(string(kind), by) // what comes with its first event has never grown, for an alert
		}
	}
	return m
}

// methodLabel bounds what a client can put into a label.
func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return m
	}
	return "other"
}

func (m *metrics) observe(k Endpoint, method string, code int, r *response) {
	m.requests.WithLabelValues(string(k), methodLabel(method), strconv.Itoa(code)).Inc()
	m.bytes.WithLabelValues(string(k)).Add(float64(r.bytes))
	m.duration.WithLabelValues(string(k)).Observe(time.Since(r.began).Seconds())
	if c := r.cached.Result; c != "" && method == http.MethodGet && code < 400 {
		m.cacheRequests.WithLabelValues(r.upstream, string(k), string(c)).Inc()
		m.cacheBytes.WithLabelValues(r.upstream, string(k), string(c)).Add(float64(r.bytes))
	}
	if !r.firstByte.IsZero() && code < 300 {
		m.firstByte.WithLabelValues(string(k)).Observe(r.firstByte.Sub(r.began).Seconds())
	}
}
