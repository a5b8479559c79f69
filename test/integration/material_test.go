package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/bcrypt"
)

// writeSecrets writes what a seeder at ip needs for TLS and logins into dir:
// tls.crt and tls.key, its authority in a directory as skopeo and podman want it
// (certs/ca.crt), and an htpasswd file with the users alice and robot. The
// password of each is its name and "-secret".
func writeSecrets(t *testing.T, dir, ip string) {
	t.Helper()
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "seeder"}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(ip)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, "certs"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write("tls.crt", cert)
	write("certs/ca.crt", cert)
	write("tls.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
	users := ""
	for _, u := range []string{"alice", "robot"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(u+"-secret"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		users += u + ":" + string(hash) + "\n"
	}
	write("htpasswd", []byte(users))
}

// randomImage is an OCI image of two layers of the media type.
func randomImage(t *testing.T, layer types.MediaType) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for range 2 {
		l, err := random.Layer(2048, layer)
		if err == nil {
			img, err = mutate.AppendLayers(img, l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// writeLayout writes an OCI layout with an image, or an index, that is named v1.
func writeLayout(t *testing.T, dir string, a mutate.Appendable) {
	t.Helper()
	l, err := layout.Write(dir, empty.Index)
	named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})
	if err == nil {
		switch a := a.(type) {
		case v1.Image:
			err = l.AppendImage(a, named)
		case v1.ImageIndex:
			err = l.AppendIndex(a, named)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
