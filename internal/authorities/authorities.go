package authorities

import (
	"crypto/x509"
	"fmt"
	"os"
)

// Read is the authorities in a PEM file, and no others. Errors name the file.
func Read(file string) (*x509.CertPool, error) { return read(file, x509.NewCertPool()) }

// Besides is the system's authorities and those in a PEM file. Errors name the
// file.
func Besides(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without any
	}
	return read(file, pool)
}

func read(file string, pool *x509.CertPool) (*x509.CertPool, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s: holds no certificate in PEM", file)
	}
	return pool, nil
}
