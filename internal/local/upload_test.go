package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// Every way in which clients push a blob.
func TestPush(t *testing.T) {
	b := newBench(t)
	content := storetest.Content(1, 700_001)
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := alg.FromBytes(content)
		for name, push := range map[string]func(repo string) answer{
			"in one request": func(repo string) answer {
				return b.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), content, 201)
			},
			"in two": func(repo string) answer {
				return b.do("PUT", b.begin(repo)+"?digest="+d.String(), content, 201)
			},
			"as a stream": func(repo string) answer {
				at := b.begin(repo)
				at = b.do("PATCH", at, io.MultiReader(bytes.NewReader(content)), 202).Header.Get("Location")
				return b.do("PUT", at+"?digest="+d.String(), nil, 201)
			},
			"in chunks": func(repo string) answer {
				at := b.begin(repo)
				a := b.do("PATCH", at, content[:1000], 202, "Content-Range: 0-999")
				if got := a.Header.Get("Range"); got != "0-999" {
					t.Errorf("Range %q", got)
				}
				at = a.Header.Get("Location")
				b.do("PATCH", at, content[1000:2000], 202, "Content-Range: bytes 1000-1999/2000")
				return b.do("PUT", at+"?digest="+d.String(), content[2000:], 201, fmt.Sprintf("Content-Range: 2000-%d", len(content)-1))
			},
			"of an algorithm that was announced": func(repo string) answer {
				at := b.do("POST", "/v2/"+repo+"/blobs/uploads/?digest-algorithm="+alg.String(), nil, 202).Header.Get("Location")
				return b.do("PUT", at+"?digest="+d.String(), content, 201)
			},
		} {
			t.Run(name+", "+alg.String(), func(t *testing.T) {
				b.within(t)
				repo := "team/" + strings.NewReplacer(" ", "-").Replace(name)
				b.do("HEAD", blobPath(repo, d), nil, 404)
				a := push(repo)
				if a.Header.Get("Location") != blobPath(repo, d) || a.Header.Get("Docker-Content-Digest") != d.String() {
					t.Errorf("%v", a.Header)
				}
				b.blob(repo, d, content)
			})
		}
	}
	b.push("team/empty", nil)
	b.blob("team/empty", digest.FromBytes(nil), nil)
	if entries, err := os.ReadDir(b.reg.o.Dir + "/uploads"); err != nil || len(entries) > 0 {
		t.Errorf("%d uploads are left, %v", len(entries), err)
	}
	if in, err := b.store.Stat(digest.FromBytes(content)); err != nil || !in.Kept || b.told.Load() == 0 {
		t.Errorf("kept %v, told of %d, %v", in.Kept, b.told.Load(), err)
	}
}

// What a client can get wrong, and what it is told.
func TestPushErrors(t *testing.T) {
	b := newBench(t)
	content := []byte("some bytes")
	d := digest.FromBytes(content)
	wrong := digest.FromString("others")
	uploads := "/v2/team/app/blobs/uploads/"
	at := b.begin("team/app")
	b.do("PATCH", at, content[:4], 202, "Content-Range: 0-3")
	for _, test := range []struct {
		name, method, path string
		body               string
		header             string
		status             int
		code               string
	}{
		{name: "of a proxied repository", method: "POST", path: "/v2/lab/app/blobs/uploads/", status: 403, code: "DENIED"},
		{name: "of a named upstream", method: "PUT", path: "/v2/up.test/team/manifests/v1", body: "{}", status: 403, code: "DENIED"},
		{name: "of a name outside the prefixes", method: "POST", path: "/v2/reg.test/other/blobs/uploads/", status: 404, code: "NAME_UNKNOWN"},
		{name: "name", method: "POST", path: "/v2/team/App/blobs/uploads/", status: 400, code: "NAME_INVALID"},
		{name: "wrong digest", method: "POST", path: uploads + "?digest=" + wrong.String(), body: "some bytes", status: 400, code: "DIGEST_INVALID"},
		{name: "no digest", method: "POST", path: uploads + "?digest=sha256:12", body: "some bytes", status: 400, code: "DIGEST_INVALID"},
		{name: "digest algorithm", method: "POST", path: uploads + "?digest-algorithm=md5", status: 400, code: "DIGEST_INVALID"},
		{name: "mount of nonsense", method: "POST", path: uploads + "?mount=x", status: 400, code: "DIGEST_INVALID"},
		{name: "unknown upload", method: "PATCH", path: uploads + "nope", body: "x", status: 404, code: "BLOB_UPLOAD_UNKNOWN"},
		{name: "upload of another repository", method: "GET", path: strings.Replace(at, "team/app", "team/other", 1), status: 404, code: "BLOB_UPLOAD_UNKNOWN"},
		{name: "chunk too far", method: "PATCH", path: at, body: "bytes", header: "Content-Range: 5-9", status: 416, code: "BLOB_UPLOAD_INVALID"},
		{name: "chunk again", method: "PATCH", path: at, body: "some", header: "Content-Range: 0-3", status: 416, code: "BLOB_UPLOAD_INVALID"},
		{name: "last chunk too far", method: "PUT", path: at + "?digest=" + d.String(), body: "bytes", header: "Content-Range: 5-9", status: 416, code: "BLOB_UPLOAD_INVALID"},
		{name: "range is none", method: "PATCH", path: at, body: "bytes", header: "Content-Range: 9-5", status: 400, code: "BLOB_UPLOAD_INVALID"},
		{name: "range of another length", method: "PATCH", path: at, body: "bytes", header: "Content-Range: 4-9", status: 400, code: "SIZE_INVALID"},
		{name: "end without a digest", method: "PUT", path: at, status: 400, code: "DIGEST_INVALID"},
		{name: "method", method: "PUT", path: uploads, status: 405, code: "UNSUPPORTED"},
		{name: "method of a blob", method: "PUT", path: blobPath("team/app", d), status: 405, code: "UNSUPPORTED"},
		{name: "end of a method's name", method: "TE", path: blobPath("team/app", d), status: 405, code: "UNSUPPORTED"},
		{name: "unknown blob", method: "DELETE", path: blobPath("team/app", wrong), status: 404, code: "NAME_UNKNOWN"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.within(t)
			var headers []string
			if test.header != "" {
				headers = append(headers, test.header)
			}
			a := b.do(test.method, test.path, test.body, test.status, headers...)
			if a.codes() != test.code {
				t.Errorf("%s", a.body)
			}
			if test.status == 416 && (a.Header.Get("Range") != "0-3" || a.Header.Get("Location") != at) {
				t.Errorf("%v", a.Header)
			}
		})
	}
	// None of it did harm.
	b.do("PUT", at+"?digest="+d.String(), content[4:], 201, "Content-Range: 4-9")
	b.blob("team/app", d, content)
}

