package mirror

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

const (
	secretToken    = "token-that-nobody-may-see-" // of clients and of the seeder
	secretPassword = "password-that-nobody-may-see"
)

// privateBench is a bench whose upstream keeps lab/secret for those who log in,
// as the seeder does, and gives anybody the rest.
type privateBench struct {
	*bench
	open, closed upstreamtest.Image
}

func newPrivateBench(t *testing.T, change func(*config.Seeder)) *privateBench {
	t.Helper()
	b := &privateBench{bench: newBench(t)}
	b.up.Scope()
	b.up.SetAuth(&upstreamtest.Auth{Bearer: true, Username: "ops", Password: secretPassword, Private: []string{"lab/secret", "lab/other"}, Token: secretToken})
	b.open = b.up.AddImage("lab/app", "v1", 2*mib, 1000)
	b.closed = b.up.AddImage("lab/secret", "v1", 2*mib, 1000)
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("ops:"+secretPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range b.sc.Upstreams {
		b.sc.Upstreams[i].CredentialsFile = file
	}
	if change != nil {
		change(&b.sc)
	}
	b.startSeeder()
	return b
}

// token logs in where a challenge says; an empty user shows nothing.
func token(t *testing.T, challenge, user, password string) string {
	t.Helper()
	params, ok := strings.CutPrefix(challenge, "Bearer ")
	if !ok {
		t.Fatalf("challenge %q", challenge)
	}
	at := map[string]string{}
	for p := range strings.SplitSeq(params, ",") {
		k, v, _ := strings.Cut(p, "=")
		at[k] = strings.Trim(v, `"`)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at["realm"]+"?"+url.Values{"service": {at["service"]}, "scope": {at["scope"]}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("token page: %s, %v", resp.Status, err)
	}
	return "Authorization: Bearer " + answer.Token
}

// login is a token for what a path names.
func (p *host) login(path, user, password string) string {
	p.t.Helper()
	return token(p.t, p.get(path, 401).Header.Get("WWW-Authenticate"), user, password)
}

const (
	secretTag = "/v2/lab/secret/manifests/v1?ns=" + upName
	fromApp   = "/v2/lab/app/blobs/"
)

// paths are all ways to an image of lab/secret.
func paths(img upstreamtest.Image) []string {
	return []string{
		secretTag,
		"/v2/lab/secret/manifests/v1",
		"/v2/" + upName + "/lab/secret/manifests/v1",
		"/v2/lab/secret/manifests/" + img.Digest.String(),
		"/v2/lab/secret/blobs/" + img.Layers[0].String(),
		"/v2/lab/secret/blobs/" + img.Config.String(),
		"/v2/lab/secret/tags/list",
		"/v2/lab/secret/referrers/" + img.Digest.String(),
	}
}

// foreign are ways to it by the name of another repository.
func foreign(img upstreamtest.Image) []string {
	return []string{
		"/v2/lab/app/manifests/" + img.Digest.String(),
		fromApp + img.Layers[0].String(),
		fromApp + img.Config.String(),
		"/v2/docker.io/lab/app/blobs/" + img.Layers[1].String(),
		"/v2/lab/unknown/blobs/" + img.Layers[0].String(),
		"/v2/lab/app/referrers/" + img.Digest.String(),
	}
}

// contract 24: what the seeder's credentials have brought is for those who have shown some
// of their own.
func TestContract24PrivateImages(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	h, second := b.peer(nil), b.peer(nil)
	h.image("v1", b.open)

	for when, p := range map[string]*host{"cold": h, "another host": second} {
		for _, path := range paths(b.closed) {
			r := p.get(path, 401)
			want := `Bearer realm="` + b.up.URL() + `/token",service="test",scope="repository:lab/secret:pull"`
			if r.Header.Get("WWW-Authenticate") != want {
				t.Errorf("%s: %s: challenge %s, want %s", when, path, r.Header.Get("WWW-Authenticate"), want)
			}
		}
	}
	if n := b.up.BytesServed(b.closed.Layers[0]); n > 0 {
		t.Errorf("%d bytes of a layer were fetched for nobody", n)
	}
	ops := h.login(secretTag, "ops", secretPassword)
	pull := func(p *host, header ...string) {
		t.Helper()
		if r := p.get(secretTag, 200, header...); !bytes.Equal(r.Body, b.closed.Manifest) {
			t.Fatalf("manifest: %s", r.Body)
		}
		for _, d := range append(b.closed.Layers, b.closed.Config) {
			if r := p.get("/v2/lab/secret/blobs/"+d.String()+"?ns="+upName, 200, header...); !bytes.Equal(r.Body, b.up.Blob(d)) {
				t.Fatalf("blob %s: wrong bytes", d)
			}
		}
	}
	pull(h, ops)
	pull(second, ops)
	if n := b.up.BytesServed(b.closed.Layers[0]); n > 2*mib+mib/2 {
		t.Errorf("the upstream sent %d bytes of a layer", n)
	}
	for _, p := range []*host{h, second} {
		for _, path := range paths(b.closed) {
			p.get(path, 401)
			p.get(path, 401, "Range: bytes=0-99")
			if r, err := daemontest.Head(p.URL + path); err != nil || r.Status != 401 {
				t.Errorf("HEAD %s: %v, %v", path, r, err)
			}
		}
		// A digest is no permission, by whatever name.
		for _, path := range foreign(b.closed) {
			p.get(path, 404)
			p.get(path, 404, ops)
		}
		p.image("v1", b.open) // and did no harm
	}
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	h.start() // it knows no token any more, and its store no more than before
	h.joined(1)
	for _, path := range foreign(b.closed) {
		h.get(path, 404)
	}
	h.get(secretTag, 401)
	pull(h, ops)
}

// contract 24: a blob that both a private and a public repository have is public by the
// latter's name.
func TestContract24BlobOfBoth(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	b.up.Give("lab/app", b.closed.Layers[1])
	h := b.peer(nil)
	ops := h.login(secretTag, "ops", secretPassword)
	h.get(secretTag, 200, ops)
	h.get("/v2/lab/secret/blobs/"+b.closed.Layers[1].String(), 200, ops)
	h.get(fromApp+b.closed.Layers[1].String(), 200)
	h.get("/v2/lab/secret/blobs/"+b.closed.Layers[1].String(), 401)
	h.get(fromApp+b.closed.Layers[0].String(), 404)

	// Whoever may push a manifest can name any digest in it.
	claim := bytes.Replace(b.open.Manifest, []byte(b.open.Layers[0]), []byte(b.closed.Layers[0]), 1)
	b.up.AddManifest("lab/app", "claim", "application/vnd.oci.image.manifest.v1+json", claim)
	h.get("/v2/lab/app/manifests/claim", 200)
	h.get(fromApp+b.closed.Layers[0].String(), 404)
}

// contract 26: what does not convince is 404, so that the client goes to the upstream; and
// only tokens are shown there.
func TestContract26WhatDoesNotConvince(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	b.up.AddImage("lab/other", "v1", 1000)
	h := b.peer(nil)
	other := h.login("/v2/lab/other/manifests/v1?ns="+upName, "ops", secretPassword)
	nobody := h.login(secretTag, "", "")
	before := len(b.up.Requests())
	shown := 0
	for what, header := range map[string][]string{
		"another repository's token":  {other},
		"a token of nobody":           {nobody},
		"a wrong token":               {"Authorization: Bearer wrong"},
		"an empty one":                {"Authorization: Bearer"},
		"an empty password":           {"Authorization: Basic Og=="}, // podman, skopeo
		"a password":                  {"Authorization: Basic b3BzOnBhc3N3b3JkLXRoYXQtbm9ib2R5LW1heS1zZWU="},
		"another scheme":              {"Authorization: Digest username=ops"},
		"a password that looks wrong": {"Authorization: Basic !"},
	} {
		for _, path := range paths(b.closed)[:5] {
			if r := h.get(path, 404, header...); r.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s: another challenge", what)
			}
		}
	}
	for _, r := range b.up.Requests()[before:] {
		if r.Authorization == "Basic" && !strings.HasPrefix(r.Path, "/token") || r.Authorization == "Digest" {
			t.Errorf("the upstream was shown %s for %s", r.Authorization, r.Path)
		}
		if r.Authorization == "Bearer" && strings.HasPrefix(r.Path, "/v2/lab/secret/") {
			shown++
		}
	}
	if shown == 0 {
		t.Error("no token was shown to the upstream")
	}
}

// contract 25: an upstream that wants a password is not for us to ask for it.
func TestContract25BasicIsNotPassedOn(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	b.up.SetAuth(&upstreamtest.Auth{Username: "ops", Password: secretPassword, Private: []string{"lab/secret"}})
	h := b.peer(nil)
	h.image("v1", b.open)
	for _, path := range paths(b.closed) {
		if r := h.get(path, 404); r.Header.Get("WWW-Authenticate") != "" {
			t.Error("a challenge")
		}
	}
}

// contract 1, 25: dockerd heeds a challenge to its hello only. It gets one where
// the operator says so, while the upstream answers; nobody else does.
func TestContract25DockerTokens(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	plain, h := b.peer(nil), b.peer(func(c *config.Peerd) { c.DockerTokens = true })
	const docker = "User-Agent: docker/20.10.24 go/go1.19"
	plain.get("/v2/", 200, docker)
	h.get("/v2/", 200, "User-Agent: containerd/1.6")
	h.get("/v2/", 200, docker, "Authorization: Bearer x")
	for _, path := range []string{"/v2/", "/v2"} {
		if r := h.get(path, 401, docker); r.Header.Get("WWW-Authenticate") != `Bearer realm="`+b.up.URL()+`/token",service="test"` {
			t.Errorf("%s: challenge %s", path, r.Header.Get("WWW-Authenticate"))
		}
	}
	h.get(manifestPath("v1"), 200, docker)
	b.up.SetAuth(&upstreamtest.Auth{Username: "ops", Password: secretPassword})
	h.get("/v2/", 200, docker) // Basic is never passed on
	b.up.Close()
	h.get("/v2/", 200, docker)
}

// contract 25: the operator chooses, for a peerd or for an upstream at the seeder.
func TestContract25Choices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ way, at string }{
		{config.PrivateShared, "peerd"}, {config.PrivateShared, "seeder"}, {config.PrivateNever, "peerd"}, {config.PrivateNever, "seeder"},
	} {
		t.Run(tt.way+" at the "+tt.at, func(t *testing.T) {
			t.Parallel()
			b := newPrivateBench(t, func(c *config.Seeder) {
				if tt.at == "seeder" {
					c.Upstreams[0].Private = tt.way
				}
			})
			h := b.peer(func(c *config.Peerd) {
				if tt.at == "peerd" {
					c.Private.Private = tt.way
				}
			})
			h.image("v1", b.open)
			status := map[string]int{config.PrivateShared: 200, config.PrivateNever: 404}[tt.way]
			for _, path := range paths(b.closed) {
				h.get(path, status)
			}
		})
	}
}

