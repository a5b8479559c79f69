package auth

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

var swarmKey = []byte("0123456789abcdef0123456789abcdef")

// site is a registry in memory with a Guard before it.
type site struct {
	t     *testing.T
	guard *Guard
	clock *clock
	url   string
	host  string
	last  atomic.Pointer[http.Request] // that came through
}

func newSite(t *testing.T, change func(*Options), lines ...string) *site {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	writeFile(t, file, "alice:"+hashOf(t, "wonder")+"\nci:"+hashOf(t, "robot")+"\nops:"+hashOf(t, "root")+"\n")
	s := &site{t: t, clock: &clock{time.Now()}}
	o := Options{
		Rules: rules(t, lines...), Htpasswd: file, Groups: map[string][]string{"ops": {"admins"}},
		KeyFile: filepath.Join(t.TempDir(), "auth", "keys.json"), SwarmKey: swarmKey, Now: s.clock.now,
		Canonical: func(path, ns string) string {
			if ns == "" {
				ns = "up.test"
			}
			return ns + "/" + path
		},
	}
	if change != nil {
		change(&o)
	}
	var err error
	if s.guard, err = New(o); err != nil {
		t.Fatal(err)
	}
	backend := ggcr.New(ggcr.Logger(zap.NewStdLog(zap.NewNop())))
	api := s.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.last.Store(r)
		backend.ServeHTTP(w, r)
	}))
	tokens := s.guard.TokenHandler()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == TokenPath {
			tokens.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	s.url, s.host = srv.URL, strings.TrimPrefix(srv.URL, "http://")
	return s
}

// do sends a request with an Authorization header, or none, and wants a status.
func (s *site) do(method, path, authorization string, want int) (http.Header, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return s.send(req, want)
}

func (s *site) send(req *http.Request, want int) (http.Header, []byte) {
	s.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != want {
		s.t.Fatalf("%s %s: %s, want %d: %s", req.Method, req.URL.Path, resp.Status, want, body)
	}
	return resp.Header, body
}

func basicAuth(user, password string) string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// token asks as docker does.
func (s *site) token(authorization string, scopes ...string) string {
	s.t.Helper()
	q := url.Values{"service": {DefaultService}, "scope": scopes, "account": {"x"}, "client_id": {"docker"}}
	_, body := s.do(http.MethodGet, TokenPath+"?"+q.Encode(), authorization, 200)
	var a struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		IssuedAt    string `json:"issued_at"`
	}
	if err := json.Unmarshal(body, &a); err != nil || a.Token == "" || a.Token != a.AccessToken || a.ExpiresIn != 300 {
		s.t.Fatalf("%v: %s", err, body)
	}
	if _, err := time.Parse(time.RFC3339, a.IssuedAt); err != nil {
		s.t.Fatal(err)
	}
	return "Bearer " + a.Token
}

// push puts an image where no Guard stands in the way.
func (s *site) push(repo string) (v1.Image, name.Tag) {
	s.t.Helper()
	img, err := random.Image(1024, 2)
	if err != nil {
		s.t.Fatal(err)
	}
	tag, err := name.NewTag(s.host + "/" + repo + ":v1")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Write(tag, img, s.as("ops", "root")...); err != nil {
		s.t.Fatal(err)
	}
	return img, tag
}

func (s *site) as(user, password string) []remote.Option {
	return []remote.Option{remote.WithAuth(&authn.Basic{Username: user, Password: password}), remote.WithContext(s.t.Context()),
		remote.WithTransport(http.DefaultTransport.(*http.Transport)), remote.WithRetryBackoff(remote.Backoff{Steps: 1})}
}

var site1 = []string{
	"anyone pull up.test/public/**",
	"user:alice pull up.test/team/**",
	"user:ci pull+push up.test/team/**",
	"group:admins pull+push+delete+catalog **",
}

