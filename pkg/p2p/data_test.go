package p2p

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// gifts gives the wanted pieces, each n bytes of its index.
func gifts(n int) func(context.Context, peer.ID, Ask) (*Gift, error) {
	return func(_ context.Context, _ peer.ID, a Ask) (*Gift, error) {
		g := &Gift{Pieces: a.Pieces}
		for range a.Pieces {
			g.Lengths = append(g.Lengths, n)
		}
		g.Body = func(w io.Writer) (int64, error) {
			var total int64
			for _, p := range a.Pieces {
				m, err := w.Write(bytes.Repeat([]byte{byte(p)}, n))
				total += int64(m)
				if err != nil {
					return total, err
				}
			}
			return total, nil
		}
		return g, nil
	}
}

// fetchPiece asks for one piece and checks it.
func fetchPiece(t testing.TB, from, to *testNode, p, n int) {
	t.Helper()
	ans, err := from.Ask(t.Context(), to.ID(), Ask{Digest: testDigest, Pieces: []int{p}})
	if err != nil {
		t.Fatal(err)
	}
	defer ans.Close()
	buf := make([]byte, n)
	if i, m, err := ans.Next(buf); err != nil || i != p || !bytes.Equal(buf[:m], bytes.Repeat([]byte{byte(p)}, n)) {
		t.Fatalf("piece %d, %d bytes, %v", i, m, err)
	}
	if _, _, err := ans.Next(buf); !errors.Is(err, io.EOF) {
		t.Fatalf("end: %v", err)
	}
}

func pair(t testing.TB, change func(a, b *Config)) (a, b *testNode) {
	ca, cb := testConfig(t), testConfig(t)
	if change != nil {
		change(&ca, &cb)
	}
	a, b = startNode(t, ca), startNode(t, cb)
	connect(t, a, b)
	return a, b
}

func TestConnectionsAreKept(t *testing.T) {
	a, b := pair(t, nil)
	b.rec.give = gifts(1 << 20)
	for p := range 5 {
		fetchPiece(t, a, b, p, 1<<20)
	}
	if n := b.data.conns.Load(); n != 1 {
		t.Errorf("%d connections for asks one after another, want 1", n)
	}
	if n := value(a.metrics.dataIn); n != 5<<20 {
		t.Errorf("data in %v", n)
	}
	if n := value(b.metrics.dataOut); n != 5<<20 {
		t.Errorf("data out %v", n)
	}
}

func TestFallbackToStreams(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	a, b := pair(t, func(_, cb *Config) { cb.PiecesAdvertise = dead.Addr().String() })
	b.rec.give = gifts(3 << 20)
	fetchPiece(t, a, b, 7, 3<<20)
	fetchPiece(t, a, b, 8, 3<<20)
	if n := value(a.metrics.streamAsks); n != 1 {
		t.Errorf("%v stream connections, want 1", n)
	}
	if n := value(a.metrics.dialFailures); n != 1 {
		t.Errorf("%v failed dials, want 1: the address is remembered", n)
	}
}

// A pieces address that belongs to somebody else by now must not be believed.
func TestFallbackWhenAnotherPeerAnswers(t *testing.T) {
	other := startNode(t, testConfig(t))
	other.rec.give = gifts(10)
	a, b := pair(t, func(_, cb *Config) { cb.PiecesAdvertise = other.PiecesAddrs()[0] })
	b.rec.give = gifts(20)
	fetchPiece(t, a, b, 1, 20)
}

