package sim

import (
	"math"
	"time"
)

// Wire is what real connections cost beyond the rates of the links. Zero
// values cost nothing, but for Framing.
type Wire struct {
	Framing float64 // bytes on the wire for each byte of payload
	Ack     float64 // bytes on the wire in the other direction for each byte of payload
	Header  float64 // bytes on the wire for each message, beyond its own

	Queue  time.Duration // what waits before a link that is full
	Window float64       // bytes that a new connection, or one that idled, may have under way (RFC 6928); 0 = any number
	Uneven float64       // standard deviation of the logarithm of a connection's share

	DataTrips  int           // round trips before the first request on a connection: TCP, TLS 1.3
	DialTrips  int           // and before two hosts are neighbours: TCP, security, stream, Hello
	Crypto     time.Duration // a handshake's computing, both ends
	Start      time.Duration // from the client's request to the first Join: the manifest
	Handling   time.Duration // of each ask at the giver
	HandlePart time.Duration // of each piece at the receiver until it can be given on: hash, disk
}

// IdealWire has links' rates, latency and the time to handle an ask, and
// nothing else: what is lost on it the scheduler loses.
var IdealWire = Wire{Framing: 1, Handling: 500 * time.Microsecond}

// LabWire is test/lab: Ethernet, IPv4 and TCP with timestamps at an MTU of
// 1,500, queues of 50 ms, and two cores for all hosts together.
var LabWire = Wire{
	Framing: 1514.0 / 1448 * (1 + 22.0/16384), // and TLS records
	Ack:     66.0 / (4 * 1448),                // segments come in bunches
	Header:  66 + 66/2,                        // every other one is acknowledged by a frame of its own
	Queue:   50 * time.Millisecond,
	Window:  10 * 1448,
	Uneven:  0.3,

	DataTrips:  2,
	DialTrips:  6,
	Crypto:     4 * time.Millisecond,
	Start:      50 * time.Millisecond,
	Handling:   time.Millisecond,
	HandlePart: 2 * time.Millisecond,
}

const (
	queueFill  = 0.100 // seconds until a queue before a full link has built up
	queueDrain = 0.020 // and until it is gone again
	rtoMin     = 0.200 // of Linux
)

// conn is one kept connection for data, from giver to asker.
type conn struct {
	busy   bool
	window float64 // bytes that it may have under way
	last   time.Duration
	weight float64
	trip   [2]*host // giver, asker
}

// roundTrip is how long a byte and its acknowledgement take now, in seconds.
func (n *network) roundTrip(c *conn) float64 {
	g, a := c.trip[0], c.trip[1]
	t := 2 * g.w.lag(g, a).Seconds()
	for _, l := range [4]int32{g.up, a.down, a.up, g.down} {
		t += n.links[l].queue
	}
	return t
}

// open begins a flow on a connection: in slow start when that is new, or has
// idled for longer than its retransmission timer (RFC 2861).
func (n *network) open(k int32, c *conn) {
	f := &n.flows[k]
	f.weight = c.weight
	if n.wire.Window == 0 {
		return
	}
	rtt := n.roundTrip(c)
	if c.window == 0 {
		c.window = n.wire.Window
	}
	rto := rtoMin + rtt
	for idle := (n.clock.now - c.last).Seconds() - rto; idle > 0 && c.window > n.wire.Window; idle -= rto {
		c.window = max(c.window/2, n.wire.Window)
	}
	f.slow, f.limit = true, c.window/rtt
	n.slow = append(n.slow, flowID{k, f.serial})
}

// windows lets the windows of flows in slow start grow by what was
// acknowledged. Once the link allows less than the window, slow start is over.
func (n *network) windows(dt float64) {
	kept := n.slow[:0]
	for _, id := range n.slow {
		f := n.get(id)
		if f == nil || len(f.sizes) == 0 {
			continue
		}
		c, rate := f.conn, n.moves[id.slot].rate
		rtt := n.roundTrip(c)
		if rate < 0.6*f.limit {
			f.slow = false
			c.window = max(rate*rtt, n.wire.Window)
			continue
		}
		c.window += rate * dt
		f.limit = c.window / rtt
		kept = append(kept, id)
	}
	n.slow = kept
}

// newConn returns a connection from giver to asker whose handshake is about
// to begin.
func (w *world) newConn(giver, asker *host) *conn {
	c := &conn{weight: 1, trip: [2]*host{giver, asker}}
	if w.c.Wire.Uneven > 0 {
		c.weight = math.Exp(w.c.Wire.Uneven * w.rng.NormFloat64())
	}
	return c
}
