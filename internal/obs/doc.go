// Package obs is what an operator sees of a daemon while it runs: its logger
// (NewLogger), its metrics registry (NewRegistry), its admin HTTP server
// (Admin: /healthz, /readyz, /metrics, /v1/status, /v1/log-level) and errors
// about listen addresses that say what to do (Listen).
//
// Not its job: to know what a daemon does. Readiness checks and the status
// document are functions that the daemon hands in. cmd and pkg/seed and
// pkg/mirror's wiring call it; adapters and engines take a *zap.Logger and a
// prometheus.Registerer instead.
package obs
