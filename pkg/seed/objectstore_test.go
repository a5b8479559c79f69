package seed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/objectstore/objectstoretest"
)

// kept is a seeder with an object store.
type kept struct {
	*bench
	s3 *objectstoretest.Server
}

func newKept(t *testing.T, change func(*config.Seeder)) *kept {
	t.Helper()
	s3 := objectstoretest.Start(t)
	return &kept{s3: s3, bench: newBench(t, func(c *config.Seeder) {
		keptConfig(c, s3.Endpoint(), s3.Credentials())
		if change != nil {
			change(c)
		}
	})}
}

func keptConfig(c *config.Seeder, endpoint, credentials string) {
	c.LocalRepositories = []string{"team"}
	c.Allow = []string{"anyone pull+push+delete+catalog **"}
	c.Bucket, c.BucketEndpoint, c.BucketRegion, c.BucketPathStyle = "s3://"+objectstoretest.Bucket+"/prod", endpoint, "us-east-1", true
	c.BucketCredentialsFile = credentials
}

// empty starts the seeder anew with nothing on its disk.
func (k *kept) empty() {
	k.t.Helper()
	if err := k.Stop(); err != nil {
		k.t.Fatal(err)
	}
	entries, err := os.ReadDir(k.c.Data)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(k.c.Data, e.Name())); err != nil {
			k.t.Fatal(err)
		}
	}
	k.start()
}

// send does a request with a body.
func send(t testing.TB, method, url, mediaType string, body []byte) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp
}

// push pushes a blob to a repository and returns the answer's status.
func (k *kept) push(repo string, content []byte) *http.Response {
	k.t.Helper()
	return send(k.t, "POST", k.URL+"/v2/"+repo+"/blobs/uploads/?digest="+digest.FromBytes(content).String(), "application/octet-stream", content)
}

func wantStatus(t testing.TB, r *http.Response, want int) {
	t.Helper()
	if r.StatusCode != want {
		text, _ := io.ReadAll(r.Body)
		t.Fatalf("%s %s: %d, want %d: %s", r.Request.Method, r.Request.URL, r.StatusCode, want, text)
	}
}

// image pushes an image of these layers, with a tag and a referrer.
func (k *kept) image(repo, tag string, layers ...[]byte) []byte {
	k.t.Helper()
	manifest := imageOf(layers...)
	wantStatus(k.t, k.push(repo, []byte("{}")), 201)
	for _, l := range layers {
		wantStatus(k.t, k.push(repo, l), 201)
	}
	wantStatus(k.t, send(k.t, "PUT", k.URL+"/v2/"+repo+"/manifests/"+tag, ocispec.MediaTypeImageManifest, manifest), 201)
	return manifest
}

func imageOf(layers ...[]byte) []byte {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	m.Config = ocispec.Descriptor{MediaType: "application/x", Digest: digest.FromString("{}"), Size: 2}
	m.Layers = []ocispec.Descriptor{}
	for _, l := range layers {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(l), Size: int64(len(l))})
	}
	text, _ := json.Marshal(m)
	return text
}

func (k *kept) pull(repo string, content []byte) {
	k.t.Helper()
	if r := k.get("/v2/"+repo+"/blobs/"+digest.FromBytes(content).String(), 200); !bytes.Equal(r.Body, content) {
		k.t.Fatalf("%s: wrong bytes", repo)
	}
}

// at is the keys in the bucket below one.
func (k *kept) at(prefix string) []string {
	keys := k.s3.Keys()
	return slices.DeleteFunc(keys, func(key string) bool { return !strings.HasPrefix(key, "prod/"+prefix) })
}

func layer(seed byte, n int) []byte {
	content := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed, 99}).Read(content)
	return content
}

