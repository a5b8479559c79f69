package upstreamtest

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Fault is how the server misbehaves. Fields combine; the zero value is a
// healthy server. Fractions are of the body of one answer: of what is left
// when the request asks for a range.
type Fault struct {
	Method string // only requests with this method; "" = all
	Times  int    // how many requests it strikes, then it heals; 0 = for ever

	// Before the body.
	HeaderDelay time.Duration // wait before the header
	Hang        bool          // never answer; ends when the client leaves or on Close
	Drop        bool          // close the connection without an answer
	Status      int           // answer with this status and an OCI error body
	RetryAfter  string        // the Retry-After header that goes with Status
	RedirectTo  string        // 307 to this base URL + the path + RedirectQuery
	// RedirectQuery is appended to the redirect, "X-Signature=secret" say.
	RedirectQuery string

	// The header.
	IgnoreRange  bool   // 200 with the whole content to a range request
	ContentRange string // sent instead of the true one
	NoLength     bool   // no Content-Length and no chunks: the end is where the connection closes
	NoDigest     bool   // no Docker-Content-Digest
	Digest       string // sent as Docker-Content-Digest instead of the true one
	ContentType  string // sent instead of the true one; "-" = none
	LinkHost     string // scheme://host put into the Link header of a tag list
	PageSize     int    // most tags in one page of a tag list
	RateLimit    string // sent as RateLimit-Limit, "100;w=21600" say
	RateLeft     string // sent as RateLimit-Remaining

	// The body.
	Corrupt bool            // flip the lowest bit of the first byte of every 4 KiB of the content
	Extra   int             // this many bytes more than the content has
	Cut     float64         // drop the connection after this fraction, rounded up to whole bytes; < 0: after the header
	Stall   float64         // send this fraction, then nothing; < 0: nothing after the header
	Release <-chan struct{} // closed: a stall goes on with the rest
	Rate    int             // bytes per second; 0 = as fast as it goes
}

// SetFault makes requests for target misbehave from now on, replacing an
// earlier fault of the same target. A target is a digest or a tag (most
// specific), "blobs", "manifests", "tags", "v2", "token", or "*" for all but
// the last two.
func (s *Server) SetFault(target string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[target] = &f
	if f.Times == 0 {
		f.Times = math.MaxInt
	}
}

// ClearFaults heals the server.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
}

// fault takes the first fault that is set for one of the targets.
func (s *Server) fault(method string, targets ...string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range targets {
		f := s.faults[t]
		if f == nil || f.Times <= 0 || f.Method != "" && f.Method != method {
			continue
		}
		f.Times--
		c := *f
		return &c
	}
	return nil
}

// refuse does what the fault does before a body; true when that was all.
func (f *Fault) refuse(s *Server, w http.ResponseWriter, r *http.Request) bool {
	if f.HeaderDelay > 0 && !s.wait(r, f.HeaderDelay) {
		panic(http.ErrAbortHandler)
	}
	if f.Hang {
		s.hold(r, nil)
		panic(http.ErrAbortHandler)
	}
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	if f.RedirectTo != "" {
		target := f.RedirectTo + r.URL.Path
		if f.RedirectQuery != "" {
			target += "?" + f.RedirectQuery
		}
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
	if f.Status != 0 {
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		refuse(w, f.Status, "UNKNOWN", "a fault that the test asked for")
		return true
	}
	return false
}

type object struct {
	digest    digest.Digest
	mediaType string
	content   []byte
	found     bool
	unknown   string // error code when not found
}

// serve answers one request for a blob or manifest.
func (s *Server) serve(w *recorder, r *http.Request, f *Fault, o object) {
	if f == nil {
		f = &Fault{}
	}
	if f.refuse(s, w, r) {
		return
	}
	if !o.found {
		refuse(w, http.StatusNotFound, o.unknown, "unknown to registry")
		return
	}
	w.digest = o.digest
	content := f.spoil(o.content)
	first, end, status := 0, len(content), http.StatusOK
	if spec := r.Header.Get("Range"); spec != "" && !f.IgnoreRange {
		var ok bool
		if first, end, ok = parseRange(spec, len(content)); !ok {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(content)))
			refuse(w, http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "the range lies outside the content")
			return
		}
		status = http.StatusPartialContent
	}
	f.header(w.Header(), o, first, end, len(content), status)
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	s.body(w, r, f, content[first:end])
}

