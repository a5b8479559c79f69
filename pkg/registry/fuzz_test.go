package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// fuzzBackend has one blob, under every name; it holds the requests that reach
// it to what the handler promises of them.
type fuzzBackend struct{ t *testing.T }

func (f fuzzBackend) check(r Request) {
	if !slices.Contains([]string{"docker.io", "up.test:5000"}, r.Name.Upstream) {
		f.t.Fatalf("upstream %q was never configured", r.Name.Upstream)
	}
	if !ValidRepository(r.Name.Repository) || len(r.Name.String()) > MaxNameLength {
		f.t.Fatalf("repository %q", r.Name)
	}
	if r.First < 0 {
		f.t.Fatalf("first byte %d", r.First)
	}
}

func (f fuzzBackend) Manifest(_ context.Context, r Request) (*Manifest, error) {
	f.check(r)
	if r.Digest == "" && !ValidTag(r.Reference) || r.Digest != "" && r.Digest.Validate() != nil {
		f.t.Fatalf("reference %q", r.Reference)
	}
	return &Manifest{Digest: digest.FromString(testManifest), MediaType: testType, Content: []byte(testManifest)}, nil
}

func (f fuzzBackend) Blob(_ context.Context, r Request) (Blob, error) {
	f.check(r)
	if r.Digest.Validate() != nil {
		f.t.Fatalf("digest %q", r.Digest)
	}
	return blobOf(testBlob), nil
}

func (f fuzzBackend) Tags(_ context.Context, n Name, _ int, _ string) ([]string, error) {
	f.check(Request{Name: n})
	return []string{"v1"}, nil
}

// contract 2, 6, 11, 20, 21: whatever a client sends to a mirror, the answer is
// one of the contract's, what is sent of a blob is what its headers say, and no
// upstream is asked about that was not configured.
func FuzzMirrorRequest(f *testing.F) {
	blob := "/v2/library/nginx/blobs/" + digest.FromString(testBlob).String()
	for _, s := range []struct{ method, path, query, rng, header, accept string }{
		{"GET", blob, "ns=docker.io", "bytes=0-", "", ""},
		{"GET", blob, "ns=registry-1.docker.io", "bytes=3-5,7-9,-2", "", ""},
		{"GET", blob, "", "bytes=35-,0-0", "https://index.docker.io/v1/", ""},
		{"GET", blob, "ns=..&ns=docker.io", "bytes=99-", "http://169.254.169.254/", ""},
		{"HEAD", "/v2/up.test:5000/lab/app/manifests/v1", "", "bytes=-0", "", "*/*"},
		{"GET", "/v2/UP.test:5000/lab/app/manifests/sha256:" + strings.Repeat("0", 64), "", "", "", ""},
		{"GET", "/v2/lab//app/../manifests/v1", "ns=docker.io%00", "", "up.test:5000", ""},
		{"GET", "/v2/app/tags/list", "n=-1&last=%ff", "", "", ""},
		{"PUT", "/v2/app/blobs/uploads/x", "digest=sha256:x", "", "", ""},
		{"GET", "/v2", "", "", "", ""},
	} {
		f.Add(s.method, s.path, s.query, s.rng, s.header, s.accept)
	}
	f.Fuzz(func(t *testing.T, method, path, query, rng, header, accept string) {
		r := (&http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}).
			WithContext(t.Context())
		r.Header.Set("Range", rng)
		r.Header.Set("X-Upstream", header)
		r.Header.Set("Accept", accept)
		resolver, err := NewResolver([]string{"docker.io", "up.test:5000"}, "docker.io")
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		NewHandler(fuzzBackend{t}, HandlerOptions{Resolver: resolver, NotFoundOnly: true, UpstreamHeaders: []string{"X-Upstream"}}).ServeHTTP(w, r)
		switch w.Code {
		case 200, 206, 400, 404, 405, 416:
		default:
			t.Fatalf("%s %q?%q: status %d", method, path, query, w.Code)
		}
		if w.Code < 300 && method != http.MethodGet && method != http.MethodHead {
			t.Fatalf("%s %q: status %d", method, path, w.Code)
		}
		if w.Code == 206 && ParsePath(path).Endpoint == EndpointBlob && method == http.MethodGet {
			checkParts(t, w)
		}
		if w.Code == 200 && ParsePath(path).Endpoint == EndpointBlob && method == http.MethodGet && w.Body.String() != testBlob {
			t.Fatalf("%q with %q: %q", path, rng, w.Body)
		}
	})
}

// checkParts holds each part of an answer to its Content-Range.
func checkParts(t *testing.T, w *httptest.ResponseRecorder) {
	one := func(contentRange string, body []byte) {
		first, last, err := parseContentRange(contentRange)
		if err != nil || last >= int64(len(testBlob)) || string(body) != testBlob[first:last+1] {
			t.Fatalf("Content-Range %q with %q: %v", contentRange, body, err)
		}
	}
	kind, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "multipart/byteranges" {
		one(w.Header().Get("Content-Range"), w.Body.Bytes())
		return
	}
	parts := multipart.NewReader(bytes.NewReader(w.Body.Bytes()), params["boundary"])
	for {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		one(p.Header.Get("Content-Range"), body)
	}
}
