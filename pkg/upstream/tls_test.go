package upstream

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// secure is an upstream over TLS and HTTP/2 on loopback, and the PEM file of
// its authority.
func secure(t *testing.T) (up *upstreamtest.Server, url, ca string) {
	t.Helper()
	up = upstreamtest.New()
	srv := httptest.NewUnstartedServer(up)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() {
		up.Close()
		srv.Close()
	})
	ca = filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})), 0o600)
	return up, srv.URL, ca
}

func client(t *testing.T, url string, o Options) *Client {
	t.Helper()
	if o.Keychain == nil {
		o.Keychain = keys{}
	}
	o.Jitter = func() float64 { return 0 }
	c, err := New([]Registry{{Name: "up", URL: url}}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestTLS(t *testing.T) {
	up, url, ca := secure(t)
	host := strings.TrimPrefix(url, "https://")
	img := up.AddImage("a/b", "1", 3<<20)
	up.SetAuth(&upstreamtest.Auth{Bearer: true, Username: "u", Password: "p"})
	for name, o := range map[string]Options{
		"CA file":                 {CAFile: ca},
		"any certificate is good": {InsecureSkipVerify: true},
	} {
		t.Run(name, func(t *testing.T) {
			o.Keychain = keys{host: {Username: "u", Password: "p"}}
			c := client(t, url, o)
			if _, err := c.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
				t.Fatal(err)
			}
			up.SetFault("blobs", fault{Cut: 0.3, Times: 5}) // HTTP/2: a reset of the stream
			r, err := c.Blob(t.Context(), "up", "a/b", img.Layers[0], 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, up.Blob(img.Layers[0])) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if s := c.Stats()[0]; s.Resumes != 5 {
				t.Errorf("%d resumes", s.Resumes)
			}
		})
	}
}

// When the upstream's certificate ends can be watched from the first answer on.
func TestCertificateExpiry(t *testing.T) {
	up, url, ca := secure(t)
	up.AddImage("a/b", "1", 1<<10)
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	c := client(t, url, Options{CAFile: ca, Registerer: r, Namespace: "seeder"})
	const name = "seeder_upstream_certificate_expiry_seconds"
	expiries := func() (found []float64) {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == name {
					found = append(found, m.GetGauge().GetValue())
				}
			}
		}
		return found
	}
	if got := expiries(); len(got) != 0 {
		t.Errorf("%v before the first answer", got)
	}
	if _, err := c.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
		t.Fatal(err)
	}
	if got, want := expiries(), []float64{float64(certificate.NotAfter.Unix())}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestTLSRefusals(t *testing.T) {
	up, url, _ := secure(t)
	plain := upstreamtest.New()
	defer plain.Close()
	tests := []struct{ name, url, says string }{
		{"unknown authority", url, "trust its authority"},
		{"plain server", strings.Replace(plain.URL(), "http:", "https:", 1), "write its URL with http://"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := client(t, test.url, Options{Keychain: keys{strings.TrimPrefix(test.url, "https://"): {Username: "u", Password: "pa55"}}})
			_, err := c.Manifest(t.Context(), "up", "a/b", "1", nil)
			wantKind(t, err, Unavailable, test.says)
			c = client(t, test.url, Options{})
			_, err = c.Manifest(t.Context(), "up", "a/b", "1", nil)
			wantKind(t, err, Unavailable, test.says)
			if n := c.Stats()[0].Retries; n != 0 {
				t.Errorf("%d retries of what cannot get better", n)
			}
		})
	}
	// An https upstream is never asked in clear, a plain one never by https.
	if n := len(plain.Requests()) + len(up.Requests()); n != 0 {
		t.Errorf("%d requests came through", n)
	}
}

func TestCAFile(t *testing.T) {
	if _, err := New(nil, Options{CAFile: filepath.Join(t.TempDir(), "none.pem")}); err == nil || !strings.Contains(err.Error(), "none.pem") {
		t.Error(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	write(t, empty, "", 0o600)
	if _, err := New(nil, Options{CAFile: empty}); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Error(err)
	}
}