// spoil makes the content that is served.
func (f *Fault) spoil(content []byte) []byte {
	if !f.Corrupt && f.Extra == 0 {
		return content
	}
	c := make([]byte, len(content)+f.Extra)
	copy(c, content)
	if f.Corrupt {
		for i := 0; i < len(content); i += 4096 {
			c[i] ^= 1
		}
	}
	return c
}

func (f *Fault) header(h http.Header, o object, first, end, total, status int) {
	if f.RateLimit != "" {
		h.Set("RateLimit-Limit", f.RateLimit)
		h.Set("RateLimit-Remaining", f.RateLeft)
	}
	if ct := o.mediaType; f.ContentType != "-" {
		if f.ContentType != "" {
			ct = f.ContentType
		}
		h.Set("Content-Type", ct)
	} else {
		h["Content-Type"] = nil
	}
	switch {
	case f.Digest != "":
		h.Set("Docker-Content-Digest", f.Digest)
	case !f.NoDigest:
		h.Set("Docker-Content-Digest", o.digest.String())
	}
	if f.NoLength {
		h.Set("Transfer-Encoding", "identity")
	} else {
		h.Set("Content-Length", strconv.Itoa(end-first))
	}
	h.Set("Accept-Ranges", "bytes")
	if status == http.StatusPartialContent {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, end-1, total))
		if f.ContentRange != "" {
			h.Set("Content-Range", f.ContentRange)
		}
	}
}

func (s *Server) body(w *recorder, r *http.Request, f *Fault, body []byte) {
	stall, cut := len(body), len(body)
	if f.Stall != 0 {
		stall = part(f.Stall, len(body))
	}
	if f.Cut != 0 {
		cut = part(f.Cut, len(body))
	}
	if stall < cut {
		s.send(w, r, f, body[:stall])
		s.hold(r, f.Release)
		s.send(w, r, f, body[stall:cut])
	} else {
		s.send(w, r, f, body[:cut])
	}
	if cut < len(body) && !f.NoLength {
		panic(http.ErrAbortHandler) // net/http closes the connection at once
	}
}

// send writes and flushes; it gives up when the client has gone.
func (s *Server) send(w *recorder, r *http.Request, f *Fault, p []byte) {
	step := 256 << 10
	if f.Rate > 0 {
		step = max(1, f.Rate/20)
	}
	for len(p) > 0 {
		n := min(step, len(p))
		if _, err := w.Write(p[:n]); err != nil {
			panic(http.ErrAbortHandler)
		}
		p = p[n:]
		if f.Rate > 0 && !s.wait(r, time.Duration(n)*time.Second/time.Duration(f.Rate)) {
			panic(http.ErrAbortHandler)
		}
	}
	_ = http.NewResponseController(w).Flush()
}

// wait lasts d, or ends early (false) when the client leaves or on Close.
func (s *Server) wait(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
	case <-s.closed:
	}
	return false
}

// hold returns when released, and aborts the answer when the client leaves.
func (s *Server) hold(r *http.Request, release <-chan struct{}) {
	select {
	case <-release:
		return
	case <-r.Context().Done():
	case <-s.closed:
	}
	panic(http.ErrAbortHandler)
}

func part(fraction float64, n int) int {
	return min(n, max(0, int(math.Ceil(fraction*float64(n)))))
}

// parseRange reads "bytes=a-b", "bytes=a-" and "bytes=-n" (RFC 9110 section
// 14.1.2) into [first, end).
func parseRange(spec string, size int) (first, end int, ok bool) {
	from, to, dash := strings.Cut(strings.TrimPrefix(spec, "bytes="), "-")
	if !dash {
		return 0, 0, false
	}
	end = size
	if from == "" {
		n, err := strconv.Atoi(to)
		return max(0, size-n), size, err == nil && n > 0 && size > 0
	}
	first, err := strconv.Atoi(from)
	if err != nil || first >= size {
		return 0, 0, false
	}
	if to != "" {
		last, err := strconv.Atoi(to)
		if err != nil || last < first {
			return 0, 0, false
		}
		end = min(size, last+1)
	}
	return first, end, true
}
