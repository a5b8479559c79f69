package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

// Whether somebody else may read a repository: anybody at all, or whoever has
// shown us a token. Content is cached by digest and fetched with credentials of
// our own, so that having it says nothing of who may be given it.

// VisibilityHeader asks a seeder, with a HEAD of what it would give us, whether
// anybody may have that from its upstream, and has the answer, with status 200.
// A seeder that does not know the question gives none.
const VisibilityHeader = "Samara-Visibility"

// What a seeder answers in VisibilityHeader, and what it is asked with.
const (
	AskVisibility     = "ask"
	VisibilityPublic  = "public"
	VisibilityPrivate = "private"
)

// Target is what access to a repository is tried with. The zero Target is its
// list of tags.
type Target struct {
	Manifest string // tag or digest
	Blob     digest.Digest
}

func (t Target) request(repo string) (*request, error) {
	rq := &request{op: "visibility", method: http.MethodHead, repo: repo}
	switch {
	case t.Blob != "":
		rq.what, rq.path = t.Blob.String(), "blobs/"+t.Blob.String()
		return rq, t.Blob.Validate()
	case t.Manifest == "":
		// GET, as few answer HEAD here; the rest is not read.
		rq.method, rq.path, rq.query = http.MethodGet, "tags/list", url.Values{"n": {"1"}}
		return rq, nil
	}
	rq.what, rq.path = t.Manifest, "manifests/"+t.Manifest
	rq.header = http.Header{"Accept": {strings.Join(acceptAll, ", ")}}
	if isDigest(t.Manifest) {
		return rq, digest.Digest(t.Manifest).Validate()
	}
	if !tagGrammar.MatchString(t.Manifest) {
		return rq, errors.New("neither a tag nor a digest")
	}
	return rq, nil
}

// access finds whom to ask: the upstream itself, since its mirrors have rules of
// their own.
func (c *Client) access(name, repo string, t Target) (*upstream, *request, error) {
	what := t.Manifest + t.Blob.String()
	e, err := c.find("visibility", name, repo, what)
	if err != nil {
		return nil, nil, err
	}
	u := e.own()
	rq, err := t.request(repo)
	if err != nil {
		rq.what = scrub(what)
		return nil, nil, u.error(rq, &failure{kind: Invalid, err: err})
	}
	return u, rq, nil
}

// Public is nil where anybody may have the target, without credentials. A
// seeder is asked what it knows of that. Kinds: all. Denied: credentials are
// needed. Any other says nothing either way.
func (c *Client) Public(ctx context.Context, name, repo string, t Target) error {
	u, rq, err := c.access(name, repo, t)
	if err != nil {
		return err
	}
	if u.relay() {
		if rq.header == nil {
			rq.header = http.Header{}
		}
		rq.method = http.MethodHead
		rq.header.Set(VisibilityHeader, AskVisibility)
	} else {
		rq.anonymous = true
	}
	resp, e := u.do(ctx, rq)
	if e != nil {
		if u.relay() && e.Kind == Denied {
			e.Kind = Unavailable // it refuses us, and says nothing of others
		}
		return e
	}
	defer resp.Close()
	said := resp.header.Get(VisibilityHeader)
	switch {
	case !u.relay(), said == VisibilityPublic:
		return nil
	case said == VisibilityPrivate:
		return u.error(rq, &failure{kind: Denied, err: errors.New("it is not public at its upstream")})
	}
	return u.error(rq, &failure{kind: Unavailable, err: errors.New("this seeder cannot tell who may have it")})
}

// opened notes that a repository answered.
func (u *upstream) opened(a account, header string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if s := u.sessions[a]; s != nil && s.bare && s.header == header {
		s.public = u.now()
	}
}

// PublicAt is when a repository last answered a request of any sort without
// credentials: for clients that have none, each is as good as Public. Zero
// where none is remembered.
func (c *Client) PublicAt(name, repo string) time.Time {
	c.mu.RLock()
	e := c.byName[name]
	c.mu.RUnlock()
	if e == nil || e.own().relay() {
		return time.Time{}
	}
	u := e.own()
	u.mu.Lock()
	defer u.mu.Unlock()
	var at time.Time
	for _, a := range []account{{repo, false}, {repo, true}} {
		if s := u.sessions[a]; s != nil && s.public.After(at) {
			at = s.public
		}
	}
	return at
}

