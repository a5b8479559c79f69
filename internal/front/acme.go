package front

import (
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/internal/authorities"
)

const (
	// LetsEncrypt is the directory that ACME asks by itself.
	LetsEncrypt = acme.LetsEncryptURL

	acmeTimeout = 30 * time.Second // of one request to the authority
	// sayFailure bounds how often the log says that there is no certificate:
	// every handshake fails then.
	sayFailure = time.Minute
)

// ACMEOptions configure NewACME. Domains and Dir are required.
type ACMEOptions struct {
	Domains   []string // for which certificates are asked; clients that name none of them get none
	Dir       string   // where certificates and the account's key are kept (0700)
	Directory string   // URL of the authority; default LetsEncrypt
	Email     string   // told to the authority; may be empty
	CA        string   // PEM file of authorities for the directory's own TLS, besides the system's

	Log        *zap.Logger           // nil: no logs
	Registerer prometheus.Registerer // nil: no metrics
	Namespace  string                // prefix of metric names
}

// ACME answers handshakes with certificates that it asks an authority for, at
// the first handshake and again before they end (RFC 8555, challenge
// tls-alpn-01). Safe for concurrent use.
type ACME struct {
	manager *autocert.Manager
	log     *zap.Logger
	say     rate.Sometimes

	mu     sync.Mutex
	expiry map[string]time.Time // by domain
}

// NewACME asks nobody yet. By using it the operator agrees to the authority's
// terms.
func NewACME(o ACMEOptions) (*ACME, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Directory == "" {
		o.Directory = LetsEncrypt
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	if o.CA != "" {
		pool, err := authorities.Besides(o.CA)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	a := &ACME{log: o.Log, say: rate.Sometimes{First: 1, Interval: sayFailure}, expiry: map[string]time.Time{}}
	a.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(o.Dir), HostPolicy: autocert.HostWhitelist(o.Domains...), Email: o.Email,
		Client: &acme.Client{DirectoryURL: o.Directory, HTTPClient: &http.Client{Transport: t, Timeout: acmeTimeout}, UserAgent: "samara-seeder"},
	}
	RegisterExpiry(o.Registerer, o.Namespace, a.notAfter)
	return a, nil
}

// Config is for a listener.
func (a *ACME) Config() *tls.Config {
	c := base()
	c.NextProtos = append(c.NextProtos, acme.ALPNProto)
	c.GetCertificate = a.certificate
	return c
}

func (a *ACME) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := a.manager.GetCertificate(hello)
	if err != nil {
		if a.manager.HostPolicy(hello.Context(), hello.ServerName) == nil { // else somebody asks for something that is not ours
			a.say.Do(func() {
				a.log.Error("no certificate can be had; the authority has to reach this port as 443 of the domain", zap.String("domain", hello.ServerName), zap.Error(err))
			})
		}
		return nil, errors.New("no certificate for this name")
	}
	challenge := slices.Contains(hello.SupportedProtos, acme.ALPNProto)
	if leaf := cert.Leaf; !challenge && leaf != nil && len(leaf.DNSNames) > 0 {
		a.mu.Lock()
		a.expiry[leaf.DNSNames[0]] = leaf.NotAfter
		a.mu.Unlock()
	}
	return cert, nil
}

// notAfter is the end of the certificate that ends first.
func (a *ACME) notAfter() (first time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.expiry {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}