func TestTrustedNetwork(t *testing.T) {
	a, b := pair(t, func(ca, cb *Config) { ca.TrustedNetwork, cb.TrustedNetwork = true, true })
	data := bytes.Repeat([]byte("samara"), 1<<18)
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	viaReaderFrom := false
	b.rec.give = func(_ context.Context, from peer.ID, q Ask) (*Gift, error) {
		if from != a.ID() {
			t.Errorf("asked by %s", from)
		}
		return &Gift{Pieces: q.Pieces, Lengths: []int{len(data)}, Body: func(w io.Writer) (int64, error) {
			f, err := os.Open(path)
			if err != nil {
				return 0, err
			}
			defer f.Close()
			_, viaReaderFrom = w.(io.ReaderFrom)
			return io.CopyN(w, f, int64(len(data)))
		}}, nil
	}
	ans, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{0}})
	if err != nil {
		t.Fatal(err)
	}
	defer ans.Close()
	buf := make([]byte, len(data))
	if _, n, err := ans.Next(buf); err != nil || !bytes.Equal(buf[:n], data) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if !viaReaderFrom {
		t.Error("no io.ReaderFrom: sendfile is lost")
	}

	t.Run("a liar is denied", func(t *testing.T) {
		req, _ := http.NewRequest(http.MethodPost, "http://"+b.PiecesAddrs()[0]+blobsPath+string(testDigest)+"/pieces", nil)
		req.Header.Set(hdrPeer, newNodeID(t).String())
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("status %s", resp.Status)
		}
	})
	t.Run("a neighbour that trusts less asks over a stream", func(t *testing.T) {
		c := startNode(t, testConfig(t))
		connect(t, c, b)
		b.rec.change(func() { b.rec.give = gifts(30) })
		fetchPiece(t, c, b, 2, 30)
		if n := value(c.metrics.streamAsks); n != 1 {
			t.Errorf("%v stream connections", n)
		}
	})
	t.Run("and is asked over TLS", func(t *testing.T) {
		c := startNode(t, testConfig(t))
		connect(t, b, c)
		c.rec.give = gifts(30)
		fetchPiece(t, b, c, 2, 30)
		if n := value(b.metrics.streamAsks); n != 0 {
			t.Errorf("%v stream connections", n)
		}
	})
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func newNodeID(t testing.TB) peer.ID {
	id, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAskErrors(t *testing.T) {
	a, b := pair(t, nil)
	other := startNode(t, testConfig(t))
	ask := func() error {
		ans, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{1, 2}})
		if err == nil {
			ans.Close()
		}
		return err
	}
	give := func(g *Gift, err error) {
		b.rec.change(func() {
			b.rec.give = func(context.Context, peer.ID, Ask) (*Gift, error) { return g, err }
		})
	}
	if err := ask(); !errors.Is(err, ErrNotHeld) {
		t.Errorf("not held: %v", err)
	}
	give(nil, ErrDenied)
	if err := ask(); !errors.Is(err, ErrDenied) {
		t.Errorf("denied: %v", err)
	}
	give(nil, &BusyError{After: 1500 * time.Millisecond, Try: []peer.AddrInfo{other.info()}})
	var be *BusyError
	if err := ask(); !errors.As(err, &be) || be.After != 1500*time.Millisecond || len(be.Try) != 1 || be.Try[0].ID != other.ID() || len(be.Try[0].Addrs) != 1 {
		t.Errorf("busy: %#v", err)
	}
	give(nil, errors.New("disk on fire"))
	if err := ask(); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("failed: %v", err)
	}
	nothing := func(io.Writer) (int64, error) { return 0, nil }
	for name, g := range map[string]*Gift{
		"a piece not asked for": {Pieces: []int{3}, Lengths: []int{1}, Body: nothing},
		"a piece twice":         {Pieces: []int{1, 1}, Lengths: []int{1, 1}, Body: nothing},
		"a giant":               {Pieces: []int{1}, Lengths: []int{1 << 30}, Body: nothing},
		"nothing":               {Body: nothing},
	} {
		give(g, nil)
		if err := ask(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := a.Ask(t.Context(), other.ID(), Ask{Digest: testDigest, Pieces: []int{1}}); !errors.Is(err, ErrNotNeighbour) {
		t.Errorf("stranger: %v", err)
	}
	for name, q := range map[string]Ask{
		"neither": {Digest: testDigest},
		"both":    {Digest: testDigest, Pieces: []int{1}, Any: []byte{1}},
		"digest":  {Digest: "sha256:..", Pieces: []int{1}},
	} {
		if _, err := a.Ask(t.Context(), b.ID(), q); err == nil {
			t.Errorf("ask with %s went through", name)
		}
	}
}

func TestShortGiftFails(t *testing.T) {
	a, b := pair(t, nil)
	done := make(chan bool, 1)
	b.rec.give = func(context.Context, peer.ID, Ask) (*Gift, error) {
		return &Gift{Pieces: []int{1}, Lengths: []int{100}, Done: func(ok bool) { done <- ok }, Body: func(w io.Writer) (int64, error) {
			n, _ := w.Write(make([]byte, 50))
			return int64(n), errors.New("read failed")
		}}, nil
	}
	ans, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{1}})
	if err == nil {
		defer ans.Close()
		_, _, err = ans.Next(make([]byte, 100))
	}
	if err == nil {
		t.Error("half a piece was taken")
	}
	if <-done {
		t.Error("gift reported as done")
	}
}

