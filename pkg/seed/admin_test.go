package seed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// socket is where the admin API of a bench listens; its path has to be short.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "admin.sock")
}

// call does an operation at the socket.
func (b *bench) call(method, path string, in, out any) error {
	return admin.AtSocket(b.c.AdminSocketPath()).Call(b.t.Context(), method, path, in, out)
}

// run runs a prewarm to its end.
func (b *bench) prewarm(r admin.PrewarmRequest) admin.Job {
	b.t.Helper()
	c := admin.AtSocket(b.c.AdminSocketPath())
	var j admin.Job
	err := c.Call(b.t.Context(), "POST", "/prewarm", r, &j)
	if err == nil {
		j, err = c.Wait(b.t.Context(), j.ID, nil)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return j
}

// addIndex is an image for two platforms at the upstream.
func addIndex(up *upstreamtest.Server, repo, tag string) (images []upstreamtest.Image) {
	var list []ocispec.Descriptor
	for i, arch := range []string{"amd64", "arm64"} {
		img := up.AddImage(repo, fmt.Sprintf("%s-%d", tag, i), 100_000+i, 2*mib)
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest, Size: int64(len(img.Manifest)), Platform: &ocispec.Platform{OS: "linux", Architecture: arch}}
		list, images = append(list, d), append(images, img)
	}
	content, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": list})
	up.AddManifest(repo, tag, ocispec.MediaTypeImageIndex, content)
	return images
}

// What is asked for is fetched, once, and no more.
func TestPrewarm(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) { c.AdminSocket = socket(t) })
	images := addIndex(b.up, "lab/app", "v1")
	amd, arm := images[0], images[1]
	j := b.prewarm(admin.PrewarmRequest{Images: []string{"lab/app:v1", "lab/none:v1", "up.test/lab/app:v1"}, Platforms: []string{"linux/amd64"}})
	if j.State != admin.Failed || j.Error != "1 of 3 images failed" || len(j.Prewarm.Images) != 3 || j.User != fmt.Sprintf("uid:%d", os.Getuid()) {
		t.Fatalf("%+v", j)
	}
	first, none, again := j.Prewarm.Images[0], j.Prewarm.Images[1], j.Prewarm.Images[2]
	if first.Error != "" || first.Blobs != 3 || first.Fetched != first.Bytes || first.Bytes < 2*mib || none.Error == "" || again.Error != "" || again.Digest != first.Digest {
		t.Errorf("%+v", j.Prewarm.Images)
	}
	if j.Now.Items != 3 || j.Now.Bytes != j.Now.BytesTotal {
		t.Errorf("%+v", j.Now)
	}
	for _, d := range arm.Layers {
		if b.up.BytesServed(d) != 0 {
			t.Error("a platform was fetched that nobody asked for")
		}
	}
	for _, d := range amd.Layers {
		if n := b.up.BytesServed(d); n != int64(len(b.up.Blob(d))) {
			t.Errorf("%d bytes left the upstream", n)
		}
	}
	if j = b.prewarm(admin.PrewarmRequest{Images: []string{"lab/app@" + arm.Digest.String()}}); j.State != admin.Done || b.up.BytesServed(arm.Layers[1]) != 2*mib {
		t.Errorf("%+v", j)
	}
	var e *admin.Error
	if err := b.call("POST", "/prewarm", admin.PrewarmRequest{}, &j); !errors.As(err, &e) || e.Status != 400 {
		t.Error(err)
	}
}

