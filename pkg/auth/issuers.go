package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.yaml.in/yaml/v3"

	"github.com/samara-p2p/samara/internal/authorities"
)

// algorithms are those that an issuer may sign with. None has a secret that we
// would have to keep.
var algorithms = []string{
	string(jose.RS256), string(jose.RS384), string(jose.RS512), string(jose.PS256), string(jose.PS384), string(jose.PS512),
	string(jose.ES256), string(jose.ES384), string(jose.ES512), string(jose.EdDSA),
}

// issuerConfig is one entry of the file of issuers.
type issuerConfig struct {
	Name      string        `yaml:"name"`     // before its users, groups and claims
	Issuer    string        `yaml:"issuer"`   // the iss claim; for OIDC, where its discovery document is
	Audience  words         `yaml:"audience"` // one of these has to be in the aud claim
	JWKS      string        `yaml:"jwks"`     // URL of its keys; by itself the discovery document says
	PEM       string        `yaml:"pem"`      // file with its keys or certificates, instead
	CA        string        `yaml:"ca"`       // PEM file of authorities for its URLs, besides the system's
	Alg       words         `yaml:"algorithms"`
	Leeway    time.Duration `yaml:"leeway"`
	UserClaim string        `yaml:"user"`
	Groups    string        `yaml:"groups"`
	// Access lets the token say itself what it may be used for (distribution's
	// access claim); then rules do not count, but Repositories bounds it.
	Access       bool  `yaml:"access"`
	Repositories words `yaml:"repositories"`
}

// words are a list, or a single one.
type words []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (w *words) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*w = words{n.Value}
		return nil
	}
	return n.Decode((*[]string)(w))
}

const maxIssuersFile = 1 << 20

// CheckIssuers says what is wrong with a file of issuers. It asks none of them.
func CheckIssuers(file string) error {
	_, err := readIssuers(file)
	return err
}

func readIssuers(file string) ([]issuerConfig, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxIssuersFile))
	if err != nil {
		return nil, err
	}
	var list []issuerConfig
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: names no issuer", file)
	}
	names, issuers := map[string]bool{}, map[string]bool{peerIssuer: true}
	for i := range list {
		c := &list[i]
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("%s: issuer %d (%s): %w", file, i+1, c.Name, err)
		}
		if names[c.Name] || issuers[c.Issuer] {
			return nil, fmt.Errorf("%s: issuer %d (%s): its name or issuer is there before", file, i+1, c.Name)
		}
		names[c.Name], issuers[c.Issuer] = true, true
	}
	return list, nil
}

// issuerName keeps users of issuers apart from all others: see byCertificate
// and byPeer.
var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// check fills in defaults.
func (c *issuerConfig) check() error {
	switch {
	case !issuerName.MatchString(c.Name) || c.Name == "cert" || c.Name == "peer":
		return fmt.Errorf("name %q: want small letters and digits, and neither cert nor peer", c.Name)
	case c.Issuer == "":
		return errors.New("issuer is missing")
	case len(c.Audience) == 0 || slices.Contains(c.Audience, ""):
		return errors.New("audience is missing: without it, tokens that the issuer made for others would do")
	case c.JWKS != "" && c.PEM != "":
		return errors.New("keys come from jwks or from pem, not from both")
	case c.Leeway < 0 || c.Leeway > 10*time.Minute:
		return fmt.Errorf("leeway %v is not within 0 to 10m", c.Leeway)
	case !c.Access && len(c.Repositories) > 0:
		return errors.New("repositories bounds the access claim; where rules count, they do that")
	}
	for _, u := range []string{c.JWKS, c.discovery()} {
		if u == "" {
			continue
		}
		if err := checkIssuerURL(u); err != nil {
			return err
		}
	}
	if c.PEM != "" {
		if _, err := readKeys(c.PEM); err != nil {
			return err
		}
	}
	if c.CA != "" {
		if _, err := authorities.Besides(c.CA); err != nil {
			return err
		}
	}
	if len(c.Alg) == 0 {
		c.Alg = algorithms
	}
	for _, a := range c.Alg {
		if !slices.Contains(algorithms, a) {
			return fmt.Errorf("algorithm %q: want some of %s", a, strings.Join(algorithms, ", "))
		}
	}
	for _, p := range c.Repositories {
		if !patternRE.MatchString(p) {
			return fmt.Errorf("%q is no pattern of repositories", p)
		}
	}
	if c.UserClaim == "" {
		c.UserClaim = "sub"
	}
	if c.Groups == "" {
		c.Groups = "groups"
	}
	return nil
}

// discovery is the issuer's URL, where its keys have to be found from there.
func (c *issuerConfig) discovery() string {
	if c.JWKS != "" || c.PEM != "" {
		return ""
	}
	return c.Issuer
}

// checkIssuerURL wants TLS: whoever can change the keys on their way can be
// anybody.
func checkIssuerURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return errors.New("a URL has no host, or has credentials in it")
	}
	if a, err := netip.ParseAddr(u.Hostname()); u.Scheme == "https" || u.Scheme == "http" && err == nil && a.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s has to begin with https://", u.Redacted())
}

// readKeys reads public keys and certificates.
func readKeys(file string) ([]any, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var keys []any
	for {
		var b *pem.Block
		if b, content = pem.Decode(content); b == nil {
			break
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil {
			keys = append(keys, c.PublicKey)
		} else if k, err := x509.ParsePKIXPublicKey(b.Bytes); err == nil {
			keys = append(keys, k)
		} else if k, err := x509.ParsePKCS1PublicKey(b.Bytes); err == nil {
			keys = append(keys, k)
		} else {
			return nil, fmt.Errorf("%s: a block of type %q is neither a public key nor a certificate", file, b.Type)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: holds no public key in PEM", file)
	}
	return keys, nil
}
