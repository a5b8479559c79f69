package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/samara-p2p/samara/internal/front"
)

// encrypted tells whether the registry API speaks TLS.
func (c *Security) encrypted() bool { return c.TLSCert != "" || len(c.ACMEDomains) > 0 }

// transportProblems is what is wrong with TLS, proxies, limits and the audit
// log.
func (c *Security) transportProblems() []Problem {
	var ps []Problem
	add := func(name, what, fix string) {
		ps = append(ps, Problem{Where: "--" + name, What: what, Fix: fix})
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		add("tls-cert", "a certificate without a key, or a key without a certificate", "give both --tls-cert and --tls-key")
	}
	for _, f := range []struct{ name, file string }{{"tls-cert", c.TLSCert}, {"tls-key", c.TLSKey}, {"tls-client-ca", c.TLSClientCA}, {"acme-ca", c.ACMECA}} {
		if f.file == "" {
			continue
		}
		if _, err := os.ReadFile(f.file); err != nil {
			add(f.name, fmt.Sprintf("%s: %v", f.file, bare(err)), "give a PEM file that this user can read")
		}
	}
	if len(c.ACMEDomains) > 0 && c.TLSCert != "" {
		add("acme-domain", "given, and --tls-cert, too", "give one of the two")
	}
	for _, d := range c.ACMEDomains {
		if _, err := netip.ParseAddr(d); err == nil || !validHost(d) || !strings.Contains(d, ".") {
			add("acme-domain", fmt.Sprintf("%q is no host name that an authority could reach", d), "give one like seeder.example.com")
		}
	}
	if u, err := url.Parse(c.ACMEDirectory); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		add("acme-directory", fmt.Sprintf("%q is no https URL without credentials", redact(c.ACMEDirectory)), "give the authority's directory, like "+front.LetsEncrypt)
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		add("tls-client-ca", "given, and there is no --tls-cert", "give --tls-cert and --tls-key, too")
	}
	if c.TLSClientRequired && c.TLSClientCA == "" {
		add("tls-client-required", "given, and there is no authority to check certificates with", "give --tls-client-ca FILE")
	}
	if !slices.Contains(front.ForwardedHeaders, c.ProxyHeader) {
		add("proxy-header", fmt.Sprintf("%q is not understood", c.ProxyHeader), "give "+strings.Join(front.ForwardedHeaders, " or "))
	} else if _, err := front.ParseProxies(c.TrustedProxies, c.ProxyHeader); err != nil {
		add("trusted-proxy", err.Error(), "give an IP or a network, like 10.0.0.0/8")
	}
	if c.HSTS < 0 {
		add("hsts", fmt.Sprintf("%v is negative", c.HSTS), "give 0 or more")
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"rate-limit", c.RateLimit}, {"rate-burst", c.RateBurst}, {"max-uploads", c.Uploads}, {"max-uploads-per-client", c.UploadsPerClient}, {"audit-keep", c.AuditKeep}} {
		if n.value < 0 {
			add(n.name, fmt.Sprintf("%d is negative", n.value), "give 0 or more")
		}
	}
	if c.AuditSize < 1<<20 {
		add("audit-size", fmt.Sprintf("%s is less than 1MiB", c.AuditSize), "give more; --audit-keep bounds the files")
	}
	return ps
}
