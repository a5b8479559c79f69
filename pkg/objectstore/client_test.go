package objectstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/objectstore/objectstoretest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const mib = 1 << 20

type bench struct {
	*objectstoretest.Server
	*objectstore.Client
	t *testing.T
}

func newBench(t *testing.T, change func(*objectstore.Options)) *bench {
	t.Helper()
	b := &bench{Server: objectstoretest.Start(t), t: t}
	o := b.Options("prod/eu")
	if change != nil {
		change(&o)
	}
	c, err := objectstore.New(o)
	b.must(err)
	t.Cleanup(c.Close)
	b.Client = c
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func noise(n int) []byte {
	content := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(content)
	return content
}

func (b *bench) file(content []byte) *os.File {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "content")
	b.must(os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	b.must(err)
	b.t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestObjects(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	if _, err := b.Stat(ctx, "a"); objectstore.KindOf(err) != objectstore.NotFound || objectstore.NoBucket(err) {
		t.Errorf("an object that is not there: %v", err)
	}
	b.must(b.Put(ctx, "a/1", []byte("one"), objectstore.PutOptions{ContentType: "text/plain", Source: "docker.io/library/nginx"}))
	b.must(b.Put(ctx, "a/2", nil, objectstore.PutOptions{}))
	b.must(b.Put(ctx, "b/_tags/v1", []byte("two"), objectstore.PutOptions{}))
	content, o, err := b.Get(ctx, "a/1", 3)
	b.must(err)
	if want := (objectstore.Object{Key: "a/1", Size: 3, ContentType: "text/plain", Source: "docker.io/library/nginx"}); string(content) != "one" || o != want {
		t.Errorf("got %q, %+v", content, o)
	}
	if stat, err := b.Stat(ctx, "a/1"); err != nil || stat != o {
		t.Errorf("%+v, %v", stat, err)
	}
	if _, _, err := b.Get(ctx, "a/1", 2); err == nil {
		t.Error("more was read than the limit")
	}
	if content, _, err := b.Get(ctx, "a/2", 2); err != nil || len(content) != 0 {
		t.Errorf("an empty object: %q, %v", content, err)
	}
	var keys []string
	b.must(b.List(ctx, "a/", func(o objectstore.Object) error {
		keys = append(keys, o.Key)
		return nil
	}))
	if !slices.Equal(keys, []string{"a/1", "a/2"}) {
		t.Errorf("listed %v", keys)
	}
	stop := errors.New("enough")
	if err := b.List(ctx, "", func(objectstore.Object) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a list that was stopped: %v", err)
	}
	b.must(b.Remove(ctx, "a/1"))
	b.must(b.Remove(ctx, "a/1"))
	if got, want := b.Keys(), []string{"prod/eu/a/2", "prod/eu/b/_tags/v1"}; !slices.Equal(got, want) {
		t.Errorf("left are %v", got)
	}
	for _, r := range b.Requests() {
		if !strings.HasPrefix(r.Path, "/"+objectstoretest.Bucket+"/") {
			t.Errorf("%s: the bucket is not in the path", r)
		}
	}
}

// Large files go up in parts and come back the same; what a range asks for is
// all that comes.
func TestPartsAndRanges(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	content := noise(40*mib + 17)
	b.must(b.PutFile(ctx, "large", b.file(content), int64(len(content)), objectstore.PutOptions{}))
	parts := 0
	for _, r := range b.Requests() {
		if strings.Contains(r.Query, "partNumber=") {
			parts++
		}
	}
	if parts != 3 {
		t.Errorf("%d parts", parts)
	}
	for _, c := range []struct{ off, n, want int64 }{
		{0, -1, 40*mib + 17}, {0, 1, 1}, {5, 10, 10}, {39 * mib, -1, mib + 17}, {40 * mib, 100, 17},
	} {
		r, err := b.Range(ctx, "large", c.off, c.n)
		b.must(err)
		got, err := io.ReadAll(r)
		b.must(err)
		b.must(r.Close())
		if r.Size() != int64(len(content)) || !bytes.Equal(got, content[c.off:c.off+c.want]) {
			t.Errorf("from %d, %d bytes: got %d of %d", c.off, c.n, len(got), r.Size())
		}
	}
	b.must(b.PutFile(ctx, "small", b.file(content[:1000]), 1000, objectstore.PutOptions{}))
	if o, err := b.Stat(ctx, "small"); err != nil || o.Size != 1000 {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := b.Range(ctx, "none", 0, -1); objectstore.KindOf(err) != objectstore.NotFound {
		t.Errorf("a range of nothing: %v", err)
	}
}

// A body that is cut goes on at the same byte; one that hangs, too.
func TestRangeResumes(t *testing.T) {
	b := newBench(t, nil)
	content := noise(3 * mib)
	b.must(b.Put(t.Context(), "x", content, objectstore.PutOptions{}))
	b.Requests()
	b.SetFault(func(*http.Request) objectstoretest.Fault { return objectstoretest.Fault{Cut: mib} })
	r, err := b.Range(t.Context(), "x", 100, -1)
	b.must(err)
	got, err := io.ReadAll(r)
	b.must(err)
	if !bytes.Equal(got, content[100:]) {
		t.Errorf("got %d bytes of %d", len(got), len(content)-100)
	}
	if n := len(b.Requests()); n != 3 {
		t.Errorf("%d requests", n)
	}
}

// A store that does not answer, or stops in the middle, is an error in time,
// and is left alone for a moment after some.
func TestSilentStore(t *testing.T) {
	b := newBench(t, nil)
	b.Hurry(200 * time.Millisecond)
	content := noise(2 * mib)
	b.must(b.Put(t.Context(), "x", content[:mib], objectstore.PutOptions{}))
	r, err := b.Range(t.Context(), "x", 0, -1)
	b.must(err)
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	b.must(r.Close())
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hang := func(*http.Request) objectstoretest.Fault { return objectstoretest.Fault{Release: release} }
	b.SetFault(hang)
	for _, ask := range []func() error{
		func() error { _, err := b.Stat(t.Context(), "x"); return err },
		func() error { return b.Put(t.Context(), "y", content[:10], objectstore.PutOptions{}) },
		func() error { _, err := b.Range(t.Context(), "x", 0, -1); return err },
	} {
		err := ask()
		if objectstore.KindOf(err) != objectstore.Unavailable || !strings.Contains(err.Error(), "in time") {
			t.Errorf("a store that hangs: %v", err)
		}
	}
	b.Requests()
	_, err = b.Stat(t.Context(), "x")
	if objectstore.KindOf(err) != objectstore.Unavailable || len(b.Requests()) > 0 {
		t.Errorf("it is not left alone: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.SetFault(nil)
	fresh, err := objectstore.New(b.Options("prod/eu"))
	b.must(err)
	defer fresh.Close()
	if _, err := fresh.Stat(ctx, "x"); objectstore.KindOf(err) != objectstore.Canceled {
		t.Errorf("a caller who left: %v", err)
	}
}

// What is wrong is said in words that help, and without the keys.
func TestErrorsSayWhatToDo(t *testing.T) {
	b := newBench(t, nil)
	wrong := filepath.Join(t.TempDir(), "credentials")
	b.must(os.WriteFile(wrong, []byte("[default]\naws_access_key_id=tester\naws_secret_access_key=not-so-secret\n"), 0o600))
	for _, c := range []struct {
		name   string
		change func(*objectstore.Options)
		kind   objectstore.Kind
		want   string
	}{
		{"no bucket", func(o *objectstore.Options) { o.Location.Bucket = "elsewhere" }, objectstore.NotFound, "make the bucket"},
		{"wrong keys", func(o *objectstore.Options) { o.CredentialsFile = wrong }, objectstore.Denied, "look at the credentials"},
		{"nobody there", func(o *objectstore.Options) { o.Endpoint = "http://127.0.0.1:1" }, objectstore.Unavailable, "refused"},
		{"no TLS", func(o *objectstore.Options) { o.Endpoint = strings.Replace(o.Endpoint, "http:", "https:", 1) }, objectstore.Unavailable, "HTTP response to HTTPS client"},
	} {
		o := b.Options("prod")
		c.change(&o)
		client, err := objectstore.New(o)
		b.must(err)
		_, _, err = client.Get(t.Context(), "x", 10)
		if objectstore.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "s3://"+o.Location.Bucket+"/prod/x") {
			t.Errorf("%s: %v (%s)", c.name, err, objectstore.KindOf(err))
		}
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: a key is in %v", c.name, err)
		}
		client.Close()
	}
}

// The store is told to encrypt, with every way to write.
func TestEncryption(t *testing.T) {
	for text, want := range map[string][2]string{"s3": {"AES256", ""}, "kms": {"aws:kms", ""}, "kms:key-7": {"aws:kms", "key-7"}, "": {"", ""}} {
		sse, err := objectstore.ParseSSE(text)
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, func(o *objectstore.Options) { o.SSE = sse })
		b.SetFault(func(*http.Request) objectstoretest.Fault { return objectstoretest.Fault{Status: 501} }) // this server has no keys
		_ = b.Put(t.Context(), "small", []byte("x"), objectstore.PutOptions{})
		large := noise(17 * mib)
		_ = b.PutFile(t.Context(), "large", b.file(large), int64(len(large)), objectstore.PutOptions{})
		rs := b.Requests()
		if len(rs) < 2 {
			t.Fatalf("%q: %v", text, rs)
		}
		for _, r := range rs {
			h := r.Header
			if h.Get("X-Amz-Server-Side-Encryption") != want[0] || h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != want[1] {
				t.Errorf("%q: %s has %v", text, r, h)
			}
		}
	}
}

// Parts that a crash left are found and dropped.
func TestAbortUploads(t *testing.T) {
	b := newBench(t, nil)
	content := noise(33 * mib)
	b.SetFault(func(r *http.Request) objectstoretest.Fault {
		return objectstoretest.Fault{Drop: strings.Contains(r.URL.RawQuery, "partNumber=3") || r.Method == http.MethodDelete}
	})
	if err := b.PutFile(t.Context(), "parts/x", b.file(content), int64(len(content)), objectstore.PutOptions{}); objectstore.KindOf(err) != objectstore.Unavailable {
		t.Errorf("an upload that breaks: %v", err)
	}
	b.SetFault(nil)
	if _, err := b.Stat(t.Context(), "parts/x"); objectstore.KindOf(err) != objectstore.NotFound {
		t.Errorf("half an object is there: %v", err)
	}
	for _, want := range []int{1, 0} {
		if n, err := b.AbortUploads(t.Context(), "parts/"); n != want || err != nil {
			t.Errorf("aborted %d, want %d: %v", n, want, err)
		}
	}
}

// Without a file the keys come from the environment.
func TestCredentialsOfTheEnvironment(t *testing.T) {
	b := newBench(t, nil)
	t.Setenv("AWS_ACCESS_KEY_ID", "tester")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
	o := b.Options("p")
	o.CredentialsFile = ""
	c, err := objectstore.New(o)
	b.must(err)
	defer c.Close()
	b.must(c.Put(t.Context(), "x", []byte("y"), objectstore.PutOptions{}))
}

// A signed URL is good for whoever has it.
func TestPresign(t *testing.T) {
	b := newBench(t, nil)
	b.must(b.Put(t.Context(), "x", []byte("content"), objectstore.PutOptions{}))
	u, err := b.Presign(t.Context(), "x", time.Minute)
	b.must(err)
	for url, want := range map[string]int{u: 200, strings.Split(u, "?")[0]: 403} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		b.must(err)
		resp, err := http.DefaultClient.Do(r)
		b.must(err)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
