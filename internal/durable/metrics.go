package durable

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	copies  *prometheus.CounterVec
	corrupt prometheus.Counter
}

// newMetrics registers with reg, or nowhere when it is nil.
func newMetrics(h *Home, reg prometheus.Registerer, namespace string) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string, n func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "objectstore", Name: name, Help: help}, n)
	}
	gauge("copies_queued", "Blobs and manifests that were pulled and wait to be copied to the object store.",
		func() float64 { return float64(h.copies.len()) })
	gauge("links_pending", "Links that the object store may have otherwise than the disk, until it is made to agree.",
		func() float64 { return float64(h.Status().Pending) })
	gauge("up", "1 while the object store works and is this seeder's.", func() float64 {
		if h.usable() != nil || h.Status().Error != "" {
			return 0
		}
		return 1
	})
	m := &metrics{
		copies: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "objectstore", Name: "copies_total",
			Help: "Attempts to copy what was pulled to the object store, by result: copied, skipped (evicted before), failed (tried again)."}, []string{"result"}),
		corrupt: f.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: "objectstore", Name: "corrupt_total",
			Help: "Contents of the object store that did not have their digest."}),
	}
	for _, result := range []string{"copied", "skipped", "failed"} {
		m.copies.WithLabelValues(result)
	}
	return m
}
