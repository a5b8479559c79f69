package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"go.uber.org/zap"
)

// How a request gets its Authorization header. go-containerregistry knows the
// flows: transport.Ping reads a challenge, transport.Exchange turns
// credentials into a token, authn finds the credentials. Its ready-made
// RoundTripper is not used, because it refreshes a token once per waiting
// request, never before it expires, and with a data race on refresh tokens;
// here one login serves all who wait for it.

const (
	hubHost = "registry-1.docker.io"

	maxSessions   = 4096
	freshness     = 10 * time.Minute // of a header without an end: then the keychain is read again
	tokenLifetime = time.Minute      // of a token that does not say (docker's token specification)
)

type challenge struct{ transport.Challenge }

func (c *challenge) is(scheme string) bool { return strings.EqualFold(c.Scheme, scheme) }

// account is as whom a repository is asked.
type account struct {
	repo      string
	anonymous bool // as anybody may, whatever credentials there are
}

// session is one account's Authorization header.
type session struct {
	header string // "" = send none
	until  time.Time
	ready  bool
	scopes []string  // more than pull, when the upstream's challenge named them
	flight *flight   // a login under way
	public time.Time // when a request without credentials succeeded last
	bare   bool      // header was had without credentials
}

// flight is one login that any number of requests wait for.
type flight struct {
	done   chan struct{}
	header string
	fail   *failure
}

// authorization is the header for a repository, after a login where one is
// needed. Errors of a login are not kept.
func (u *upstream) authorization(ctx context.Context, a account) (string, *failure) {
	u.mu.Lock()
	s := u.sessions[a]
	if s == nil {
		s = u.newSession(a)
	}
	if s.ready && u.now().Before(s.until) {
		defer u.mu.Unlock()
		return s.header, nil
	}
	f := s.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.flight = f
		u.background.Go(func() { u.fly(a, s, f) })
	}
	u.mu.Unlock()

	t := time.NewTimer(u.loginTimeout() + time.Second)
	defer t.Stop()
	select {
	case <-f.done:
		return f.header, f.fail
	case <-ctx.Done():
		return "", &failure{kind: Canceled, err: context.Cause(ctx)}
	case <-t.C:
		// The context of a login ends before; a helper program knows none.
		return "", &failure{kind: Unavailable, err: fmt.Errorf("the credential helper for %s did not answer", credentialsHost(u.host))}
	}
}

// newSession is called with u locked.
func (u *upstream) newSession(a account) *session {
	if len(u.sessions) >= maxSessions {
		for r, s := range u.sessions {
			if s.flight == nil {
				delete(u.sessions, r)
			}
		}
	}
	s := &session{}
	u.sessions[a] = s
	return s
}

// loginTimeout is for challenge and token together.
func (u *upstream) loginTimeout() time.Duration {
	return 2 * (u.o.ConnectTimeout + u.o.HeaderTimeout)
}

// fly logs in, apart from the request that wanted it: others wait too.
func (u *upstream) fly(a account, s *session, f *flight) {
	ctx, cancel := context.WithTimeout(u.ctx, u.loginTimeout())
	defer cancel()
	u.mu.Lock()
	scopes := append(append([]string(nil), s.scopes...), "repository:"+a.repo+":pull")
	u.mu.Unlock()
	header, bare, lifetime, fail := u.login(ctx, a, scopes)
	if fail != nil && fail.kind == Canceled { // not the waiting request's doing
		fail = &failure{kind: Unavailable, err: fmt.Errorf("logging in took longer than %s", u.loginTimeout())}
		if u.ctx.Err() != nil {
			fail.err = errors.New("the client is closed")
		}
	}
	u.mu.Lock()
	s.flight = nil
	if fail == nil {
		if lifetime <= 0 {
			lifetime = freshness
		}
		s.header, s.bare, s.ready = header, bare, true
		s.until = u.now().Add(lifetime - min(lifetime/10, 10*time.Second))
	}
	u.mu.Unlock()
	f.header, f.fail = header, fail
	close(f.done)
}

