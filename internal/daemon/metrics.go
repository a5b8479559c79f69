package daemon

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/samara-p2p/samara/internal/status"
)

// openMetrics makes the metrics of what only the daemon as a whole knows.
func (d *Daemon) openMetrics() {
	gauge := func(name, help string, value func() float64) {
		d.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: d.p.Name, Name: name, Help: help}, value))
	}
	gauge("ready", "1 while /readyz answers 200.", func() float64 {
		if d.Admin.Ready(context.Background()) {
			return 1
		}
		return 0
	})
	gauge("client_last_request_timestamp_seconds", "When a client asked for a manifest, a blob or a list of tags last, in seconds since 1970; 0 where none has since the start.", func() float64 {
		return float64(d.lastAsked.Load()) / 1e9
	})
	d.Metrics.MustRegister(&warnings{
		desc: prometheus.NewDesc(prometheus.BuildFQName(d.p.Name, "", "warnings"),
			"Warnings of the status page, by their code; 0 where there is none.", []string{"code"}, nil),
		now: func() []status.Warning { return d.Status().Warnings },
	})
}

// warnings counts those of the status page, so that the page, its command and
// alerts say the same.
type warnings struct {
	desc *prometheus.Desc
	now  func() []status.Warning
}

// Describe implements prometheus.Collector.
func (w *warnings) Describe(ch chan<- *prometheus.Desc) { ch <- w.desc }

// Collect implements prometheus.Collector. Codes that are known are always
// there: an alert must tell a warning that went from a daemon that did.
func (w *warnings) Collect(ch chan<- prometheus.Metric) {
	count := make(map[string]int, len(status.WarningCodes))
	for _, code := range status.WarningCodes {
		count[code] = 0
	}
	for _, one := range w.now() {
		count[one.Code]++
	}
	for code, n := range count {
		ch <- prometheus.MustNewConstMetric(w.desc, prometheus.GaugeValue, float64(n), code)
	}
}