// Whatever was pushed is back on an empty disk: names, tags, referrers, and
// content when it is asked for, of a range its pieces only. A disk that is not
// empty is not compared with the bucket.
func TestObjectStoreBringsBack(t *testing.T) {
	k := newKept(t, nil)
	large, small := layer(1, 20*mib+5), layer(2, 1000)
	manifest := k.image("team/app", "v1", large, small)
	subject := digest.FromBytes(manifest)
	sig := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"a/sig","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		ocispec.MediaTypeImageManifest, digest.FromString("{}"), ocispec.MediaTypeImageManifest, subject, len(manifest))
	wantStatus(t, send(t, "PUT", k.URL+"/v2/team/app/manifests/"+digest.FromBytes(sig).String(), ocispec.MediaTypeImageManifest, sig), 201)
	wantStatus(t, send(t, "POST", k.URL+"/v2/team/other/blobs/uploads/?from=team/app&mount="+digest.FromBytes(small).String(), "", nil), 201)

	k.restart()
	for _, r := range k.s3.Requests() {
		if strings.Contains(r.Query, "list-type") {
			t.Errorf("with a full disk the bucket is listed: %s", r)
		}
	}
	k.empty()
	if r := k.get("/v2/_catalog", 200); string(r.Body) != `{"repositories":["team/app","team/other"]}` {
		t.Errorf("%s", r.Body)
	}
	if r := k.get("/v2/team/app/tags/list", 200); string(r.Body) != `{"name":"team/app","tags":["v1"]}` {
		t.Errorf("%s", r.Body)
	}
	if r := k.get("/v2/team/app/manifests/v1", 200); !bytes.Equal(r.Body, manifest) || r.Header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
		t.Errorf("%s, %v", r.Body, r.Header)
	}
	if r := k.get("/v2/team/app/referrers/"+subject.String(), 200); !bytes.Contains(r.Body, []byte(digest.FromBytes(sig))) {
		t.Errorf("referrers: %s", r.Body)
	}
	k.pull("team/other", small)
	k.get("/v2/team/other/blobs/"+digest.FromBytes(large).String(), 404)
	// A range begins where it is asked for; a HEAD fetches nothing.
	k.s3.Requests()
	path := "/v2/team/app/blobs/" + digest.FromBytes(large).String()
	if r, err := daemontest.Head(k.URL + path); err != nil || r.Status != 200 || r.Header.Get("Content-Length") != fmt.Sprint(len(large)) {
		t.Errorf("HEAD: %+v, %v", r, err)
	}
	if rs := k.s3.Requests(); len(rs) > 0 {
		t.Errorf("a HEAD asked the object store: %v", rs)
	}
	if r := k.get(path, 206, "Range: bytes=15000000-15000999"); !bytes.Equal(r.Body, large[15000000:15001000]) {
		t.Error("a cold range has wrong bytes")
	}
	if rs := k.s3.Requests(); len(rs) == 0 || !strings.HasPrefix(rs[0].Header.Get("Range"), "bytes=149") {
		t.Errorf("a cold range asked for %v", rs)
	}
	k.pull("team/app", large)
	st := k.Status()
	if st.ObjectStore == nil || st.ObjectStore.Error != "" || st.ObjectStore.Pending != 0 || st.Bytes.FromObjectStore < int64(len(large)) || st.Bytes.FromUpstream != 0 {
		t.Errorf("%+v, %+v", st.ObjectStore, st.Bytes)
	}
}

// The disk is a cache: more is pushed than the quota, all of it can be pulled.
func TestObjectStoreBehindSmallCache(t *testing.T) {
	k := newKept(t, func(c *config.Seeder) { c.Quota = 8 * mib })
	var layers [][]byte
	for i := range 6 {
		layers = append(layers, layer(byte(10+i), 3*mib))
	}
	k.image("team/app", "v1", layers...)
	for range 2 {
		for _, l := range layers {
			k.pull("team/app", l)
		}
		if st := k.Status(); st.Store.Used > 8*mib {
			t.Errorf("%d bytes on disk", st.Store.Used)
		}
	}
	// What is not on disk can be mounted.
	wantStatus(t, send(t, "POST", k.URL+"/v2/team/new/blobs/uploads/?from=team/app&mount="+digest.FromBytes(layers[0]).String(), "", nil), 201)
	k.pull("team/new", layers[0])
}

// What cannot be kept is not pushed: 503, and the same push goes well later.
// What half of it left is put right.
func TestObjectStoreFailsPushes(t *testing.T) {
	k := newKept(t, nil)
	l := layer(3, 2*mib)
	failed := func(what string) {
		t.Helper()
		began := time.Now()
		r := k.push("team/app", l)
		text, _ := io.ReadAll(r.Body)
		if r.StatusCode != 503 || r.Header.Get("Retry-After") == "" || !strings.Contains(string(text), "object store") {
			t.Errorf("%s: %d %v %s", what, r.StatusCode, r.Header, text)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: it took %v", what, took)
		}
		k.get("/v2/team/app/blobs/"+digest.FromBytes(l).String(), 404)
	}
	k.s3.Down()
	failed("down")
	k.s3.SetFault(nil)
	k.Until("it works again", func() error {
		if st := k.Status(); st.ObjectStore.Error != "" || len(st.Warnings) > 0 {
			return fmt.Errorf("%+v", st.ObjectStore)
		}
		return nil
	})
	k.s3.SetFault(func(r *http.Request) objectstoretest.Fault {
		return objectstoretest.Fault{Status: map[bool]int{true: 500}[strings.Contains(r.URL.Path, "/_blobs/")]}
	})
	failed("no links")
	if st := k.Status(); st.ObjectStore.Pending != 1 {
		t.Errorf("%+v", st.ObjectStore)
	}
	k.restart()
	k.s3.SetFault(nil)
	k.Until("the journal is empty", func() error {
		if n := k.Status().ObjectStore.Pending; n > 0 {
			return fmt.Errorf("%d links", n)
		}
		return nil
	})
	wantStatus(t, k.push("team/app", l), 201)
	k.pull("team/app", l)
	if keys := k.at("repositories/"); len(keys) != 1 {
		t.Errorf("links: %v", keys)
	}
}

