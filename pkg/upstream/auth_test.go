package upstream

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func withKeys(user, password string) func(*Options) {
	return func(o *Options) { o.Keychain = keys{"up.test": {Username: user, Password: password}} }
}

func TestLogin(t *testing.T) {
	tests := []struct {
		name     string
		auth     upstreamtest.Auth
		options  func(*Options)
		token    fault
		calls    int // manifests got one after the other
		kind     Kind
		says     string
		tokens   int // issued in all
		requests int // of manifests in all
	}{
		{name: "anonymous token", auth: upstreamtest.Auth{Bearer: true}, calls: 3, tokens: 1, requests: 4},
		{name: "token for a password", auth: upstreamtest.Auth{Bearer: true, Username: "u", Password: "p"}, options: withKeys("u", "p"), calls: 3, tokens: 1, requests: 3},
		{name: "token is used up", auth: upstreamtest.Auth{Bearer: true, TokenUses: 2}, calls: 5, tokens: 3, requests: 8},
		{name: "token for a wrong password", auth: upstreamtest.Auth{Bearer: true, Username: "u", Password: "p"}, options: withKeys("u", "wr0ng"), calls: 1, kind: Denied, says: "docker login up.test", requests: 0},
		{name: "token without a password", auth: upstreamtest.Auth{Bearer: true, Username: "u", Password: "p"}, calls: 1, kind: Denied, says: "docker login up.test", requests: 1},
		{name: "forbidden", auth: upstreamtest.Auth{Bearer: true, ForbidAll: true}, calls: 1, kind: Denied, says: "DENIED: requested access", tokens: 1, requests: 2},
		{name: "token server fails once", auth: upstreamtest.Auth{Bearer: true}, token: fault{Status: 500, Times: 1}, calls: 2, tokens: 1, requests: 3},
		{name: "token server fails", auth: upstreamtest.Auth{Bearer: true}, token: fault{Status: 500}, calls: 1, kind: Unavailable, says: "logging in", requests: 1},
		{name: "token server is gone", auth: upstreamtest.Auth{Bearer: true}, token: fault{Status: 404}, calls: 1, kind: Unavailable, says: "logging in"},
		{name: "token server says 429", auth: upstreamtest.Auth{Bearer: true}, token: fault{Status: 429, RetryAfter: "60"}, calls: 1, kind: RateLimited, says: "not before 1m0s"},
		{name: "token server hangs", auth: upstreamtest.Auth{Bearer: true}, token: fault{Hang: true}, calls: 1, kind: Unavailable, says: "logging in"},
		{name: "basic", auth: upstreamtest.Auth{Username: "u", Password: "p"}, options: withKeys("u", "p"), calls: 3, requests: 3},
		{name: "basic, wrong", auth: upstreamtest.Auth{Username: "u", Password: "p"}, options: withKeys("u", "wr0ng"), calls: 1, kind: Denied, says: "docker login up.test", requests: 1},
		{name: "basic, none known", auth: upstreamtest.Auth{Username: "u", Password: "p"}, calls: 1, kind: Denied, says: "no credentials are known", requests: 1},
		{name: "ready-made token", auth: upstreamtest.Auth{Bearer: true},
			options: func(o *Options) { o.Keychain = keys{"up.test": {RegistryToken: "s3cret"}} }, calls: 1, kind: Denied, requests: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			virtually(t, func(o *Options) {
				o.Log = zap.New(core)
				if test.options != nil {
					test.options(o)
				}
			}, func(t *testing.T, b *bench) {
				b.up.AddImage("a/b", "1", 1000)
				b.up.SetAuth(&test.auth)
				if test.token != (fault{}) {
					b.up.SetFault("token", test.token)
				}
				var err error
				for range test.calls {
					_, err = b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
				}
				wantKind(t, err, test.kind, test.says)
				if n := b.up.TokensIssued(); n != test.tokens {
					t.Errorf("%d tokens issued, want %d", n, test.tokens)
				}
				if n := b.up.Count("", "/manifests/"); test.requests > 0 && n != test.requests {
					t.Errorf("%d requests, want %d", n, test.requests)
				}
				text := fmt.Sprint(err, b.client.Stats(), logs.All())
				for _, secret := range []string{"wr0ng", "s3cret", "token-", "dTp"} {
					if strings.Contains(text, secret) {
						t.Errorf("%q is in an error, a log or the status: %s", secret, text)
					}
				}
			})
		})
	}
}

