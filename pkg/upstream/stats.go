package upstream

import (
	"crypto/tls"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats is what one upstream has cost and said since the start.
type Stats struct {
	Name         string         `json:"name"`
	URL          string         `json:"url"`
	Requests     int64          `json:"requests"` // exchanges and logins; a redirect is part of its exchange
	InFlight     int            `json:"in_flight"`
	Bytes        int64          `json:"bytes"`         // blob bytes handed to readers
	Skipped      int64          `json:"skipped_bytes"` // blob bytes received in vain: the upstream ignored a range
	Retries      int64          `json:"retries"`
	Resumes      int64          `json:"resumes"`
	Waits        int64          `json:"rate_limit_waits"`
	Errors       map[Kind]int64 `json:"errors"`               // failed exchanges by kind
	LastError    string         `json:"last_error,omitempty"` // last one that was not "not found" or canceled
	LastErrorAt  time.Time      `json:"last_error_at,omitzero"`
	BlockedUntil time.Time      `json:"blocked_until,omitzero"` // asked to stay away until then
	Breaker      string         `json:"breaker"`                // "closed"; "open" and "probing": nothing is asked
	ProbeAt      time.Time      `json:"probe_at,omitzero"`      // of an open breaker
	RateLimit    int            `json:"rate_limit,omitempty"`   // requests in its window, by the upstream's word; 0: it says none
	RateLeft     int            `json:"rate_left,omitempty"`    // estimate
}

// metrics are the vectors that all upstreams of a client share.
type metrics struct {
	requests                                *prometheus.CounterVec // upstream, op, result
	bytes, skipped, retries, resumes, waits *prometheus.CounterVec // upstream
	opened, broken, spared                  *prometheus.CounterVec // upstream
	inFlight                                *prometheus.GaugeVec   // upstream
	breaker, rateLimit, rateRemaining       *prometheus.GaugeVec   // upstream, host
	certificate                             *prometheus.GaugeVec   // upstream, host
}

func newMetrics(r prometheus.Registerer, namespace string) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "upstream", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "upstream", Name: name, Help: help}, labels)
	}
	m := &metrics{
		requests: counter("requests_total", "Exchanges with upstreams, by operation and result.", "upstream", "op", "result"),
		bytes:    counter("bytes_total", "Blob bytes that came from upstreams.", "upstream"),
		skipped:  counter("skipped_bytes_total", "Blob bytes received in vain because the upstream ignored a range.", "upstream"),
		retries:  counter("retries_total", "Requests sent again after a failure.", "upstream"),
		resumes:  counter("resumes_total", "Blob connections opened again after a cut.", "upstream"),
		waits:    counter("rate_limit_waits_total", "Requests that waited because of 429 or Retry-After.", "upstream"),
		opened:   counter("breaker_opened_total", "How often requests were stopped because the host failed.", "upstream"),
		broken:   counter("breaker_refused_total", "Requests that were not made because the host fails.", "upstream"),
		spared:   counter("rate_limit_spared_total", "Checks that were not made, to keep the rest of the rate limit for pulls.", "upstream"),
		inFlight: gauge("in_flight", "Requests and blob streams open now.", "upstream"),
		breaker:  gauge("breaker_open", "1 while the host is not asked because it fails.", "upstream", "host"),

		rateLimit:     gauge("rate_limit", "Requests that the upstream allows in its window, by its own word.", "upstream", "host"),
		rateRemaining: gauge("rate_limit_remaining", "Requests that are left of them, by its last word.", "upstream", "host"),
		certificate:   gauge("certificate_expiry_seconds", "When the certificate that the host has shown last ends, in seconds since 1970.", "upstream", "host"),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.bytes, m.skipped, m.retries, m.resumes, m.waits, m.inFlight,
		m.opened, m.broken, m.spared, m.breaker, m.rateLimit, m.rateRemaining, m.certificate} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// count adds to one of the numbers of Stats and to its metric.
func (u *upstream) count(field *int64, v *prometheus.CounterVec, n int64) {
	u.mu.Lock()
	*field += n
	u.mu.Unlock()
	v.WithLabelValues(u.name).Add(float64(n))
}

// exchanged counts one exchange with its result.
func (u *upstream) exchanged(op string, k Kind) {
	u.mu.Lock()
	u.stats.Requests++
	if k != None {
		u.stats.Errors[k]++
	}
	u.mu.Unlock()
	u.metrics.requests.WithLabelValues(u.name, op, k.String()).Inc()
}

// certified notes when the certificate of the upstream's own host ends; nil is
// a connection without TLS.
func (u *upstream) certified(c *tls.ConnectionState) {
	if c != nil && len(c.PeerCertificates) > 0 {
		u.metrics.certificate.WithLabelValues(u.name, u.host).Set(float64(c.PeerCertificates[0].NotAfter.Unix()))
	}
}

func (u *upstream) flying(n int) {
	u.mu.Lock()
	u.stats.InFlight += n
	u.mu.Unlock()
	u.metrics.inFlight.WithLabelValues(u.name).Add(float64(n))
}

// failed remembers an error for the status page and returns it.
func (u *upstream) failed(e *Error) *Error {
	if e.Kind != NotFound && e.Kind != Canceled {
		u.mu.Lock()
		u.stats.LastError, u.stats.LastErrorAt = e.Error(), u.now()
		u.mu.Unlock()
	}
	return e
}

func (u *upstream) snapshot() Stats {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.stats
	s.Name, s.URL = u.name, u.base
	s.Errors = make(map[Kind]int64, len(u.stats.Errors))
	for k, n := range u.stats.Errors {
		s.Errors[k] = n
	}
	if u.blockedUntil.After(u.now()) {
		s.BlockedUntil = u.blockedUntil
	}
	s.RateLimit, s.RateLeft = u.budget.limit, u.budget.left(u.now())
	s.Breaker, s.ProbeAt = u.breaker.snapshot()
	return s
}
