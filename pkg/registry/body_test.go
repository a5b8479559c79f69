package registry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

var errSource = errors.New("every source is gone")

// growing is content that ends early, or waits, as a blob on its way does.
type growing struct {
	content []byte
	size    int64         // what it claims
	gate    chan struct{} // reads wait for it once content has run out; nil: fail at once
	ctx     context.Context
	pos     int64
	closed  chan struct{}
}

func (g *growing) Read(p []byte) (int, error) {
	if g.pos >= g.size {
		return 0, io.EOF
	}
	if g.pos < int64(len(g.content)) {
		n := copy(p, g.content[g.pos:])
		g.pos += int64(n)
		return n, nil
	}
	if g.gate == nil {
		return 0, errSource
	}
	select {
	case <-g.gate:
		g.gate = nil
		return g.Read(p)
	case <-g.ctx.Done():
		return 0, g.ctx.Err()
	}
}

func (g *growing) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		g.pos = off
	case io.SeekEnd:
		g.pos = g.size + off
	default:
		return 0, errors.New("not needed")
	}
	return g.pos, nil
}

func (g *growing) Close() error {
	if g.closed != nil {
		close(g.closed)
	}
	return nil
}

// get sends one request on a connection of its own and reads its head.
func get(t *testing.T, s *httptest.Server, path string, headers ...string) (net.Conn, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	deadline(t, c)
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, strings.Join(append(headers, ""), "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, resp
}

func deadline(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

func blobBackend(f func(ctx context.Context) Blob) *fakeBackend {
	return &fakeBackend{blob: func(ctx context.Context, _ Request) (Blob, error) { return f(ctx), nil }}
}

const somePath = "/v2/a/blobs/" + emptyDigest // the fakes do not look at the digest

// contract 14: a body that cannot be completed ends with FIN, short of
// Content-Length, with every byte that was there; and the digest is refused
// for a while, so that the resume goes elsewhere.
func TestCutEndsWithFIN(t *testing.T) {
	for _, sent := range []int{1, 100, 5000, 3 << 20} {
		t.Run(fmt.Sprint(sent), func(t *testing.T) {
			reg := prometheus.NewRegistry()
			s := serve(t, blobBackend(func(context.Context) Blob {
				return Blob{Digest: emptyDigest, Size: 8 << 20, Content: &growing{content: bytes.Repeat([]byte("x"), sent), size: 8 << 20}}
			}), func(o *HandlerOptions) { o.NotFoundOnly, o.Registerer, o.Namespace = true, reg, "peerd" })
			_, resp := get(t, s, somePath)
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != 200 || resp.ContentLength != 8<<20 || len(body) != sent || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("status %d, length %d, %d bytes, error %v; want %d bytes and an unexpected EOF", resp.StatusCode, resp.ContentLength, len(body), err, sent)
			}
			do(t, s, "GET", somePath, "Range", fmt.Sprintf("bytes=%d-", sent)).wantError(t, 404, CodeBlobUnknown)
			do(t, s, "HEAD", somePath).want(t, 404)
			wantMetric(t, reg, `peerd_http_bodies_cut_total{by="source",kind="blob"} 1`)
		})
	}
}

// A seeder is often the only host a peerd has: it refuses nothing.
func TestSeederDoesNotRefuseAfterCut(t *testing.T) {
	s := serve(t, blobBackend(func(context.Context) Blob {
		return Blob{Digest: emptyDigest, Size: 9, Content: &growing{content: []byte("x"), size: 9}}
	}))
	for range 2 {
		_, resp := get(t, s, somePath)
		if body, err := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != "x" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("status %d, body %q, %v", resp.StatusCode, body, err)
		}
	}
}

// contract 9: content that fails before its first byte is still an error.
func TestFailureBeforeFirstByte(t *testing.T) {
	b := blobBackend(func(context.Context) Blob {
		return Blob{Digest: emptyDigest, Size: 8 << 20, Content: &growing{size: 8 << 20}}
	})
	for _, header := range []string{"", "bytes=5-"} {
		do(t, serve(t, b, func(o *HandlerOptions) { o.NotFoundOnly = true }), "GET", somePath, "Range", header).
			wantError(t, 404, CodeBlobUnknown).want(t, 404, "ETag", "", "Content-Range", "", "Cache-Control", "")
		do(t, serve(t, b), "GET", somePath, "Range", header).wantError(t, 500, CodeUnknown)
	}
}