// What is purged is fetched anew; what others have too stays.
func TestPurge(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) {
		c.AdminSocket, c.TagTTL, c.NotFoundTTL = socket(t), 1<<40, 1<<40
	})
	img := b.up.AddImage("lab/app", "v1", 2*mib, 1000)
	other := b.up.AddImage("lab/other", "v1", 1000)
	for _, path := range []string{"/v2/lab/app/manifests/v1", blobPath(img.Layers[0]), blobPath(img.Layers[1]), blobPath(img.Config),
		"/v2/lab/other/manifests/v1", "/v2/lab/other/blobs/" + other.Layers[0].String()} {
		b.get(path, 200)
	}
	b.get(manifestPath("v2"), 404)
	b.Until("complete", func() error {
		if in := b.Status().Store; in.Complete < 6 {
			return fmt.Errorf("%+v", in)
		}
		return nil
	})
	var u admin.Usage
	if err := b.call("GET", "/usage?prefix=lab/app", nil, &u); err != nil {
		t.Fatal(err)
	}
	if len(u.Repositories) != 1 || u.Repositories[0].Repository != "up.test/lab/app" || u.Repositories[0].Blobs != 4 || u.Repositories[0].Tags != 1 || u.Repositories[0].Bytes < 2*mib || u.Repositories[0].LastPull.IsZero() {
		t.Errorf("%+v", u)
	}
	moved := b.up.AddImage("lab/app", "v1", 3000)
	b.up.AddImage("lab/app", "v2", 3000)
	if got := digest.FromBytes(b.get(manifestPath("v1"), 200).Body); got != img.Digest {
		t.Fatalf("%s within the TTL", got)
	}
	var p admin.Purged
	dropped := 0
	b.Until("purged", func() error { // readers may not have let go of what they got
		if err := b.call("POST", "/purge", admin.PurgeRequest{Repository: "lab/app"}, &p); err != nil {
			t.Fatal(err)
		}
		if dropped += p.Blobs; p.Shared > 0 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if dropped != 4 {
		t.Errorf("%d blobs were dropped, want a manifest, a config and two layers", dropped)
	}
	if err := b.call("GET", "/usage", nil, &u); err != nil || len(u.Repositories) != 1 || u.Repositories[0].Repository != "up.test/lab/other" {
		t.Errorf("%+v %v", u, err)
	}
	if got := digest.FromBytes(b.get(manifestPath("v1"), 200).Body); got != moved.Digest {
		t.Errorf("%s is served, want what it means now", got)
	}
	b.get(manifestPath("v2"), 200) // it is forgotten that it was not there
	if r := b.get(blobPath(img.Layers[0]), 200); r.Header.Get("X-Cache") != "MISS" || b.up.BytesServed(img.Layers[0]) != 4*mib {
		t.Errorf("%s, %d bytes", r.Header.Get("X-Cache"), b.up.BytesServed(img.Layers[0]))
	}
	if r := b.get("/v2/lab/other/manifests/v1", 200); r.Header.Get("X-Cache") != "HIT" {
		t.Error("another repository was purged")
	}
	var e *admin.Error
	for _, c := range []struct {
		r      admin.PurgeRequest
		status int
	}{{admin.PurgeRequest{Repository: "lab/app", Reference: "v9"}, 404}, {admin.PurgeRequest{Repository: "none.test/lab/app"}, 404}, {admin.PurgeRequest{Repository: "lab/app", Reference: "sha256:00"}, 400}} {
		if err := b.call("POST", "/purge", c.r, &p); !errors.As(err, &e) || e.Status != c.status {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
}

// What was deleted from a local repository comes back, by whatever name the
// repository goes.
func TestTrash(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) {
		c.AdminSocket, c.LocalRepositories, c.Allow = socket(t), []string{"team"}, []string{"anyone pull+push+delete **"}
	})
	b.push("team/app")
	if r, err := daemontest.Do(t.Context(), "DELETE", b.URL+"/v2/team/app/manifests/v1"); err != nil || r.Status != 202 {
		t.Fatalf("%+v %v", r, err)
	}
	b.get("/v2/team/app/manifests/v1", 404)
	var list admin.Trash
	if err := b.call("GET", "/trash?repository=local/team/app", nil, &list); err != nil || len(list.Entries) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	if err := b.call("POST", "/trash/restore", admin.RestoreRequest{Repository: "local/team/app", Reference: "v1"}, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	b.get("/v2/team/app/manifests/v1", 200)
	var u admin.Usage
	for _, prefix := range []string{"", "team", "local", "local/team/app", "team/app/"} {
		if err := b.call("GET", "/usage?prefix="+prefix, nil, &u); err != nil || len(u.Repositories) != 1 || !u.Repositories[0].Local || u.Repositories[0].Repository != "local/team/app" || u.Repositories[0].Tags != 1 {
			t.Errorf("%q: %+v %v", prefix, u, err)
		}
	}
	var e *admin.Error
	if err := b.call("POST", "/purge", admin.PurgeRequest{Repository: "team/app"}, &u); !errors.As(err, &e) || e.Status != 400 {
		t.Error(err)
	}
}

// Over the network the API is for those to whom a rule gives it; at the socket for
// its owner. Both are in the audit log.
func TestAdminIsGuarded(t *testing.T) {
	open := newBench(t, func(c *config.Seeder) { c.AdminSocket = "-" })
	if r := open.get("/samara/v1/admin/usage", 403); !strings.Contains(string(r.Body), "a rule has to give") {
		t.Errorf("%s", r.Body)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("root"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	users, log := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(users, []byte("ops:"+string(hash)+"\ndev:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *config.Seeder) {
		c.AdminSocket, c.Htpasswd, c.AuditLog = socket(t), users, log
		c.Allow = []string{"user:ops admin **", "user:dev pull+push+delete+catalog **", "anyone pull docker.io/**"}
	})
	const ops, dev, wrong = "Authorization: Basic b3BzOnJvb3Q=", "Authorization: Basic ZGV2OnJvb3Q=", "Authorization: Basic b3BzOndyb25n"
	for _, path := range []string{"/samara/v1/admin/usage", "/samara/v1/admin", "/samara/v1/admin/openapi.yaml", "/samara/v1/admin/nothing"} {
		if r := b.get(path, 401); !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic") {
			t.Error(r.Header)
		}
		b.get(path, 401, wrong)
		b.get(path, 403, dev)
	}
	b.get("/samara/v1/admin/usage", 200, ops)
	b.get("/samara/v1/administrator", 404, ops)
	// A token is for repositories.
	var a struct{ Token string }
	r := b.get("/token?service=samara-seeder&scope=repository:lab/app:admin", 200, ops)
	if err := json.Unmarshal(r.Body, &a); err != nil {
		t.Fatal(err)
	}
	b.get("/samara/v1/admin/usage", 403, "Authorization: Bearer "+a.Token)
	var u admin.Usage
	if err := b.call("GET", "/usage", nil, &u); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(b.c.AdminSocket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	b.restart() // the socket of before is no obstacle
	if err := b.call("GET", "/usage", nil, &u); err != nil {
		t.Error(err)
	}
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"user":"ops","auth":"password","client":"127.0.0.1","action":"admin","method":"GET","reference":"/usage","outcome":"allowed","status":200`,
		`"user":"dev","auth":"password","client":"127.0.0.1","action":"admin","method":"GET","reference":"/samara/v1/admin/usage","outcome":"denied","status":403`,
		fmt.Sprintf(`"user":"uid:%d","auth":"socket","action":"admin","method":"GET","reference":"/usage","outcome":"allowed","status":200`, os.Getuid()),
	} {
		if !strings.Contains(string(content), want) {
			t.Errorf("no %s in\n%s", want, content)
		}
	}
}

// A socket that is left over is no obstacle; anything else is not touched.
func TestSocketPath(t *testing.T) {
	path := socket(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, up: upstreamtest.New(), c: config.DefaultSeeder()}
	defer b.up.Close()
	b.c.Common = daemontest.Common(t, b.c.Common)
	b.c.AdminSocket = path
	if err := Run(context.Background(), b.c, "test"); err == nil || !strings.Contains(err.Error(), "--admin-socket") {
		t.Error(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("%q %v", content, err)
	}
	b.c.AdminSocket = socket(t)
	ln, err := net.Listen("unix", b.c.AdminSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := Run(context.Background(), b.c, "test"); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
	if _, err := http.Get("http://" + b.c.Listen); err == nil {
		t.Error("the seeder goes on")
	}
}