// maxChallenge bounds what of a challenge is passed on, in bytes.
const maxChallenge = 4096

// Challenge is the WWW-Authenticate header with which the upstream answers
// whoever shows nothing, for others to be passed on; "" where it does not ask
// for a Bearer token, or for one from a place without TLS although it has TLS
// itself. Basic is never passed on: a client would send its password to us.
func (c *Client) Challenge(ctx context.Context, name, repo string, t Target) (string, error) {
	u, rq, err := c.access(name, repo, t)
	if err != nil {
		return "", err
	}
	return u.asksFor(ctx, rq)
}

// Greeting is the challenge with which the upstream greets whoever says nothing
// but GET /v2/; as Challenge otherwise.
func (c *Client) Greeting(ctx context.Context, name string) (string, error) {
	c.mu.RLock()
	e := c.byName[name]
	c.mu.RUnlock()
	if e == nil {
		return "", &Error{Op: "greeting", Upstream: name, Kind: Invalid, Err: errors.New("no such upstream")}
	}
	return e.own().asksFor(ctx, &request{op: "greeting", method: http.MethodGet})
}

func (u *upstream) asksFor(ctx context.Context, rq *request) (string, error) {
	resp, own, f := u.show(ctx, rq, "") //nolint:bodyclose // gulp closes it
	if f != nil {
		return "", u.error(rq, f)
	}
	gulp(resp.Body, 4<<10)
	if resp.StatusCode != http.StatusUnauthorized || !own {
		return "", nil
	}
	for _, v := range resp.Header.Values("WWW-Authenticate") {
		if scheme, _, _ := strings.Cut(v, " "); !strings.EqualFold(scheme, "Bearer") || len(v) > maxChallenge || strings.ContainsAny(v, "\r\n") {
			continue
		}
		// The same reader as for our own logins.
		one := &http.Response{StatusCode: resp.StatusCode, Header: http.Header{"Www-Authenticate": {v}}}
		ch, err := transport.Ping(ctx, u.registry, canned{u, one})
		if err != nil {
			continue
		}
		realm, err := url.Parse(ch.Parameters["realm"])
		if err != nil || realm.Host == "" || realm.User != nil || realm.Scheme != "https" && (realm.Scheme != "http" || u.scheme != "http") {
			continue
		}
		return v, nil
	}
	return "", nil
}

// Accepts is nil where the upstream gives the target to whoever shows this
// Authorization header. It goes to the upstream's own host, by its URL, and
// nowhere else, and is in no error. Kinds as Public's.
func (c *Client) Accepts(ctx context.Context, name, repo string, t Target, authorization string) error {
	u, rq, err := c.access(name, repo, t)
	if err != nil {
		return err
	}
	resp, own, f := u.show(ctx, rq, authorization) //nolint:bodyclose // gulp and refused close it
	if f != nil {
		return u.error(rq, f)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		gulp(resp.Body, 0)
		return nil
	}
	return u.error(rq, u.refused(resp, own, authorization))
}

// show sends a request once, with an Authorization that is not ours and no
// other. own is false where the answer is from where it was redirected to. The
// caller closes the body.
func (u *upstream) show(ctx context.Context, rq *request, authorization string) (resp *http.Response, own bool, f *failure) {
	if f := u.waitTurn(ctx); f != nil {
		return nil, false, f
	}
	if f := u.breaker.admit(); f != nil {
		return nil, false, f
	}
	if err := u.metadata.enter(ctx); err != nil {
		return nil, false, &failure{kind: Canceled, err: err}
	}
	defer u.metadata.leave()
	began := u.now()
	resp, own, err := u.follow(ctx, rq, authorization)
	switch {
	case err != nil:
		if own {
			u.breaker.broke(ctx, began, err)
		}
		f := networkFailure(ctx, err)
		if _, secret, _ := strings.Cut(authorization, " "); secret != "" && strings.Contains(f.err.Error(), secret) {
			f.err = errors.New("the request failed")
		}
		return nil, false, f
	case own && resp.StatusCode >= 500:
		u.breaker.refused5xx(resp.StatusCode, rq.path)
	default:
		u.breaker.answered()
	}
	u.exchanged(rq.op, None)
	return resp, own, nil
}
