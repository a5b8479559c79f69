package local

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	crashChild()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// bench is a registry with the local repositories team and all below it,
// behind the handler that clients see.
type bench struct {
	t      *testing.T
	dir    string
	quota  int64
	change func(*Options) // before Open; may be nil
	clock  atomic.Int64   // seconds that are added to the time
	store  *store.Store
	reg    *Registry
	srv    *httptest.Server
	http   *http.Client
	told   atomic.Int64 // how often content was told of
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), http: &http.Client{Transport: &http.Transport{}}}
	b.start()
	t.Cleanup(b.stop)
	return b
}

// up is what the tests call their upstream.
const up = "up.test"

func (b *bench) now() time.Time { return time.Now().Add(time.Duration(b.clock.Load()) * time.Second) }

func (b *bench) start() {
	b.t.Helper()
	var err error
	if b.store, err = store.Open(filepath.Join(b.dir, "store"), store.Options{Quota: b.quota}); err != nil {
		b.t.Fatal(err)
	}
	names, err := registry.NewResolver([]string{up}, up)
	if err == nil {
		err = names.SetLocal(registry.Local{Names: []string{"reg.test"}, Prefixes: []string{"team"}})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	o := Options{
		Dir: filepath.Join(b.dir, "registry"), Store: b.store, Upstream: "reg.test", IsLocal: names.IsLocal, Now: b.now,
		Pushed: func(registry.Name, registry.Manifest, *registry.Parsed) { b.told.Add(1) },
	}
	if b.change != nil {
		b.change(&o)
	}
	b.reg, err = Open(o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.srv = httptest.NewServer(registry.NewHandler(b.reg, registry.HandlerOptions{
		Resolver: names, Writer: b.reg, Cataloger: b.reg, Referrers: b.reg, Stall: time.Minute,
	}))
}

func (b *bench) stop() {
	b.t.Helper()
	b.http.CloseIdleConnections()
	b.srv.Close()
	b.reg.Close()
	if err := b.store.Close(); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

// within makes a subtest the one that fails.
func (b *bench) within(t *testing.T) {
	outer := b.t
	b.t = t
	t.Cleanup(func() { b.t = outer })
}

// answer is what the registry said.
type answer struct {
	*http.Response
	body []byte
}

// codes are those of the error body.
func (a answer) codes() string {
	var e struct{ Errors []struct{ Code string } }
	if json.Unmarshal(a.body, &e) != nil {
		return ""
	}
	var codes []string
	for _, x := range e.Errors {
		codes = append(codes, x.Code)
	}
	return strings.Join(codes, " ")
}

// do sends a request and wants a status. Headers are "Name: value".
func (b *bench) do(method, path string, body any, status int, headers ...string) answer {
	b.t.Helper()
	a, err := b.try(method, path, body, headers...)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.StatusCode != status {
		b.t.Fatalf("%s %s: %s, want %d: %.300s", method, path, a.Status, status, a.body)
	}
	return a
}

func (b *bench) try(method, path string, body any, headers ...string) (answer, error) {
	var r io.Reader
	switch v := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(v)
	case string:
		r = strings.NewReader(v)
	case io.Reader:
		r = v // sent in HTTP chunks, its length unknown
	}
	req, err := http.NewRequestWithContext(context.Background(), method, b.srv.URL+path, r)
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return answer{resp, content}, err
}

// begin starts an upload and returns where it goes on.
func (b *bench) begin(repo string) string {
	b.t.Helper()
	return b.do("POST", "/v2/"+repo+"/blobs/uploads/", nil, 202).Header.Get("Location")
}

// push pushes a blob in one request.
func (b *bench) push(repo string, content []byte) digest.Digest {
	b.t.Helper()
	d := digest.FromBytes(content)
	b.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), content, 201)
	return d
}

// blob wants a blob's bytes.
func (b *bench) blob(repo string, d digest.Digest, content []byte) {
	b.t.Helper()
	if a := b.do("GET", blobPath(repo, d), nil, 200); !bytes.Equal(a.body, content) || a.Header.Get("Docker-Content-Digest") != d.String() {
		b.t.Fatalf("blob %s: wrong bytes or digest", d)
	}
}

// image pushes an image with one layer and returns its manifest.
func (b *bench) image(repo, tag, layer string) (digest.Digest, []byte) {
	b.t.Helper()
	content := imageOf(b.push(repo, []byte("{}")), 2, b.push(repo, []byte(layer)), len(layer), "")
	b.do("PUT", "/v2/"+repo+"/manifests/"+tag, content, 201, "Content-Type: "+ocispec.MediaTypeImageManifest)
	return digest.FromBytes(content), content
}

// imageOf is an image manifest; more is more of its JSON.
func imageOf(config digest.Digest, configSize int, layer digest.Digest, size int, more string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]%s}`,
		ocispec.MediaTypeImageManifest, config, configSize, layer, size, more)
}

func blobPath(repo string, d digest.Digest) string { return "/v2/" + repo + "/blobs/" + d.String() }
