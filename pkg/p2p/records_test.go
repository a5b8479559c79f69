package p2p

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// writesConn counts what is written to it, and fails once limit writes were made.
type writesConn struct {
	net.Conn
	writes [][]byte
	limit  int
}

var errLine = errors.New("line cut")

func (c *writesConn) Write(p []byte) (int, error) {
	if len(c.writes) == c.limit {
		return 0, errLine
	}
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func TestGatherConn(t *testing.T) {
	line := &writesConn{limit: 2}
	c := &gatherConn{Conn: line}
	write := func(s string) {
		t.Helper()
		if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("wrote %d of %q: %v", n, s, err)
		}
	}
	write("direct")
	c.gather()
	write("one ")
	write("by ")
	c.gather() // a second call changes nothing
	write("one")
	if len(line.writes) != 1 {
		t.Fatalf("%d writes while gathering, want 1", len(line.writes))
	}
	if err := c.release(); err != nil {
		t.Fatal(err)
	}
	if got := string(bytes.Join(line.writes, []byte("|"))); got != "direct|one by one" {
		t.Fatalf("the line saw %q", got)
	}
	c.gather()
	write("lost")
	if err := c.release(); !errors.Is(err, errLine) {
		t.Fatalf("release gave %v, want the line's error", err)
	}
	line.limit = 9
	if _, err := c.Write([]byte("after")); !errors.Is(err, errLine) {
		t.Fatalf("a write after lost records gave %v: the stream would have a hole", err)
	}
	if err := c.release(); err != nil {
		t.Fatalf("release with nothing gathered: %v", err)
	}
}

// TestGatherWholeChunk: the records that TLS makes of a chunk leave as one write.
func TestGatherWholeChunk(t *testing.T) {
	id, err := newIdentity(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	conf, _ := id.ConfigForPeer("")
	conf.DynamicRecordSizingDisabled = true
	other, _ := id.ConfigForPeer("")
	near, far := net.Pipe()
	line := &countingConn{Conn: near}
	below := &gatherConn{Conn: line}
	server, client := tls.Server(below, conf), tls.Client(far, other)
	want := bytes.Repeat([]byte("seed"), chunk/4)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer far.Close()
	defer near.Close()
	wg.Go(func() {
		if err := server.Handshake(); err != nil {
			t.Error(err)
			return
		}
		before := line.writes.Load()
		below.gather()
		_, err := server.Write(want)
		if err := errors.Join(err, below.release()); err != nil {
			t.Error(err)
		}
		if n := line.writes.Load() - before; n != 1 {
			t.Errorf("a chunk left in %d writes, want 1", n)
		}
	})
	got := make([]byte, chunk)
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the chunk changed on its way")
	}
}

type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}
