package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	maxTries     = 3 // of one idempotent request
	maxRedirects = 5
	maxErrorBody = 16 << 10
)

// request is a GET or HEAD below /v2/<repo>/.
type request struct {
	op, method string
	repo, what string
	path       string // after /v2/<repo>/
	query      url.Values
	header     http.Header
	blob       bool // takes one of the slots for blobs
	also       int  // a status besides 2xx that is no failure, 0 = none
	anonymous  bool // without credentials, whether there are any or not
}

// response is an answer whose body must be closed.
type response struct {
	status int
	header http.Header
	length int64 // -1 when unknown
	*body
}

// error makes the Error of a request out of an attempt's failure.
func (u *upstream) error(rq *request, f *failure) *Error {
	return u.failed(&Error{Op: rq.op, Upstream: u.name, Repo: rq.repo, What: rq.what,
		Kind: f.kind, Status: f.status, RetryAfter: f.retryAfter, Err: f.err})
}

// do sends a request up to three times with jittered back-off, as long as the
// failures are of a sort that may pass.
func (u *upstream) do(ctx context.Context, rq *request) (*response, *Error) {
	var last *failure
	ctx, end := u.traced(ctx, rq)
	defer func() { end(last) }()
	for try := 0; ; try++ {
		if try > 0 {
			u.count(&u.stats.Retries, u.metrics.retries, 1)
		}
		resp, f := u.once(ctx, rq)
		if f == nil {
			last = nil
			return resp, nil
		}
		// A try that was not made because of the answer before: tell that one.
		if notMade := f.kind == RateLimited && f.status == 0; !notMade || last == nil || last.retryAfter == 0 {
			last = f
		}
		if !f.again || try+1 >= maxTries || u.relay() {
			return nil, u.error(rq, last)
		}
		if last.retryAfter == 0 {
			if err := sleep(ctx, backoff(200*time.Millisecond, 2*time.Second, 2*try, u.o.Jitter)); err != nil {
				return nil, u.error(rq, &failure{kind: Canceled, err: err})
			}
		}
	}
}

// relay tells whether the upstream is a seeder. It has tried already, so that
// trying again only costs time; and its "come back later" is about one
// upstream of its own: it must not hold up what else it has.
func (u *upstream) relay() bool { return u.ns != "" }

// once sends a request once: waits its turn, follows redirects, logs in again
// when the upstream no longer likes the token.
func (u *upstream) once(ctx context.Context, rq *request) (*response, *failure) {
	if f := u.waitTurn(ctx); f != nil {
		return nil, f
	}
	if f := u.breaker.admit(); f != nil {
		return nil, f
	}
	lane := u.metadata
	if rq.blob {
		lane = u.blobs
	}
	if err := lane.enter(ctx); err != nil {
		return nil, &failure{kind: Canceled, err: err}
	}
	u.flying(1)
	done := func() {
		u.flying(-1)
		lane.leave()
	}
	actx, cancel := context.WithCancelCause(ctx)
	resp, f := u.exchange(actx, rq) //nolint:bodyclose // newBody closes it
	if f != nil && ctx.Err() != nil {
		f = &failure{kind: Canceled, err: context.Cause(ctx)}
	}
	if f != nil {
		u.exchanged(rq.op, f.kind)
		cancel(context.Canceled)
		done()
		return nil, f
	}
	u.exchanged(rq.op, None)
	return &response{
		status: resp.StatusCode, header: resp.Header, length: resp.ContentLength,
		body: newBody(actx, cancel, resp.Body, u.o.IdleTimeout, done),
	}, nil
}

// exchange does the HTTP of one attempt; after a 401 it logs in and asks again,
// once and only if that gives it something else to say.
func (u *upstream) exchange(ctx context.Context, rq *request) (*http.Response, *failure) {
	who := account{rq.repo, rq.anonymous}
	authorization, f := u.authorization(ctx, who)
	for relogin := false; f == nil; relogin = true {
		began := u.now()
		resp, own, err := u.follow(ctx, rq, authorization)
		if err != nil {
			if own {
				u.breaker.broke(ctx, began, err)
			}
			return nil, networkFailure(ctx, err)
		}
		if own && resp.StatusCode >= 500 {
			u.breaker.refused5xx(resp.StatusCode, rq.path)
		} else {
			u.breaker.answered()
		}
		if own && !rq.anonymous { // or it is another's rate limit
			u.spend(resp.Header)
		}
		if ok := resp.StatusCode >= 200 && resp.StatusCode < 300 || rq.also != 0 && resp.StatusCode == rq.also; ok {
			u.welcome()
			if resp.StatusCode < 300 {
				u.opened(who, authorization)
			}
			return resp, nil
		}
		sent := authorization
		if resp.StatusCode == http.StatusUnauthorized && own && !relogin && u.unauthorized(who, sent, resp) {
			if authorization, f = u.authorization(ctx, who); f != nil || authorization != sent {
				gulp(resp.Body, 4<<10)
				continue
			}
		}
		return nil, u.refused(resp, own, sent)
	}
	return nil, f
}

