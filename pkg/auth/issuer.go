package auth

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/samara-p2p/samara/internal/authorities"
)

const (
	issuerTimeout = 10 * time.Second // for a document of an issuer
	maxDocument   = 1 << 20          // bytes of one
	beginLeeway   = 5 * time.Minute  // that tokens begin late by our clock, as others have it, too
	// Whoever sends tokens with keys that nobody knows must not make us ask
	// the issuer each time.
	askEvery = 5 * time.Second
	askBurst = 3
	// keysAge is how long an issuer's keys are believed before they are asked
	// for anew: it may have withdrawn one.
	keysAge = time.Hour
)

// issuer checks tokens of one external issuer. It asks for keys when it sees
// the first token, so that a seeder starts whether the issuer is up or not.
// Safe for concurrent use.
type issuer struct {
	c      issuerConfig
	log    *zap.Logger
	now    func() time.Time
	client *http.Client
	bounds []pattern

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	made     time.Time
	stamp    stamp // of the PEM file
}

func newIssuer(c issuerConfig, log *zap.Logger, now func() time.Time) (*issuer, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	if c.CA != "" {
		pool, err := authorities.Besides(c.CA)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	i := &issuer{c: c, log: log.With(zap.String("issuer", c.Name)), now: now, bounds: newPatterns(c.Repositories)}
	i.client = &http.Client{Timeout: issuerTimeout, Transport: &modest{next: t, limit: rate.NewLimiter(rate.Every(askEvery), askBurst), log: i.log}}
	return i, nil
}

// modest asks an issuer seldom, and takes no more than a document of it.
type modest struct {
	next  http.RoundTripper
	limit *rate.Limiter
	log   *zap.Logger
}

var errAskedEnough = errors.New("the issuer was asked a moment ago")

// RoundTrip implements http.RoundTripper.
func (m *modest) RoundTrip(r *http.Request) (*http.Response, error) {
	if !m.limit.Allow() {
		return nil, errAskedEnough
	}
	resp, err := m.next.RoundTrip(r)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
		resp.Body.Close()
	}
	if err != nil {
		m.log.Warn("an issuer of tokens cannot be asked for its keys; logins with its tokens fail", zap.String("url", r.URL.Redacted()), zap.Error(err))
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	return resp, nil
}

// check verifies a token and gives its claims.
func (i *issuer) check(ctx context.Context, raw string) (*oidc.IDToken, error) {
	v, err := i.current(ctx)
	if err != nil {
		return nil, err
	}
	t, err := v.Verify(oidc.ClientContext(ctx, i.client), raw)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(i.c.Audience, func(a string) bool { return slices.Contains(t.Audience, a) }) {
		return nil, errors.New("the token is for somebody else")
	}
	return t, i.timely(t)
}

// timely checks when a token begins and ends. The library gives only the
// beginning a leeway, and with a clock that is set back for the end, a token of
// now has not begun.
func (i *issuer) timely(t *oidc.IDToken) error {
	var c struct {
		NotBefore *jwt.NumericDate `json:"nbf"`
	}
	if err := t.Claims(&c); err != nil {
		return err
	}
	now := i.now()
	if t.Expiry.Before(now.Add(-i.c.Leeway)) {
		return errors.New("the token has ended")
	}
	if c.NotBefore != nil && c.NotBefore.Time().After(now.Add(max(i.c.Leeway, beginLeeway))) {
		return errors.New("the token has not begun")
	}
	return nil
}

// current is the verifier with the keys as they are known now.
func (i *issuer) current(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.c.PEM != "" {
		return i.byFile()
	}
	if age := i.now().Sub(i.made); i.verifier != nil && age >= 0 && age < keysAge {
		return i.verifier, nil
	}
	// What is made here lives longer than the request that it is made for.
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), i.client)
	if i.c.JWKS != "" {
		i.verifier = oidc.NewVerifier(i.c.Issuer, oidc.NewRemoteKeySet(ctx, i.c.JWKS), i.config())
	} else {
		p, err := oidc.NewProvider(ctx, i.c.Issuer)
		if err != nil {
			return nil, err
		}
		i.verifier = p.VerifierContext(ctx, i.config())
	}
	i.made = i.now()
	return i.verifier, nil
}