// With the object store down a seeder starts and serves what is on its disk;
// what is not ends in time; pushes are refused until it is back.
func TestObjectStoreDownAtStart(t *testing.T) {
	k := newKept(t, nil)
	here, gone := layer(4, mib), layer(5, 6*mib)
	k.image("team/app", "v1", here, gone)
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	hex := digest.FromBytes(gone).Encoded()
	if err := os.RemoveAll(filepath.Join(k.c.Data, "store/blobs/sha256", hex[:2], hex)); err != nil {
		t.Fatal(err)
	}
	k.s3.Down()
	k.start()
	k.pull("team/app", here)
	k.get("/v2/team/app/manifests/v1", 200)
	k.get("/v2/team/app/blobs/"+digest.FromBytes(gone).String(), 503)
	wantStatus(t, k.push("team/app", layer(6, 1000)), 503)
	wantStatus(t, send(t, "DELETE", k.URL+"/v2/team/app/manifests/v1", "", nil), 503)
	if st := k.Status(); st.ObjectStore.Error == "" || len(st.Warnings) == 0 {
		t.Errorf("%+v", st.ObjectStore)
	}
	k.s3.SetFault(nil)
	k.Until("a push goes well", func() error {
		if r := k.push("team/app", layer(6, 1000)); r.StatusCode != 201 {
			return fmt.Errorf("status %d", r.StatusCode)
		}
		return nil
	})
	k.pull("team/app", gone)
}

// In the middle of a pull connections break, and it goes on; then the whole
// store, and it ends.
func TestObjectStoreBreaksPulls(t *testing.T) {
	k := newKept(t, nil)
	l := layer(7, 9*mib)
	k.image("team/app", "v1", l)
	k.empty()
	k.s3.SetFault(func(r *http.Request) objectstoretest.Fault {
		return objectstoretest.Fault{Cut: 2*mib + 777}
	})
	k.pull("team/app", l)
	k.s3.SetFault(nil)
	k.empty()
	asked := 0
	k.s3.SetFault(func(r *http.Request) objectstoretest.Fault {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return objectstoretest.Fault{}
		}
		asked++
		return objectstoretest.Fault{Cut: 2 * mib, Drop: asked > 1}
	})
	began := time.Now()
	r, err := daemontest.Get(k.URL + "/v2/team/app/blobs/" + digest.FromBytes(l).String())
	if err == nil && r.Status == 200 && len(r.Body) == len(l) {
		t.Error("a body that cannot be whole is whole")
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	k.s3.SetFault(nil)
	k.Until("the blob is whole", func() error {
		r, err := daemontest.Get(k.URL + "/v2/team/app/blobs/" + digest.FromBytes(l).String())
		if err != nil || !bytes.Equal(r.Body, l) {
			return fmt.Errorf("%v, %v", r, err)
		}
		return nil
	})
}

// What is pulled through the seeder is copied: it comes from there when the
// disk has lost it, also with the upstream down. Nothing that was only pushed
// is to be had by an upstream's name.
func TestObjectStoreCopiesPulled(t *testing.T) {
	k := newKept(t, nil)
	img := k.up.AddImage("lab/app", "v1", 1000, 3*mib)
	k.get(manifestPath("v1"), 200)
	for _, d := range append(slices.Clone(img.Layers), img.Config) {
		k.blob(d)
	}
	private := layer(8, mib)
	wantStatus(t, k.push("team/app", private), 201)
	tiny := layer(9, 100)
	wantStatus(t, k.push("team/app", tiny), 201)
	k.Until("everything is copied", func() error {
		if keys := k.at("cache/"); len(keys) != 4 || k.Status().ObjectStore.Copies > 0 {
			return fmt.Errorf("%v", keys)
		}
		return nil
	})
	before := k.up.BytesServed(img.Layers[1])
	k.empty()
	for range 2 {
		k.get("/v2/team/app/blobs/"+digest.FromBytes(tiny).String(), 200)
		for _, content := range [][]byte{private, tiny} {
			k.get(blobPath(digest.FromBytes(content)), 404)
		}
	}
	k.up.Close()
	if r := k.get(manifestPath(img.Digest.String()), 200); digest.FromBytes(r.Body) != img.Digest || r.Header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
		t.Errorf("%v %s", r.Header, r.Body)
	}
	for _, d := range append(slices.Clone(img.Layers), img.Config) {
		k.blob(d)
	}
	if n := k.up.BytesServed(img.Layers[1]); n != before {
		t.Errorf("the upstream sent %d bytes again", n-before)
	}
}

