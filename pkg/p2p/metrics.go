package p2p

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// metrics are the numbers of one node. They count without a registerer too.
type metrics struct {
	reg prometheus.Registerer
	all []prometheus.Collector

	neighbours   prometheus.Gauge
	dhtSize      prometheus.Gauge
	messagesIn   *prometheus.CounterVec // type
	messagesOut  *prometheus.CounterVec // type
	controlIn    prometheus.Counter     // bytes
	controlOut   prometheus.Counter
	dataIn       prometheus.Counter // bytes
	dataOut      prometheus.Counter
	asks         *prometheus.CounterVec // result
	serving      prometheus.Gauge
	served       *prometheus.CounterVec // result
	dialFailures prometheus.Counter
	streamAsks   prometheus.Counter
	refused      prometheus.Counter
	throttled    prometheus.Counter
	bans         prometheus.Counter
	records      prometheus.Gauge
	announced    *prometheus.CounterVec // decision
	lookups      *prometheus.CounterVec // result
	lookupFirst  prometheus.Histogram   // seconds
	reportBytes  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, ns string) (*metrics, error) {
	m := &metrics{reg: reg}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: "p2p", Name: name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: "p2p", Name: name, Help: help}, []string{label})
		m.all = append(m.all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		c := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: "p2p", Name: name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	m.neighbours = gauge("neighbours", "Peers with an open control stream.")
	m.dhtSize = gauge("dht_peers", "Peers in the routing table of the DHT.")
	m.messagesIn = vec("messages_received_total", "Control messages received, by type.", "type")
	m.messagesOut = vec("messages_sent_total", "Control messages sent, by type.", "type")
	m.controlIn = counter("control_received_bytes_total", "Bytes received on control streams.")
	m.controlOut = counter("control_sent_bytes_total", "Bytes sent on control streams.")
	m.dataIn = counter("data_received_bytes_total", "Bytes of pieces and contents received from peers.")
	m.dataOut = counter("data_sent_bytes_total", "Bytes of pieces and contents sent to peers.")
	m.asks = vec("asks_total", "Asks for pieces made to peers, by result.", "result")
	m.served = vec("asks_served_total", "Asks for pieces answered for peers, by result.", "result")
	m.serving = gauge("requests_in_flight", "Data plane requests being served, parked ones included.")
	m.dialFailures = counter("dial_failures_total", "Peers that could not be connected, and pieces addresses that could not be dialled.")
	m.streamAsks = counter("stream_fallbacks_total", "Data plane connections made over libp2p streams because the pieces address failed.")
	m.refused = counter("neighbours_refused_total", "Control streams refused because the neighbour limit is reached.")
	m.throttled = counter("messages_throttled_total", "Control messages read late because the neighbour sends too many.")
	m.bans = counter("bans_total", "Peers banned.")
	m.records = gauge("provider_records", "Provider records held for the DHT.")
	m.announced = vec("announcements_total", "Blobs asked to be announced, by what was decided.", "decision")
	m.lookups = vec("dht_lookups_total", "Look-ups of a blob's providers that ended, by result: found, none, canceled.", "result")
	for _, result := range []string{"found", "none", "canceled"} {
		m.lookups.WithLabelValues(result) // what comes with its first event has never grown, for an alert
	}
	m.lookupFirst = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: "p2p", Name: "dht_first_provider_seconds",
		Help: "Time from the look-up of a blob to the first provider.", Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2, 5, 10, 30}})
	m.all = append(m.all, m.lookupFirst)
	m.reportBytes = counter("report_bytes_total", "Bytes of reports by which peers tell their seeder of themselves, sent or received.")
	if reg != nil {
		for i, c := range m.all {
			if err := reg.Register(c); err != nil {
				for _, c := range m.all[:i] {
					reg.Unregister(c)
				}
				return nil, err
			}
		}
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m.reg != nil {
		for _, c := range m.all {
			m.reg.Unregister(c)
		}
	}
}

func (m *metrics) received(f *pb.Frame, size int) {
	m.messagesIn.WithLabelValues(frameType(f)).Inc()
	m.controlIn.Add(float64(size))
}

func (m *metrics) sent(f *pb.Frame, size int) {
	m.messagesOut.WithLabelValues(frameType(f)).Inc()
	m.controlOut.Add(float64(size))
}

// looked counts a look-up that ends, with the providers it found. Who has enough
// ends it early.
func (m *metrics) looked(ctx context.Context, found int) {
	result := "found"
	switch {
	case found > 0:
	case errors.Is(ctx.Err(), context.Canceled):
		result = "canceled"
	default:
		result = "none"
	}
	m.lookups.WithLabelValues(result).Inc()
}

func frameType(f *pb.Frame) string {
	switch f.GetBody().(type) {
	case *pb.Frame_Hello:
		return "hello"
	case *pb.Frame_Ping:
		return "ping"
	case *pb.Frame_Pong:
		return "pong"
	case *pb.Frame_Join:
		return "join"
	case *pb.Frame_State:
		return "state"
	case *pb.Frame_Have:
		return "have"
	case *pb.Frame_Leave:
		return "leave"
	case *pb.Frame_Peers:
		return "peers"
	case *pb.Frame_Runs:
		return "runs"
	case *pb.Frame_Revoke:
		return "revoke"
	}
	return "unknown"
}