// contract 27: public images cost one question per repository, whoever asks and for however
// much, and are served while nobody can be asked.
func TestContract27PublicImages(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	h, second := b.peer(nil), b.peer(nil)
	for range 3 {
		h.image("v1", b.open)
		second.image("v1", b.open)
	}
	h.image(b.open.Digest.String(), b.open)
	anonymous := 0
	for _, r := range b.up.Requests() {
		if r.Method == http.MethodHead && strings.HasPrefix(r.Path, "/v2/lab/app/") && strings.HasPrefix(r.UserAgent, "samara-peerd") {
			t.Errorf("a peerd asked the upstream itself: %+v", r)
		}
		if r.Method == http.MethodHead && strings.HasPrefix(r.Path, "/v2/lab/app/blobs/") {
			t.Errorf("a question for one blob: %+v", r)
		}
		if r.Method == http.MethodHead && r.Path == "/v2/lab/app/manifests/v1" && r.Status == 401 {
			anonymous++ // the first of those that ask without credentials
		}
	}
	if anonymous > 1 {
		t.Errorf("%d questions whether lab/app is public", anonymous)
	}
	b.seeder.Stop()
	b.up.Close()
	h.image("v1", b.open) // the tag is stale, the verdict too
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.image(b.open.Digest.String(), b.open)
	for _, path := range paths(b.closed) {
		h.get(path, 404) // nobody can tell
	}
}

