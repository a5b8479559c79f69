package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"go.uber.org/goleak"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// network is an in-memory network inside a synctest bubble: time is virtual,
// and any host name can be served.
type network struct {
	t     *testing.T
	mu    sync.Mutex
	hosts map[string]*pipeListener // "host:port"
	dials map[string]int
}

// serve puts a handler at "host:port" until the test ends.
func (n *network) serve(addr string, h http.Handler) {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.hosts[addr] = l
	n.mu.Unlock()
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	n.t.Cleanup(func() { _ = srv.Close() })
}

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[addr]++
	l := n.hosts[addr]
	n.mu.Unlock()
	if strings.HasPrefix(addr, "blackhole") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// bench is one upstream, "up" at http://up.test, and a client for it, in a
// bubble.
type bench struct {
	*network
	up     *upstreamtest.Server
	client *Client
}

// virtually runs f on virtual time. change may be nil.
func virtually(t *testing.T, change func(*Options), f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{network: &network{t: t, hosts: map[string]*pipeListener{}, dials: map[string]int{}}, up: upstreamtest.New()}
		b.serve("up.test:80", b.up)
		o := Options{Keychain: keys{}, Jitter: func() float64 { return 0.5 }, dial: b.dial}
		if change != nil {
			change(&o)
		}
		c, err := New([]Registry{{Name: "up", URL: "http://up.test"}, {Name: "hole", URL: "http://blackhole.test"}, {Name: "nobody", URL: "http://nobody.test"}}, o)
		if err != nil {
			t.Fatal(err)
		}
		b.client = c
		t.Cleanup(func() {
			b.up.Close()
			c.Close()
			synctest.Wait()
		})
		f(t, b)
	})
}

// later lets virtual time pass.
func (b *bench) later(d time.Duration) { time.Sleep(d) }

// keys is a keychain: host -> credentials.
type keys map[string]authn.AuthConfig

func (k keys) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if c, ok := k[r.RegistryStr()]; ok {
		return authn.FromConfig(c), nil
	}
	return authn.Anonymous, nil
}

// wantKind checks an error's kind and that its text has these parts.
func wantKind(t *testing.T, err error, k Kind, parts ...string) {
	t.Helper()
	if KindOf(err) != k {
		t.Fatalf("kind %s, want %s: %v", KindOf(err), k, err)
	}
	for _, p := range parts {
		if !strings.Contains(fmt.Sprint(err), p) {
			t.Errorf("error does not say %q: %v", p, err)
		}
	}
}

// readAll reads a whole blob range and closes it.
func readAll(t *testing.T, b *bench, d digestOf, off, n int64) ([]byte, error) {
	t.Helper()
	r, err := b.client.Blob(t.Context(), "up", "a/b", d, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
