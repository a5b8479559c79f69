package seed

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
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
