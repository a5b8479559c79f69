package auth

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	lockouts prometheus.Counter
	refused  prometheus.Counter
}

// newMetrics registers with reg, or nowhere when it is nil.
func newMetrics(reg prometheus.Registerer, namespace string) *metrics {
	f := promauto.With(reg)
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "auth", Name: "requests_total",
			Help: "Requests to the registry API, by how the client proved who it is and what was decided: allowed, unauthenticated, invalid, denied, locked, busy."},
			[]string{"method", "outcome"}),
		tokens: f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: "auth", Name: "tokens_total",
			Help: "Requests for tokens, by how the client proved who it is and what came of it: issued, invalid, locked, busy."},
			[]string{"method", "outcome"}),
		lockouts: f.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: "auth", Name: "lockouts_total",
			Help: "Times that an account was locked for an address, or an address altogether, after failed logins."}),
		refused: f.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: "auth", Name: "locked_logins_total",
			Help: "Logins that were not looked at because the account is locked for the address."}),
	}
}

// registerKeyExpiry makes the metric of the key that signs tokens.
func registerKeyExpiry(reg prometheus.Registerer, namespace string, keys *signingKeys) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: "auth", Name: "signing_key_expiry_seconds",
		Help: "When tokens signed by the newest key are believed no more, in seconds since 1970: 30 to 60 days ahead, unless no new key can be kept."},
		func() float64 { return float64(keys.expiry().Unix()) })
}

func (m *metrics) request(id *Identity, err error) {
	outcome := "allowed"
	var d *denied
	switch {
	case errors.As(err, &d):
		outcome = d.reason
	case err != nil:
		return // no path of the API
	}
	m.requests.WithLabelValues(string(id.Method), outcome).Inc()
}