// What is deleted leaves the bucket with the next collection, and what a
// repository still has stays.
func TestObjectStoreDeletes(t *testing.T) {
	k := newKept(t, func(c *config.Seeder) { c.TrashPeriod, c.CollectEvery = 0, 500*time.Millisecond })
	l, other := layer(20, 2*mib), layer(21, 3000)
	manifest := k.image("team/app", "v1", l, other)
	k.image("team/other", "v1", other)
	wantStatus(t, send(t, "DELETE", k.URL+"/v2/team/app/manifests/"+digest.FromBytes(manifest).String(), "", nil), 202)
	for _, content := range [][]byte{l, other} {
		wantStatus(t, send(t, "DELETE", k.URL+"/v2/team/app/blobs/"+digest.FromBytes(content).String(), "", nil), 202)
	}
	hex := digest.FromBytes(l).Encoded()
	k.Until("it is gone", func() error {
		if keys := k.at("blobs/sha256/" + hex[:2] + "/" + hex); len(keys) > 0 {
			return fmt.Errorf("%v", keys)
		}
		return nil
	})
	k.empty()
	k.get("/v2/team/app/manifests/v1", 404)
	k.pull("team/other", other)
	wantStatus(t, k.push("team/app", l), 201) // again
	k.empty()
	k.pull("team/app", l)
}

// A repository of before is copied when an object store is given.
func TestObjectStoreTakesWhatWasThere(t *testing.T) {
	k := newKept(t, func(c *config.Seeder) { c.Bucket = "" })
	l := layer(30, 2*mib)
	manifest := k.image("team/app", "v1", l)
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	k.c.Bucket = "s3://" + objectstoretest.Bucket + "/prod"
	k.start()
	k.Until("it is copied", func() error {
		if st := k.Status(); st.ObjectStore.Copying {
			return fmt.Errorf("%+v", st.ObjectStore)
		}
		return nil
	})
	k.empty()
	if r := k.get("/v2/team/app/manifests/v1", 200); !bytes.Equal(r.Body, manifest) {
		t.Errorf("%s", r.Body)
	}
	k.pull("team/app", l)
	// Two directories of their own cannot share a bucket.
	other := newBench(t, func(c *config.Seeder) { c.LocalRepositories = []string{"team"} })
	if err := other.Stop(); err != nil {
		t.Fatal(err)
	}
	keptConfig(&other.c, k.s3.Endpoint(), k.s3.Credentials())
	err := Run(t.Context(), other.c, "test")
	if err == nil || !strings.Contains(err.Error(), "another seeder") {
		t.Errorf("a second seeder: %v", err)
	}
}

// Clients are sent to the object store where that is asked for; peers are not.
func TestObjectStoreRedirects(t *testing.T) {
	k := newKept(t, func(c *config.Seeder) { c.BucketRedirect = true })
	l, small := layer(40, 2*mib), layer(41, 1000)
	k.image("team/app", "v1", l, small)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		what, agent string
		content     []byte
		status      int
	}{{"a client", "containerd/2.0", l, 307}, {"a small blob", "containerd/2.0", small, 200}, {"a peer", "samara-peerd/1", l, 200}} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", k.URL+"/v2/team/app/blobs/"+digest.FromBytes(c.content).String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", c.agent)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.status || (c.status == 307) != strings.Contains(resp.Header.Get("Location"), "X-Amz-Signature") {
			t.Errorf("%s: %d, %s", c.what, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	followed := send(t, "GET", k.URL+"/v2/team/app/blobs/"+digest.FromBytes(l).String(), "", nil)
	if text, err := io.ReadAll(followed.Body); err != nil || !bytes.Equal(text, l) {
		t.Errorf("where a client is sent to are other bytes: %v", err)
	}
}
