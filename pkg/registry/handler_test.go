package registry

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// fakeBackend answers from functions; a nil one is a test that should not get
// there.
type fakeBackend struct {
	manifest func(context.Context, Request) (*Manifest, error)
	blob     func(context.Context, Request) (Blob, error)
	tags     func(context.Context, Name, int, string) ([]string, error)
}

func (f *fakeBackend) Manifest(ctx context.Context, r Request) (*Manifest, error) {
	return f.manifest(ctx, r)
}
func (f *fakeBackend) Blob(ctx context.Context, r Request) (Blob, error) { return f.blob(ctx, r) }
func (f *fakeBackend) Tags(ctx context.Context, n Name, limit int, last string) ([]string, error) {
	return f.tags(ctx, n, limit, last)
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func blobOf(content string) Blob {
	return Blob{Digest: digest.FromString(content), Size: int64(len(content)), Content: nopCloser{strings.NewReader(content)}}
}

// oneBlob has one blob and one manifest, under every name.
func oneBlob(content string) *fakeBackend {
	return &fakeBackend{
		blob: func(_ context.Context, r Request) (Blob, error) {
			if r.Digest != digest.FromString(content) {
				return Blob{}, BlobUnknown(r.Digest, nil)
			}
			return blobOf(content), nil
		},
		manifest: func(_ context.Context, r Request) (*Manifest, error) {
			if r.Digest != "" && r.Digest != digest.FromString(testManifest) {
				return nil, ManifestUnknown(r.Name, r.Reference, nil)
			}
			m := &Manifest{Digest: digest.FromString(testManifest), MediaType: testType, Content: []byte(testManifest)}
			if r.Head {
				m.Content, m.Size = nil, int64(len(testManifest))
			}
			return m, nil
		},
	}
}

const (
	testManifest = `{"schemaVersion": 2,   "layers": []}` + "\n"
	testType     = "application/vnd.oci.image.manifest.v1+json"
	testBlob     = "0123456789abcdefghijklmnopqrstuvwxyz"
)

func serve(t *testing.T, b Backend, change ...func(*HandlerOptions)) *httptest.Server {
	t.Helper()
	o := HandlerOptions{Resolver: newTestResolver(t, "docker.io", "docker.io", "ghcr.io")}
	for _, f := range change {
		f(&o)
	}
	s := httptest.NewServer(NewHandler(b, o))
	t.Cleanup(s.Close)
	return s
}

type reply struct {
	*http.Response
	body string
}

func do(t *testing.T, s *httptest.Server, method, path string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequest(method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5") // as containerd 2
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", method, path, err)
	}
	return reply{resp, string(body)}
}

func (r reply) want(t *testing.T, status int, headers ...string) reply {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("status %d, want %d; body %q", r.StatusCode, status, r.body)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if got := r.Header.Get(headers[i]); got != headers[i+1] {
			t.Errorf("%s: %q, want %q", headers[i], got, headers[i+1])
		}
	}
	return r
}

func (r reply) wantError(t *testing.T, status int, code string) reply {
	t.Helper()
	r.want(t, status, "Content-Type", "application/json")
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(r.body), &body); err != nil || len(body.Errors) != 1 || body.Errors[0].Code != code || body.Errors[0].Message == "" {
		t.Errorf("body %q, want one error with code %s", r.body, code)
	}
	return r
}

// contract 1: the ping is answered without the backend.
func TestPing(t *testing.T) {
	s := serve(t, &fakeBackend{})
	for _, path := range []string{"/v2/", "/v2", "/v2/?ns=docker.io"} {
		r := do(t, s, "GET", path).want(t, 200, "Docker-Distribution-Api-Version", "registry/2.0", "Content-Length", "2")
		if r.body != "{}" {
			t.Errorf("%s: body %q", path, r.body)
		}
		do(t, s, "HEAD", path).want(t, 200, "Docker-Distribution-Api-Version", "registry/2.0")
	}
}

