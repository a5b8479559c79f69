package upstream

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// own is a keychain of one user for every host.
type own authn.AuthConfig

// Resolve implements authn.Keychain.
func (o own) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(o)), nil
}

// Contract 27: public is what opens without the credentials that there are.
func TestContract27Public(t *testing.T) {
	for _, bearer := range []bool{true, false} {
		t.Run(fmt.Sprintf("bearer %v", bearer), func(t *testing.T) {
			up := upstreamtest.New()
			defer up.Close()
			up.Scope()
			up.SetAuth(&upstreamtest.Auth{Bearer: bearer, Username: "ops", Password: "secret", Private: []string{"lab/secret"}})
			open, closed := up.AddImage("lab/open", "v1", 1000), up.AddImage("lab/secret", "v1", 1000)
			c, err := New([]Registry{{Name: "up.test", URL: up.URL()}}, Options{Keychain: own{Username: "ops", Password: "secret"}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, tt := range []struct {
				name, repo string
				t          Target
				kind       Kind
			}{
				{"tag", "lab/open", Target{Manifest: "v1"}, None},
				{"digest", "lab/open", Target{Manifest: open.Digest.String()}, None},
				{"blob", "lab/open", Target{Blob: open.Layers[0]}, None},
				{"tags", "lab/open", Target{}, None},
				{"no such tag", "lab/open", Target{Manifest: "v2"}, NotFound},
				{"another's blob", "lab/open", Target{Blob: closed.Layers[0]}, NotFound},
				{"another's manifest", "lab/open", Target{Manifest: closed.Digest.String()}, NotFound},
				{"private tag", "lab/secret", Target{Manifest: "v1"}, Denied},
				{"private blob", "lab/secret", Target{Blob: closed.Layers[0]}, Denied},
				{"private tags", "lab/secret", Target{}, Denied},
				{"no tag at all", "lab/open", Target{Manifest: "a/b"}, Invalid},
				{"no upstream of ours", "lab/Open", Target{Manifest: "v1"}, Invalid},
			} {
				// The order must not matter: ours is not mistaken for anybody's.
				if _, err := c.Head(t.Context(), "up.test", "lab/secret", "v1"); err != nil {
					t.Fatal(err)
				}
				if err := c.Public(t.Context(), "up.test", tt.repo, tt.t); KindOf(err) != tt.kind {
					t.Errorf("%s: %v, want %v", tt.name, err, tt.kind)
				}
			}
			if !c.PublicAt("up.test", "lab/secret").IsZero() || c.PublicAt("up.test", "lab/open").IsZero() {
				t.Errorf("seen as public: secret %v, open %v", c.PublicAt("up.test", "lab/secret"), c.PublicAt("up.test", "lab/open"))
			}
		})
	}
}

// Contract 25: only what a client can answer without giving its password to us
// is passed on.
func TestContract25Challenge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header []string
		want   string
	}{
		{"bearer", 401, []string{`Bearer realm="http://auth.test/token",service="s"`}, `Bearer realm="http://auth.test/token",service="s"`},
		{"basic", 401, []string{`Basic realm="r"`}, ""},
		{"both", 401, []string{`Basic realm="r"`, `bearer realm="https://auth.test/token"`}, `bearer realm="https://auth.test/token"`},
		{"no realm", 401, []string{`Bearer service="s"`}, ""},
		{"odd realm", 401, []string{`Bearer realm="file:///etc/passwd"`}, ""},
		{"realm with a user", 401, []string{`Bearer realm="https://a:b@auth.test/token"`}, ""},
		{"too long", 401, []string{`Bearer realm="https://auth.test/token",service="` + strings.Repeat("s", 5000) + `"`}, ""},
		{"no 401", 403, []string{`Bearer realm="https://auth.test/token"`}, ""},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("something was shown")
			}
			w.Header()["Www-Authenticate"] = tt.header
			w.WriteHeader(tt.status)
		}))
		c, err := New([]Registry{{Name: "up.test", URL: srv.URL}}, Options{Keychain: own{Username: "ops", Password: "secret"}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Challenge(t.Context(), "up.test", "lab/app", Target{Manifest: "v1"})
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
		c.Close()
		srv.Close()
	}
}

// Contract 26: a client's token goes to the upstream it is shown for, not to its
// mirrors or to where it redirects, and is in no error.
func TestContract26AcceptsShowsTheUpstreamOnly(t *testing.T) {
	const token = "Bearer the-token-of-a-client"
	var elsewhere []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNotFound)
	}))
	defer other.Close()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != token:
			t.Errorf("the upstream was shown %q", r.Header.Get("Authorization"))
		case strings.Contains(r.URL.Path, "moved"):
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		case strings.Contains(r.URL.Path, "open"):
		default:
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"not with ` + token + `"}]}`))
		}
	}))
	defer up.Close()
	c, err := New([]Registry{{Name: "up.test", URL: up.URL, Mirrors: []string{other.URL}}}, Options{Keychain: own{Username: "ops", Password: "secret"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for repo, kind := range map[string]Kind{"lab/open": None, "lab/closed": Denied, "lab/moved": NotFound} {
		err := c.Accepts(t.Context(), "up.test", repo, Target{}, token) // a GET: its answer has a text
		if KindOf(err) != kind {
			t.Errorf("%s: %v, want %v", repo, err, kind)
		}
		if err != nil && strings.Contains(err.Error(), "the-token") {
			t.Errorf("%s: the token is in the error: %v", repo, err)
		}
	}
	for _, a := range elsewhere {
		if a != "" {
			t.Errorf("another host was shown %q", a)
		}
	}
	if len(elsewhere) != 1 {
		t.Errorf("another host was asked %d times, want once, by the redirect", len(elsewhere))
	}
}
