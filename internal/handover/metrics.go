package handover

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are a process's, and shown by each of its turns.
type metrics struct {
	handovers *prometheus.CounterVec
	taken     prometheus.Counter
	failed    prometheus.Counter
	pause     prometheus.Gauge
	frozen    time.Time // since when clients wait
}

func newMetrics(namespace string) metrics {
	m := metrics{
		handovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "handovers_total",
			Help: "Hand-overs between processes, by what this one saw: taken (it took over), failed (a new one did not get to serve).",
		}, []string{"result"}),
		pause: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "handover_pause_seconds",
			Help: "How long requests waited when this process took over; 0 where it did not.",
		}),
	}
	m.taken, m.failed = m.handovers.WithLabelValues("taken"), m.handovers.WithLabelValues("failed")
	return m
}

// paused notes that clients wait no more, and tells how long they did.
func (m *metrics) paused() time.Duration {
	if m.frozen.IsZero() {
		return 0 // the old process died: nobody waited
	}
	d := time.Since(m.frozen)
	m.pause.Set(d.Seconds())
	return d
}

// Register has the metrics of hand-overs shown.
func (t *Turn) Register(r prometheus.Registerer) {
	r.MustRegister(t.p.metrics.handovers, t.p.metrics.pause)
}
