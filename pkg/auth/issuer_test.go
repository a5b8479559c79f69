package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// provider is an OpenID provider.
type provider struct {
	t   *testing.T
	srv *httptest.Server

	mu    sync.Mutex
	keys  []jose.JSONWebKey // private; the last one signs
	asked int               // for keys
	down  bool
}

func newProvider(t *testing.T) *provider {
	p := &provider{t: t}
	p.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.down:
			w.WriteHeader(http.StatusBadGateway)
		case r.URL.Path == "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["RS256"]}`, p.srv.URL, p.srv.URL+"/keys")
		case r.URL.Path == "/keys":
			p.asked++
			set := jose.JSONWebKeySet{}
			for _, k := range p.keys {
				set.Keys = append(set.Keys, k.Public())
			}
			if err := json.NewEncoder(w).Encode(set); err != nil {
				t.Error(err)
			}
		}
	}))
	t.Cleanup(p.srv.Close)
	p.rotate()
	return p
}

// rotate makes a new key; the ones of before stay listed.
func (p *provider) rotate() {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = append(p.keys, jose.JSONWebKey{Key: k, KeyID: fmt.Sprint("key", len(p.keys)), Algorithm: "RS256", Use: "sig"})
}

func (p *provider) withdraw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = p.keys[1:]
}

// token signs claims as the provider does; nil values are left out.
func (p *provider) token(now time.Time, change map[string]any) string {
	p.t.Helper()
	p.mu.Lock()
	k := p.keys[len(p.keys)-1]
	p.mu.Unlock()
	return signed(p.t, jose.RS256, k, claimsOf(p.srv.URL, now, change))
}

