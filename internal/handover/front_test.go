package handover

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// stand is a front on a port, without a process around it.
type stand struct {
	*front
	t   *testing.T
	url string
}

func newStand(t *testing.T) *stand {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{front: newFront(zap.NewNop()), t: t, url: "http://" + ln.Addr().String()}
	s.listen(ln, false)
	t.Cleanup(func() { s.stop(context.Background(), 0) })
	return s
}

// begun serves content in two parts: half of it, and the rest when ctx ends, which
// is to say never.
type begun struct {
	half chan struct{} // closed when the first half was given
	etag string
}

const contentSize = 100_000

func content() []byte {
	p := make([]byte, contentSize)
	for i := range p {
		p[i] = byteAt(int64(i))
	}
	return p
}

func (b *begun) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", b.etag)
	http.ServeContent(w, r, "", time.Time{}, &halting{Reader: bytes.NewReader(content()), ctx: r.Context(), b: b})
}

// halting is content of which nothing comes from its middle on.
type halting struct {
	*bytes.Reader
	ctx context.Context
	b   *begun
}

func (h *halting) Read(p []byte) (int, error) {
	left := int64(h.Len()) - contentSize/2
	if left <= 0 {
		close(h.b.half)
		<-h.ctx.Done()
		return 0, context.Cause(h.ctx)
	}
	return h.Reader.Read(p[:min(int64(len(p)), left)])
}

// WriteTo of bytes.Reader would give it all.
func (h *halting) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{h})
}

func whole(etag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content()))
	}
}

func never(t *testing.T) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked for %s %s %v", r.Method, r.URL, r.Header)
	}
}

// What becomes of a body in the middle of which the stage ends, by what the next
// one says of the rest.
func TestRestOfBody(t *testing.T) {
	const tag = `"sha256:1"`
	var times atomic.Int32
	for name, test := range map[string]struct {
		header string // of the client
		rest   http.HandlerFunc
		want   string // the Range that is asked for
		cut    bool
	}{
		"whole":  {rest: whole(tag), want: "bytes=50000-99999"},
		"part":   {header: "bytes=10-", rest: whole(tag), want: "bytes=50000-99999"},
		"window": {header: "bytes=49000-60000", rest: whole(tag), want: "bytes=50000-60000"},
		"not at first": {rest: func(w http.ResponseWriter, r *http.Request) {
			if times.Add(1) < 3 {
				http.NotFound(w, r)
				return
			}
			whole(tag)(w, r)
		}, want: "bytes=50000-99999"},
		"never":       {rest: http.NotFound, cut: true},
		"other bytes": {rest: whole(`"sha256:2"`), cut: true},
		"not a range": {rest: func(w http.ResponseWriter, r *http.Request) { r.Header.Del("Range"); whole(tag)(w, r) }, cut: true},
		"other range": {rest: func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=50001-99999")
			whole(tag)(w, r)
		}, cut: true},
		"several":      {header: "bytes=0-10,49000-60000", rest: never(t), cut: true},
		"dies, too":    {rest: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, cut: true},
		"without ETag": {header: "no etag", rest: never(t), cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t)
			s.resume = time.Minute // a busy machine takes a while to give the rest
			if test.cut {
				s.resume = 300 * time.Millisecond // and for what never comes nobody waits
			}
			b := &begun{half: make(chan struct{}), etag: tag}
			if test.header == "no etag" {
				test.header, b.etag = "", ""
			}
			s.begin(newStage(b, never(t)))
			req, _ := http.NewRequest("GET", s.url+"/", nil)
			req.Header.Set("Authorization", "Bearer secret")
			if test.header != "" {
				req.Header.Set("Range", test.header)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			<-b.half
			s.freeze(time.Second)
			var asked http.Header
			s.begin(newStage(never(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.Header.Clone()
				test.rest(w, r)
			})))
			got, err := io.ReadAll(resp.Body)
			if test.cut { // contract 14: FIN, short of the length
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%d bytes, then %v", len(got), err)
				}
				return
			}
			first, last, _, ok := parseContentRange(resp.Header.Get("Content-Range"))
			if !ok {
				first, last = 0, contentSize-1
			}
			if err != nil || !bytes.Equal(got, content()[first:last+1]) {
				t.Errorf("%d bytes, %v; want %d to %d", len(got), err, first, last)
			}
			if asked.Get("Range") != test.want || asked.Get("Authorization") != "" {
				t.Errorf("the next stage was asked with %v", asked)
			}
		})
	}
}

