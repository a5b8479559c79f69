package fetch

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/samara-p2p/samara/pkg/p2p"
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
	deadlines *prometheus.CounterVec

	took     *prometheus.HistogramVec // result
	pulls    *prometheus.HistogramVec // result
	others   prometheus.Histogram
	copies   prometheus.Histogram
	failures *prometheus.CounterVec   // cause
	waits    *prometheus.HistogramVec // queue
}

func newMetrics(e *Engine, r prometheus.Registerer, ns string) *metrics {
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
		deadlines: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "body_deadlines_total",
			Help: "Deadlines of bodies that passed: switch (a source stood still for --switch-timeout; its pieces were opened to others), gap (nothing came for --gap-timeout; the body was cut), slow (a piece was still arriving after three times as long)."}, []string{"deadline"}),
	}
	for _, d := range []string{"switch", "gap", "slow"} {
		m.deadlines.WithLabelValues(d) // 0 until it passes
	}
	histogram := func(name, help string, buckets ...float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: ns, Name: name, Help: help, Buckets: buckets}
	}
	m.took = prometheus.NewHistogramVec(histogram("download_duration_seconds", "Time that the download of a blob with a swarm took, by result as in downloads_total.",
		.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900), []string{"result"})
	m.pulls = prometheus.NewHistogramVec(histogram("pull_duration_seconds", "Time from a client's request for the manifest of an image until all of its blobs that were not here had come, by result: ok, or why the first one failed.",
		.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 1800), []string{"result"})
	m.others = prometheus.NewHistogram(histogram("swarm_size", "Neighbours in the swarm of a blob when its download ended.", 0, 1, 2, 4, 8, 15, 30, 45, 60))
	m.copies = prometheus.NewHistogram(histogram("given_copies", "Bytes given to peers of a blob, by its size, for each swarm that ended after giving any: what a blob costs the uplink.",
		.1, .5, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 30))
	m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "piece_failures_total",
		Help: "Requests for pieces to peers that failed, by cause: unreachable, denied, timeout (no answer), stalled and cut (in mid-answer), wrong (did not match its signed hash), unsigned (the hash did not come in time), disk, other."}, []string{"cause"})
	m.waits = prometheus.NewHistogramVec(histogram("queue_wait_seconds", "Time spent waiting, by queue: give (a peer's request for the giver's answer), turn (a blob for the seeder's link to its upstream), download (a blob for its place among those fetched ahead of clients).",
		.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60), []string{"queue"})
	members := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "swarm_members",
		Help: "Neighbours in swarms, counted once in each swarm that they share with this host."}, func() float64 {
		n := 0
		for _, s := range e.all() {
			n += int(s.nmembers.Load())
		}
		return float64(n)
	})
	doubted := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "doubted_upstreams",
		Help: "Upstreams that sent wrong bytes within the last hour: clients get nothing of them that has not proved right."},
		func() float64 { return float64(e.doubts.count(e.now())) })
	// A counter that comes with its first event has never grown, for an alert.
	for _, source := range []string{"peer", "seeder", "upstream", "objectstore"} {
		m.bytes.WithLabelValues(source)
	}
	for _, result := range []string{"ok", "unavailable", "not_found", "corrupt", "full", "stopped"} {
		m.downloads.WithLabelValues(result)
		m.pulls.WithLabelValues(result)
	}
	for _, cause := range []string{"unreachable", "denied", "timeout", "stalled", "cut", "wrong", "unsigned", "disk", "other"} {
		m.failures.WithLabelValues(cause)
	}
	if r != nil {
		r.MustRegister(members, doubted, m.took, m.pulls, m.others, m.copies, m.failures, m.waits)
		r.MustRegister(m.banned, m.swarms, m.downloads, m.bytes, m.wasted, m.given, m.asks, m.badPieces, m.fallbacks, m.deadlines)
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

// downloaded counts a download that ended.
func (m *metrics) downloaded(s *swarm, err error) {
	result := resultOf(err)
	took, _ := s.prog.summary()
	m.downloads.WithLabelValues(result).Inc()
	m.took.WithLabelValues(result).Observe(took.Seconds())
	m.others.Observe(float64(s.nmembers.Load()))
}

// waited counts a wait in a queue that has ended.
func (m *metrics) waited(queue string, d time.Duration) {
	m.waits.WithLabelValues(queue).Observe(d.Seconds())
}

// failed counts a request for pieces that a peer did not answer, or not whole.
func (m *metrics) failed(err error) { m.failures.WithLabelValues(causeOf(err)).Inc() }

// causeOf is the metric label of a failed request for pieces.
func causeOf(err error) string {
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.Is(err, p2p.ErrDenied):
		return "denied"
	case errors.Is(err, p2p.ErrNotNeighbour), errors.As(err, &op) && op.Op == "dial":
		return "unreachable"
	case errors.Is(err, p2p.ErrStalled):
		return "stalled"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "cut"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "other"
}

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