// A ready-made token is sent with the first request: nothing is asked before.
func TestReadyMadeTokenAsksNothing(t *testing.T) {
	virtually(t, func(o *Options) { o.Keychain = keys{"up.test": {RegistryToken: "s3cret"}} }, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "1", 1000)
		b.up.SetFault("v2", fault{Hang: true})
		if _, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
			t.Error(err)
		}
		if n := b.up.Count("", "/"); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// A token that says when it ends is replaced before that; no request fails.
func TestTokenIsRenewedBeforeItEnds(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "1", 1000)
		b.up.SetAuth(&upstreamtest.Auth{Bearer: true, ExpiresIn: 300})
		get := func() {
			t.Helper()
			if _, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
				t.Fatal(err)
			}
		}
		get()
		<-time.After(289 * time.Second)
		get()
		if n := b.up.TokensIssued(); n != 1 {
			t.Errorf("%d tokens", n)
		}
		<-time.After(2 * time.Second)
		get()
		if n := b.up.TokensIssued(); n != 2 {
			t.Errorf("%d tokens", n)
		}
	})
}

func TestOneLoginServesAll(t *testing.T) {
	virtually(t, withKeys("u", "p"), func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "1", 1000)
		b.up.SetAuth(&upstreamtest.Auth{Bearer: true, Username: "u", Password: "p"})
		b.up.SetFault("token", fault{HeaderDelay: time.Second})
		all := func(want int) {
			t.Helper()
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := b.up.TokensIssued(); n != want {
				t.Errorf("%d tokens, want %d", n, want)
			}
		}
		all(1)
		b.up.RevokeTokens()
		all(2)
		if n := b.up.Count("", "/v2/"); n == 0 {
			t.Error("no requests")
		}
	})
}

// The login goes on when the request that began it is gone, and a failed one
// is not remembered.
func TestLoginOutlivesItsFirstRequest(t *testing.T) {
	virtually(t, withKeys("u", "p"), func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "1", 1000)
		b.up.SetAuth(&upstreamtest.Auth{Bearer: true, Username: "u", Password: "p"})
		b.up.SetFault("token", fault{HeaderDelay: 3 * time.Second, Times: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.client.Manifest(ctx, "up", "a/b", "1", nil)
		wantKind(t, err, Canceled)
		begin := time.Now()
		if _, err = b.client.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 2*time.Second || b.up.TokensIssued() != 1 {
			t.Errorf("took %s, %d tokens", took, b.up.TokensIssued())
		}
	})
}

func TestScopes(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "1", 1000)
		b.up.AddImage("c", "1", 1000)
		b.up.SetAuth(&upstreamtest.Auth{Bearer: true})
		for _, repo := range []string{"a/b", "c", "a/b", "c"} {
			if _, err := b.client.Manifest(t.Context(), "up", repo, "1", nil); err != nil {
				t.Error(err)
			}
		}
		if n := b.up.TokensIssued(); n != 2 {
			t.Errorf("%d tokens for two repositories", n)
		}
	})
}

type keychainFunc func(authn.Resource) (authn.Authenticator, error)

func (f keychainFunc) Resolve(r authn.Resource) (authn.Authenticator, error) { return f(r) }

func TestKeychainFails(t *testing.T) {
	virtually(t, func(o *Options) {
		o.Keychain = keychainFunc(func(authn.Resource) (authn.Authenticator, error) {
			return nil, fmt.Errorf("config.json: invalid character 'x'")
		})
	}, func(t *testing.T, b *bench) {
		_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		wantKind(t, err, Denied, "credentials for up.test cannot be read", "invalid character")
	})
}

// A credential helper that hangs costs a bounded time.
func TestKeychainHangs(t *testing.T) {
	virtually(t, func(o *Options) {
		o.Keychain = keychainFunc(func(authn.Resource) (authn.Authenticator, error) {
			<-time.After(time.Minute)
			return authn.Anonymous, nil
		})
	}, func(t *testing.T, b *bench) {
		begin := time.Now()
		_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		wantKind(t, err, Unavailable, "credential helper for up.test did not answer")
		if took := time.Since(begin); took != 31*time.Second {
			t.Errorf("took %s", took)
		}
		<-time.After(time.Minute) // the helper comes back; the client can end
	})
}

