package p2p

import (
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// A herd fetches over dozens of slow connections at once, and each packet on
// any of them would wake its reader: more work than decrypting what it brought.
// SO_RCVLOWAT has the kernel wake the reader of a body only when enough is there.
const (
	wakeEvery  = 100 * time.Millisecond // about how often a reader wakes, where that is
	maxWater   = 32 << 10               // no more than this,
	minWater   = 4 << 10                // and no less: else it is not worth a system call
	firstWater = 16 << 10               // bytes until the rate is known
	// readAhead is what TLS and HTTP may hold of what the reader has not seen
	// yet: as much less is still to come from the socket.
	readAhead = 40 << 10
)

// waterLevel is how many bytes to wait for when left of a body are to come
// and got of it have come in elapsed. 1 is the socket's default.
func waterLevel(left, got int64, elapsed time.Duration) int {
	if got < firstWater || elapsed <= 0 || left < maxWater+readAhead {
		return 1 // what is waited for must come before the sender falls silent
	}
	n := int(min(float64(got)/elapsed.Seconds()*wakeEvery.Seconds(), maxWater))
	if n < minWater {
		return 1
	}
	return n
}

// lowWater sets the level of one connection.
type lowWater struct {
	conn  *net.TCPConn // nil: there is none
	begin time.Time
	level int
}

func newLowWater(c net.Conn) lowWater {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	tcp, _ := c.(*net.TCPConn)
	return lowWater{conn: tcp, level: 1}
}

// follow adapts the level, before each read and once nothing is left. A
// connection on which it was not called last with little left must be closed: the
// header of the next answer is shorter than any level but 1.
func (w *lowWater) follow(left, got int64) {
	if w.conn == nil {
		return
	}
	if w.begin.IsZero() {
		w.begin = time.Now()
	}
	n := waterLevel(left, got, time.Since(w.begin))
	if n == w.level || n != 1 && n < 2*w.level && 2*n > w.level {
		return
	}
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return // closed: the read will say so
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, n) == nil {
			w.level = n
		}
	})
}
