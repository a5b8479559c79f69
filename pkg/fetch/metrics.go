package fetch

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the engine.
type metrics struct {
	mu    sync.Mutex
	named map[peer.ID]bool // peers that have a label

	swarms    prometheus.Gauge
	downloads *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	wasted    prometheus.Counter
	given     prometheus.Counter
	asks      *prometheus.CounterVec
	badPieces prometheus.Counter
	banned    *prometheus.GaugeVec
	fallbacks prometheus.Counter
}

func newMetrics(r prometheus.Registerer, ns string) *metrics {
	m := &metrics{
		named: make(map[peer.ID]bool),
		swarms: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "swarms",
			Help: "Blobs that this host downloads or serves to a swarm."}),
		downloads: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "downloads_total",
			Help: "Downloads of blobs that ended, by result: ok, unavailable, not_found, corrupt, full, stopped."}, []string{"result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "received_bytes_total",
			Help: "Blob bytes received and verified, by source: peer, seeder, upstream, objectstore."}, []string{"source"}),
		wasted: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "duplicate_bytes_total",
			Help: "Blob bytes received that were already held."}),
		given: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "given_bytes_total",
			Help: "Blob bytes sent to peers."}),
		asks: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "piece_requests_total",
			Help: "Requests for pieces to peers, by result: ok, busy, not_held, failed, cut."}, []string{"result"}),
		badPieces: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "bad_pieces_total",
			Help: "Pieces from peers that did not match their signed hash; the peer is named in log and status."}),
		banned: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Name: "peer_bad_pieces",
			Help: "Wrong pieces that a peer has sent, for the first peers that did."}, []string{"peer"}),
		fallbacks: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "fallbacks_total",
			Help: "Times that pieces were taken from the upstream since no peer or seeder could give them."}),
	}
	if r != nil {
		r.MustRegister(m.banned, m.swarms, m.downloads, m.bytes, m.wasted, m.given, m.asks, m.badPieces, m.fallbacks)
	}
	return m
}

func (m *metrics) received(seeder, upstream bool, n int, fresh bool) {
	source := "peer"
	if upstream {
		source = "upstream"
	} else if seeder {
		source = "seeder"
	}
	m.bytes.WithLabelValues(source).Add(float64(n))
	if !fresh {
		m.wasted.Add(float64(n))
	}
}

func (m *metrics) receivedDurable(n int) { m.bytes.WithLabelValues("objectstore").Add(float64(n)) }

// maxNamed bounds the peers that a metric names.
const maxNamed = 32

// liar counts a wrong piece by the peer's name, for the first few peers that
// sent one: labels must stay few.
func (m *metrics) liar(p peer.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.named[p] && len(m.named) >= maxNamed {
		return
	}
	m.named[p] = true
	m.banned.WithLabelValues(p.String()).Inc()
}
