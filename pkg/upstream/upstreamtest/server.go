package upstreamtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Server is the registry. It is an http.Handler, so a test may mount it
// anywhere (TLS, a pipe, a namespace); URL starts a plain HTTP server on
// loopback at its first call. Safe for concurrent use.
type Server struct {
	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]manifest
	tags      map[string]map[string]digest.Digest // repository -> tag -> manifest
	owners    map[content]bool                    // what AddManifest and AddImage gave to a repository
	scoped    bool                                // content is served by its owners' names only
	faults    map[string]*Fault
	auth      *authState
	served    map[digest.Digest]int64
	requests  []*Request
	seed      uint64
	http      *httptest.Server

	closed chan struct{} // releases handlers that stall on purpose
	once   sync.Once
}

// content is a digest in a repository.
type content struct {
	repo   string
	digest digest.Digest
}

type manifest struct {
	mediaType string
	content   []byte
}

// Request is one request as the server saw it.
type Request struct {
	Method, Path, Query string
	Range               string // the Range header, "" without
	Authorization       string // scheme only ("Bearer"), "" without
	UserAgent           string
	Status              int   // 0 while there is no answer, and when there was none
	Bytes               int64 // body bytes written; 0 until the request has ended
}

// New makes an empty registry that has no faults and wants no credentials.
func New() *Server {
	return &Server{
		blobs:     map[digest.Digest][]byte{},
		manifests: map[digest.Digest]manifest{},
		tags:      map[string]map[string]digest.Digest{},
		owners:    map[content]bool{},
		faults:    map[string]*Fault{},
		served:    map[digest.Digest]int64{},
		closed:    make(chan struct{}),
	}
}

// URL is the base URL ("http://127.0.0.1:PORT") of a server on loopback,
// which the first call starts.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		s.http = httptest.NewServer(s)
	}
	return s.http.URL
}

// Close ends every request, also those that stall on purpose, and the server
// that URL started. It may be called more than once.
func (s *Server) Close() {
	s.once.Do(func() { close(s.closed) })
	s.mu.Lock()
	h := s.http
	s.mu.Unlock()
	if h != nil {
		h.CloseClientConnections()
		h.Close()
	}
}

// BytesServed is the number of body bytes sent for a digest, over all
// requests, repeated ones counted again.
func (s *Server) BytesServed(d digest.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served[d]
}

// TotalBytes is the number of body bytes sent for all blobs and manifests.
func (s *Server) TotalBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, v := range s.served {
		n += v
	}
	return n
}

// Requests is a copy of the log of all requests, in the order they came.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, len(s.requests))
	for i, r := range s.requests {
		all[i] = *r
	}
	return all
}

// Count is the number of requests with this method ("" = any) whose
// path contains the text.
func (s *Server) Count(method, inPath string) int {
	n := 0
	for _, r := range s.Requests() {
		if (method == "" || r.Method == method) && strings.Contains(r.Path, inPath) {
			n++
		}
	}
	return n
}

// ResetCounts forgets the requests and bytes counted so far.
func (s *Server) ResetCounts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
	clear(s.served)
}

var route = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs|tags)/([^/]+)$`)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, server: s}
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	entry := &Request{
		Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Range: r.Header.Get("Range"),
		Authorization: scheme, UserAgent: r.UserAgent(),
	}
	s.mu.Lock()
	s.requests = append(s.requests, entry)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		entry.Status, entry.Bytes = rec.status, rec.bytes
		s.mu.Unlock()
	}()
	if r.URL.Path == tokenPath {
		s.serveToken(rec, r)
		return
	}
	m := route.FindStringSubmatch(r.URL.Path)
	repo := ""
	if m != nil {
		repo = m[1]
	}
	if !s.authorized(rec, r, repo) {
		return
	}
	switch {
	case r.URL.Path == "/v2/" || r.URL.Path == "/v2":
		if f := s.fault(r.Method, "v2"); f == nil || !f.refuse(s, rec, r) {
			rec.WriteHeader(http.StatusOK)
		}
	case m == nil:
		refuse(rec, http.StatusNotFound, "NAME_UNKNOWN", "no such page")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		refuse(rec, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry only serves")
	case m[2] == "tags":
		s.serveTags(rec, r, repo)
	case m[2] == "blobs":
		d := digest.Digest(m[3])
		s.mu.Lock()
		blob, ok := s.blobs[d]
		ok = ok && s.has(repo, d)
		s.mu.Unlock()
		s.serve(rec, r, s.fault(r.Method, m[3], "blobs", "*"), object{d, "application/octet-stream", blob, ok, "BLOB_UNKNOWN"})
	default:
		s.serveManifest(rec, r, repo, m[3])
	}
}

// Scope makes the registry serve content only by the names of the repositories
// that AddManifest and AddImage gave it to, as real ones do.
func (s *Server) Scope() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scoped = true
}

// has is called with s locked.
func (s *Server) has(repo string, d digest.Digest) bool {
	return !s.scoped || s.owners[content{repo, d}]
}

func (s *Server) serveManifest(w *recorder, r *http.Request, repo, ref string) {
	s.mu.Lock()
	d := digest.Digest(ref)
	if !strings.Contains(ref, ":") {
		d = s.tags[repo][ref]
	}
	m, ok := s.manifests[d]
	ok = ok && s.has(repo, d)
	s.mu.Unlock()
	s.serve(w, r, s.fault(r.Method, ref, d.String(), "manifests", "*"), object{d, m.mediaType, m.content, ok, "MANIFEST_UNKNOWN"})
}

func (s *Server) serveTags(w *recorder, r *http.Request, repo string) {
	f := s.fault(r.Method, "tags", "*")
	if f != nil && f.refuse(s, w, r) {
		return
	}
	s.mu.Lock()
	var tags []string
	known, ok := s.tags[repo]
	for t := range known {
		tags = append(tags, t)
	}
	s.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	sort.Strings(tags)
	if last := r.URL.Query().Get("last"); last != "" {
		tags = tags[sort.Search(len(tags), func(i int) bool { return tags[i] > last }):]
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 0 {
		n = len(tags)
	}
	host := ""
	if f != nil {
		host = f.LinkHost
		if f.PageSize > 0 {
			n = min(n, f.PageSize)
		}
	}
	if n < len(tags) {
		tags = tags[:n]
		if n > 0 {
			w.Header().Set("Link", fmt.Sprintf(`<%s/v2/%s/tags/list?n=%d&last=%s>; rel="next"`, host, repo, n, tags[n-1]))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": tags})
}

// refuse answers with an OCI error body.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

// recorder counts what was really written.
type recorder struct {
	http.ResponseWriter
	server *Server
	digest digest.Digest // bytes are counted for it; "" = nowhere
	status int
	bytes  int64
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	if w.digest != "" {
		w.server.mu.Lock()
		w.server.served[w.digest] += int64(n)
		w.server.mu.Unlock()
	}
	return n, err
}