// DecisionTimeout: headers go out though no byte is there; then the body.
func TestDecisionTimeout(t *testing.T) {
	gate := make(chan struct{})
	s := serve(t, blobBackend(func(ctx context.Context) Blob {
		return Blob{Digest: emptyDigest, Size: 3, Content: &lateContent{growing{size: 3, gate: gate, ctx: ctx}}}
	}), func(o *HandlerOptions) { o.DecisionTimeout = 20 * time.Millisecond })
	_, resp := get(t, s, somePath)
	if resp.StatusCode != 200 || resp.ContentLength != 3 || resp.Header.Get("Docker-Content-Digest") != emptyDigest {
		t.Fatalf("status %d, header %v", resp.StatusCode, resp.Header)
	}
	close(gate)
	if body, err := io.ReadAll(resp.Body); string(body) != "abc" || err != nil {
		t.Fatalf("body %q, %v", body, err)
	}
}

// lateContent has its bytes once the gate opens.
type lateContent struct{ growing }

func (l *lateContent) Read(p []byte) (int, error) {
	if l.gate != nil {
		select {
		case <-l.gate:
			l.gate, l.content = nil, []byte("abc")
		case <-l.ctx.Done():
			return 0, l.ctx.Err()
		}
	}
	return l.growing.Read(p)
}

// contract 7: a client that leaves is normal; the source is released.
func TestClientLeaves(t *testing.T) {
	reg := prometheus.NewRegistry()
	closed := make(chan struct{})
	s := serve(t, blobBackend(func(ctx context.Context) Blob {
		return Blob{Digest: emptyDigest, Size: 8 << 20, Content: &growing{content: make([]byte, 1<<20), size: 8 << 20, gate: make(chan struct{}), ctx: ctx, closed: closed}}
	}), func(o *HandlerOptions) { o.NotFoundOnly, o.Registerer, o.Namespace = true, reg, "peerd" })
	c, resp := get(t, s, somePath, "Range: bytes=0-")
	if resp.StatusCode != 206 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	c.Close()
	<-closed
	s.Close() // waits for the handler
	wantMetric(t, reg, `peerd_http_bodies_cut_total{by="client",kind="blob"} 1`)
}

// A client that stops reading loses its connection, not our memory.
func TestStalledClient(t *testing.T) {
	reg := prometheus.NewRegistry()
	closed := make(chan struct{})
	s := serve(t, blobBackend(func(ctx context.Context) Blob {
		return Blob{Digest: emptyDigest, Size: 64 << 20, Content: &growing{content: make([]byte, 64<<20), size: 64 << 20, closed: closed}}
	}), func(o *HandlerOptions) { o.Stall, o.Registerer, o.Namespace = 50*time.Millisecond, reg, "seeder" })
	_, resp := get(t, s, somePath)
	<-closed
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n == 64<<20 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	s.Close()
	wantMetric(t, reg, `seeder_http_bodies_cut_total{by="stall",kind="blob"} 1`)
}

// The write deadline moves while a body is sent and is not left behind for the
// connection's next request.
func TestDeadlineEndsWithResponse(t *testing.T) {
	const chunks = 4
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spy := &spyListener{Listener: ln}
	content := strings.Repeat("x", chunks*sendChunk)
	s := serveOn(t, spy, oneBlob(content))
	do(t, s, "GET", "/v2/a/blobs/"+digest.FromString(content).String()).want(t, 200)
	s.Close() // waits for the handler
	if n := len(spy.deadlines); n < chunks || !spy.deadlines[n-1].IsZero() {
		t.Errorf("write deadlines: %v", spy.deadlines)
	}
}

// serveOn is serve on a listener of the test's own.
func serveOn(t *testing.T, ln net.Listener, b Backend) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(NewHandler(b, HandlerOptions{Resolver: newTestResolver(t, "docker.io", "docker.io")}))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// contract 8: many blobs at a time, on one connection each and on few.
func TestManyAtOnce(t *testing.T) {
	s := serve(t, oneBlob(testBlob))
	path := "/v2/a/blobs/" + digest.FromString(testBlob).String()
	var wg sync.WaitGroup
	for i := range 128 {
		wg.Go(func() {
			req, err := http.NewRequest("GET", s.URL+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Close = i%2 == 0
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); string(body) != testBlob || err != nil {
				t.Errorf("body %q, %v", body, err)
			}
		})
	}
	wg.Wait()
}