func TestChallenges(t *testing.T) {
	s := newSite(t, nil, site1...)
	for _, c := range []struct {
		method, path, scope string
	}{
		{"GET", "/v2/", ""},
		{"GET", "/v2", ""},
		{"GET", "/v2/team/app/manifests/v1", "repository:team/app:pull"},
		{"HEAD", "/v2/team/app/blobs/sha256:0000", "repository:team/app:pull"},
		{"GET", "/v2/team/app/tags/list", "repository:team/app:pull"},
		{"GET", "/v2/team/app/referrers/sha256:00", "repository:team/app:pull"},
		{"GET", "/v2/team/app/manifests/v1?ns=ghcr.io", "repository:ghcr.io/team/app:pull"},
		{"POST", "/v2/team/app/blobs/uploads/", "repository:team/app:pull,push"},
		{"GET", "/v2/team/app/blobs/uploads/id", "repository:team/app:pull,push"},
		{"DELETE", "/v2/team/app/blobs/uploads/id", "repository:team/app:pull,push"},
		{"PUT", "/v2/public/app/manifests/v1", "repository:public/app:pull,push"},
		{"DELETE", "/v2/public/app/manifests/v1", "repository:public/app:delete"},
		{"POST", "/v2/a/blobs/uploads/?mount=sha256:00&from=b", "repository:a:pull,push repository:b:pull"},
		{"GET", "/v2/_catalog", "registry:catalog:*"},
		{"GET", "/v2/No%22t/valid/tags/list", "repository:Not/valid:pull"},
	} {
		h, body := s.do(c.method, c.path, "", 401)
		want := `Bearer realm="` + s.url + `/token",service="samara-seeder"`
		if c.scope != "" {
			want += `,scope="` + c.scope + `"`
		}
		if got := h.Get("WWW-Authenticate"); got != want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.method, c.path, got, want)
		}
		if c.method != "HEAD" && !regexp.MustCompile(`^\{"errors":\[\{"code":"UNAUTHORIZED","message":".*"\}\]\}$`).Match(body) {
			t.Errorf("%s %s: %s", c.method, c.path, body)
		}
		if h.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
			t.Errorf("%s %s: no API version", c.method, c.path)
		}
	}
	s.do("GET", "/v2/nothing", "", 404)
	s.do("GET", "/v2/nothing", basicAuth("ops", "root"), 404)
	s.do("GET", "/v2/", basicAuth("alice", "wonder"), 200)
	s.do("GET", "/v2/", basicAuth("alice", "wrong"), 401)
	s.do("GET", "/v2/", "Negotiate abc", 401)
	s.do("GET", "/v2/", "Basic !!!", 401)
	h, _ := s.do("GET", "/v2/", "Bearer nonsense", 401)
	if !strings.HasSuffix(h.Get("WWW-Authenticate"), `,error="invalid_token"`) {
		t.Error(h.Get("WWW-Authenticate"))
	}
}

func TestWithCredentials(t *testing.T) {
	s := newSite(t, nil, site1...)
	s.push("team/app")
	s.push("public/app")
	s.push("secret/app")
	alice := basicAuth("alice", "wonder")
	for path, want := range map[string]int{
		"/v2/team/app/manifests/v1":   200,
		"/v2/public/app/manifests/v1": 200,
		"/v2/secret/app/manifests/v1": 403,
		"/v2/secret/none/manifests/x": 403,
	} {
		s.do("GET", path, alice, want)
		scope := "repository:" + strings.Split(path, "/")[2] + "/" + strings.Split(path, "/")[3] + ":pull"
		if want == 403 {
			want = 401
		}
		h, _ := s.do("GET", path, s.token(alice, scope), want)
		if want == 401 && !strings.HasSuffix(h.Get("WWW-Authenticate"), `scope="`+scope+`",error="insufficient_scope"`) {
			t.Error(h.Get("WWW-Authenticate"))
		}
	}
	_, exists := s.do("GET", "/v2/secret/app/manifests/v1", alice, 403)
	_, missing := s.do("GET", "/v2/secret/none/manifests/v1", alice, 403)
	if string(exists) != string(missing) {
		t.Errorf("a refusal tells what exists: %s %s", exists, missing)
	}
	s.do("POST", "/v2/team/app/blobs/uploads/", alice, 403)
	s.do("DELETE", "/v2/team/app/manifests/v1", alice, 403)
	s.do("DELETE", "/v2/team/app/manifests/v1", basicAuth("ci", "robot"), 403)
	s.do("DELETE", "/v2/team/app/manifests/v1", s.token(basicAuth("ops", "root"), "repository:team/app:delete"), 202)
}

