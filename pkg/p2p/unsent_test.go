package p2p

import (
	"net"
	"testing"
	"time"
)

// TestUnsent: what a reader does not take stays with the writer. The receiver's
// buffer is small, so that all but that and unsent must be left.
func TestUnsent(t *testing.T) {
	const small, much = 16 << 10, 4 << 20
	lc := unsentListener()
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wrote := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			wrote <- -1
			return
		}
		defer c.Close()
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		n, _ := c.Write(make([]byte, much))
		wrote <- n
	}()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(small); err != nil {
		t.Fatal(err)
	}
	if n := <-wrote; n < unsent || n > much/4 {
		t.Errorf("the kernel took %d bytes of %d, want little more than %d", n, much, unsent)
	}
}
