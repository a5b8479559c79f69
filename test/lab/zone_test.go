package lab

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// Two zones: what stays in one does not show on the link between them, what
// crosses it is counted and held to its rate.
func TestZoneLinkIsShapedAndCounted(t *testing.T) {
	l := ForTest(t, Options{Rate: -1})
	const rate, size = 80 * Mbit, 10 << 20
	z, err := l.NewZone("zone2", rate)
	if err != nil {
		t.Fatal(err)
	}
	here := newHost(t, l, "here", 0)
	var there [2]*Host
	for i, name := range []string{"there1", "there2"} {
		if there[i], err = l.AddHost(HostSpec{Name: name, Zone: z}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Introduce(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		from, to *Host
		crosses  bool
	}{{"inside", there[0], there[1], false}, {"into the zone", here, there[0], true}} {
		t.Run(c.name, func(t *testing.T) {
			before, err := l.Traffic()
			if err != nil {
				t.Fatal(err)
			}
			took := send(t, c.from, c.to, size)
			after, err := l.Traffic()
			if err != nil {
				t.Fatal(err)
			}
			crossed := after.Since(before)[z.Name].ReceivedPayload()
			least := size * 8 * time.Second / time.Duration(rate) * 95 / 100
			switch {
			case c.crosses && (crossed < size || crossed > size*102/100):
				t.Errorf("%d bytes crossed, want %d", crossed, size)
			case c.crosses && took < least:
				t.Errorf("took %s, the link allows %s", took, least)
			case !c.crosses && crossed > size/100:
				t.Errorf("%d bytes crossed, want none", crossed)
			}
		})
	}
}

// send moves n bytes over TCP and returns how long that took.
func send(t *testing.T, from, to *Host, n int64) time.Duration {
	t.Helper()
	ln, err := to.Listen(7000)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx := testContext(t, 30*time.Second)
	start := time.Now()
	var g errgroup.Group
	g.Go(func() error {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		return readN(conn, n)
	})
	g.Go(func() error { return writeN(ctx, from, to.Addr(7000), n) })
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func readN(conn net.Conn, n int64) error {
	buf := make([]byte, 64<<10)
	for n > 0 {
		k, err := conn.Read(buf)
		n -= int64(k)
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

func writeN(ctx context.Context, from *Host, addr string, n int64) error {
	conn, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 64<<10)
	for ; n > 0; n -= int64(len(buf)) {
		if _, err := conn.Write(buf[:min(int64(len(buf)), n)]); err != nil {
			return err
		}
	}
	return nil
}

func TestParseLinks(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
 port2:12345678901      10    0    0    0     0          0         0      200       3    0    0    0     0       0          0
`
	links, err := parseLinks(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := links["port2"], (Counter{12345678901, 10, 200, 3}); got != want || len(links) != 2 {
		t.Errorf("%+v, want %+v", links, want)
	}
	for _, bad := range []string{"eth0: 1 2 3", "eth0: x 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"} {
		if _, err := parseLinks(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