// Credentials belong to a host, not to a name: a mirror named docker.io is not
// given docker.io's password.
func TestCredentialsBelongToTheHost(t *testing.T) {
	var asked []string
	keychain := keychainFunc(func(r authn.Resource) (authn.Authenticator, error) {
		asked = append(asked, r.RegistryStr()+" "+r.String())
		return authn.Anonymous, nil
	})
	c, err := New([]Registry{
		{Name: "docker.io", URL: "https://mirror.example"}, {Name: "hub", URL: "https://docker.io"}, {Name: "lab", URL: "http://10.0.0.1:5000"}, {Name: "v6", URL: "http://[::1]:5000/"}, {Name: "p", URL: "https://Ghcr.io:443"},
	}, Options{Keychain: keychain})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, n := range c.Names() {
		if _, err := c.byName[n].own().credentials(t.Context(), "a/b"); err != nil {
			t.Error(err)
		}
	}
	want := "mirror.example mirror.example/a/b|index.docker.io index.docker.io/a/b|10.0.0.1:5000 10.0.0.1:5000/a/b|ghcr.io ghcr.io/a/b|[::1]:5000 [::1]:5000/a/b"
	if got := strings.Join(asked, "|"); got != want {
		t.Errorf("asked for\n%s, want\n%s", got, want)
	}
}

func TestUnknownScheme(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", "Negotiate")
			w.WriteHeader(http.StatusUnauthorized)
		}))
		_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		wantKind(t, err, Denied, `"negotiate" authentication`)
	})
}

// A registry of the internet must not send the password into our network; one
// that is in there may have its token server next to it.
func TestTokenServerIsChecked(t *testing.T) {
	tests := []struct {
		host, realm string
		ok          bool
	}{
		{"registry.test", "http://auth.test/token", true},
		{"registry.test", "http://registry.test/token", true},
		{"registry.test", "http://10.0.0.1:5001/token", false},
		{"registry.test", "http://169.254.169.254/token", false},
		{"registry.test", "file:///etc/passwd", false},
		{"registry.test", "", false},
		{"10.0.0.1:5000", "http://10.0.0.1:5001/token", true},
		{"localhost:5000", "http://127.0.0.1:5001/token", true},
		{"[fd00::1]:5000", "http://[fd00::2]/token", true},
		{"10.0.0.1:5000", "http://169.254.169.254/token", false},
		{"10.0.0.1:5000", "http://2130706433/token", false},
	}
	for _, test := range tests {
		t.Run(test.host+" "+test.realm, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.URL.Path == "/token":
						if u, p, _ := r.BasicAuth(); u != "u" || p != "s3cret" || !test.ok {
							t.Errorf("the token server was asked as %q", u)
						}
						_, _ = w.Write([]byte(`{"access_token":"abc"}`))
					case r.Header.Get("Authorization") == "Bearer abc":
						_, _ = w.Write([]byte(`{"tags":["x"]}`))
					default:
						w.Header().Set("WWW-Authenticate", `Bearer realm="`+test.realm+`",service="x"`)
						w.WriteHeader(http.StatusUnauthorized)
					}
				})
				addr := test.host
				if !strings.Contains(addr, ":") {
					addr += ":80"
				}
				for _, a := range []string{addr, "auth.test:80", "10.0.0.1:5001", "127.0.0.1:5001", "[fd00::2]:80", "169.254.169.254:80", "2130706433:80"} {
					b.serve(a, handler)
				}
				b.client.o.Keychain = keys{test.host: {Username: "u", Password: "s3cret"}}
				if err := b.client.Update([]Registry{{Name: "up", URL: "http://" + test.host}}); err != nil {
					t.Fatal(err)
				}
				_, err := b.client.Tags(t.Context(), "up", "a/b", 0, "")
				if test.ok {
					wantKind(t, err, None)
					return
				}
				wantKind(t, err, Denied, "token server it names is not acceptable")
				if strings.Contains(err.Error(), "s3cret") {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// The token server's answer may hold secrets even when it makes no sense.
func TestTokenAnswerIsNotQuoted(t *testing.T) {
	for _, answer := range []string{`{"refresh_token":"s3cret"}`, `s3cret`, `{"token":"s3cret"`} {
		virtually(t, nil, func(t *testing.T, b *bench) {
			b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					_, _ = w.Write([]byte(answer))
					return
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://up.test/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
			wantKind(t, err, Unavailable, "logging in")
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v", err)
			}
		})
	}
}

// Whoever logs in while the daemon runs need not restart it.
func TestCredentialsAreReadAgain(t *testing.T) {
	known := keys{}
	virtually(t, func(o *Options) { o.Keychain = known }, func(t *testing.T, b *bench) {
		b.up.AddImage("a/b", "1", 1000)
		b.up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "p"})
		_, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		wantKind(t, err, Denied)
		known["up.test"] = authn.AuthConfig{Username: "u", Password: "p"}
		_, err = b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		wantKind(t, err, None)
		b.up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "q"})
		known["up.test"] = authn.AuthConfig{Username: "u", Password: "q"}
		_, err = b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		wantKind(t, err, None)
	})
}