// spyListener tells what the connections are asked to send.
type spyListener struct {
	net.Listener

	mu        sync.Mutex
	files     int64 // bytes that went by ReadFrom of a limited *os.File
	deadlines []time.Time
}

type spyConn struct {
	net.Conn
	l *spyListener
}

func (l *spyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &spyConn{c, l}, err
}

func (c *spyConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.Conn.(io.ReaderFrom).ReadFrom(r)
	if lr, ok := r.(*io.LimitedReader); ok {
		if _, ok := lr.R.(*os.File); ok {
			c.l.mu.Lock()
			c.l.files += n
			c.l.mu.Unlock()
		}
	}
	return n, err
}

func (c *spyConn) SetWriteDeadline(d time.Time) error {
	c.l.mu.Lock()
	c.l.deadlines = append(c.l.deadlines, d)
	c.l.mu.Unlock()
	return c.Conn.SetWriteDeadline(d)
}

// selfWriter writes pieces of a file, and waits between them, as the store's
// reader over a growing file does.
type selfWriter struct {
	*os.File
	size   int64
	pos    int64
	beyond chan struct{} // closed when it goes on after the limit
	until  int64
}

func (s *selfWriter) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		off += s.size
	}
	s.pos = off
	return off, nil
}

func (s *selfWriter) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for s.pos < s.size {
		if s.pos >= s.until {
			close(s.beyond)
			return total, errSource
		}
		if _, err := s.File.Seek(s.pos, io.SeekStart); err != nil {
			return total, err
		}
		n, err := io.CopyN(w, s.File, min(256<<10, s.size-s.pos))
		s.pos += n
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// Files, and content that writes itself from a file, go to the connection as
// a limited *os.File: what net.TCPConn does by sendfile.
func TestSendfile(t *testing.T) {
	const size = 5<<20 + 123
	path := filepath.Join(t.TempDir(), "blob")
	content := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	beyond := make(chan struct{})
	open := map[string]func(f *os.File) io.ReadSeekCloser{
		"file":        func(f *os.File) io.ReadSeekCloser { return f },
		"writes self": func(f *os.File) io.ReadSeekCloser { return &selfWriter{File: f, size: size, until: size} },
		"stops in time": func(f *os.File) io.ReadSeekCloser {
			return &selfWriter{File: f, size: size, until: 3 << 20, beyond: beyond}
		},
	}
	for name, wrap := range open {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			spy := &spyListener{Listener: ln}
			b := blobBackend(func(context.Context) Blob {
				f, err := os.Open(path)
				if err != nil {
					t.Error(err)
				}
				return Blob{Digest: emptyDigest, Size: size, Content: wrap(f)}
			})
			s := serveOn(t, spy, b)
			header, want := "", content
			if name == "stops in time" {
				header, want = "bytes=7-3145727", content[7:3<<20]
			}
			r := do(t, s, "GET", somePath, "Range", header)
			if r.body != string(want) {
				t.Fatalf("%d bytes, want %d, or other ones", len(r.body), len(want))
			}
			spy.mu.Lock()
			defer spy.mu.Unlock()
			if spy.files < int64(len(want))-512 { // net/http copies what could be sniffed
				t.Errorf("%d of %d bytes went by ReadFrom of a file", spy.files, len(want))
			}
			select {
			case <-beyond:
				t.Error("content went on after the end of the range")
			default:
			}
		})
	}
}

// A file that is shorter than it was is a source that failed.
func TestTruncatedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, blobBackend(func(context.Context) Blob {
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
		}
		return Blob{Digest: emptyDigest, Size: 4 << 20, Content: &shrinking{f}}
	}), func(o *HandlerOptions) { o.NotFoundOnly = true })
	_, resp := get(t, s, somePath)
	if n, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || n != 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// shrinking writes itself from a file that loses its end meanwhile.
type shrinking struct{ *os.File }

func (s *shrinking) WriteTo(w io.Writer) (int64, error) {
	if err := os.Truncate(s.Name(), 1<<20); err != nil {
		return 0, err
	}
	return io.CopyN(w, s.File, 4<<20)
}

func wantMetric(t *testing.T, g prometheus.Gatherer, line string) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(text.String(), line+"\n") {
		t.Errorf("no %q in:\n%s", line, text.String())
	}
}
