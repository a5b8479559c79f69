package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// at is a clock of which each look takes a second.
func at() func() time.Time {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return func() time.Time { now = now.Add(time.Second); return now }
}

// serve answers one request through a log, and returns its line.
func serve(t *testing.T, r *http.Request, h http.HandlerFunc) Line {
	t.Helper()
	var out bytes.Buffer
	l, err := Open(Options{Writer: &out, Now: at(), Canonical: func(path, ns string) string { return ns + "/" + path }})
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		l.Wrap(h).ServeHTTP(httptest.NewRecorder(), r)
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var e Line
	if err := json.Unmarshal(out.Bytes(), &e); err != nil || !bytes.HasSuffix(out.Bytes(), []byte("}\n")) {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	return e
}

func request(method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	r.RemoteAddr = "192.0.2.7:4711"
	r.Header.Set("User-Agent", "containerd/2.1")
	r.Header.Set("Authorization", "Bearer SECRET")
	return r
}

func TestLine(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
	for name, c := range map[string]struct {
		r    *http.Request
		h    http.HandlerFunc
		want Line
	}{
		"pull": {request("GET", "/v2/lab/app/manifests/v1?ns=up.test&token=SECRET", nil), func(w http.ResponseWriter, r *http.Request) {
			Identify(r.Context(), "alice", "password")
			w.Header().Set("X-Cache", "MISS")
			w.Header().Set("X-Cache-Source", "upstream")
			_, _ = io.WriteString(w, "12345")
		}, Line{Kind: "manifest", Repository: "up.test/lab/app", Reference: "v1", Method: "GET", Path: "/v2/lab/app/manifests/v1",
			User: "alice", Auth: "password", Status: 200, Sent: 5, Cache: "MISS", Source: "upstream"}},
		"upload": {request("PATCH", "/v2/lab/app/blobs/uploads/17", strings.NewReader("123")), func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(202)
		}, Line{Kind: "upload", Repository: "/lab/app", Reference: "17", Method: "PATCH", Path: "/v2/lab/app/blobs/uploads/17", Status: 202, Received: 3}},
		"refused": {request("GET", "/v2/", nil), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) },
			Line{Kind: "ping", Method: "GET", Path: "/v2/", Status: 401}},
		"cut": {request("GET", "/v2/lab/app/blobs/sha256:00", nil), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "123")
			panic(http.ErrAbortHandler)
		}, Line{Kind: "blob", Repository: "/lab/app", Reference: "sha256:00", Method: "GET", Path: "/v2/lab/app/blobs/sha256:00", Status: 200, Sent: 3, Cut: true}},
		"look": {request("HEAD", "/v2/lab/app/blobs/sha256:00", nil), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(200)
		}, Line{Kind: "blob", Repository: "/lab/app", Reference: "sha256:00", Method: "HEAD", Path: "/v2/lab/app/blobs/sha256:00", Status: 200}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Time, c.want.Seconds, c.want.Client, c.want.UserAgent = when, 1, "192.0.2.7", "containerd/2.1"
			if got := serve(t, c.r, c.h); got != c.want {
				t.Errorf("%+v, want\n%+v", got, c.want)
			}
		})
	}
}

// What a client sends neither makes a line too long nor begins another.
func TestClientsTexts(t *testing.T) {
	r := request("GET", "/v2/x/manifests/y", nil)
	r.Header.Set("User-Agent", strings.Repeat("x", 60<<10))
	r.URL.Path = "/v2/a\n{}/manifests/" + strings.Repeat("ü", 4<<10)
	e := serve(t, r, func(http.ResponseWriter, *http.Request) {})
	if len(e.UserAgent) > maxField+3 || len(e.Path) > maxField+6 || len(e.Reference) > maxField+6 {
		t.Errorf("%d, %d and %d bytes were kept", len(e.UserAgent), len(e.Path), len(e.Reference))
	}
}

// fast is a connection that sends files itself.
type fast struct {
	http.ResponseWriter
	from io.Reader
}

func (f *fast) ReadFrom(r io.Reader) (int64, error) {
	f.from = r
	return io.Copy(io.Discard, r)
}

func TestFilesGoOutAsTheyAre(t *testing.T) {
	l, err := Open(Options{Writer: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	f := &fast{ResponseWriter: httptest.NewRecorder()}
	src := io.LimitReader(strings.NewReader("12345"), 4)
	l.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n, err := w.(io.ReaderFrom).ReadFrom(src); n != 4 || err != nil {
			t.Errorf("%d %v", n, err)
		}
	})).ServeHTTP(f, request("GET", "/v2/", nil))
	if f.from != src {
		t.Errorf("the connection got %T to read from", f.from)
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "access.log")
	for range 2 { // a restart goes on
		l, err := Open(Options{File: path, Size: 1000, Keep: 2})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 10 {
					l.Record(Line{Method: "GET", Path: fmt.Sprintf("/v2/%d/%d", w, i)})
				}
			})
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 3 {
		t.Fatalf("%v %v, want the file and two that were renamed", entries, err)
	}
	for i, name := range []string{path, path + ".1", path + ".2"} {
		content, err := os.ReadFile(name)
		if err != nil || len(content) > 1000 || i > 0 && len(content) < 800 {
			t.Errorf("%s: %d bytes, %v", name, len(content), err)
		}
		for _, line := range bytes.Split(bytes.TrimSuffix(content, []byte("\n")), []byte("\n")) {
			if !json.Valid(line) {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}

func TestNothingOlderIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := Open(Options{File: path, Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		l.Record(Line{Method: "GET"})
	}
	l.Close()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
}

type broken struct{ err error }

func (b *broken) Write(p []byte) (int, error) { return len(p), b.err }

// A log that cannot be written stops no request, and is counted.
func TestBrokenLog(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := &broken{errors.New("no space left")}
	l, err := Open(Options{Writer: w, Registerer: reg, Namespace: "x"})
	if err != nil {
		t.Fatal(err)
	}
	l.Record(Line{})
	l.Record(Line{})
	w.err = nil
	l.Record(Line{})
	var m dto.Metric
	if err := l.failed.Write(&m); err != nil || m.GetCounter().GetValue() != 2 {
		t.Errorf("%v %v, want 2 lines that failed", m.GetCounter(), err)
	}
	if _, err := Open(Options{File: filepath.Join(t.TempDir(), "dir") + "/"}); err == nil {
		t.Error("a directory is taken for a file")
	}
}
