package auth

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/zap"
)

const (
	maxToken    = 16 << 10         // bytes of a token that is looked at at all
	leeway      = 30 * time.Second // between the clocks of a peer and of the seeder
	peerIssuer  = "samara-peer"
	peerContext = "samara registry token 1" // keeps the derived key apart from others
)

// PeerTokenLifetime is how long a token of PeerToken is good for.
const PeerTokenLifetime = 15 * time.Minute

// access is an entry of the access claim (distribution's token specification).
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// claims are those of the seeder's own tokens.
type claims struct {
	jwt.Claims
	Access  []access `json:"access"`
	Catalog *listing `json:"catalog,omitempty"`
}

// listing is a view in a token: patterns of repositories.
type listing struct {
	Listed []string `json:"list"`
	Pulled []string `json:"pull"`
}

// issue signs a token for the part of what is asked that an identity may do.
func (g *Guard) issue(id *Identity, scopes []scope) (token string, granted []access, err error) {
	now := g.o.Now()
	until := now.Add(g.lifetime(id))
	c := claims{Claims: jwt.Claims{
		Issuer: g.o.Service, Subject: id.User, Audience: jwt.Audience{g.o.Service}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(until),
	}, Access: []access{}}
	for _, s := range scopes {
		switch {
		case s.catalog:
			if v := g.view(id); v != nil {
				c.Access = append(c.Access, access{"registry", "catalog", []string{"*"}})
				c.Catalog = &listing{texts(v.listed), texts(v.pulled)}
			}
		default:
			name := g.o.Canonical(s.name, "")
			if a := g.allowed(id, name) & s.actions; a != 0 {
				c.Access = append(c.Access, access{"repository", name, a.names()})
			}
		}
	}
	signer, err := g.keys.signer()
	if err != nil {
		return "", nil, err
	}
	token, err = jwt.Signed(signer).Claims(c).Serialize()
	return token, c.Access, err
}

// lifetime of a token for an identity: no longer than what proved it.
func (g *Guard) lifetime(id *Identity) time.Duration {
	if id.until.IsZero() {
		return g.o.Lifetime
	}
	return max(time.Second, min(g.o.Lifetime, id.until.Sub(g.o.Now())))
}

// byToken finds out whom a bearer token speaks for. It may be one of our own,
// a peer's, or an external issuer's.
func (g *Guard) byToken(ctx context.Context, raw string) (*Identity, error) {
	issuer, ok := issuerOf(raw)
	switch {
	case !ok:
		return anonymous, errBadToken
	case issuer == g.o.Service:
		return g.byOwn(raw)
	case issuer == peerIssuer && g.peerKey != nil:
		return g.byPeer(raw)
	}
	return g.byIssuer(ctx, issuer, raw)
}

// byIssuer checks a token of an external issuer.
func (g *Guard) byIssuer(ctx context.Context, name, raw string) (*Identity, error) {
	i := g.issuers[name]
	if i == nil {
		return anonymous, errBadToken
	}
	t, err := i.check(ctx, raw)
	if err == nil {
		var id *Identity
		if id, err = i.identity(t, g.o.Canonical); err == nil {
			return id, nil
		}
	}
	i.log.Debug("a token is refused", zap.Error(err))
	return anonymous, errBadToken
}

// issuerOf is what a token says of itself, to choose whose keys to check it
// with.
func issuerOf(raw string) (string, bool) {
	parts := strings.Split(raw, ".")
	if len(raw) > maxToken || len(parts) != 3 {
		return "", false
	}
	t, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{
		jose.EdDSA, jose.HS256, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512})
	if err != nil {
		return "", false
	}
	var c jwt.Claims
	if err := t.UnsafeClaimsWithoutVerification(&c); err != nil {
		return "", false
	}
	return c.Issuer, true
}

// byOwn checks a token of issue.
func (g *Guard) byOwn(raw string) (*Identity, error) {
	t, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(t.Headers) != 1 {
		return anonymous, errBadToken
	}
	key := g.keys.public(t.Headers[0].KeyID)
	if key == nil {
		return anonymous, errBadToken
	}
	var c claims
	if err := t.Claims(key, &c); err != nil {
		return anonymous, errBadToken
	}
	if c.Expiry == nil || c.ValidateWithLeeway(jwt.Expected{Issuer: g.o.Service, AnyAudience: jwt.Audience{g.o.Service}, Time: g.o.Now()}, 0) != nil {
		return anonymous, errBadToken
	}
	id := &Identity{User: c.Subject, Method: Token, grants: &grants{repositories: map[string]Actions{}}}
	for _, a := range c.Access {
		if a.Type == "repository" {
			acts, _ := parseActions(a.Actions)
			id.grants.repositories[a.Name] |= acts
		}
	}
	if c.Catalog != nil {
		id.grants.catalog = &view{listed: newPatterns(c.Catalog.Listed), pulled: newPatterns(c.Catalog.Pulled)}
	}
	return id, nil
}

func texts(ps []pattern) []string {
	list := make([]string, len(ps))
	for i, p := range ps {
		list[i] = p.text
	}
	return list
}

func newPatterns(texts []string) []pattern {
	list := make([]pattern, len(texts))
	for i, t := range texts {
		list[i] = newPattern(t, component)
	}
	return list
}

// PeerToken is a bearer token by which the holder of a swarm key asks a seeder
// for manifests. It is short-lived, and the key cannot be found from it.
func PeerToken(swarmKey []byte, peerID string, now time.Time) (string, error) {
	key, err := derive(swarmKey)
	if err != nil {
		return "", err
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("peer token: %w", err)
	}
	token, err := jwt.Signed(s).Claims(jwt.Claims{
		Issuer: peerIssuer, Subject: peerID, Audience: jwt.Audience{DefaultService},
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(PeerTokenLifetime)),
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("peer token: %w", err)
	}
	return token, nil
}

// derive makes the key of peers' tokens of the swarm key.
func derive(swarmKey []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, swarmKey, nil, peerContext, sha256.Size)
}

// byPeer checks a token of PeerToken.
func (g *Guard) byPeer(raw string) (*Identity, error) {
	t, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return anonymous, errBadToken
	}
	var c jwt.Claims
	if err := t.Claims(g.peerKey, &c); err != nil {
		return anonymous, errBadToken
	}
	now := g.o.Now()
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: peerIssuer, AnyAudience: jwt.Audience{DefaultService}, Time: now}, leeway)
	if err != nil || c.Expiry == nil || c.Expiry.Time().Sub(now) > PeerTokenLifetime+leeway {
		return anonymous, errBadToken
	}
	return &Identity{User: "peer:" + c.Subject, Method: Peer}, nil
}
