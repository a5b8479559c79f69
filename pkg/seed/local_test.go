package seed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

// Signatures come along with what is proxied: cosign's tags as any tag, what
// an upstream lists, or keeps under the tag that stands in for a list; also
// with the upstream down.
func TestProxiedSignatures(t *testing.T) {
	b := newBench(t, nil)
	img := b.up.AddImage("lab/app", "v1", 1000)
	sig := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":2},"layers":[]}`, ocispec.MediaTypeImageManifest, b.up.AddBlob([]byte("{}")))
	cosign := "sha256-" + img.Digest.Encoded() + ".sig"
	b.up.AddManifest("lab/app", cosign, ocispec.MediaTypeImageManifest, sig)
	list := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"artifactType":"a/sig"},{"mediaType":%q,"digest":%q,"size":7,"artifactType":"a/sbom"}]}`,
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, digest.FromBytes(sig), len(sig), ocispec.MediaTypeImageManifest, digest.FromString("other"))
	b.up.AddManifest("lab/app", "sha256-"+img.Digest.Encoded(), ocispec.MediaTypeImageIndex, list)
	path := "/v2/lab/app/referrers/" + img.Digest.String()
	for _, when := range []string{"up", "down"} {
		if r := b.get(manifestPath(cosign), 200); !bytes.Equal(r.Body, sig) {
			t.Errorf("%s: %s", when, r.Body)
		}
		for query, want := range map[string]int{"": 2, "?artifactType=a/sig": 1, "?artifactType=none": 0} {
			r := b.get(path+query, 200)
			var index ocispec.Index
			if err := json.Unmarshal(r.Body, &index); err != nil || len(index.Manifests) != want || r.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
				t.Errorf("%s, %q: %v, %s", when, query, err, r.Body)
			}
			if applied := r.Header.Get("OCI-Filters-Applied"); (applied != "") != (query != "") {
				t.Errorf("%s, %q: filters applied: %q", when, query, applied)
			}
		}
		b.get(manifestPath(digest.FromBytes(sig).String()), 200)
		b.up.Close()
	}
}

// Beside what is proxied there are repositories that take pushes; who reads
// one cannot read the other's content.
func TestLocalBesideProxied(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) {
		c.LocalRepositories, c.LocalNames = []string{"team"}, []string{"registry.test", "registry.test:5000"}
		c.Allow = []string{"anyone pull+push+catalog **"}
	})
	img := b.up.AddImage("lab/app", "v1", 1000)
	b.get(manifestPath("v1"), 200)
	b.blob(img.Layers[0])
	push := func(path string, status int) *daemontest.Response {
		t.Helper()
		r, err := daemontest.Do(t.Context(), "POST", b.URL+path)
		if err != nil || r.Status != status {
			t.Fatalf("POST %s: %+v, %v", path, r, err)
		}
		return r
	}
	if r := push("/v2/lab/app/blobs/uploads/", 403); !strings.Contains(string(r.Body), "DENIED") || !strings.Contains(string(r.Body), "up.test/lab/app") {
		t.Errorf("%s", r.Body)
	}
	push("/v2/team/app/blobs/uploads/?digest="+digest.FromBytes(nil).String(), 201)
	// A layer that was fetched need not be sent again.
	push("/v2/team/app/blobs/uploads/?from=lab/app&mount="+img.Layers[0].String(), 201)
	for _, path := range []string{"/v2/team/app", "/v2/registry.test/team/app", "/v2/registry.test:5000/team/app"} {
		if r := b.get(path+"/blobs/"+img.Layers[0].String(), 200); !bytes.Equal(r.Body, b.up.Blob(img.Layers[0])) {
			t.Errorf("%s: wrong bytes", path)
		}
	}
	b.get("/v2/team/app/blobs/"+img.Config.String(), 404)
	b.get("/v2/team/app/blobs/"+img.Layers[0].String()+"?ns=registry.test", 200)
	b.get("/v2/team/app/manifests/"+img.Digest.String(), 404)
	b.get("/v2/team/app/manifests/v1?ns=up.test", 404)
	if r := b.get("/v2/_catalog", 200); string(r.Body) != `{"repositories":["team/app"]}` {
		t.Errorf("%s", r.Body)
	}
	b.restart()
	b.get("/v2/team/app/blobs/"+img.Layers[0].String(), 200)
}

// What was pushed to a local repository is not to be had by the name of a
// proxied one, unless the upstream has it, too.
func TestPushedIsNotProxied(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) {
		c.LocalRepositories, c.Allow = []string{"team"}, []string{"anyone pull+push+delete **"}
	})
	img := b.up.AddImage("lab/app", "v1", 1000, 2*mib)
	push := func(content []byte) digest.Digest {
		t.Helper()
		d := digest.FromBytes(content)
		resp, err := http.Post(b.URL+"/v2/team/app/blobs/uploads/?digest="+d.String(), "application/octet-stream", bytes.NewReader(content))
		if err != nil || resp.StatusCode != 201 {
			t.Fatalf("%+v, %v", resp, err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return d
	}
	secret := push([]byte("secret"))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":6},"layers":[]}`, ocispec.MediaTypeImageManifest, secret)
	req, err := http.NewRequestWithContext(t.Context(), "PUT", b.URL+"/v2/team/app/manifests/v1", bytes.NewReader(manifest))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 201 {
		t.Fatalf("%+v, %v", resp, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.get(blobPath(secret), 404)
		b.get(manifestPath(digest.FromBytes(manifest).String()), 404)
		b.get("/v2/team/app/blobs/"+secret.String(), 200)
		b.get("/v2/team/app/manifests/v1", 200)
		b.restart()
	}
	// Nor once no local repository has it any more.
	for _, path := range []string{"/v2/team/app/manifests/v1", "/v2/team/app/blobs/" + secret.String()} {
		if r, err := daemontest.Do(t.Context(), "DELETE", b.URL+path); err != nil || r.Status != 202 {
			t.Fatalf("DELETE %s: %+v, %v", path, r, err)
		}
	}
	b.restart()
	b.get(blobPath(secret), 404)
	// Layers that both have.
	for _, d := range img.Layers {
		push(b.up.Blob(d))
		b.blob(d)
	}
	b.up.Close()
	for _, d := range img.Layers {
		b.blob(d)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Without a rule everybody pulls, and nobody pushes or deletes.
func TestNoRuleNoPush(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) {
		c.LocalRepositories, c.Allow = []string{"team"}, []string{"anyone pull+push **"}
	})
	push := func(status int) string {
		t.Helper()
		r, err := daemontest.Do(t.Context(), "POST", b.URL+"/v2/team/app/blobs/uploads/?digest="+digest.FromBytes(nil).String())
		if err != nil || r.Status != status {
			t.Fatalf("%+v, %v", r, err)
		}
		return string(r.Body)
	}
	push(201)
	b.c.Allow = nil
	b.restart()
	if body := push(403); !strings.Contains(body, "DENIED") || !strings.Contains(body, "--allow 'anyone pull+push+delete local/**'") {
		t.Error(body)
	}
	for _, path := range []string{"blobs/" + digest.FromBytes(nil).String(), "manifests/v1"} {
		if r, err := daemontest.Do(t.Context(), "DELETE", b.URL+"/v2/team/app/"+path); err != nil || r.Status != 403 {
			t.Errorf("DELETE %s: %+v, %v", path, r, err)
		}
	}
	b.get("/v2/team/app/blobs/"+digest.FromBytes(nil).String(), 200)
	b.get("/v2/_catalog", 200)
}