// contract 2, 3, 5: the exact bytes and type, by tag and digest, HEAD and GET.
func TestManifest(t *testing.T) {
	d := digest.FromString(testManifest)
	s := serve(t, oneBlob(testBlob))
	for _, ref := range []string{"latest", d.String()} {
		for _, method := range []string{"GET", "HEAD"} {
			r := do(t, s, method, "/v2/library/nginx/manifests/"+ref+"?ns=docker.io").want(t, 200,
				"Content-Type", testType, "Content-Length", fmt.Sprint(len(testManifest)), "Docker-Content-Digest", d.String(),
				"ETag", `"`+d.String()+`"`, "OCI-Namespace", "docker.io", "Content-Encoding", "", "X-Content-Type-Options", "nosniff")
			if method == "GET" && r.body != testManifest {
				t.Errorf("body %q", r.body)
			}
			wantCache := ""
			if ref != "latest" {
				wantCache = immutable
			}
			if got := r.Header.Get("Cache-Control"); got != wantCache {
				t.Errorf("%s: Cache-Control %q", ref, got)
			}
		}
	}
	do(t, s, "GET", "/v2/nginx/manifests/latest").want(t, 200, "OCI-Namespace", "")
}

// contract 6: chunked containerd sends Range with manifests too.
func TestManifestRange(t *testing.T) {
	s := serve(t, oneBlob(testBlob))
	r := do(t, s, "GET", "/v2/nginx/manifests/latest", "Range", "bytes=0-").want(t, 206, "Content-Type", testType,
		"Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(testManifest)-1, len(testManifest)))
	if r.body != testManifest {
		t.Errorf("body %q", r.body)
	}
}

// contract 4, 5: headers of a blob.
func TestBlobHeaders(t *testing.T) {
	d := digest.FromString(testBlob)
	s := serve(t, oneBlob(testBlob))
	for _, method := range []string{"GET", "HEAD"} {
		r := do(t, s, method, "/v2/a/blobs/"+d.String()+"?ns=ghcr.io").want(t, 200, "Content-Type", "application/octet-stream",
			"Content-Length", fmt.Sprint(len(testBlob)), "Docker-Content-Digest", d.String(), "Accept-Ranges", "bytes",
			"ETag", `"`+d.String()+`"`, "Cache-Control", "max-age=31536000, immutable", "OCI-Namespace", "ghcr.io", "Content-Encoding", "")
		if method == "GET" && r.body != testBlob {
			t.Errorf("body %q", r.body)
		}
	}
}

// contract 6: every kind of range.
func TestBlobRange(t *testing.T) {
	n := len(testBlob)
	path := "/v2/a/blobs/" + digest.FromString(testBlob).String()
	s := serve(t, oneBlob(testBlob))
	for _, c := range []struct {
		header string
		status int
		body   string
		cr     string
	}{
		{"bytes=0-", 206, testBlob, fmt.Sprintf("bytes 0-%d/%d", n-1, n)},
		{"bytes=0-0", 206, "0", fmt.Sprintf("bytes 0-0/%d", n)},
		{"bytes=5-9", 206, "56789", fmt.Sprintf("bytes 5-9/%d", n)},
		{"bytes=30-", 206, testBlob[30:], fmt.Sprintf("bytes 30-%d/%d", n-1, n)},
		{"bytes=-4", 206, "wxyz", fmt.Sprintf("bytes %d-%d/%d", n-4, n-1, n)},
		{"bytes=30-999", 206, testBlob[30:], fmt.Sprintf("bytes 30-%d/%d", n-1, n)},
		{"bytes=0-1,900-", 206, "01", fmt.Sprintf("bytes 0-1/%d", n)},
		{"bytes=36-", 416, "", fmt.Sprintf("bytes */%d", n)},
		{"bytes=9-5", 416, "", fmt.Sprintf("bytes */%d", n)},
		{"bytes=0-,0-", 400, "", ""}, // never 200, never the first only
		{"lines=0-3", 200, testBlob, ""},
	} {
		t.Run(c.header, func(t *testing.T) {
			r := do(t, s, "GET", path, "Range", c.header)
			if c.status >= 400 {
				r.wantError(t, c.status, CodeRangeInvalid)
			}
			r.want(t, c.status, "Content-Range", c.cr)
			if c.status < 400 && (r.body != c.body || r.ContentLength != int64(len(c.body))) {
				t.Errorf("body %q (%d), want %q", r.body, r.ContentLength, c.body)
			}
		})
	}
	t.Run("multipart", func(t *testing.T) {
		r := do(t, s, "GET", path, "Range", "bytes=0-1,10-12,35-35").want(t, 206)
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/byteranges; boundary=") || r.ContentLength != int64(len(r.body)) {
			t.Fatalf("Content-Type %q", r.Header.Get("Content-Type"))
		}
		for _, part := range []string{"\r\n\r\n01\r\n", "\r\n\r\nabc\r\n", "\r\n\r\nz\r\n", fmt.Sprintf("Content-Range: bytes 10-12/%d", n)} {
			if !strings.Contains(r.body, part) {
				t.Errorf("no %q in %q", part, r.body)
			}
		}
	})
	t.Run("HEAD ignores Range", func(t *testing.T) { // RFC 9110 section 14.2
		do(t, s, "HEAD", path, "Range", "bytes=5-9").want(t, 200, "Content-Length", fmt.Sprint(n), "Content-Range", "")
		do(t, s, "HEAD", path, "Range", "bytes=99-").want(t, 200)
	})
	t.Run("If-Range", func(t *testing.T) {
		etag := `"` + digest.FromString(testBlob).String() + `"`
		do(t, s, "GET", path, "Range", "bytes=5-9", "If-Range", etag).want(t, 206)
		do(t, s, "GET", path, "Range", "bytes=99-", "If-Range", `"other"`).want(t, 200)
	})
	t.Run("If-None-Match", func(t *testing.T) {
		r := do(t, s, "GET", path, "If-None-Match", `"`+digest.FromString(testBlob).String()+`"`).want(t, 304)
		if r.body != "" {
			t.Errorf("body %q", r.body)
		}
	})
}

