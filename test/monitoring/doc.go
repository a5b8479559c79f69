// Package monitoring holds manifests/monitoring to what the daemons say: each
// metric and label that a rule or a dashboard names is in a scrape of real
// processes, each alert has its tests and its section in docs/runbook.md, and
// promtool passes them. It also writes the dashboards (WriteDashboards).
//
// Not its job: to run Prometheus or Grafana. Nobody imports it.
package monitoring