// login finds the header for an account. bare: no credentials were used for it.
// lifetime 0 = no end known.
func (u *upstream) login(ctx context.Context, a account, scopes []string) (header string, bare bool, lifetime time.Duration, f *failure) {
	var auth authn.AuthConfig
	var err error
	if !a.anonymous {
		auth, err = u.credentials(ctx, a.repo)
	}
	if err != nil {
		return "", false, 0, &failure{kind: Denied, err: fmt.Errorf("credentials for %s cannot be read: %w", credentialsHost(u.host), safe(err))}
	}
	if auth.RegistryToken != "" { // whatever the upstream would say of itself, this is what there is
		return "Bearer " + auth.RegistryToken, false, 0, nil
	}
	anonymous := auth == authn.AuthConfig{}
	u.mu.Lock()
	ch := u.challenge
	warn := !anonymous && u.scheme == "http" && !u.warned
	u.warned = u.warned || warn
	u.mu.Unlock()
	if warn {
		u.o.Log.Warn("credentials go to an upstream without TLS", zap.String("upstream", u.name))
	}
	if ch == nil {
		if anonymous {
			return "", true, 0, nil // the first 401 will tell, and most public upstreams need no more
		}
		via := &courier{u: u}
		c, err := transport.Ping(ctx, u.registry, via)
		if err != nil {
			return "", false, 0, u.loginFailure(ctx, err, via)
		}
		ch = &challenge{*c}
		u.mu.Lock()
		u.challenge = ch
		u.mu.Unlock()
	}
	switch {
	case ch.is("bearer"):
		via := &courier{u: u}
		t, err := transport.Exchange(ctx, u.tokenRegistry(ch), authn.FromConfig(auth), via, scopes, &ch.Challenge)
		if err != nil {
			return "", false, 0, u.loginFailure(ctx, err, via)
		}
		value := t.Token
		if t.AccessToken != "" {
			value = t.AccessToken
		}
		lifetime = tokenLifetime
		if t.ExpiresIn > 0 {
			lifetime = time.Duration(min(t.ExpiresIn, 1<<30)) * time.Second
		}
		u.exchanged("login", None)
		return "Bearer " + value, anonymous, lifetime, nil
	case ch.is("basic"), ch.Scheme == "":
		return basic(auth), anonymous, 0, nil
	}
	return "", false, 0, &failure{kind: Denied, err: fmt.Errorf("it wants %q authentication, which is not known here (Basic and Bearer are)", scrub(ch.Scheme))}
}

// tokenRegistry is the registry in whose name a token is asked for. Exchange
// refuses a realm at a private address other than the registry's own host:port,
// so that a registry of the internet cannot send us into our own network. One
// that is in there itself, and is written as an address, may have its token
// server next to it.
func (u *upstream) tokenRegistry(ch *challenge) name.Registry {
	realm, err := url.Parse(ch.Parameters["realm"])
	if err != nil || !private(u.registry.RegistryStr()) || !private(realm.Host) {
		return u.registry
	}
	r, err := name.NewRegistry(realm.Host)
	if err != nil {
		return u.registry
	}
	return r
}

// private tells loopback and RFC 1918 or 4193 addresses. Link-local is not
// among them: clouds keep their metadata there.
func private(hostport string) bool {
	host := (&url.URL{Host: hostport}).Hostname()
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && (a.IsLoopback() || a.IsPrivate())
}

func basic(a authn.AuthConfig) string {
	switch {
	case a.Username != "" && a.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password))
	case a.Auth != "":
		return "Basic " + a.Auth
	}
	return ""
}