// A token is good for what it was asked for, and for no longer than it says.
func TestTokens(t *testing.T) {
	s := newSite(t, nil, site1...)
	s.push("team/app")
	s.push("public/app")
	tok := s.token(basicAuth("ci", "robot"), "repository:team/app:pull,push", "repository:secret/app:pull repository:public/app:pull")
	s.do("GET", "/v2/", tok, 200)
	s.do("GET", "/v2/team/app/manifests/v1", tok, 200)
	s.do("GET", "/v2/public/app/manifests/v1", tok, 200)
	s.do("POST", "/v2/team/app/blobs/uploads/", tok, 202)
	s.do("POST", "/v2/team/other/blobs/uploads/", tok, 401)
	s.do("GET", "/v2/secret/app/manifests/v1", tok, 401)
	id, ok := FromContext(s.last.Load().Context())
	if !ok || id.User != "ci" || id.Method != Token {
		t.Errorf("the handler sees %+v", id)
	}
	anon := s.token("", "repository:public/app:pull,push", "repository:team/app:pull")
	s.do("GET", "/v2/public/app/manifests/v1", anon, 200)
	s.do("POST", "/v2/public/app/blobs/uploads/", anon, 401)
	s.do("GET", "/v2/team/app/manifests/v1", anon, 401)

	s.do("GET", TokenPath+"?service=another", "", 400)
	h, _ := s.do("GET", TokenPath, basicAuth("ci", "wrong"), 401)
	if h.Get("WWW-Authenticate") != `Basic realm="samara-seeder"` {
		t.Error(h.Get("WWW-Authenticate"))
	}
	s.do("GET", TokenPath, tok, 401) // a token makes no other
	s.do("PUT", TokenPath, "", 405)

	forged := []byte(tok)
	forged[len(forged)-10] ^= 1
	s.do("GET", "/v2/team/app/manifests/v1", string(forged), 401)
	s.clock.advance(5*time.Minute + time.Second)
	s.do("GET", "/v2/team/app/manifests/v1", tok, 401)
	s.clock.advance(-time.Hour)
	s.do("GET", "/v2/team/app/manifests/v1", tok, 401) // not good yet
}

// post sends the form of OAuth 2.
func (s *site) post(want int, form url.Values) []byte {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+TokenPath, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	_, body := s.send(req, want)
	return body
}

func TestOAuthForm(t *testing.T) {
	s := newSite(t, nil, site1...)
	s.push("team/app")
	form := url.Values{"grant_type": {"password"}, "service": {DefaultService}, "client_id": {"containerd-client"},
		"scope": {"repository:team/app:pull,push repository:secret/x:pull"}, "username": {"ci"}, "password": {"robot"}}
	var a map[string]any
	if err := json.Unmarshal(s.post(200, form), &a); err != nil {
		t.Fatal(err)
	}
	if a["scope"] != "repository:up.test/team/app:pull,push" || a["expires_in"] != 300.0 || a["token"] != nil || a["refresh_token"] != nil {
		t.Errorf("%v", a)
	}
	s.do("GET", "/v2/team/app/manifests/v1", "Bearer "+a["access_token"].(string), 200)
	form.Set("password", "wrong")
	s.post(401, form)
	form.Set("grant_type", "refresh_token")
	if b := s.post(400, form); !strings.Contains(string(b), `"error":"unsupported_grant_type"`) {
		t.Errorf("%s", b)
	}
	form.Set("grant_type", "x")
	s.post(400, form)
	form.Set("username", strings.Repeat("x", maxForm))
	s.post(400, form)
}

