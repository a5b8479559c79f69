// Package status is the JSON document that both daemons give at
// GET /v1/status and that `seeder status` and `peerd status` print.
//
// It is data only: the roles (pkg/seed, pkg/mirror) fill it, internal/cli
// renders it, and operators' scripts read it. Fields may be added; one that is
// there keeps its name, unit and meaning. Sizes are bytes, rates bytes per
// second, times RFC 3339.
package status
