package front

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func proxies(t testing.TB, list ...string) Proxies {
	t.Helper()
	ps, err := ParseProxies(list, ForwardedHeaders[0])
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func TestProxies(t *testing.T) {
	old := proxies(t, "10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48")
	standard := Proxies{nets: old.nets, standard: true}
	for _, c := range []struct {
		name    string
		from    string
		headers []string
		want    string // client scheme host
	}{
		{"nobody says anything", "198.51.100.1:99", nil, "198.51.100.1:99 http seeder:5000"},
		{"a client lies", "198.51.100.1:99", []string{"X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "Forwarded: for=1.1.1.1;proto=https"}, "198.51.100.1:99 http seeder:5000"},
		{"one proxy", "10.0.0.1:99", []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: reg.test"}, "198.51.100.1:0 https reg.test"},
		{"a lie before the proxy", "10.0.0.1:99", []string{"X-Forwarded-For: 1.1.1.1, 198.51.100.1"}, "198.51.100.1:0 http seeder:5000"},
		{"the lie is trusted", "10.0.0.1:99", []string{"X-Forwarded-For: 10.9.9.9, 198.51.100.1"}, "198.51.100.1:0 http seeder:5000"},
		{"two proxies", "10.0.0.1:99", []string{"X-Forwarded-For: 1.1.1.1, 198.51.100.1, 192.0.2.7"}, "198.51.100.1:0 http seeder:5000"},
		{"two headers", "10.0.0.1:99", []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 10.0.0.2"}, "198.51.100.1:0 http seeder:5000"},
		{"all trusted", "10.0.0.1:99", []string{"X-Forwarded-For: 10.0.0.3, 10.0.0.2"}, "10.0.0.3:0 http seeder:5000"},
		{"nonsense", "10.0.0.1:99", []string{"X-Forwarded-For: 198.51.100.1, unknown", "X-Forwarded-Proto: gopher", "X-Forwarded-Host: a\"b"}, "10.0.0.1:99 http seeder:5000"},
		{"with a port", "10.0.0.1:99", []string{"X-Forwarded-For: 198.51.100.1:1234"}, "198.51.100.1:0 http seeder:5000"},
		{"IPv6", "[2001:db8:1::5]:99", []string{"X-Forwarded-For: 2001:db8:2::1"}, "[2001:db8:2::1]:0 http seeder:5000"},
		{"mapped", "[::ffff:10.0.0.1]:99", []string{"X-Forwarded-For: ::ffff:198.51.100.1"}, "198.51.100.1:0 http seeder:5000"},
		{"standard", "10.0.0.1:99", []string{`Forwarded: for=198.51.100.1;proto=https;host="reg.test:8443"`}, "198.51.100.1:0 https reg.test:8443"},
		{"standard, a lie first", "10.0.0.1:99", []string{`Forwarded: for=1.1.1.1;proto=https;host=evil, for=198.51.100.1`}, "198.51.100.1:0 http seeder:5000"},
		{"standard, IPv6", "10.0.0.1:99", []string{`Forwarded: For="[2001:db8:2::1]:4711"; PROTO=HTTPS, for=10.0.0.9`}, "[2001:db8:2::1]:0 https seeder:5000"},
		{"standard, hidden", "10.0.0.1:99", []string{`Forwarded: for=1.1.1.1, for=_hidden;proto=https`}, "10.0.0.1:99 http seeder:5000"},
		{"standard, a lie in a quoted host", "10.0.0.1:99", []string{`Forwarded: for=198.51.100.1;host="x;for=1.1.1.1"`}, "198.51.100.1:0 http seeder:5000"},
		{"standard, a list in a quoted host", "10.0.0.1:99", []string{`Forwarded: for=198.51.100.1;host="x, for=1.1.1.1"`}, "198.51.100.1:0 http seeder:5000"},
		{"standard, an escaped quote", "10.0.0.1:99", []string{`Forwarded: for=198.51.100.1;host="x\", for=1.1.1.1, \""`}, "198.51.100.1:0 http seeder:5000"},
		{"standard, an open quote", "10.0.0.1:99", []string{`Forwarded: host="x, for=1.1.1.1`}, "10.0.0.1:99 http seeder:5000"},
		{"standard, and a lie in the others", "10.0.0.1:99", []string{"Forwarded: for=198.51.100.1", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Host: evil"}, "198.51.100.1:0 http seeder:5000"},
		{"a lie in the standard", "10.0.0.1:99", []string{"X-Forwarded-For: 198.51.100.1", "Forwarded: for=1.1.1.1;host=evil"}, "198.51.100.1:0 http seeder:5000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
			r.Host, r.RemoteAddr = "seeder:5000", c.from
			for _, line := range c.headers {
				k, v, _ := strings.Cut(line, ": ")
				r.Header.Add(k, v)
			}
			ps := old
			if strings.HasPrefix(c.name, "standard") {
				ps = standard
			}
			var got *http.Request
			ps.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r })).ServeHTTP(httptest.NewRecorder(), r)
			if s := got.RemoteAddr + " " + got.URL.Scheme + " " + got.Host; s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
			for _, k := range forwardedHeaders {
				if got.Header.Get(k) != "" {
					t.Errorf("%s is still there", k)
				}
			}
		})
	}
	if _, err := ParseProxies([]string{"10.0.0.0/33"}, "forwarded"); err == nil {
		t.Error("10.0.0.0/33 is a network")
	}
	if _, err := ParseProxies(nil, "x-real-ip"); err == nil {
		t.Error("x-real-ip is understood")
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add(`for=1.1.1.1;proto=https, for="[::1]:5";host=x`, "1.1.1.1, 2.2.2.2", "a", "b")
	ps := proxies(f, "10.0.0.0/8")
	f.Fuzz(func(t *testing.T, forwarded, xff, proto, host string) {
		for i, h := range []http.Header{{"Forwarded": {forwarded}}, {"X-Forwarded-For": {xff}, "X-Forwarded-Proto": {proto}, "X-Forwarded-Host": {host}}} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr, r.Header = "10.0.0.1:1", h
			ps.standard = i == 0
			ps.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Scheme != "http" && r.URL.Scheme != "https" || !validHost(r.Host) {
					t.Fatalf("%q %q", r.URL.Scheme, r.Host)
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
		}
	})
}

func TestHeaders(t *testing.T) {
	h := proxies(t).Wrap(Headers(time.Hour, http.NotFoundHandler()))
	r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Header().Get("Strict-Transport-Security") != "" || w.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("without TLS: %v", w.Header())
	}
	r.TLS = &tls.ConnectionState{}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if got := w.Header().Get("Strict-Transport-Security"); got != "max-age=3600" {
		t.Errorf("with TLS: %q", got)
	}
}

// Who comes by way of a proxy is not whom the proxy's certificate names.
func TestProxyLendsNobodyItsCertificate(t *testing.T) {
	for from, kept := range map[string]bool{"10.0.0.1:99": false, "198.51.100.1:99": true} {
		r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.TLS, r.RemoteAddr = &tls.ConnectionState{}, from
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		proxies(t, "10.0.0.0/8").Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if (r.TLS != nil) != kept || r.URL.Scheme != "https" {
				t.Errorf("from %s: TLS %v, scheme %s", from, r.TLS, r.URL.Scheme)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
}