// loginFailure classifies what Ping and Exchange return. Their texts may quote
// a token server's answer, so only what is known to be harmless is kept.
func (u *upstream) loginFailure(ctx context.Context, err error, via *courier) *failure {
	var te *transport.Error
	var f *failure
	switch {
	case errors.As(err, &te):
		f = &failure{kind: kindOfStatus(te.StatusCode), status: te.StatusCode}
		f.again = f.kind == RateLimited || f.kind == Unavailable
		text := "the token server or registry gave no reason"
		if len(te.Errors) > 0 {
			text = scrub(string(te.Errors[0].Code) + ": " + te.Errors[0].Message)
		}
		f.err = fmt.Errorf("logging in: %s", text)
		switch f.kind {
		case Denied:
			f.err = fmt.Errorf("%w; %s", f.err, u.remedy(true))
		case NotFound, Invalid:
			// No verdict about the image: the login page is what was not found.
			f.kind = Unavailable
		case RateLimited:
			u.mu.Lock()
			f.retryAfter = max(0, u.blockedUntil.Sub(u.now()))
			u.mu.Unlock()
		}
	case via.sent.Load() == 0 && ctx.Err() == nil:
		// Refused before anything was sent: a realm that is missing, or that
		// points into the network where no token server should be.
		f = &failure{kind: Denied, err: fmt.Errorf("logging in: the token server it names is not acceptable: %w", safe(err))}
	default:
		if cause := via.err.Load(); cause != nil {
			err = *cause
		}
		f = networkFailure(ctx, err)
		f.err = fmt.Errorf("logging in: %w", f.err)
	}
	u.exchanged("login", f.kind)
	return f
}

// unauthorized takes in a 401: what it asks for, and that the header which was
// sent is worth nothing. true: a login may help.
func (u *upstream) unauthorized(a account, sent string, resp *http.Response) bool {
	c, err := transport.Ping(context.Background(), u.registry, canned{u, resp})
	if err != nil || c.Scheme == "" {
		return false
	}
	ch := &challenge{*c}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.challenge = ch
	if sent != "" && !a.anonymous {
		u.helpers.refuted(credentialsServer(u.host))
	}
	s := u.sessions[a]
	if s == nil {
		s = u.newSession(a)
	}
	if s.ready && s.header == sent { // else somebody else has already been told
		s.ready = false
	}
	if scope := ch.Parameters["scope"]; ch.is("bearer") && scope != "" && scope != "repository:"+a.repo+":pull" && len(scope) < 1024 {
		s.scopes = []string{scope}
	}
	return true
}

// courier carries go-containerregistry's own requests. It keeps them to the
// scheme of the upstream's URL: Ping would try http for private addresses and
// https for plain ones.
type courier struct {
	u    *upstream
	err  atomic.Pointer[error] // of the network; Ping tells only the first of several errors
	sent atomic.Int32          // requests
}

func (c *courier) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := c.u.pin(req); err != nil {
		return nil, err
	}
	c.sent.Add(1)
	req.Header.Set("User-Agent", c.u.o.UserAgent)
	began := c.u.now()
	resp, err := c.u.transport.RoundTrip(req)
	own := canonicalHost(req.URL) == c.u.host
	if err != nil {
		c.err.Store(&err)
		if own {
			c.u.breaker.broke(req.Context(), began, err)
		}
		return nil, err
	}
	if own && resp.StatusCode >= 500 {
		c.u.breaker.refused5xx(resp.StatusCode, req.URL.Path)
	} else if own {
		c.u.breaker.answered()
	}
	c.u.limited(resp)
	return resp, nil
}

func (u *upstream) pin(req *http.Request) error {
	if canonicalHost(req.URL) == u.host && req.URL.Scheme != u.scheme {
		return fmt.Errorf("%s is to be asked by %s only", u.host, u.scheme)
	}
	return nil
}

// canned answers Ping with a response that is already there, so that it reads
// the challenge in it.
type canned struct {
	u    *upstream
	resp *http.Response
}

func (c canned) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := c.u.pin(req); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: c.resp.StatusCode, Header: c.resp.Header, Body: http.NoBody, Request: req}, nil
}
