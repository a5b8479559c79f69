package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/letsencrypt/challtestsrv"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

const acmeDomain = "seeder.samara.test"

// authority is Let's Encrypt's test server. It looks for the challenge at
// tlsPort of loopback, whatever the domain.
func authority(t *testing.T, tlsPort int) (directory string, tlsCA []byte, root *x509.Certificate) {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "20") // a good client copes
	quiet := zap.NewStdLog(zap.NewNop())
	names := fmt.Sprintf("127.0.0.1:%d", daemontest.Port(t))
	dns, err := challtestsrv.New(challtestsrv.Config{Log: quiet, DNSAddrs: []string{names}})
	if err != nil {
		t.Fatal(err)
	}
	dns.SetDefaultDNSIPv4("127.0.0.1")
	dns.SetDefaultDNSIPv6("")
	go dns.Run() // its servers end with Shutdown
	t.Cleanup(dns.Shutdown)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default", ValidityPeriod: 3600 * 24}})
	front := wfe.New(quiet, store, va.New(quiet, 0, tlsPort, true, names, store), issuer, []string{"samara.test"}, true, false, 1, 1)
	api := front.Handler()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// golang.org/x/crypto/acme wants the order's URL with this answer, which
		// Let's Encrypt sends and its test server does not.
		if id, ok := strings.CutPrefix(r.URL.Path, "/finalize-order/"); ok {
			w.Header().Set("Location", "https://"+r.Host+"/my-order/"+id)
		}
		api.ServeHTTP(w, r)
	}))
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL + wfe.DirectoryPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), issuer.GetRootCert(0).Cert
}

// A seeder gets its certificate from an ACME authority, keeps it, and uses it
// after a restart without asking again.
func TestACME(t *testing.T) {
	if testing.Short() {
		t.Skip("runs programs")
	}
	dir, port := t.TempDir(), daemontest.Port(t)
	directory, tlsCA, root := authority(t, port)
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, tlsCA, 0o600); err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + strconv.Itoa(port)
	loopback := func() string { return fmt.Sprintf("127.0.0.1:%d", daemontest.Port(t)) }
	admin := loopback()
	_, p2p, _ := net.SplitHostPort(loopback())
	start := func(directory string) (stop func()) {
		cmd := exec.Command(binaries.Seeder, "serve", "--data", filepath.Join(dir, "data"), "--listen", addr, "--admin-listen", admin,
			"--pieces-listen", loopback(), "--p2p-listen", "/ip4/127.0.0.1/tcp/"+p2p, "--log-level", "warn", "--log-format", "console",
			"--acme-domain", acmeDomain, "--acme-directory", directory, "--acme-ca", caFile)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it has ended, or will
			if err := cmd.Wait(); err != nil {
				t.Errorf("seeder: %v", err)
			}
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	shake := func(name string) (*x509.Certificate, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		conn, err := (&tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: pool}}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
	}
	stop := start(directory)
	var cert *x509.Certificate
	daemontest.Until(t, "certified", func() (err error) { cert, err = shake(acmeDomain); return err })
	if _, err := shake("other.samara.test"); err == nil {
		t.Error("a name that is not ours has a certificate")
	}
	resp, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if want := fmt.Sprintf("seeder_tls_certificate_expiry_seconds %g\n", float64(cert.NotAfter.Unix())); err != nil || !strings.Contains(string(body), want) {
		t.Errorf("no %s in the metrics (%v)", want, err)
	}
	stop()
	stop = start("https://127.0.0.1:1/none")
	defer stop()
	var again *x509.Certificate
	daemontest.Until(t, "certified again", func() (err error) { again, err = shake(acmeDomain); return err })
	if !again.Equal(cert) {
		t.Error("a restart costs a certificate")
	}
}