func TestEmptyBlob(t *testing.T) {
	s := serve(t, oneBlob(""))
	do(t, s, "GET", "/v2/a/blobs/"+emptyDigest).want(t, 200, "Content-Length", "0")
	do(t, s, "GET", "/v2/a/blobs/"+emptyDigest, "Range", "bytes=0-").want(t, 200, "Content-Length", "0")
}

// contract 2: what is not served, and writes.
func TestRefused(t *testing.T) {
	d := digest.FromString("absent").String()
	s := serve(t, oneBlob(testBlob))
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/", 404, CodeUnsupported},
		{"GET", "/v2/_catalog", 404, CodeUnsupported},
		{"GET", "/v2/a/blobs/uploads/x", 404, CodeUnsupported},
		{"GET", "/v2/a/referrers/" + d, 404, CodeManifestUnknown},
		{"GET", "/v2/a/blobs/" + d, 404, CodeBlobUnknown},
		{"GET", "/v2/a/manifests/" + d, 404, CodeManifestUnknown},
		{"GET", "/v2/a/manifests/x?ns=evil.test", 404, CodeNameUnknown},
		{"GET", "/v2/evil.test/a/manifests/x", 404, CodeNameUnknown},
		{"GET", "/v2/A/manifests/x", 400, CodeNameInvalid},
		{"GET", "/v2/a/../b/manifests/x", 400, CodeNameInvalid},
		{"GET", "/v2/a/manifests/.x", 400, CodeManifestInvalid},
		{"GET", "/v2/a/manifests/sha256:12", 400, CodeDigestInvalid},
		{"GET", "/v2/a/manifests/", 400, CodeManifestInvalid},
		{"GET", "/v2/a/blobs/latest", 400, CodeDigestInvalid},
		{"GET", "/v2/a/referrers/x", 400, CodeDigestInvalid},
		{"GET", "/v2/a/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/a/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"},
		{"POST", "/v2/a/blobs/uploads/", 405, CodeUnsupported},
		{"PUT", "/v2/a/manifests/x", 405, CodeUnsupported},
		{"PATCH", "/v2/a/blobs/uploads/x", 405, CodeUnsupported},
		{"DELETE", "/v2/a/manifests/" + d, 405, CodeUnsupported},
		{"OPTIONS", "/v2/", 405, CodeUnsupported},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			do(t, s, c.method, c.path).wantError(t, c.status, c.code).want(t, c.status, "ETag", "", "Docker-Content-Digest", "", "Accept-Ranges", "")
		})
	}
	r := do(t, s, "HEAD", "/v2/a/blobs/"+d).want(t, 404)
	if r.body != "" || r.ContentLength <= 0 {
		t.Errorf("HEAD: body %q, length %d", r.body, r.ContentLength)
	}
}