// A body whose length nobody was told does not end as if it were whole.
func TestBodyWithoutLength(t *testing.T) {
	s := newStand(t)
	half := make(chan struct{})
	s.begin(newStage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		close(half)
		<-r.Context().Done()
		_, _ = io.WriteString(w, "rest")
	}), never(t)))
	resp, err := client.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-half
	s.freeze(time.Second)
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%q, as if that were all", got)
	}
}

// What has no answer when the stage ends is answered by the next one; an error
// that only the end of the stage made is not heard of.
func TestUnanswered(t *testing.T) {
	for _, method := range []string{"GET", "HEAD"} {
		s := newStand(t)
		asked := make(chan struct{})
		s.begin(newStage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(asked)
			<-r.Context().Done()
			w.Header().Set("Content-Type", "no/such")
			http.Error(w, "stopped", http.StatusNotFound)
		}), never(t)))
		type result struct {
			resp *http.Response
			err  error
		}
		got := make(chan result, 1)
		go func() {
			req, _ := http.NewRequest(method, s.url+"/", nil)
			req.Header.Set("Authorization", "Bearer secret")
			resp, err := client.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			got <- result{resp, err}
		}()
		<-asked
		s.freeze(time.Second)
		s.begin(newStage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "0")
			w.Header().Set("Shown", r.Header.Get("Authorization"))
		}), never(t)))
		if r := <-got; r.err != nil || r.resp.StatusCode != 200 || r.resp.Header.Get("Shown") != "Bearer secret" || r.resp.Header.Get("Content-Type") == "no/such" {
			t.Errorf("%s: %+v", method, r)
		}
	}
}

// What changes something is waited for, and never done twice; what comes
// meanwhile waits for the next stage, while the rest is answered.
func TestWrites(t *testing.T) {
	s := newStand(t)
	began, finish := make(chan struct{}, 1), make(chan struct{})
	s.begin(newStage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			began <- struct{}{}
			<-finish
		}
		_, _ = io.WriteString(w, "first")
	}), never(t)))
	put := func() string {
		req, _ := http.NewRequest("PUT", s.url+"/", strings.NewReader("x"))
		resp, err := client.Do(req)
		if err != nil {
			return "failed"
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return string(text)
	}
	got := make(chan string, 2)
	go func() { got <- put() }()
	<-began
	frozen := make(chan struct{})
	go func() { s.freeze(time.Minute); close(frozen) }()
	for { // until it holds
		s.mu.Lock()
		hold := s.stage.hold
		s.mu.Unlock()
		if hold {
			break
		}
	}
	resp, err := client.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	second := make(chan string, 1)
	go func() { second <- put() }()
	close(finish)
	<-frozen
	if text := <-got; text != "first" {
		t.Errorf("what had begun: %s", text)
	}
	s.begin(newStage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "second "+string(body))
	}), never(t)))
	if text := <-second; text != "second x" {
		t.Errorf("what came meanwhile: %s", text)
	}
}

// What is not finished within the grace is cut off, and not done again.
func TestWriteIsCut(t *testing.T) {
	s := newStand(t)
	began := make(chan struct{})
	s.begin(newStage(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	}), never(t)))
	got := make(chan error, 1)
	go func() {
		req, _ := http.NewRequest("PUT", s.url+"/", nil)
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		got <- err
	}()
	<-began
	s.freeze(time.Millisecond)
	s.begin(newStage(never(t), never(t)))
	if err := <-got; err == nil {
		t.Error("there is an answer")
	}
}

// A client that reads nothing holds up nobody, and gets the rest when it reads.
func TestSlowClient(t *testing.T) {
	s := newStand(t)
	const size = 64 << 20 // more than sockets hold
	big := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(zeros{}, 0, size))
	}
	s.begin(newStage(http.HandlerFunc(big), never(t)))
	resp, err := client.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.freeze(time.Second)
	s.begin(newStage(never(t), http.HandlerFunc(big)))
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// Who speaks as the process before does, and came by the network, is a client.
func TestForgedRelay(t *testing.T) {
	s := newStand(t)
	s.begin(newStage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }), never(t)))
	req, _ := http.NewRequest("GET", s.url+"/", nil)
	req.Header.Set(headerPart, partRest)
	req.Header.Set(headerClient, "10.0.0.1:1")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); !strings.HasPrefix(string(text), "127.0.0.1:") {
		t.Errorf("%d, %s", resp.StatusCode, text)
	}
}