func claimsOf(issuer string, now time.Time, change map[string]any) map[string]any {
	c := map[string]any{"iss": issuer, "aud": "samara", "sub": "repo:acme/app:ref:refs/heads/main", "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		"repository": "acme/app", "groups": []string{"dev", "ops"}, "email": "a@acme.test", "run": 42, "protected": true}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// issuersFile is one with the given text.
func issuersFile(t *testing.T, text string) string {
	file := filepath.Join(t.TempDir(), "issuers.yaml")
	writeFile(t, file, text)
	return file
}

func TestOIDC(t *testing.T) {
	p := newProvider(t)
	s := newSite(t, func(o *Options) {
		o.Issuers = issuersFile(t, "- {name: gh, issuer: \""+p.srv.URL+"\", audience: [other, samara], leeway: 30s}\n")
	},
		"claim:gh:repository=acme/* pull+push up.test/acme/**",
		"claim:gh:run=42 pull up.test/run/x", "claim:gh:protected=true pull up.test/protected/x",
		"group:gh:ops pull up.test/ops/**", "user:gh:repo:acme/app:ref:refs/heads/main pull up.test/user/x",
		"user:alice pull up.test/alice/x", "group:admins pull+push+delete up.test/**")
	now := s.clock.now()
	good := p.token(now, nil)
	for _, auth := range []string{"Bearer " + good, basicAuth("oidc", good), basicAuth("alice", good),
		s.token(basicAuth("x", good), "repository:acme/app:pull", "repository:ops/x:pull", "repository:run/x:pull", "repository:protected/x:pull", "repository:user/x:pull", "repository:alice/x:pull")} {
		for path, want := range map[string]int{"/v2/acme/app": 404, "/v2/ops/x": 404, "/v2/run/x": 404, "/v2/protected/x": 404, "/v2/user/x": 404} {
			s.do("GET", path+"/manifests/v1", auth, want)
		}
		denied := 401
		if strings.HasPrefix(auth, "Basic") {
			denied = 403
		}
		s.do("GET", "/v2/alice/x/manifests/v1", auth, denied)
		s.do("DELETE", "/v2/acme/app/manifests/v1", auth, denied)
	}
	// A token is good for no longer than what it was given for.
	_, body := s.do("GET", TokenPath, basicAuth("x", p.token(now, map[string]any{"exp": now.Add(time.Minute).Unix()})), 200)
	if !strings.Contains(string(body), `"expires_in":60,`) && !strings.Contains(string(body), `"expires_in":59,`) {
		t.Errorf("%s", body)
	}
	if b := s.post(200, map[string][]string{"grant_type": {"password"}, "username": {"x"}, "password": {good}, "scope": {"repository:acme/app:pull"}}); !strings.Contains(string(b), "up.test/acme/app:pull") {
		t.Errorf("%s", b)
	}
	// What is not good.
	other := newProvider(t)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(good, ".")[1] + "."
	pub := x509.MarshalPKCS1PublicKey(p.keys[0].Key.(*rsa.PrivateKey).Public().(*rsa.PublicKey))
	confused := signed(t, jose.HS256, pub, claimsOf(p.srv.URL, now, nil))
	for name, raw := range map[string]string{
		"another audience":     p.token(now, map[string]any{"aud": "somebody"}),
		"no audience":          p.token(now, map[string]any{"aud": nil}),
		"ended":                p.token(now, map[string]any{"exp": now.Add(-31 * time.Second).Unix()}),
		"no end":               p.token(now, map[string]any{"exp": nil}),
		"not yet":              p.token(now, map[string]any{"nbf": now.Add(time.Hour).Unix()}),
		"no user":              p.token(now, map[string]any{"sub": nil}),
		"another issuer":       other.token(now, nil),
		"another's key":        other.token(now, map[string]any{"iss": p.srv.URL}),
		"no signature":         none,
		"its key for a secret": confused,
		"long":                 p.token(now, map[string]any{"x": strings.Repeat("x", maxToken)}),
	} {
		for _, auth := range []string{"Bearer " + raw, basicAuth("alice", raw)} {
			if s.do("GET", "/v2/acme/app/manifests/v1", auth, 401); t.Failed() {
				t.Fatal(name)
			}
		}
	}
	s.do("GET", "/v2/acme/app/manifests/v1", "Bearer "+p.token(now, map[string]any{"exp": now.Add(-20 * time.Second).Unix()}), 404) // within the leeway
}

// A clock that may be behind does not make tokens of now ones of the future.
func TestLeewayIsForBothEnds(t *testing.T) {
	p := newProvider(t)
	s := newSite(t, func(o *Options) {
		o.Issuers = issuersFile(t, "- {name: gh, issuer: \""+p.srv.URL+"\", audience: samara, leeway: 10m}\n")
	}, "authenticated pull **")
	now := s.clock.now()
	for at, want := range map[time.Duration]int{0: 404, 9 * time.Minute: 404, 11 * time.Minute: 401} {
		s.do("GET", "/v2/a/manifests/v1", "Bearer "+p.token(now, map[string]any{"nbf": now.Add(at).Unix()}), want)
		s.do("GET", "/v2/a/manifests/v1", "Bearer "+p.token(now, map[string]any{"exp": now.Add(-at).Add(-time.Second).Unix()}), want)
	}
}

// Keys are asked for when a new one shows up, and not each time that somebody
// makes one up; and a key that was withdrawn is forgotten within the hour.
func TestIssuersKeys(t *testing.T) {
	p := newProvider(t)
	core, logs := observer.New(zap.WarnLevel)
	s := newSite(t, func(o *Options) {
		o.Log = zap.New(core)
		o.Issuers = issuersFile(t, "- {name: gh, issuer: \""+p.srv.URL+"\", jwks: \""+p.srv.URL+"/keys\", audience: samara}\n")
	}, "authenticated pull **")
	try := func(raw string, want int) {
		t.Helper()
		s.do("GET", "/v2/acme/app/manifests/v1", "Bearer "+raw, want)
	}
	p.mu.Lock()
	p.down = true
	p.mu.Unlock()
	old := p.token(s.clock.now(), nil)
	try(old, 401) // the seeder runs all the same
	if logs.FilterMessageSnippet("cannot be asked").Len() != 1 {
		t.Error("no word about an issuer that is down")
	}
	p.mu.Lock()
	p.down = false
	p.mu.Unlock()
	try(old, 404)
	p.rotate()
	try(p.token(s.clock.now(), nil), 404)
	forger := newProvider(t)
	forger.rotate()
	forger.rotate()
	for range 20 {
		try(forger.token(s.clock.now(), map[string]any{"iss": p.srv.URL}), 401)
	}
	p.mu.Lock()
	asked := p.asked
	p.mu.Unlock()
	if asked > askBurst+1 {
		t.Errorf("the issuer was asked %d times", asked)
	}
	try(old, 404)
	p.withdraw()
	s.clock.advance(keysAge)
	s.guard.issuers[p.srv.URL].client.Transport.(*modest).limit.SetBurst(100) // as after a while
	s.guard.issuers[p.srv.URL].client.Transport.(*modest).limit.SetLimit(1000)
	fresh := p.token(s.clock.now(), nil)
	try(fresh, 404)
	p.mu.Lock()
	first := p.keys[0]
	p.mu.Unlock()
	try(signed(t, jose.RS256, first, claimsOf(p.srv.URL, s.clock.now(), nil)), 404)
	if bytes.Contains([]byte(fmt.Sprint(logs.All())), []byte(old)) {
		t.Error("a token is in the log")
	}
}

// An issuer may say itself what a token is for, within bounds.
func TestAccessClaim(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pemFile := filepath.Join(t.TempDir(), "issuer.pem")
	writePublic := func(k crypto.PublicKey) {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, pemFile, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	}
	for _, realm := range []string{"https://auth.test/token", ""} {
		testAccessClaim(t, realm, key, pemFile, writePublic)
	}
}

func testAccessClaim(t *testing.T, realm string, key *ecdsa.PrivateKey, pemFile string, writePublic func(crypto.PublicKey)) {
	writePublic(key.Public())
	s := newSite(t, func(o *Options) {
		o.Realm = realm
		o.Issuers = issuersFile(t, "- name: gitlab\n  issuer: gitlab-issuer\n  pem: "+pemFile+"\n  audience: samara-seeder\n  algorithms: ES256\n  access: true\n  repositories: [up.test/team/**]\n")
	}, "group:admins pull+push+catalog **", "authenticated pull **") // which do not count
	if realm != "" {
		h, _ := s.do("GET", "/v2/team/app/tags/list", "", 401)
		if want := `Bearer realm="` + realm + `",service="samara-seeder",scope="repository:team/app:pull"`; h.Get("WWW-Authenticate") != want {
			t.Error(h.Get("WWW-Authenticate"))
		}
		s.do("GET", TokenPath, "", 404)
	}
	now := s.clock.now()
	claims := claimsOf("gitlab-issuer", now, map[string]any{"aud": "samara-seeder", "access": []map[string]any{
		{"type": "repository", "name": "team/app", "actions": []string{"pull", "push"}},
		{"type": "repository", "name": "team/lib", "actions": []string{"*"}},
		{"type": "repository", "name": "secret/app", "actions": []string{"*"}},
		{"type": "registry", "name": "catalog", "actions": []string{"*"}},
	}})
	raw := signed(t, jose.ES256, key, claims)
	if realm == "" { // as a password, it gives no more
		auth := s.token(basicAuth("x", raw), "repository:team/app:pull", "repository:team/lib:pull,delete", "repository:team/other:pull", "repository:secret/app:pull")
		s.do("GET", "/v2/team/app/manifests/v1", auth, 404)
		s.do("DELETE", "/v2/team/lib/manifests/v1", auth, 404)
		s.do("GET", "/v2/team/other/manifests/v1", auth, 401)
		s.do("GET", "/v2/secret/app/manifests/v1", auth, 401)
	}
	auth := "Bearer " + raw
	s.do("GET", "/v2/team/app/manifests/v1", auth, 404)
	s.do("POST", "/v2/team/app/blobs/uploads/", auth, 202)
	s.do("DELETE", "/v2/team/app/manifests/v1", auth, 401)
	s.do("DELETE", "/v2/team/lib/manifests/v1", auth, 404)
	s.do("GET", "/v2/team/other/manifests/v1", auth, 401)
	s.do("GET", "/v2/secret/app/manifests/v1", auth, 401) // out of the issuer's bounds
	s.do("GET", "/v2/_catalog", auth, 200)
	if !Listed(s.last.Load().Context(), "up.test/team/x") || Listed(s.last.Load().Context(), "up.test/secret/app") {
		t.Error("the catalog has other bounds")
	}
	wrong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s.do("GET", "/v2/team/app/manifests/v1", "Bearer "+signed(t, jose.RS256, wrong, claims), 401) // not in the list of algorithms

	next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, pemFile, "broken")
	s.clock.advance(2 * lookForChange)
	s.do("GET", "/v2/team/app/manifests/v1", auth, 404) // the keys of before stay
	writePublic(next.Public())
	s.clock.advance(2 * lookForChange)
	s.do("GET", "/v2/team/app/manifests/v1", auth, 401)
	s.do("GET", "/v2/team/app/manifests/v1", "Bearer "+signed(t, jose.ES256, next, claims), 404)
}

func TestEmailHasToBeVerified(t *testing.T) {
	p := newProvider(t)
	s := newSite(t, func(o *Options) {
		o.Issuers = issuersFile(t, "- {name: sso, issuer: \""+p.srv.URL+"\", audience: samara, user: email}\n")
	}, "user:sso:a@acme.test pull **")
	for verified, want := range map[any]int{true: 404, false: 401, "true": 404, "false": 401, nil: 404} {
		s.do("GET", "/v2/a/manifests/v1", "Bearer "+p.token(s.clock.now(), map[string]any{"email_verified": verified}), want)
	}
}

func TestIssuersFileSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "bad.pem"), "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n")
	const ok = "name: a, issuer: 'https://a.test', audience: x"
	for text, want := range map[string]string{
		"":                           "names no issuer",
		"- {" + ok + "}":             "",
		"- {" + ok + ", color: red}": "field color not found",
		"- {name: A, issuer: 'https://a', audience: x}":               `name "A"`,
		"- {name: cert, issuer: 'https://a', audience: x}":            `name "cert"`,
		"- {name: a, audience: x}":                                    "issuer is missing",
		"- {name: a, issuer: 'https://a'}":                            "audience is missing",
		"- {name: a, issuer: 'http://a.test', audience: x}":           "has to begin with https://",
		"- {name: a, issuer: 'https://u:secret@a.test', audience: x}": "has credentials in it",
		"- {" + ok + ", jwks: 'http://a.test/keys'}":                  "has to begin with https://",
		"- {" + ok + ", jwks: 'https://a.test/keys', pem: f}":         "not from both",
		"- {" + ok + ", pem: " + dir + "/bad.pem}":                    `"RSA PRIVATE KEY" is neither`,
		"- {" + ok + ", pem: " + dir + "/none.pem}":                   "no such file",
		"- {" + ok + ", ca: " + dir + "/bad.pem}":                     "holds no certificate",
		"- {" + ok + ", algorithms: [HS256]}":                         `algorithm "HS256"`,
		"- {" + ok + ", algorithms: none}":                            `algorithm "none"`,
		"- {" + ok + ", leeway: 1h}":                                  "leeway 1h0m0s is not within",
		"- {" + ok + ", repositories: [a]}":                           "repositories bounds the access claim",
		"- {" + ok + ", access: true, repositories: [A]}":             "is no pattern",
		"- {" + ok + "}\n- {" + ok + "}":                              "is there before",
	} {
		err := CheckIssuers(issuersFile(t, text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
