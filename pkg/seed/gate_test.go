package seed

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// Rules are about the repository that is used, however a client spells it; and
// what peers need is not behind them.
func TestGuarded(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("wonder"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(users, []byte("alice:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *config.Seeder) {
		c.Htpasswd = users
		c.Allow = []string{"anyone pull docker.io/library/*", "user:alice pull up.test/lab/app"}
	})
	b.up.AddImage("lab/app", "v1", 1000)
	b.up.AddImage("library/nginx", "v1", 1000)
	b.get(daemon.IntroductionPath, 200)
	r := b.get("/v2/", 401)
	if want := `Bearer realm="` + b.URL + `/token",service="samara-seeder"`; r.Header.Get("WWW-Authenticate") != want {
		t.Errorf("challenge %s, want %s", r.Header.Get("WWW-Authenticate"), want)
	}
	const alice = "Authorization: Basic YWxpY2U6d29uZGVy"
	for _, path := range []string{"/v2/nginx/manifests/v1?ns=docker.io", "/v2/library/nginx/manifests/v1?ns=index.docker.io", "/v2/docker.io/nginx/manifests/v1", "/v2/Registry-1.docker.io:443/nginx/manifests/v1"} {
		b.get(path, 200)
	}
	for _, path := range []string{"/v2/lab/app/manifests/v1", "/v2/up.test/lab/app/manifests/v1", "/v2/lab/app/manifests/v1?ns=up.test"} {
		b.get(path, 401)
		b.get(path, 200, alice)
	}
	b.get("/v2/docker.io/lab/app/manifests/v1", 403, alice)
	b.get("/v2/unknown.test/lab/app/manifests/v1", 403, alice) // as if it were there

	var a struct{ Token string }
	r = b.get("/token?service=samara-seeder&scope=repository:lab/app:pull", 200, alice)
	if err := json.Unmarshal(r.Body, &a); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v2/lab/app/manifests/v1", "/v2/lab/app/manifests/v1?ns=up.test", "/v2/lab/app/tags/list"} {
		b.get(path, 200, "Authorization: Bearer "+a.Token)
	}
	r = b.get("/v2/library/nginx/manifests/v1", 401, "Authorization: Bearer "+a.Token)
	if !strings.Contains(r.Header.Get("WWW-Authenticate"), "insufficient_scope") {
		t.Error(r.Header.Get("WWW-Authenticate"))
	}
}

// The catalog shows what may be pulled, whatever page is asked for.
func TestCatalogIsGuarded(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) {
		c.LocalRepositories = []string{"team", "secret"}
		c.Allow = []string{"anyone push+pull local/team/**", "anyone catalog **", "anyone push local/secret/**"}
	})
	for _, repo := range []string{"secret/a", "secret/z", "team/b", "team/c"} {
		b.push(repo)
	}
	for path, want := range map[string]string{
		"/v2/_catalog":                 `{"repositories":["team/b","team/c"]}`,
		"/v2/_catalog?n=1":             `{"repositories":["team/b"]}`,
		"/v2/_catalog?n=1&last=team/b": `{"repositories":["team/c"]}`,
		"/v2/_catalog?last=secret/a":   `{"repositories":["team/b","team/c"]}`,
	} {
		r := b.get(path, 200)
		if strings.TrimSpace(string(r.Body)) != want || strings.Contains(r.Header.Get("Link"), "secret") {
			t.Errorf("%s: %s %s", path, r.Body, r.Header.Get("Link"))
		}
	}
	b.get("/v2/secret/a/tags/list", 401)
}

// A digest is no permission: what was pulled from one repository is not had by
// the name of another, unless that has it too.
func TestDigestIsNoPermission(t *testing.T) {
	const ops = "Authorization: Basic b3BzOnJvb3Q="
	hash, err := bcrypt.GenerateFromPassword([]byte("root"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(users, []byte("ops:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *config.Seeder) {
		c.Htpasswd = users
		c.Allow = []string{"anyone pull docker.io/secret/** up.test/public/**", "user:ops pull **"}
	})
	secret := b.up.AddImage("secret/app", "v1", 1000)
	b.up.AddImage("public/app", "v1", 1000)
	b.get("/v2/secret/app/manifests/v1?ns=up.test", 200, ops)
	// The upstream of these tests has blobs in common for all repositories.
	b.up.SetFault(secret.Digest.String(), upstreamtest.Fault{Status: 404})
	for _, path := range []string{"/v2/public/app/manifests/", "/v2/public/other/manifests/", "/v2/public/app/blobs/"} {
		b.get(path+secret.Digest.String(), 404)
		b.get(path+secret.Digest.String(), 200, ops) // who may pull everything has it by any name
	}
	// Nor by that of one whose manifest names it.
	layer := secret.Layers[0]
	b.get("/v2/secret/app/blobs/"+layer.String()+"?ns=up.test", 200, ops)
	b.up.SetFault(layer.String(), upstreamtest.Fault{Status: 404})
	b.up.AddManifest("public/app", "trap", secret.Descriptor.MediaType, bytes.Replace(secret.Manifest, []byte("{"), []byte("{ "), 1))
	b.get("/v2/public/app/manifests/trap", 200)
	b.get("/v2/public/app/blobs/"+layer.String(), 404)
	b.up.ClearFaults()
	b.up.AddManifest("public/app", "v2", secret.Descriptor.MediaType, secret.Manifest) // now it is there, too
	before := b.up.Count("HEAD", "public/app")
	for range 3 {
		b.get("/v2/public/app/manifests/"+secret.Digest.String(), 200)
	}
	if n := b.up.Count("HEAD", "public/app") - before; n == 0 || n > 2 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// push puts an empty manifest with the tag v1 into a repository.
func (b *bench) push(repo string) {
	b.t.Helper()
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPut, b.URL+"/v2/"+repo+"/manifests/v1", strings.NewReader(manifest))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		b.t.Fatalf("push to %s: %s", repo, resp.Status)
	}
}
