package prewarm

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// RegisterTaken registers the metric of a host that takes orders.
func RegisterTaken(r prometheus.Registerer, namespace string, count func() map[p2p.Phase]int) {
	for phase, state := range stateOf {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "prewarm_taken_orders", ConstLabels: prometheus.Labels{"state": state},
			Help: "Orders of a seeder to fetch images ahead that this host has, by how far it is: queued, running, done, failed (it tries again), refused."},
			func() float64 { return float64(count()[phase]) }))
	}
}

type metrics struct{ ended *prometheus.CounterVec }

func newMetrics(m *Manager, r prometheus.Registerer, namespace string) *metrics {
	v := &metrics{ended: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "prewarm_orders_ended_total",
		Help: "Orders to have hosts fetch images ahead, by what became of them: done, failed (a host failed or refused, or an image could not be resolved), expired (the deadline passed before), canceled."}, []string{"state"})}
	if r == nil {
		return v
	}
	for _, s := range []string{Done, Failed, Expired, Canceled} {
		v.ended.WithLabelValues(s) // so that an increase from nothing is seen
	}
	r.MustRegister(v.ended)
	gauge := func(name, help string, labels prometheus.Labels, f func(*order) float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}, func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			sum := 0.0
			for _, x := range m.orders {
				if x.Open {
					sum += f(x)
				}
			}
			return sum
		}))
	}
	for _, s := range []string{Running, Done, Failed} {
		gauge("prewarm_orders", "Orders to have hosts fetch images ahead whose deadline has not passed, by state: running, done, failed.", prometheus.Labels{"state": s}, func(x *order) float64 {
			if x.State == s {
				return 1
			}
			return 0
		})
	}
	for _, s := range []string{Waiting, Queued, Running, Done, Failed, Refused} {
		gauge("prewarm_hosts", "Hosts of these orders, by state: waiting (away, or not told yet), queued, running, done, failed, refused. A host counts for each order.", prometheus.Labels{"state": s}, func(x *order) float64 {
			n := 0.0
			for _, h := range x.Hosts {
				if h.State == s {
					n++
				}
			}
			return n
		})
	}
	gauge("prewarm_bytes", "Bytes of the images of these orders that hosts have.", nil, func(x *order) float64 {
		n := 0.0
		for _, h := range x.Hosts {
			n += float64(h.Bytes)
		}
		return n
	})
	return v
}
