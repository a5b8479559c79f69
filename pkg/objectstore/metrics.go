package objectstore

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
}

// newMetrics registers with reg, or nowhere when it is nil.
func newMetrics(reg prometheus.Registerer, namespace string) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "objectstore", Name: "requests_total",
			Help: "Requests to the object store, by method and result: ok, not_found, denied, throttled, error (5xx), refused (other 4xx), failed (no answer)."}, []string{"method", "result"}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Subsystem: "objectstore", Name: "request_seconds",
			Help: "Time until the object store answered a request, by method.", Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 9)}, []string{"method"}),
		bytes: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "objectstore", Name: "bytes_total",
			Help: "Bytes of content to (out) and from (in) the object store."}, []string{"direction"}),
	}
	for _, direction := range []string{"in", "out"} {
		m.bytes.WithLabelValues(direction)
	}
	return m
}