// contract 11: a mirror that cannot help says 404, whatever the reason.
func TestErrors(t *testing.T) {
	d := digest.FromString(testBlob)
	secret := errors.New("token hunter2")
	for _, c := range []struct {
		name         string
		err          error
		status       int // of a seeder
		code, mirror string
	}{
		{"429", &Error{Status: 429, Code: CodeTooManyRequests, Message: "slow down", RetryAfter: 1500 * time.Millisecond}, 429, CodeTooManyRequests, CodeBlobUnknown},
		{"401", &Error{Status: 401, Code: CodeUnauthorized, Message: "who are you"}, 401, CodeUnauthorized, CodeBlobUnknown},
		{"wrapped 503", fmt.Errorf("fetch: %w", &Error{Status: 503, Code: CodeUnavailable, Message: "down"}), 503, CodeUnavailable, CodeBlobUnknown},
		{"404", BlobUnknown(d, secret), 404, CodeBlobUnknown, CodeBlobUnknown},
		{"deadline", fmt.Errorf("fetch: %w", context.DeadlineExceeded), 503, CodeUnavailable, CodeBlobUnknown},
		{"anything", secret, 500, CodeUnknown, CodeBlobUnknown},
		{"nonsense status", &Error{Status: 200, Code: "X", Message: "no"}, 500, CodeUnknown, CodeBlobUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &fakeBackend{blob: func(context.Context, Request) (Blob, error) { return Blob{}, c.err }}
			r := do(t, serve(t, b), "GET", "/v2/a/blobs/"+d.String()).wantError(t, c.status, c.code)
			if strings.Contains(r.body, "hunter2") {
				t.Errorf("cause was sent: %s", r.body)
			}
			if c.name == "429" && r.Header.Get("Retry-After") != "2" {
				t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
			}
			m := serve(t, b, func(o *HandlerOptions) { o.NotFoundOnly = true })
			do(t, m, "GET", "/v2/a/blobs/"+d.String()).wantError(t, 404, c.mirror).want(t, 404, "Retry-After", "")
		})
	}
}

func TestRequestReachesBackend(t *testing.T) {
	var got Request
	b := &fakeBackend{manifest: func(_ context.Context, r Request) (*Manifest, error) {
		got = r
		return nil, ManifestUnknown(r.Name, r.Reference, nil)
	}}
	s := serve(t, b)
	do(t, s, "HEAD", "/v2/nginx/manifests/1.27?ns=index.docker.io", "Accept", testType+", */*", "User-Agent", "containerd/2.4.2").want(t, 404)
	if got.Name.String() != "docker.io/library/nginx" || !got.Named || got.Reference != "1.27" || got.Digest != "" || !got.Head ||
		!slices.Equal(got.Accept, []string{testType + ", */*"}) || got.UserAgent != "containerd/2.4.2" {
		t.Errorf("got %+v", got)
	}
	do(t, s, "GET", "/v2/nginx/manifests/"+strings.Replace(emptyDigest, ":", "%3A", 1))
	if got.Digest.String() != emptyDigest || got.Named || got.Head {
		t.Errorf("got %+v", got)
	}
}