func TestLockedOut(t *testing.T) {
	s := newSite(t, nil, site1...)
	for range freeFailures {
		s.do("GET", TokenPath, basicAuth("alice", "guess"), 401)
	}
	h, body := s.do("GET", TokenPath, basicAuth("alice", "wonder"), 429)
	if h.Get("Retry-After") != "1" || !strings.Contains(string(body), "TOOMANYREQUESTS") {
		t.Errorf("%v %s", h, body)
	}
	s.do("GET", "/v2/", basicAuth("alice", "wonder"), 429)
	s.do("GET", "/v2/", basicAuth("ci", "robot"), 200)
	s.clock.advance(time.Second)
	s.do("GET", "/v2/", basicAuth("alice", "wonder"), 200)
}

func TestCatalogShowsWhatMayBePulled(t *testing.T) {
	s := newSite(t, nil, append(site1, "user:alice catalog **")...)
	shown := func(authorization string) string {
		s.do("GET", "/v2/_catalog", authorization, 200)
		var list []string
		for _, r := range []string{"up.test/public/app", "up.test/team/app", "up.test/secret/app"} {
			if Listed(s.last.Load().Context(), r) {
				list = append(list, r)
			}
		}
		return strings.Join(list, " ")
	}
	alice := basicAuth("alice", "wonder")
	if got := shown(alice); got != "up.test/public/app up.test/team/app" {
		t.Error(got)
	}
	if got := shown(s.token(alice, "registry:catalog:*")); got != "up.test/public/app up.test/team/app" {
		t.Error(got)
	}
	if got := shown(basicAuth("ops", "root")); got != "up.test/public/app up.test/team/app up.test/secret/app" {
		t.Error(got)
	}
	s.do("GET", "/v2/_catalog", basicAuth("ci", "robot"), 403)
	s.do("GET", "/v2/_catalog", s.token(alice, "repository:team/app:pull"), 401)
	if !Listed(context.Background(), "any") {
		t.Error("without a Guard nothing is shown")
	}
}

// A mount of a blob from where the client may not read becomes an upload.
func TestMountNeedsPullOfItsSource(t *testing.T) {
	s := newSite(t, nil, site1...)
	ci := basicAuth("ci", "robot")
	for query, want := range map[string]string{
		"?mount=sha256:00&from=team/lib":   "from=team%2Flib&mount=sha256%3A00",
		"?mount=sha256:00&from=secret/lib": "",
		"?mount=sha256:00":                 "",
		"?digest=sha256:00":                "digest=sha256%3A00",
	} {
		s.do("POST", "/v2/team/app/blobs/uploads/"+query, ci, map[bool]int{true: 400, false: 202}[strings.Contains(query, "digest")])
		if got := s.last.Load().URL.Query().Encode(); got != want {
			t.Errorf("%s: the handler sees %q, want %q", query, got, want)
		}
	}
	// With a token the rules do not count, but what it was asked for.
	s.do("POST", "/v2/team/app/blobs/uploads/?mount=sha256:00&from=team/lib", s.token(ci, "repository:team/app:pull,push"), 202)
	if s.last.Load().URL.RawQuery != "" {
		t.Error(s.last.Load().URL.RawQuery)
	}
	s.do("POST", "/v2/team/app/blobs/uploads/?mount=sha256:00", basicAuth("ops", "root"), 202)
	if s.last.Load().URL.RawQuery == "" {
		t.Error("who may pull everything may mount from anywhere")
	}
}

func TestPeers(t *testing.T) {
	peer := func(key []byte, now time.Time) string {
		tok, err := PeerToken(key, "12D3KooW", now)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + tok
	}
	s := newSite(t, nil, site1...)
	s.push("secret/app")
	now := s.clock.now()
	s.do("GET", "/v2/", peer(swarmKey, now), 200)
	s.do("GET", "/v2/secret/app/manifests/v1", peer(swarmKey, now), 200)
	s.do("POST", "/v2/team/app/blobs/uploads/", peer(swarmKey, now), 401)
	s.do("GET", "/v2/secret/app/manifests/v1", peer([]byte("another key"), now), 401)
	s.do("GET", "/v2/secret/app/manifests/v1", peer(swarmKey, now.Add(-PeerTokenLifetime-time.Minute)), 401)
	s.do("GET", "/v2/secret/app/manifests/v1", peer(swarmKey, now.Add(time.Hour)), 401)

	s = newSite(t, nil, append(site1, "peers pull up.test/public/**")...)
	s.push("public/app")
	s.do("GET", "/v2/public/app/manifests/v1", peer(swarmKey, now), 200)
	s.do("GET", "/v2/secret/app/manifests/v1", peer(swarmKey, now), 401)

	s = newSite(t, func(o *Options) { o.SwarmKey = nil }, site1...)
	s.do("GET", "/v2/secret/app/manifests/v1", peer(swarmKey, now), 401)
	s.do("GET", "/v2/secret/app/manifests/v1", peer(nil, now), 401)
}

