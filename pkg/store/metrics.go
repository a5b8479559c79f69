package store

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	commits, corrupt, full prometheus.Counter
	evictions, evicted     *prometheus.CounterVec // reason

	reg prometheus.Registerer
	all []prometheus.Collector
}

func newMetrics(s *Store, namespace string, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{reg: reg}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: "store", Name: name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	gauge := func(name, help string, labels prometheus.Labels, f func(Usage) float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Subsystem: "store", Name: name, Help: help, ConstLabels: labels,
		}, func() float64 { return f(s.Usage()) }))
	}
	m.evictions = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "store", Name: "evictions_total",
		Help: "Blobs removed to make room, by what was short of it."}, []string{"reason"})
	m.evicted = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "store", Name: "evicted_bytes_total",
		Help: "Bytes of the blobs removed to make room, by what was short of it."}, []string{"reason"})
	for _, why := range []string{"disk", "quota", "prefix", "too_large"} {
		m.evictions.WithLabelValues(why) // what comes with its first event has never grown, for an alert
		m.evicted.WithLabelValues(why)
	}
	m.all = append(m.all, m.evictions, m.evicted)
	m.commits = counter("commits_total", "Blobs that became complete.")
	m.corrupt = counter("corrupt_total", "Blobs or unverified pieces whose content did not match, dropped or set aside.")
	m.full = counter("full_total", "Writes refused for want of room on the disk or in the quota.")
	gauge("used_bytes", "Bytes of content held.", nil, func(u Usage) float64 { return float64(u.Used) })
	gauge("promised_bytes", "Bytes still to come of blobs being written.", nil, func(u Usage) float64 { return float64(u.Promised) })
	gauge("reserved_bytes", "Bytes of uploads under way.", nil, func(u Usage) float64 { return float64(u.Reserved) })
	gauge("quota_bytes", "Bound on the bytes of content held; 0 = none.", nil, func(u Usage) float64 { return float64(u.Quota) })
	gauge("disk_free_bytes", "Bytes that may still be written on the disk of the store; NaN where it cannot be asked.", nil, func(Usage) float64 { return diskBytes(s.dir, diskFree) })
	gauge("disk_size_bytes", "Bytes that the disk of the store has for us: those written by anybody, and those free.", nil, func(Usage) float64 { return diskBytes(s.dir, diskSize) })
	for i, p := range s.prefixes {
		of := prometheus.Labels{"prefix": p.name}
		gauge("prefix_used_bytes", "Bytes of content that count for the quota of a prefix of repositories.", of, func(u Usage) float64 { return float64(u.Prefixes[i].Used) })
		gauge("prefix_quota_bytes", "Bound on the bytes of content from the repositories below a prefix.", of, func(u Usage) float64 { return float64(u.Prefixes[i].Bytes) })
	}
	gauge("damaged_blobs", "Blobs whose content proved wrong on the disk and has not been had again.", nil, func(u Usage) float64 { return float64(u.Damaged) })
	gauge("blobs", "Blobs held.", prometheus.Labels{"state": "complete"}, func(u Usage) float64 { return float64(u.Blobs) })
	gauge("blobs", "Blobs held.", prometheus.Labels{"state": "partial"}, func(u Usage) float64 { return float64(u.Partial) })
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, err
		}
	}
	return m, nil
}

// diskBytes is a number of the disk below dir, as a metric.
func diskBytes(dir string, of func(string) (int64, error)) float64 {
	n, err := of(dir)
	if err != nil {
		return math.NaN()
	}
	return float64(n)
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