// An upload goes on after a restart, where it stopped.
func TestResume(t *testing.T) {
	b := newBench(t)
	content := storetest.Content(2, 300_000)
	d := digest.FromBytes(content)
	at := b.begin("team/app")
	b.do("PATCH", at, content[:100_000], 202)
	b.restart()
	if got := b.do("GET", at, nil, 204).Header.Get("Range"); got != "0-99999" {
		t.Errorf("Range %q", got)
	}
	b.do("PATCH", at, content[100_000:200_000], 202, "Content-Range: 100000-199999")
	b.do("PUT", at+"?digest="+d.String(), content[200_000:], 201)
	b.restart()
	b.blob("team/app", d, content)
	b.do("GET", at, nil, 404)
}

// A client whose connection breaks goes on with what arrived; the request
// that is still waiting for the rest makes way.
func TestBrokenConnection(t *testing.T) {
	b := newBench(t)
	content := storetest.Content(3, 50_000)
	d := digest.FromBytes(content)
	at := b.begin("team/app")
	c, err := net.Dial("tcp", b.srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n", at)
	if _, err := c.Write(content[:20_000]); err != nil {
		t.Fatal(err)
	}
	for b.do("GET", at, nil, 204).Header.Get("Range") != "0-19999" {
	}
	b.do("PATCH", at, content[20_000:], 202, "Content-Range: 20000-49999")
	b.do("PUT", at+"?digest="+d.String(), nil, 201)
	b.blob("team/app", d, content)
	// The first request was ended by it.
	said, err := io.ReadAll(c)
	if err != nil || !bytes.Contains(said, []byte("400 Bad Request")) || !bytes.Contains(said, []byte("SIZE_INVALID")) {
		t.Errorf("%q, %v", said, err)
	}
}

func TestCancelAndExpiry(t *testing.T) {
	b := newBench(t)
	at := b.begin("team/app")
	b.do("DELETE", at, nil, 204)
	b.do("GET", at, nil, 404)

	old := b.begin("team/app")
	b.do("PATCH", old, "bytes", 202)
	b.clock.Add(23 * 3600)
	fresh := b.begin("team/app")
	b.clock.Add(2 * 3600)
	b.reg.expire()
	b.do("GET", old, nil, 404)
	b.do("GET", fresh, nil, 204)
	if entries, err := os.ReadDir(b.reg.o.Dir + "/uploads"); err != nil || len(entries) != 1 {
		t.Errorf("%d uploads, %v", len(entries), err)
	}
}

// Uploads that nobody ends are bounded in number.
func TestTooManyUploads(t *testing.T) {
	b := newBench(t)
	b.reg.mu.Lock()
	for i := range maxUploads {
		b.reg.uploads[fmt.Sprint(i)] = nil
	}
	b.reg.mu.Unlock()
	a := b.do("POST", "/v2/team/app/blobs/uploads/", nil, 429)
	if a.codes() != "TOOMANYREQUESTS" || a.Header.Get("Retry-After") != "60" {
		t.Errorf("%v, %s", a.Header, a.body)
	}
}

// A wrong digest ends the upload: what was received cannot become right.
func TestWrongDigestEnds(t *testing.T) {
	b := newBench(t)
	at := b.begin("team/app")
	if a := b.do("PUT", at+"?digest="+digest.FromString("x").String(), "bytes", 400); a.codes() != "DIGEST_INVALID" {
		t.Errorf("%s", a.body)
	}
	b.do("GET", at, nil, 404)
}

func TestMount(t *testing.T) {
	b := newBench(t)
	content := []byte("shared")
	d := b.push("team/one", content)
	mount := func(repo, from string, status int) {
		t.Helper()
		path := "/v2/" + repo + "/blobs/uploads/?mount=" + d.String()
		if from != "" {
			path += "&from=" + from
		}
		a := b.do("POST", path, nil, status)
		if status == 201 && (a.Header.Get("Location") != blobPath(repo, d) || a.Header.Get("Docker-Content-Digest") != d.String()) {
			t.Errorf("%v", a.Header)
		}
		if status == 202 && !strings.Contains(a.Header.Get("Location"), "/blobs/uploads/") {
			t.Errorf("%v", a.Header)
		}
	}
	mount("team/two", "team/one", 201)
	b.blob("team/two", d, content)
	mount("team/three", "team/nothing", 202)
	mount("team/three", "evil.test/x", 202)
	mount("team/three", "Nonsense", 202)
	mount("team/three", "", 201)
	b.blob("team/three", d, content)
	b.do("DELETE", blobPath("team/one", d), nil, 202)
	b.do("GET", blobPath("team/one", d), nil, 404)
	b.restart()
	b.blob("team/two", d, content)

	// From a proxied repository: only of what came from there.
	proxied := []byte("proxied")
	d = digest.FromBytes(proxied)
	if err := b.store.Put(d, proxied, metaOf(up+"/lab/app")); err != nil {
		t.Fatal(err)
	}
	mount("team/four", "", 202)
	mount("team/four", "lab/other", 202)
	mount("team/four", "lab/app", 201)
	b.blob("team/four", d, proxied)
	if in, err := b.store.Stat(d); err != nil || !in.Kept {
		t.Errorf("kept %v, %v", in.Kept, err)
	}
}

// What nobody links to any more can be evicted, from the next start on.
func TestUnlinkedIsReleased(t *testing.T) {
	b := newBench(t)
	d := b.push("team/app", []byte("some bytes"))
	b.do("DELETE", blobPath("team/app", d), nil, 202)
	b.restart()
	if in, err := b.store.Stat(d); err != nil || in.Kept {
		t.Errorf("kept %v, %v", in.Kept, err)
	}
	b.push("team/app", []byte("some bytes"))
	b.restart()
	if in, err := b.store.Stat(d); err != nil || !in.Kept {
		t.Errorf("kept %v, %v", in.Kept, err)
	}
}

// A push that does not fit is refused, and can go on when there is room.
func TestFull(t *testing.T) {
	b := newBench(t)
	b.stop()
	b.quota = 1000
	b.start()
	at := b.begin("team/app")
	content := storetest.Content(4, 2000)
	d := digest.FromBytes(content)
	b.do("PATCH", at, content[:900], 202)
	if u := b.store.Usage(); u.Reserved != 900 {
		t.Errorf("%+v: bytes of an upload do not count", u)
	}
	if a := b.do("PATCH", at, content[900:], 507); !strings.Contains(string(a.body), "quota") {
		t.Errorf("%s", a.body)
	}
	b.stop()
	b.quota = 2500
	b.start()
	if u := b.store.Usage(); u.Reserved != 900 {
		t.Errorf("%+v: bytes of an upload do not count after a restart", u)
	}
	b.do("PATCH", at, content[900:], 202)
	b.do("PUT", at+"?digest="+d.String(), nil, 201)
	b.blob("team/app", d, content)
	if u := b.store.Usage(); u.Reserved != 0 || u.Used != 2000 {
		t.Errorf("%+v", u)
	}
}

// stuck is a body whose client is gone.
type stuck struct{ over chan struct{} }

func (s stuck) Read([]byte) (int, error) { <-s.over; return 0, os.ErrDeadlineExceeded }
func (s stuck) Interrupt()               { close(s.over) }

// An upload that ends while somebody waits for its turn is unknown to them.
func TestEndedWhileWaiting(t *testing.T) {
	b := newBench(t)
	n := b.reg.name("team/app")
	u, err := b.reg.StartUpload(t.Context(), n, digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	body := stuck{make(chan struct{})}
	appended := make(chan error)
	go func() {
		_, err := u.Append(context.Background(), -1, body)
		appended <- err
	}()
	for u.(*upload).busy() == nil {
	}
	if err := u.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-appended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	var e *registry.Error
	if _, err := u.Append(t.Context(), -1, body); !errors.As(err, &e) || e.Code != registry.CodeBlobUploadUnknown {
		t.Errorf("%v", err)
	}
	if err := u.Commit(t.Context(), digest.FromBytes(nil)); !errors.As(err, &e) || e.Code != registry.CodeBlobUploadUnknown {
		t.Errorf("%v", err)
	}
}

// busy is who has the turn.
func (u *upload) busy() registry.Body {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.writer
}
