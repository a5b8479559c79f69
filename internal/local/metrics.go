package local

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	received prometheus.Counter
	ended    *prometheus.CounterVec
	mounts   *prometheus.CounterVec
	pushed   prometheus.Counter
	deleted  *prometheus.CounterVec
}

// newMetrics registers with reg, or nowhere when it is nil.
func newMetrics(r *Registry, reg prometheus.Registerer, namespace string) *metrics {
	f := promauto.With(reg)
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: namespace, Subsystem: "local", Name: name, Help: help}
	}
	count := func(n func() int) func() float64 {
		return func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return float64(n())
		}
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "local", Name: "uploads",
		Help: "Uploads that were started and have not ended."}, count(func() int { return len(r.uploads) }))
	f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "local", Name: "repositories",
		Help: "Local repositories."}, count(func() int { return len(r.names) }))
	return &metrics{
		received: f.NewCounter(opts("upload_bytes_total", "Bytes received of blobs that are pushed.")),
		ended: f.NewCounterVec(opts("uploads_ended_total",
			"Uploads that ended: committed, canceled by the client, expired, or with a wrong digest."), []string{"how"}),
		mounts: f.NewCounterVec(opts("mounts_total",
			"Mounts that clients asked for: mounted, or told to upload."), []string{"result"}),
		pushed: f.NewCounter(opts("manifests_pushed_total", "Manifests that were pushed.")),
		deleted: f.NewCounterVec(opts("deleted_total",
			"Tags, manifests and blobs deleted from repositories."), []string{"kind"}),
	}
}
