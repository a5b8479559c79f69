package obs

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry is a registry of its own with the Go runtime's, the process's
// and the build's metrics, plus <daemon>_build_info, which is always 1.
func NewRegistry(daemon, version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: daemon, Name: "build_info",
		Help: "Always 1; the label says which version runs.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
		info,
	)
	return reg
}
