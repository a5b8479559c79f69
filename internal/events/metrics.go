package events

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	queued    *prometheus.CounterVec
	delivered *prometheus.CounterVec
	failed    *prometheus.CounterVec
	dropped   *prometheus.CounterVec
}

// newMetrics registers with reg, or nowhere when it is nil.
func newMetrics(h *Hub) *metrics {
	f := promauto.With(h.o.Registerer)
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: h.o.Namespace, Subsystem: "events", Name: name, Help: help}
	}
	m := &metrics{
		queued:    f.NewCounterVec(opts("queued_total", "Events entered in the queue of an endpoint."), []string{"endpoint"}),
		delivered: f.NewCounterVec(opts("delivered_total", "Events that an endpoint has taken."), []string{"endpoint"}),
		failed:    f.NewCounterVec(opts("failed_deliveries_total", "Deliveries to an endpoint that failed and are tried again."), []string{"endpoint"}),
		dropped: f.NewCounterVec(opts("dropped_total",
			"Events that an endpoint will not get: the queue was full, the disk failed, they are too old, damaged, or were refused."), []string{"endpoint", "reason"}),
	}
	if h.o.Registerer != nil {
		h.o.Registerer.MustRegister(newGauges(h))
	}
	return m
}

// gauges are read from the endpoints when somebody asks.
type gauges struct {
	h                             *Hub
	pending, bytes, oldest, fails *prometheus.Desc
}

func newGauges(h *Hub) *gauges {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(h.o.Namespace, "events", name), help, []string{"endpoint"}, nil)
	}
	return &gauges{h: h,
		pending: desc("pending", "Events in the queue of an endpoint."),
		bytes:   desc("pending_bytes", "Bytes of events in the queue of an endpoint."),
		oldest:  desc("oldest_seconds", "Age of the oldest event in the queue of an endpoint; 0 where it is empty."),
		fails:   desc("breaker_open", "1 while an endpoint is tried once a minute because it does not take events."),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- g.pending
	ch <- g.bytes
	ch <- g.oldest
	ch <- g.fails
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	for _, s := range g.h.States() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Name)
		}
		age, open := 0.0, 0.0
		if !s.Oldest.IsZero() {
			age = time.Since(s.Oldest).Seconds()
		}
		if s.Broken() {
			open = 1
		}
		gauge(g.pending, float64(s.Queued))
		gauge(g.bytes, float64(s.Bytes))
		gauge(g.oldest, age)
		gauge(g.fails, open)
	}
}