func TestStalledGift(t *testing.T) {
	a, b := pair(t, func(ca, _ *Config) { ca.timing = quick() })
	release := make(chan struct{})
	defer close(release)
	b.rec.give = func(context.Context, peer.ID, Ask) (*Gift, error) {
		return &Gift{Pieces: []int{1}, Lengths: []int{1 << 20}, Body: func(w io.Writer) (int64, error) {
			n, err := w.Write(make([]byte, 1<<19))
			w.(*progressWriter).rc.Flush()
			<-release
			return int64(n), err
		}}, nil
	}
	ans, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{1}})
	if err != nil {
		t.Fatal(err)
	}
	defer ans.Close()
	if _, _, err := ans.Next(make([]byte, 1<<20)); !errors.Is(err, ErrStalled) {
		t.Errorf("got %v", err)
	}
}

func TestParkedAskEndsWithItsClient(t *testing.T) {
	for name, change := range map[string]func(a, b *Config){
		"tls":     nil,
		"streams": func(_, cb *Config) { cb.PiecesAdvertise = "127.0.0.1:1" },
		"plain":   func(ca, cb *Config) { ca.TrustedNetwork, cb.TrustedNetwork = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, change)
			parked, ended := make(chan struct{}), make(chan struct{})
			b.rec.give = func(ctx context.Context, _ peer.ID, _ Ask) (*Gift, error) {
				close(parked)
				<-ctx.Done()
				close(ended)
				return nil, ctx.Err()
			}
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-parked
				cancel()
			}()
			if _, err := a.Ask(ctx, b.ID(), Ask{Digest: testDigest, Any: []byte{0xff}, Max: 1}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the parked ask outlives its client")
			}
		})
	}
}

func TestHeaderDeadline(t *testing.T) {
	a, b := pair(t, func(ca, _ *Config) {
		ca.timing = quick()
		ca.timing.pieceHeader = 200 * time.Millisecond
	})
	b.rec.give = func(ctx context.Context, _ peer.ID, _ Ask) (*Gift, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{1}}); err == nil {
		t.Error("waited for ever")
	}
}

func TestTooManyRequests(t *testing.T) {
	a, b := pair(t, nil)
	for range maxPeerRequests {
		b.data.enter(a.ID())
	}
	var be *BusyError
	if _, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{1}}); !errors.As(err, &be) || be.After != overBusy {
		t.Errorf("got %v", err)
	}
	b.data.leave(a.ID())
	b.rec.give = gifts(10)
	fetchPiece(t, a, b, 1, 10)
}

func TestNotAdmitted(t *testing.T) {
	a, b := startNode(t, testConfig(t)), startNode(t, testConfig(t))
	b.rec.give = gifts(10)
	// a knows where b is, b has never met a.
	a.gate.seen(b.ID(), plane{addr: b.PiecesAddrs()[0]})
	if _, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{1}}); !errors.Is(err, ErrDenied) {
		t.Errorf("stranger: %v", err)
	}
	connect(t, a, b)
	fetchPiece(t, a, b, 1, 10)
	a.Disconnect(b.ID())
	b.rec.until(t, "down", func() bool { return b.rec.downs[a.ID()] == 1 })
	fetchPiece(t, a, b, 1, 10) // lately a neighbour
	now := time.Now()
	b.gate.mu.Lock()
	b.gate.now = func() time.Time { return now.Add(defaultTiming.recent + time.Second) }
	b.gate.mu.Unlock()
	if _, err := a.Ask(t.Context(), b.ID(), Ask{Digest: testDigest, Pieces: []int{1}}); !errors.Is(err, ErrDenied) {
		t.Errorf("ten minutes later: %v", err)
	}
}

// silentStream is one whose far end never agrees on the protocol.
type silentStream struct {
	network.Stream
	reset chan struct{}
}

func (s silentStream) Close() error {
	select {
	case <-s.reset:
	case <-time.After(5 * time.Second): // as libp2p's, which waits for 10 s
	}
	return nil
}
func (s silentStream) Reset() error { close(s.reset); return nil }

// A request over a stream that is given up does not wait for the far end.
func TestSilentStreamIsLeftAtOnce(t *testing.T) {
	s := silentStream{reset: make(chan struct{})}
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		t.Cleanup(func() { b.Close() })
		return overPipe{a, &askedConn{streamConn{s}}}, nil
	}}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://peer/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("somebody answered")
	}
	select {
	case <-s.reset:
	case <-time.After(2 * time.Second):
		t.Error("the stream was waited for")
	}
}

// overPipe reads and writes a pipe that nobody reads, and closes a stream.
type overPipe struct {
	net.Conn
	stream *askedConn
}

func (c overPipe) Close() error { return errors.Join(c.stream.Close(), c.Conn.Close()) }