func TestTagList(t *testing.T) {
	all := []string{"1", "2", "3"}
	b := &fakeBackend{tags: func(_ context.Context, n Name, limit int, last string) ([]string, error) {
		if n.Repository == "library/absent" {
			return nil, NameUnknown(n, nil)
		}
		i, ok := slices.BinarySearch(all, last)
		if ok {
			i++
		}
		list := all[i:]
		if limit > 0 {
			list = list[:min(limit, len(list))]
		}
		return list, nil
	}}
	s := serve(t, b)
	for _, c := range []struct{ query, body, link string }{
		{"", `{"name":"docker.io/nginx","tags":["1","2","3"]}`, ""},
		{"?n=2", `{"name":"docker.io/nginx","tags":["1","2"]}`, `</v2/docker.io/nginx/tags/list?last=2&n=2>; rel="next"`},
		{"?n=2&last=2&ns=docker.io", `{"name":"docker.io/nginx","tags":["3"]}`, ""},
		{"?n=1&ns=docker.io", `{"name":"docker.io/nginx","tags":["1"]}`, `</v2/docker.io/nginx/tags/list?last=1&n=1&ns=docker.io>; rel="next"`},
		{"?n=3", `{"name":"docker.io/nginx","tags":["1","2","3"]}`, ""},
		{"?n=0", `{"name":"docker.io/nginx","tags":[]}`, ""},
		{"?last=9", `{"name":"docker.io/nginx","tags":[]}`, ""},
		{"?n=999999999", `{"name":"docker.io/nginx","tags":["1","2","3"]}`, ""},
	} {
		r := do(t, s, "GET", "/v2/docker.io/nginx/tags/list"+c.query).want(t, 200, "Link", c.link)
		if r.body != c.body {
			t.Errorf("%s: body %s", c.query, r.body)
		}
	}
	do(t, s, "GET", "/v2/absent/tags/list").wantError(t, 404, CodeNameUnknown)
	do(t, s, "HEAD", "/v2/nginx/tags/list").want(t, 200)
}

// A request with a body is answered without waiting for it, and its
// connection is not used again.
func TestUploadIsNotAwaited(t *testing.T) {
	s := serve(t, &fakeBackend{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The body never comes: a client that sends it meets a reset now and then.
	if _, err := io.WriteString(conn, "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" || !resp.Close {
		t.Errorf("status %d, Allow %q, close %v", resp.StatusCode, resp.Header.Get("Allow"), resp.Close)
	}
}

func TestBackendMistakes(t *testing.T) {
	d := digest.FromString(testBlob)
	for name, b := range map[string]Blob{
		"no content":     {Digest: d, Size: 3},
		"size is a lie":  {Digest: d, Size: 3, Content: nopCloser{strings.NewReader(testBlob)}},
		"cannot seek":    {Digest: d, Size: 3, Content: noSeek{}},
		"negative sizes": {Digest: d, Size: -1, Content: nopCloser{strings.NewReader(testBlob)}},
	} {
		s := serve(t, &fakeBackend{blob: func(context.Context, Request) (Blob, error) { return b, nil }})
		r := do(t, s, "GET", "/v2/a/blobs/"+d.String())
		if r.StatusCode != 500 {
			t.Errorf("%s: status %d", name, r.StatusCode)
		}
	}
}

type noSeek struct{ io.Reader }

func (noSeek) Seek(int64, int) (int64, error) { return 0, errors.New("cannot") }
func (noSeek) Close() error                   { return nil }

func TestNewHandlerWantsResolver(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewHandler(&fakeBackend{}, HandlerOptions{})
}
