package scrub

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	bytes   prometheus.Counter
	blobs   *prometheus.CounterVec // result
	repairs *prometheus.CounterVec // result

	reg prometheus.Registerer
	all []prometheus.Collector
}

func newMetrics(s *Scrubber) *metrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: s.o.Namespace, Subsystem: "scrub", Name: name, Help: help}
	}
	gauge := func(name, help string, f func(Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts(name, help)), func() float64 { return f(s.Status()) })
	}
	m := &metrics{
		bytes:   prometheus.NewCounter(opts("bytes_total", "Bytes read back from the disk and hashed.")),
		blobs:   prometheus.NewCounterVec(opts("blobs_total", "Blobs checked, by result: ok, damaged, failed."), []string{"result"}),
		repairs: prometheus.NewCounterVec(opts("repairs_total", "Tries to have damaged content again, by result: ok, mended (by somebody else), failed."), []string{"result"}),
		reg:     s.o.Registerer,
	}
	m.all = []prometheus.Collector{m.bytes, m.blobs, m.repairs,
		gauge("running", "1 while a round is under way.", func(st Status) float64 {
			if st.Running {
				return 1
			}
			return 0
		}),
		gauge("last_end_timestamp_seconds", "When the last round ended, in seconds since 1970; where none has, when this daemon was started first.", func(st Status) float64 {
			return float64(st.Ended.Unix())
		}),
	}
	if m.reg != nil {
		m.reg.MustRegister(m.all...)
	}
	return m
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
