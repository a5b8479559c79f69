package metadata

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

// How a tag was answered; also the result label of the metric.
const (
	fresh   = "fresh"     // from memory, within its TTL
	checked = "checked"   // a source has been asked
	stale   = "stale"     // from memory: no source answered, or none was asked to spare its rate limit
	missing = "not-found" // a source says that there is no such tag, or said so a moment ago
	failed  = "failed"    // no answer
)

func newTagAnswers(r prometheus.Registerer, namespace string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "tag_answers_total",
		Help: "Answers about tags, by how they came about."}, []string{"upstream", "result"})
	if r != nil {
		r.MustRegister(v) // one Cache per daemon
	}
	return v
}

func newDeadlines(r prometheus.Registerer, namespace string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "answer_deadlines_total",
		Help: "Deadlines of answers that passed: lookup (a source was silent for --lookup-timeout; the next was asked), limit (nobody knew within --lookup-limit), manifest (a seeder was at work for --manifest-timeout), header (no source gave a blob within --header-timeout)."},
		[]string{"deadline"})
	for _, deadline := range []string{PassedLookup, PassedLimit, PassedManifest, PassedHeader} {
		v.WithLabelValues(deadline) // 0 until it passes
	}
	if r != nil {
		r.MustRegister(v)
	}
	return v
}

// Passed counts a deadline that has passed.
func (c *Cache) Passed(deadline string) { c.deadlines.WithLabelValues(deadline).Inc() }

// ailing are the upstreams whose tags are served stale, so that it is logged
// when that begins and ends and not for every tag.
type ailing struct {
	mu    sync.Mutex
	names map[string]bool
}

// set reports whether that is news.
func (a *ailing) set(upstream string, ill bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.names[upstream] == ill {
		return false
	}
	if a.names == nil {
		a.names = make(map[string]bool)
	}
	a.names[upstream] = ill
	return true
}

// answered counts an answer about a tag, and logs when stale answers begin and
// end.
func (c *Cache) answered(n registry.Name, result string, err error) {
	c.answers.WithLabelValues(n.Upstream, result).Inc()
	switch {
	case result == stale && c.ailing.set(n.Upstream, true):
		c.log.Warn("serving stale tags: nobody who knows better answers", zap.String("upstream", n.Upstream),
			zap.Stringer("first", n), zap.Error(err))
	case result == checked && c.ailing.set(n.Upstream, false):
		c.log.Info("tags are checked again", zap.String("upstream", n.Upstream))
	}
}
