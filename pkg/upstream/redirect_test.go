package upstream

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// Layers usually come from a storage host that the registry redirects to.
func TestBlobRedirect(t *testing.T) {
	const secret = "X-Signature=c2VjcmV0"
	virtually(t, func(o *Options) { o.Keychain = keys{"up.test": {Username: "u", Password: "pa55"}} }, func(t *testing.T, b *bench) {
		d, content := b.up.AddRandomBlob(300_000)
		cdn := upstreamtest.New()
		b.serve("cdn.test:80", cdn)
		cdn.AddBlob(content)
		b.up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "pa55"})
		b.up.SetFault("blobs", fault{RedirectTo: "http://user:word@cdn.test", RedirectQuery: secret})
		cdn.SetFault("blobs", fault{Cut: 0.4, Times: 2})
		got, err := readAll(t, b, d, 0, -1)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		for _, r := range cdn.Requests() {
			if r.Authorization != "" {
				t.Errorf("credentials went to the storage host: %s", r.Authorization)
			}
		}
		if n := b.up.Count("GET", "/blobs/"); n != 3 {
			t.Errorf("each resume asks for a new signature: %d requests", n)
		}

		cdn.SetFault("blobs", fault{Status: 403})
		_, err = readAll(t, b, d, 0, -1)
		wantKind(t, err, Denied, "cdn.test", "redirected")
		cdn.SetFault("blobs", fault{Drop: true})
		_, err2 := readAll(t, b, d, 0, -1)
		wantKind(t, err2, Unavailable, "cdn.test")
		for _, s := range []string{err.Error(), err2.Error(), b.client.Stats()[2].LastError} {
			if strings.Contains(s, "c2VjcmV0") || strings.Contains(s, "word") || strings.Contains(s, "pa55") {
				t.Errorf("secret in an error: %s", s)
			}
		}
	})
}

func TestRedirects(t *testing.T) {
	tests := []struct {
		name     string
		location string
		kind     Kind
		says     string
	}{
		{"loop", "/v2/a/b/blobs/x", Unavailable, "more than 5 redirects"},
		{"nowhere", "", Unavailable, "without a usable target"},
		{"another scheme", "file:///etc/passwd", Unavailable, "without a usable target"},
		{"unreadable", "http://[::1", Unavailable, "without a usable target"},
		{"nobody there", "http://nobody.test/x?sig=s3cret", Unavailable, "redirected to nobody.test"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				b.serve("up.test:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Location", test.location)
					w.WriteHeader(http.StatusFound)
				}))
				_, err := readAll(t, b, digest.FromString("x"), 0, -1)
				wantKind(t, err, test.kind, test.says)
				if strings.Contains(err.Error(), "s3cret") {
					t.Errorf("secret in an error: %v", err)
				}
			})
		})
	}
}

func TestRedirectKeepsCredentialsOnTheSameHost(t *testing.T) {
	virtually(t, func(o *Options) { o.Keychain = keys{"up.test": {Username: "u", Password: "p"}} }, func(t *testing.T, b *bench) {
		img := b.up.AddImage("a/b", "1", 1000)
		b.up.SetAuth(&upstreamtest.Auth{Username: "u", Password: "p"})
		b.up.SetFault("1", fault{RedirectTo: "http://UP.test:80", Times: 1})
		m, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil)
		if err != nil || m.Digest != img.Digest {
			t.Error(err)
		}
	})
}