// By a link: what was begun goes on at the other process, what is new is answered
// there, as to the client itself.
func TestRelay(t *testing.T) {
	ours, theirs, err := newLink()
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLink(theirs)
	if err != nil {
		t.Fatal(err)
	}
	next := newStand(t)
	next.begin(newStage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, " ", r.Host, " ", r.RemoteAddr, " ", r.URL, " ", r.Header.Get("Authorization"), " ", r.Header[headerClient])
	}), whole(etag)))
	var taking sync.WaitGroup
	taking.Go(func() {
		for {
			m, err := l.receive(context.Background())
			if err != nil {
				return
			}
			if err := next.relays.add(m.files[0]); err != nil {
				t.Error(err)
			}
		}
	})
	s := newStand(t)
	b := &begun{half: make(chan struct{}), etag: etag}
	s.begin(newStage(b, never(t)))
	resp, err := client.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-b.half
	s.freeze(time.Second)
	x := newRelay(ours)
	s.begin(x.stage())
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, content()) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	req, _ := http.NewRequest("GET", s.url+"/v2/a%2Fb?ns=x", nil)
	req.Header.Set("Authorization", "Bearer secret")
	req.Host = "seeder.example.com"
	resp, err = client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if got := string(text); !strings.HasPrefix(got, "GET seeder.example.com 127.0.0.1:") || !strings.HasSuffix(got, " /v2/a%2Fb?ns=x Bearer secret []") {
		t.Errorf("the next process saw %s", got)
	}
	if !resp.Close {
		t.Error("the client is to keep the connection with the old process")
	}
	ours.close()
	taking.Wait()
	l.close()
	// With the next process gone, nobody is told something else.
	if resp, err := client.Get(s.url); err == nil {
		resp.Body.Close()
		t.Errorf("status %d", resp.StatusCode)
	}
	x.close()
}

// A client's certificate is its name at the next process, too.
func TestRelayedCertificate(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	cert := srv.Certificate()
	for name, state := range map[string]*tls.ConnectionState{
		"none": nil, "TLS": {}, "certificate": {VerifiedChains: [][]*x509.Certificate{{cert}}},
	} {
		r := httptest.NewRequest("GET", "/x", nil)
		r.TLS = state
		r.Header.Set(headerTLS, "forged")
		in, rest, err := unwrap(wrap(r, partWhole))
		if err != nil || rest || in.RemoteAddr != r.RemoteAddr || (in.TLS != nil) != (state != nil) || in.Header.Get(headerTLS) != "" {
			t.Errorf("%s: %+v, %v, %v", name, in, rest, err)
			continue
		}
		if got := in.TLS != nil && len(in.TLS.VerifiedChains) == 1; got != (name == "certificate") || got && !in.TLS.VerifiedChains[0][0].Equal(cert) {
			t.Errorf("%s: %+v", name, in.TLS)
		}
	}
	for _, h := range []http.Header{{}, {headerPart: {"half"}}, {headerPart: {partRest}, headerTLS: {"%"}}, {headerPart: {partRest}, headerTLS: {"aGVsbG8="}}} {
		r := httptest.NewRequest("GET", "/x", nil)
		r.Header = h
		if _, _, err := unwrap(r); err == nil {
			t.Errorf("%v is understood", h)
		}
	}
}

func TestParseContentRange(t *testing.T) {
	if first, last, size, ok := parseContentRange("bytes 1-2/3"); first != 1 || last != 2 || size != 3 || !ok {
		t.Error(first, last, size, ok)
	}
	for _, s := range []string{"", "bytes */3", "bytes 1-2/*", "bytes 1-2", "1-2/3", "bytes a-2/3"} {
		if _, _, _, ok := parseContentRange(s); ok {
			t.Errorf("%q is a range", s)
		}
	}
}
