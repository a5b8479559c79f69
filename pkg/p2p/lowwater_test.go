package p2p

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaterLevel(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name      string
		left, got int64
		elapsed   time.Duration
		want      int
	}{
		{"the rate is not known yet", mib, firstWater - 1, time.Second, 1},
		{"no time has passed", mib, mib, 0, 1},
		{"100 KB/s: a tenth of a second", mib, 100_000, time.Second, 10_000},
		{"fast: no more than the most", mib, mib, 10 * time.Millisecond, maxWater},
		{"slow: not worth it", mib, 20_000, time.Second, 1},
		{"the rest may be buffered already", maxWater + readAhead - 1, mib, time.Second, 1},
		{"just enough is left", maxWater + readAhead, 10 * mib, time.Second, maxWater},
		{"nothing is left", 0, mib, time.Second, 1},
	} {
		if got := waterLevel(c.left, c.got, c.elapsed); got != c.want {
			t.Errorf("%s: level %d, want %d", c.name, got, c.want)
		}
	}
}

// A connection comes back from an answer as it went: an answer that is smaller
// than the level would never be seen on it.
func TestLowWaterIsPutBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	level := func() (n int) {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT) }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	w := newLowWater(c)
	w.begin = time.Now().Add(-time.Second)
	w.follow(1<<20, 1<<20)
	if n := level(); n != maxWater {
		t.Fatalf("level %d amid a fast body, want %d", n, maxWater)
	}
	w.follow(1<<20, 1<<20)
	w.follow(0, 2<<20)
	if n := level(); n != 1 {
		t.Fatalf("level %d after the body, want 1", n)
	}
	(&lowWater{}).follow(1<<20, 1<<20) // a stream has none
}
