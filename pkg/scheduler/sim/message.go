package sim

import "time"

// Sizes of what hosts say to each other, in bytes, as pkg/p2p encodes it;
// TestSizes holds them against that. On the control stream that is a frame with
// yamux and TLS around it, on the data plane HTTP in TLS.
const (
	tlsRecord = 22
	sizeFrame = tlsRecord + 12 + 1 + 2 // yamux header, length of the frame, body tag and length

	sizeDial    = 2600              // each way: TCP, TLS with certificates, stream negotiation, identify, Hello
	sizeOpen    = 1300              // each way: a data connection's TLS
	sizeJoin    = sizeFrame + 120   // digest, size, source; and a bitfield
	sizeState   = sizeFrame + 82    // digest, size; and a bitfield
	sizeRuns    = sizeFrame + 320   // digest, envelope with key and signature; and the hashes
	sizePeers   = sizeFrame + 75    // digest; and the peers
	sizePeer    = 54                // peer ID, one address
	sizeHave    = sizeFrame + 2 + 4 // reference; and the pieces
	sizeAsk     = tlsRecord + 150   // request line and headers; and the pieces or the bitfield
	sizeGranted = tlsRecord + 58    // status and headers; and the pieces
	sizeRefused = tlsRecord + 81    // 503 with headers; and the peers to try
	sizeNotHeld = tlsRecord + 46

	hashSize = 32
	hinted   = 30 // peers named to who joins
)

// traffic counts what was said, beside pieces.
type traffic struct {
	messages int64
	bytes    int64
}

func (t *traffic) add(messages int64, bytes int) {
	t.messages += messages
	t.bytes += int64(bytes)
}

// kind is what a message is for.
type kind uint8

const (
	kindJoin kind = iota // dials, Join, State, Peers
	kindRuns             // signed hashes
	kindHave
	kindAsk // asks and the heads of their answers
	kinds
)

// book charges n messages of bytes in all, from a to b, to their links.
func (w *world) book(a, b *host, k kind, n int, bytes int) {
	w.traffic[k].add(int64(n), bytes)
	a.out[k].add(int64(n), bytes)
	wire := float64(bytes) + float64(n)*w.c.Wire.Header
	w.net.owe(a.up, wire)
	w.net.owe(b.down, wire)
}

// say sends a message; do is called when it has arrived, if b still runs.
func (w *world) say(a, b *host, k kind, bytes int, do func()) {
	d := w.delay(a, b)
	w.book(a, b, k, 1, bytes)
	epoch := b.epoch
	w.clock.after(d, func() {
		if b.alive && b.epoch == epoch {
			do()
		}
	})
}

// lag is the one-way delay between two hosts where nothing waits.
func (w *world) lag(a, b *host) time.Duration {
	if a.zone != b.zone {
		return w.c.Far
	}
	return w.c.Latency
}

// delay is the same behind what waits at both links.
func (w *world) delay(a, b *host) time.Duration {
	d := w.lag(a, b) + w.net.delay(a.up) + w.net.delay(b.down)
	if a.zone != b.zone && w.zoneIn != nil {
		d += w.net.delay(w.zoneOut[a.zone]) + w.net.delay(w.zoneIn[b.zone])
	}
	return d
}

// trips is how long n round trips between two hosts take.
func (w *world) trips(n int, a, b *host) time.Duration {
	return time.Duration(n) * (w.delay(a, b) + w.delay(b, a))
}

// varint is the length of x as protobuf encodes it.
func varint(x int) int {
	n := 1
	for ; x >= 0x80; x >>= 7 {
		n++
	}
	return n
}

// pieceList is the length of these pieces as protobuf encodes them.
func pieceList(pieces []int) int {
	n := 0
	for _, i := range pieces {
		n += varint(i)
	}
	return n
}

// digits is the length of x in decimal.
func digits(x int) int {
	n := 1
	for ; x >= 10; x /= 10 {
		n++
	}
	return n
}