// follow sends the request and goes where it is sent. own tells whether the
// answer is from the upstream itself and not from where it redirected to.
func (u *upstream) follow(ctx context.Context, rq *request, authorization string) (resp *http.Response, own bool, err error) {
	query := rq.query
	if u.ns != "" {
		query = url.Values{"ns": {u.ns}}
		maps.Copy(query, rq.query)
	}
	target := &url.URL{Scheme: u.scheme, Host: u.host, Path: "/v2/" + strings.TrimPrefix(rq.repo+"/"+rq.path, "/"), RawQuery: query.Encode()}
	for hop := 0; ; hop++ {
		own = target.Scheme == u.scheme && canonicalHost(target) == u.host
		req := (&http.Request{Method: rq.method, URL: target, Host: target.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}).WithContext(ctx)
		for k, v := range rq.header {
			req.Header[k] = v
		}
		req.Header.Set("User-Agent", u.o.UserAgent)
		req.Header.Set("Accept-Encoding", "identity")
		if own && authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		if own && trace.SpanContextFromContext(ctx).IsSampled() {
			propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
		}
		if via := u.via(ctx); own && via != "" {
			req.Header.Set("Via", via)
		}
		if resp, err = u.transport.RoundTrip(req); err != nil {
			if !own {
				err = fmt.Errorf("it redirected to %s: %w", target.Host, err)
			}
			return nil, own, err
		}
		if own {
			u.certified(resp.TLS)
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, own, nil
		}
		location := resp.Header.Get("Location")
		gulp(resp.Body, 4<<10)
		next, err := target.Parse(location)
		if location == "" || err != nil || next.Host == "" || next.Scheme != "http" && next.Scheme != "https" {
			return nil, own, &failure{kind: Unavailable, status: resp.StatusCode, err: errors.New("a redirect without a usable target")}
		}
		if hop == maxRedirects {
			return nil, own, errRedirects
		}
		next.User = nil
		next.Fragment = ""
		target = next
	}
}

// gulp reads a small body that is not worth waiting for, and closes it. Read
// to its end, its connection can be used again.
func gulp(b io.ReadCloser, limit int64) []byte {
	t := time.AfterFunc(2*time.Second, func() { _ = b.Close() })
	defer t.Stop()
	content, _ := io.ReadAll(io.LimitReader(b, limit))
	_ = b.Close()
	return content
}

// refused turns an answer into a failure and closes it.
func (u *upstream) refused(resp *http.Response, own bool, authorization string) *failure {
	f := &failure{kind: kindOfStatus(resp.StatusCode), status: resp.StatusCode}
	f.retryAfter = u.limited(resp)
	f.again = f.kind == RateLimited || f.kind == Unavailable && resp.StatusCode != http.StatusNotImplemented
	text := u.errorText(resp)
	if _, secret, _ := strings.Cut(authorization, " "); secret != "" {
		text = strings.ReplaceAll(text, secret, "...")
	}
	switch {
	case !own:
		f.err = fmt.Errorf("from %s, where it redirected to: %s", resp.Request.URL.Host, text)
	case u.relay() && resp.StatusCode == http.StatusNotFound && resp.Header.Get("Docker-Distribution-Api-Version") == "":
		// It would be believed as the upstream's word. A seeder says what it is with every answer.
		f.kind = Unavailable
		f.err = fmt.Errorf("%s; whoever says so is no registry: a proxy before the seeder, or a wrong path", text)
	case resp.StatusCode == http.StatusLoopDetected:
		f.err = fmt.Errorf("%s; seeders are one another's upstream: take one of them out", text)
	case f.kind == Denied:
		f.err = fmt.Errorf("%s; %s", text, u.remedy(authorization != ""))
	default:
		f.err = errors.New(text)
	}
	return f
}

// remedy tells a person what to do about a refusal.
func (u *upstream) remedy(known bool) string {
	host := u.host
	if host == hubHost {
		host = "" // docker login's default
	}
	how := strings.TrimSpace("docker login "+host) + ` as the daemon's user, or put credentials for ` + credentialsHost(u.host) + ` in the config.json of DOCKER_CONFIG`
	if known {
		return "the credentials or token sent do not open this repository, or it does not exist: " + how
	}
	return "no credentials are known for it, or it does not exist: run " + how
}

// errorText is the upstream's own explanation, made safe and short.
func (u *upstream) errorText(resp *http.Response) string {
	content := gulp(resp.Body, maxErrorBody)
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(content, &body) == nil && len(body.Errors) > 0 {
		return scrub(body.Errors[0].Code + ": " + body.Errors[0].Message)
	}
	return "it gave no reason"
}

// sleep waits d or until the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// backoff is base * 2^n, at most limit, spread over [0.5, 1.5) of itself.
func backoff(base, limit time.Duration, n int, jitter func() float64) time.Duration {
	d := limit
	if n < 20 {
		d = min(limit, base<<n)
	}
	return time.Duration(float64(d) * (0.5 + jitter()))
}
