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

	runs       *prometheus.CounterVec
	seconds    prometheus.Histogram
	last       prometheus.Gauge
	removed    *prometheus.CounterVec
	freedBlobs prometheus.Counter
	freedBytes prometheus.Counter
}

// collected enters a collection.
func (m *metrics) collected(p *Report) {
	result := "ok"
	if len(p.Problems) > 0 {
		result = "problems"
	}
	m.runs.WithLabelValues(result).Inc()
	m.seconds.Observe(p.Took.Seconds())
	m.last.SetToCurrentTime()
	m.removed.WithLabelValues(KindTag).Add(float64(p.Tags))
	m.removed.WithLabelValues(KindManifest).Add(float64(p.Manifests))
	m.removed.WithLabelValues(KindBlob).Add(float64(p.Blobs))
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
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "local", Name: name, Help: help, ConstLabels: labels}, value)
	}
	gauge("linked_bytes", "Bytes of content that local repositories link to, each counted once.", nil, func() float64 { n, _ := r.index.totals(); return float64(n) })
	gauge("trash_bytes", "Bytes of content that only the trash links to.", nil, func() float64 { _, n := r.index.totals(); return float64(n) })
	gauge("trash_entries", "Tags, manifests and lots of blobs that can be restored.", nil, count(func() int { return len(r.trash) }))
	for i, q := range r.o.Quotas {
		labels := prometheus.Labels{"prefix": q.Prefix}
		gauge("quota_bytes", "Bound on the bytes of content below a prefix of repositories.", labels, func() float64 { return float64(q.Size) })
		gauge("quota_used_bytes", "Bytes of content below a prefix that has a quota.", labels, func() float64 { return float64(r.index.usage()[i].Used) })
		gauge("quota_upload_bytes", "Bytes of uploads under way below a prefix that has a quota.", labels, func() float64 { return float64(r.index.usage()[i].Uploads) })
	}
	m := &metrics{
		runs: f.NewCounterVec(opts("collections_total",
			"Collections that ended: ok, or with problems (the log has them)."), []string{"result"}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: "local", Name: "collection_seconds",
			Help: "How long collections took.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 10)}),
		last: f.NewGauge(prometheus.GaugeOpts(opts("collection_end_timestamp_seconds",
			"When the last collection ended, in seconds since 1970; 0 where none has since the start."))),
		removed: f.NewCounterVec(opts("collected_total",
			"Tags, manifests and blobs that collections took out of repositories."), []string{"kind"}),
		freedBlobs: f.NewCounter(opts("freed_blobs_total", "Blobs and manifests whose content went for good.")),
		freedBytes: f.NewCounter(opts("freed_bytes_total", "Bytes of content that went for good.")),
		received:   f.NewCounter(opts("upload_bytes_total", "Bytes received of blobs that are pushed.")),
		ended: f.NewCounterVec(opts("uploads_ended_total",
			"Uploads that ended: committed, canceled by the client, expired, or with a wrong digest."), []string{"how"}),
		mounts: f.NewCounterVec(opts("mounts_total",
			"Mounts that clients asked for: mounted, or told to upload."), []string{"result"}),
		pushed: f.NewCounter(opts("manifests_pushed_total", "Manifests that were pushed.")),
		deleted: f.NewCounterVec(opts("deleted_total",
			"Tags, manifests and blobs deleted from repositories."), []string{"kind"}),
	}
	for _, result := range []string{"ok", "problems"} {
		m.runs.WithLabelValues(result) // what comes with its first event has never grown, for an alert
	}
	return m
}
