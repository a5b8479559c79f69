package monitoring

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// use is a metric of ours in a query, with the labels that the query asks it for.
type use struct {
	metric string
	labels []string
}

var (
	metricRE   = regexp.MustCompile(`\b((?:peerd|seeder)_[a-z0-9_]+|samara:[a-z0-9_:]+)(?:\{([^}]*)\})?`)
	matcherRE  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!=|!~|=)`)
	groupingRE = regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)`)
	legendRE   = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)
)

// usesOf lists the metrics of ours in a query. Labels of groupings are asked of
// all of them together: see groupings.
func usesOf(query string) []use {
	var out []use
	for _, m := range metricRE.FindAllStringSubmatch(query, -1) {
		u := use{metric: m[1]}
		for _, l := range matcherRE.FindAllStringSubmatch(m[2], -1) {
			u.labels = append(u.labels, l[1])
		}
		out = append(out, u)
	}
	return out
}

// groupings are the labels that a query groups or joins by, and those that a
// text about its result names.
func groupings(query, text string) []string {
	var out []string
	for _, m := range groupingRE.FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if l = strings.TrimSpace(l); l != "" {
				out = append(out, l)
			}
		}
	}
	for _, m := range legendRE.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// query is one of a rule or a panel.
type query struct {
	where string // what names it in a report
	expr  string
	text  string // annotations, or a legend
}

// targetLabels are those that Prometheus gives to what it scrapes, by
// manifests/monitoring/prometheus.yaml, and those that rules add.
var targetLabels = []string{"instance", "job", "node", "le", "daemon"}

// unknown lists what queries name and known, labels by metric, does not have.
func unknown(queries []query, known map[string][]string) []string {
	var out []string
	say := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	for _, q := range queries {
		have := slices.Clone(targetLabels)
		for _, u := range usesOf(q.expr) {
			labels, ok := known[u.metric]
			if !ok {
				say("%s: no daemon has the metric %s", q.where, u.metric)
				continue
			}
			have = append(have, labels...)
			for _, l := range u.labels {
				if !slices.Contains(labels, l) && !slices.Contains(targetLabels, l) {
					say("%s: %s has no label %s", q.where, u.metric, l)
				}
			}
		}
		for _, l := range groupings(q.expr, q.text) {
			if !slices.Contains(have, l) {
				say("%s: no metric of it has the label %s", q.where, l)
			}
		}
	}
	return out
}