// Nothing is configured: everything is allowed, and nobody is asked.
func TestOpen(t *testing.T) {
	s := newSite(t, func(o *Options) { o.Htpasswd = "" })
	s.do("GET", "/v2/", "", 200)
	s.do("POST", "/v2/team/app/blobs/uploads/?mount=sha256:00", "Bearer whatever", 202)
	if s.last.Load().URL.RawQuery == "" {
		t.Error("a mount was taken for an upload")
	}
	s.do("GET", TokenPath, "", 404)
	if !Listed(s.last.Load().Context(), "any") {
		t.Error("nothing is shown")
	}
}

// Keys are made once, belong to their user alone, and overlap.
func TestSigningKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth", "keys.json")
	c := newClock()
	keys, err := openSigningKeys(file, c.now)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := keys.current()
	if keys, err = openSigningKeys(file, c.now); err != nil {
		t.Fatal(err)
	}
	if again, _ := keys.current(); again.ID != first.ID {
		t.Error("a restart changes the key")
	}
	c.advance(keyAge + time.Second)
	second, _ := keys.current()
	if second.ID == first.ID || keys.public(first.ID) == nil || keys.public(second.ID) == nil {
		t.Error("the old key must be good for a while yet")
	}
	c.advance(keyAge)
	if _, err := keys.current(); err != nil || keys.public(first.ID) != nil || keys.public(second.ID) == nil {
		t.Errorf("the old key must be gone now: %v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	writeFile(t, file, "[{}]")
	if _, err := openSigningKeys(file, c.now); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Error(err)
	}
}

// go-containerregistry is what crane is made of.
func TestCrane(t *testing.T) {
	s := newSite(t, nil, site1...)
	img, tag := s.push("team/app")
	for _, c := range []struct {
		opts []remote.Option
		ok   bool
	}{
		{s.as("alice", "wonder"), true},
		{s.as("alice", "wrong"), false},
		{[]remote.Option{remote.WithAuth(authn.Anonymous), remote.WithContext(t.Context())}, false},
	} {
		got, err := remote.Image(tag, c.opts...)
		if (err == nil) != c.ok {
			t.Fatalf("%v", err)
		}
		if !c.ok {
			continue
		}
		a, _ := img.Digest()
		if b, err := got.Digest(); err != nil || a != b {
			t.Fatalf("%v %v %v", a, b, err)
		}
	}
	fresh, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, fresh, s.as("alice", "wonder")...); err == nil {
		t.Error("alice may push")
	}
	other, err := name.NewTag(s.host + "/team/copy:v1")
	if err != nil {
		t.Fatal(err)
	}
	src, err := remote.Image(tag, s.as("ci", "robot")...)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(other, src, s.as("ci", "robot")...); err != nil { // mounts
		t.Error(err)
	}
	public, err := name.NewTag(s.host + "/public/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(public, img, s.as("ops", "root")...); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(public, remote.WithAuth(authn.Anonymous), remote.WithContext(t.Context())); err != nil {
		t.Error(err)
	}
}

// Where nobody can log in, nobody is asked to: clients go on to what anyone may.
func TestNoLogins(t *testing.T) {
	s := newSite(t, func(o *Options) { o.Htpasswd = "" }, "anyone pull up.test/pub/**")
	s.do("GET", "/v2/", "", 200)
	s.do("GET", "/v2/pub/app/tags/list", "", 404)
	s.do("GET", "/v2/app/tags/list", "", 401)
}
