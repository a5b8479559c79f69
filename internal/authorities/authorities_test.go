package authorities

import (
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.pem"), filepath.Join(dir, "bad.pem")
	if err := os.WriteFile(good, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func(string) (*x509.CertPool, error){"read": Read, "besides": Besides} {
		pool, err := read(good)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := srv.Certificate().Verify(x509.VerifyOptions{Roots: pool, DNSName: "example.com"}); err != nil {
			t.Error(name, err)
		}
		for file, want := range map[string]string{bad: "bad.pem: holds no certificate", filepath.Join(dir, "none"): "none: no such file"} {
			if _, err := read(file); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v", name, file, err)
			}
		}
	}
}
