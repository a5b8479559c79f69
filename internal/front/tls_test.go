package front

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	pem  []byte
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.key = newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(100 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// issue gives a certificate for localhost and its key, in PEM.
func (a *authority) issue(name string, until time.Time) (cert, key []byte) {
	a.t.Helper()
	a.n++
	k := newKey(a.t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(100 + a.n), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: until,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kder})
}

// files are a certificate and its key on disk, and a clock for the next look.
type files struct {
	t         *testing.T
	cert, key string
	now       time.Time
}

func (f *files) put(cert, key []byte) {
	f.t.Helper()
	for name, content := range map[string][]byte{f.cert: cert, f.key: key} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			f.t.Fatal(err)
		}
		if err := os.Chtimes(name, f.now, f.now); err != nil {
			f.t.Fatal(err)
		}
	}
	f.now = f.now.Add(2 * lookForChange)
}

// serve answers on a loopback port with the name of the client's certificate.
func serve(t *testing.T, c *tls.Config) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.VerifiedChains) > 0 {
			io.WriteString(w, r.TLS.VerifiedChains[0][0].Subject.CommonName)
		}
	}))
	srv.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	srv.Listener = tls.NewListener(srv.Listener, c)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// get is the answer, and who answered.
func get(t *testing.T, addr string, c *tls.Config) (body, server string, err error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if resp.ProtoMajor != 1 {
		t.Errorf("speaks %s", resp.Proto)
	}
	return string(b), resp.TLS.PeerCertificates[0].Subject.CommonName, err
}

func TestCertificateIsReadAgain(t *testing.T) {
	ca := newAuthority(t)
	dir := t.TempDir()
	f := &files{t: t, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), now: time.Now()}
	day := time.Now().Add(24 * time.Hour).Truncate(time.Second)
	f.put(ca.issue("one", day))
	core, logs := observer.New(zap.InfoLevel)
	reg := prometheus.NewRegistry()
	s, err := NewTLS(TLSOptions{Cert: f.cert, Key: f.key, Log: zap.New(core), Now: func() time.Time { return f.now }, Registerer: reg, Namespace: "seeder"})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, s.Config())
	client := &tls.Config{RootCAs: ca.pool}
	want := func(name string, until time.Time) {
		t.Helper()
		if _, got, err := get(t, addr, client); err != nil || got != name {
			t.Fatalf("%q answers, want %q: %v", got, name, err)
		}
		fam, err := reg.Gather()
		if err != nil || len(fam) != 1 || fam[0].GetName() != "seeder_tls_certificate_expiry_seconds" {
			t.Fatalf("%v %v", fam, err)
		}
		if got := fam[0].GetMetric()[0].GetGauge().GetValue(); int64(got) != until.Unix() {
			t.Fatalf("ends at %v, want %v", int64(got), until.Unix())
		}
	}
	want("one", day)
	f.put(ca.issue("two", day.Add(time.Hour)))
	want("two", day.Add(time.Hour))

	_, key := ca.issue("three", day)
	cert, _ := ca.issue("three", day)
	f.put(cert, key) // which do not fit
	want("two", day.Add(time.Hour))
	want("two", day.Add(time.Hour))
	f.put([]byte("garbage"), []byte("garbage"))
	want("two", day.Add(time.Hour))
	f.put(ca.issue("four", time.Now().Add(-time.Hour)))
	want("two", day.Add(time.Hour))
	os.Remove(f.cert)
	f.now = f.now.Add(time.Minute)
	want("two", day.Add(time.Hour))
	f.now = f.now.Add(time.Minute)
	want("two", day.Add(time.Hour))
	if n := logs.FilterMessageSnippet("cannot be used").Len(); n != 4 {
		t.Errorf("%d complaints, want one for each of 4 versions", n)
	}
	f.put(ca.issue("five", day))
	want("five", day)
	for _, e := range logs.All() {
		if bytes.Contains([]byte(e.Message), key) {
			t.Error("a key is in the log")
		}
	}
	if _, _, err := get(t, addr, &tls.Config{RootCAs: ca.pool, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

func TestClientCertificates(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	f := &files{t: t, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), now: time.Now()}
	day := time.Now().Add(24 * time.Hour)
	f.put(ca.issue("server", day))
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	pair := func(a *authority) []tls.Certificate {
		c, err := tls.X509KeyPair(a.issue("robot", day))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	for _, required := range []bool{false, true} {
		s, err := NewTLS(TLSOptions{Cert: f.cert, Key: f.key, ClientCA: caFile, ClientRequired: required})
		if err != nil {
			t.Fatal(err)
		}
		addr := serve(t, s.Config())
		if who, _, err := get(t, addr, &tls.Config{RootCAs: ca.pool, Certificates: pair(ca)}); err != nil || who != "robot" {
			t.Errorf("required %v: %q %v", required, who, err)
		}
		if who, _, err := get(t, addr, &tls.Config{RootCAs: ca.pool}); (err != nil) != required || who != "" {
			t.Errorf("required %v, none shown: %q %v", required, who, err)
		}
		// Go's client shows no certificate that no authority asked for would sign.
		forced := pair(other)[0]
		c := &tls.Config{RootCAs: ca.pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &forced, nil }}
		if _, _, err := get(t, addr, c); err == nil {
			t.Errorf("required %v: a certificate of another authority is fine", required)
		}
	}
	if _, err := NewTLS(TLSOptions{Cert: f.cert, Key: f.key, ClientCA: f.key}); err == nil {
		t.Error("a key is a client CA")
	}
	if _, err := NewTLS(TLSOptions{Cert: filepath.Join(dir, "none"), Key: f.key}); err == nil {
		t.Error("a certificate that is not there is fine")
	}
}
