package objectstoretest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/objectstore"
)

// Version of the server's program, which `make versitygw` builds into bin/.
const Version = "v1.8.0"

// The server's one bucket, and who may use it.
const (
	Bucket    = "images"
	accessKey = "tester"
	secretKey = "hush-hush"
)

// Fault is how the server misbehaves. The zero value is no fault.
type Fault struct {
	Status  int           // answer this instead
	Drop    bool          // close the connection without an answer
	Cut     int64         // close it after so many bytes of the body
	Release chan struct{} // do nothing until it is closed
}

// Request is one that came in.
type Request struct {
	Method, Path, Query string
	Header              http.Header
}

// Server is one bucket behind a proxy.
type Server struct {
	t     testing.TB
	dir   string // of the bucket
	proxy *httptest.Server
	creds string

	mu       sync.Mutex
	fault    func(*http.Request) Fault
	requests []Request
}

// Start starts a server, which ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	program := find(t)
	s := &Server{t: t, dir: filepath.Join(t.TempDir(), Bucket), creds: filepath.Join(t.TempDir(), "credentials")}
	s.must(os.Mkdir(s.dir, 0o700))
	s.must(os.WriteFile(s.creds, []byte("[default]\naws_access_key_id="+accessKey+"\naws_secret_access_key="+secretKey+"\n"), 0o600))
	addr := s.serve(program)
	target := &url.URL{Scheme: "http", Host: addr}
	transport := &http.Transport{}
	rp := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host },
		Transport: transport,
		ErrorLog:  zap.NewStdLog(zap.NewNop()), // faults are meant
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
		ModifyResponse: func(r *http.Response) error {
			if f, ok := r.Request.Context().Value(faultKey{}).(Fault); ok && f.Cut > 0 && r.StatusCode < 300 {
				r.Body = &cut{r.Body, f.Cut}
			}
			return nil
		},
	}
	s.proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.handle(rp, w, r) }))
	t.Cleanup(func() {
		s.SetFault(nil)
		s.proxy.CloseClientConnections()
		s.proxy.Close()
		transport.CloseIdleConnections()
	})
	return s
}

type faultKey struct{}

// cut fails after some bytes of a body, which makes the proxy abort the answer.
type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

func (s *Server) handle(next http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Clone()})
	var f Fault
	if s.fault != nil {
		f = s.fault(r)
	}
	s.mu.Unlock()
	if f.Release != nil {
		select {
		case <-f.Release:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		w.WriteHeader(f.Status)
		return
	}
	next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), faultKey{}, f)))
}

// find is the server's program, in bin/ of the repository.
func find(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil {
		program := filepath.Join(dir, "bin", "versitygw-"+Version)
		if _, err := os.Stat(program); err == nil {
			return program
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	t.Skip("bin/versitygw-" + Version + ", the S3 server of this test, is missing: run `make versitygw`")
	return ""
}

// serve starts the program and waits until it listens.
func (s *Server) serve(program string) (addr string) {
	s.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	addr = ln.Addr().String()
	s.must(ln.Close())
	cmd := exec.Command(program, "--port", addr, "--quiet", "posix", filepath.Dir(s.dir))
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	s.must(cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return addr
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("%s does not listen on %s: %v\n%s", program, addr, err, out.String())
		}
	}
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Endpoint is the URL of the proxy.
func (s *Server) Endpoint() string { return s.proxy.URL }

// Credentials is a file of keys for it.
func (s *Server) Credentials() string { return s.creds }

// Options are those of a client for keys below a prefix.
func (s *Server) Options(prefix string) objectstore.Options {
	return objectstore.Options{
		Location: objectstore.Location{Bucket: Bucket, Prefix: prefix}, Endpoint: s.Endpoint(),
		Region: "us-east-1", PathStyle: true, CredentialsFile: s.creds,
	}
}

// SetFault has f decide about each request from now on; nil: no faults.
func (s *Server) SetFault(f func(*http.Request) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Down has every request fail without an answer.
func (s *Server) Down() { s.SetFault(func(*http.Request) Fault { return Fault{Drop: true} }) }

// Requests are those since the last call.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.requests
	s.requests = nil
	return list
}

// Keys lists what is in the bucket, sorted.
func (s *Server) Keys() []string {
	s.t.Helper()
	var keys []string
	s.must(filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") && rel != "." {
			return filepath.SkipDir // the server's own
		}
		if err == nil && e.Type().IsRegular() {
			keys = append(keys, filepath.ToSlash(rel))
		}
		return err
	}))
	slices.Sort(keys)
	return keys
}

// Overwrite changes the bytes of an object behind the server's back.
func (s *Server) Overwrite(key string, change func([]byte)) {
	s.t.Helper()
	path := filepath.Join(s.dir, filepath.FromSlash(key))
	content, err := os.ReadFile(path)
	s.must(err)
	change(content)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	s.must(err)
	defer f.Close()
	_, err = f.WriteAt(content, 0)
	s.must(err)
}

// String describes a request, for the texts of tests.
func (r Request) String() string { return fmt.Sprintf("%s %s?%s", r.Method, r.Path, r.Query) }