// byFile reads the keys again when the file has changed; ones that are broken
// are not taken over.
func (i *issuer) byFile() (*oidc.IDTokenVerifier, error) {
	now := i.now()
	if d := now.Sub(i.made); i.verifier != nil && d >= 0 && d < lookForChange {
		return i.verifier, nil
	}
	i.made = now
	st, err := os.Stat(i.c.PEM)
	if err == nil {
		if s := (stamp{st.Size(), st.ModTime()}); s == i.stamp {
			return i.verifier, nil
		} else {
			i.stamp = s
		}
		var keys []any
		if keys, err = readKeys(i.c.PEM); err == nil {
			public := make([]crypto.PublicKey, len(keys))
			for n, k := range keys {
				public[n] = k
			}
			i.verifier = oidc.NewVerifier(i.c.Issuer, &oidc.StaticKeySet{PublicKeys: public}, i.config())
			return i.verifier, nil
		}
	}
	i.log.Error("the keys of an issuer cannot be read; those of before stay", zap.Error(err))
	if i.verifier == nil {
		return nil, err
	}
	return i.verifier, nil
}

func (i *issuer) config() *oidc.Config {
	return &oidc.Config{
		SkipClientIDCheck:    true, // of several audiences one has to fit: see check
		SupportedSigningAlgs: i.c.Alg,
		SkipExpiryCheck:      true, // see timely
	}
}

// identity is whom a token speaks for.
func (i *issuer) identity(t *oidc.IDToken, canonical func(path, ns string) string) (*Identity, error) {
	all := map[string]any{}
	if err := t.Claims(&all); err != nil {
		return nil, err
	}
	id := &Identity{Method: Issuer, until: t.Expiry, Claims: map[string][]string{}}
	for name, v := range all {
		if list := claimTexts(v); len(list) > 0 {
			id.Claims[i.c.Name+":"+name] = list
		}
	}
	user := claimTexts(all[i.c.UserClaim])
	switch {
	case len(user) != 1 || user[0] == "":
		return nil, fmt.Errorf("the claim %s does not name a user", i.c.UserClaim)
	case i.c.UserClaim == "email" && slices.Contains(claimTexts(all["email_verified"]), "false"): // some write it as a text
		return nil, errors.New("the email address is not verified")
	}
	id.User = i.c.Name + ":" + user[0]
	for _, g := range claimTexts(all[i.c.Groups]) {
		id.Groups = append(id.Groups, i.c.Name+":"+g)
	}
	if !i.c.Access {
		return id, nil
	}
	var c struct {
		Access []access `json:"access"`
	}
	if err := t.Claims(&c); err != nil {
		return nil, err
	}
	id.grants = i.grants(c.Access, canonical)
	return id, nil
}

// grants are what an access claim gives, within the issuer's bounds.
func (i *issuer) grants(list []access, canonical func(path, ns string) string) *grants {
	g := &grants{repositories: map[string]Actions{}}
	bounds := i.bounds
	if len(bounds) == 0 {
		bounds = newPatterns([]string{"**"})
	}
	for _, a := range list {
		switch {
		case a.Type == "registry" && a.Name == "catalog" && slices.Contains(a.Actions, "*"):
			g.catalog = &view{listed: bounds, pulled: bounds}
		case a.Type == "repository":
			acts, _ := parseActions(a.Actions)
			if slices.Contains(a.Actions, "*") {
				acts = Pull | Push | Delete
			}
			name := canonical(a.Name, "")
			if slices.ContainsFunc(bounds, func(p pattern) bool { return p.match(name) }) {
				g.repositories[name] |= acts
			}
		}
	}
	return g
}

// claimTexts are the values of a claim that is a text, a number, a truth value
// or a list of such.
func claimTexts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case bool:
		return []string{strconv.FormatBool(v)}
	case float64:
		return []string{strconv.FormatFloat(v, 'f', -1, 64)}
	case []any:
		var list []string
		for _, one := range v {
			if _, nested := one.([]any); !nested {
				list = append(list, claimTexts(one)...)
			}
		}
		return list
	}
	return nil
}