// contract 27: a host with no seeder to ask asks the upstream.
func TestContract27WithoutASeeder(t *testing.T) {
	t.Parallel()
	b := newPrivateBench(t, nil)
	h := b.peer(nil)
	b.seeder.Stop()
	h.image("v1", b.open)
	if r := h.get(secretTag, 404); r.Header.Get("WWW-Authenticate") != "" {
		t.Error("a challenge for what could not be had")
	}
}

// contract 25: the seeder's own repositories are the seeder's to judge.
func TestContract25LocalRepositories(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pushing()
	b.push("team/open", "v1", 1000)
	b.push("team/secret", "v1", 1000)
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	hash, err := bcrypt.GenerateFromPassword([]byte("wonder"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, []byte("alice:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.sc.Htpasswd, b.sc.Allow = users, []string{"anyone pull " + localName + "/team/open", "user:alice pull **", "anyone pull up.test/**"}
	b.startSeeder()
	b.lock() // the key lets peers pull
	h := b.peer(nil)
	h.get("/v2/team/open/manifests/v1?ns="+localName, 200)
	const path = "/v2/team/secret/manifests/v1?ns=" + localName
	h.get(path, 200, h.login(path, "alice", "wonder"))
	h.get(path, 401)
	h.get(path, 404, "Authorization: Bearer wrong")
}

// contract 26: what a client shows is in no log, metric, status page or file.
func TestContract26NothingLeaks(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	stderr := os.Stderr
	os.Stderr = log
	defer func() { os.Stderr = stderr }()
	b := newPrivateBench(t, func(c *config.Seeder) { c.LogLevel, c.AuditLog = "debug", filepath.Join(c.Data, "audit.log") })
	h := b.peer(func(c *config.Peerd) { c.LogLevel = "debug" })
	ops := h.login(secretTag, "ops", secretPassword)
	h.get(secretTag, 200, ops)
	for _, d := range b.closed.Layers {
		h.get("/v2/lab/secret/blobs/"+d.String(), 200, ops)
	}
	basic := "Authorization: Basic " + "b3BzOnBhc3N3b3JkLXRoYXQtbm9ib2R5LW1heS1zZWU="
	h.get(secretTag, 404, basic)
	h.get("/v2/lab/other/manifests/v1", 404, ops)
	h.get("/v2/lab/secret/manifests/v2", 404, ops)
	b.up.RevokeTokens()
	h.get("/v2/lab/other/tags/list", 404, ops)
	for _, page := range []string{h.Admin + "/metrics", h.Admin + "/v1/status", b.seeder.Admin + "/metrics", b.seeder.Admin + "/v1/status"} {
		r, err := daemontest.Get(page)
		if err != nil {
			t.Fatal(err)
		}
		clean(t, page, r.Body)
	}
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := b.seeder.Stop(); err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, dir := range []string{h.c.Data, b.sc.Data, filepath.Dir(log.Name())} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			clean(t, path, content)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if st, err := log.Stat(); err != nil || st.Size() == 0 || files < 10 {
		t.Errorf("looked at %d files, a log of %v bytes, %v", files, st.Size(), err)
	}
}

// clean looks for secrets in something.
func clean(t *testing.T, where string, content []byte) {
	t.Helper()
	for _, secret := range []string{secretToken, secretPassword, "b3BzOnBhc3N3b3Jk"} {
		if i := bytes.Index(content, []byte(secret)); i >= 0 {
			t.Errorf("%s has a secret: %.200q", where, content[max(0, i-100):])
		}
	}
}

// contract 21: ns names a configured upstream, and nothing that is dialled.
func TestContract21HostileNS(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.up.AddImage("lab/app", "v1", 1000)
	h := b.peer(nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialled atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			c.Close()
		}
	}()
	bait := ln.Addr().String()
	d := digest.FromString("nothing")
	for _, ns := range []string{
		bait, "http://" + bait, "https://" + bait, "//" + bait, upName + "@" + bait, bait + "/" + upName, upName + "/../" + bait, bait + "#" + upName,
		bait + "?x=" + upName, "169.254.169.254", "[::1]:80", "localhost:" + strings.Split(bait, ":")[1], upName + "\r\nHost: " + bait, upName + "\x00", " " + upName, "file:///etc/passwd", upName + ":443@" + bait,
	} {
		for _, path := range []string{"/v2/lab/app/manifests/v1", "/v2/lab/app/manifests/" + d.String(), "/v2/lab/app/blobs/" + d.String(), "/v2/lab/app/tags/list", "/v2/lab/app/referrers/" + d.String()} {
			for _, header := range [][]string{nil, {"Authorization: Bearer " + secretToken}} {
				r, err := daemontest.Get(h.URL+path+"?ns="+url.QueryEscape(ns), header...)
				if err != nil || r.Status != 404 && r.Status != 400 {
					t.Errorf("ns=%q %s: %v, %v", ns, path, r, err)
				}
			}
		}
	}
	h.get("/v2/lab/app/manifests/v1?ns="+upName, 200)
	ln.Close()
	<-done
	if n := dialled.Load(); n != 0 {
		t.Errorf("%d connections to where ns pointed", n)
	}
}
