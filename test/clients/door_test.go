package clients

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// What each trouble at an offset leaves of 100 KiB, by both kinds of door.
func TestDoors(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 100<<10/16)
	kinds := map[string]func(*testing.T, []byte) tried{"tcp": tcpDoor, "http": httpDoor}
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			t.Run("", func(t *testing.T) {
				d := open(t, content)
				set, get := d.set, d.get
				for _, c := range []struct {
					name    string
					trouble *Trouble
					want    int // bytes
					err     error
				}{
					{"well", nil, len(content), nil},
					{"drop", &Trouble{How: Drop}, 0, io.EOF},
					{"fin at 1", &Trouble{How: Fin, At: 1}, 1, io.ErrUnexpectedEOF},
					{"fin within", &Trouble{How: Fin, At: 50_001}, 50_001, io.ErrUnexpectedEOF},
					{"reset within", &Trouble{How: Reset, At: 50_001}, -1, syscall.ECONNRESET},
					{"slow", &Trouble{How: Slow, Rate: 10 << 20}, len(content), nil},
					{"well again", nil, len(content), nil},
				} {
					set(c.trouble)
					got, err := get()
					if !errors.Is(err, c.err) && (c.err == nil || !isEOF(err) || !isEOF(c.err)) {
						t.Errorf("%s: %v, want %v", c.name, err, c.err)
					}
					if c.want >= 0 && (len(got) != c.want || !bytes.Equal(got, content[:c.want])) {
						t.Errorf("%s: %d bytes, want %d as they are", c.name, len(got), c.want)
					}
				}
				set(&Trouble{How: Flip, At: 70_000})
				got, err := get()
				if err != nil || len(got) != len(content) {
					t.Fatalf("flip: %d bytes, %v", len(got), err)
				}
				for i := range got {
					if (got[i] != content[i]) != (i == 70_000) {
						t.Fatalf("flip: byte %d is %q for %q", i, got[i], content[i])
					}
				}
				set(&Trouble{How: Stall, At: 50_001})
				ended := make(chan struct{})
				go func() { // ends the stall, and cuts the connection
					defer close(ended)
					for tick, n := time.NewTicker(time.Millisecond), 0; d.struck.Load() == 0 && n < 10_000; n++ {
						<-tick.C
					}
					set(nil)
				}()
				got, err = get()
				<-ended
				if !bytes.HasPrefix(content[:50_001], got) || !isEOF(err) && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("stall: %d bytes, %v", len(got), err)
				}
			})
		})
	}
}

// tried is a door of either kind, and a client that goes through it.
type tried struct {
	set    func(*Trouble)
	get    func() ([]byte, error)
	struck *atomic.Int64
}

// isEOF: a connection without a length just ends.
func isEOF(err error) bool {
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func tcpDoor(t *testing.T, content []byte) tried {
	back := loopback(t)
	t.Cleanup(func() { back.Close() })
	go func() {
		for {
			c, err := back.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(content)
			c.Close()
		}
	}()
	d := newDoor(loopback(t), func(ctx context.Context) (net.Conn, error) {
		var nd net.Dialer
		return nd.DialContext(ctx, "tcp", back.Addr().String())
	})
	t.Cleanup(d.close)
	get := func() ([]byte, error) {
		c, err := net.Dial("tcp", d.ln.Addr().String())
		if err != nil {
			return nil, err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return io.ReadAll(c)
	}
	return tried{d.set, get, &d.struck}
}

func httpDoor(t *testing.T, content []byte) tried {
	ln := loopback(t)
	w := newWeb(ln, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = rw.Write(content)
	}))
	t.Cleanup(w.close)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	get := func() ([]byte, error) {
		resp, err := client.Get("http://" + ln.Addr().String() + "/v2/x/blobs/y")
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
	t.Run("status", func(t *testing.T) {
		w.set(&Trouble{How: Status, Code: 429})
		resp, err := client.Get("http://" + ln.Addr().String() + "/v2/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("answered %d", resp.StatusCode)
		}
	})
	t.Run("last byte", func(t *testing.T) {
		w.set(&Trouble{How: Fin, At: LastByte})
		if got, err := get(); len(got) != len(content)-1 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes, %v", len(got), len(content), err)
		}
	})
	return tried{w.set, get, &w.struck}
}

// The rule of what has to work.
func TestWorks(t *testing.T) {
	gone := &Trouble{How: Gone}
	for _, c := range []struct {
		name string
		c    Condition
		want bool
	}{
		{"well", Condition{}, true},
		{"the client's own way is left", Condition{Cold: true, Peer: gone, Seeder: gone, Upstream: gone}, true},
		{"slow is not broken", Condition{Cold: true, Upstream: &Trouble{How: Slow}, Straight: &Trouble{How: Slow}}, true},
		{"nobody", Condition{Cold: true, Upstream: gone, Straight: gone}, false},
		{"the swarm has it", Condition{Upstream: gone, Straight: gone}, true},
		{"a peer has it, and nobody knows the tag", Condition{Seeder: gone, Upstream: gone, Straight: gone}, false},
		{"a peer has it, and the digest is known", Condition{ByDigest: true, Seeder: gone, Upstream: gone, Straight: gone}, true},
		{"a liar beside a peer", Condition{Peer: &Trouble{How: Liar}, Seeder: gone, Upstream: gone, Straight: gone, ByDigest: true}, true},
	} {
		if got := c.c.Works(); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	names := map[string]bool{}
	for _, c := range Conditions() {
		if names[c.Name] {
			t.Errorf("two conditions are named %s", c.Name)
		}
		names[c.Name] = true
	}
}
