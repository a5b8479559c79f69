package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// Kind says what sort of failure an error is. It, not the text, decides what
// a caller does next.
type Kind uint8

const (
	None        Kind = iota // no error
	NotFound                // the upstream says that there is no such thing
	Denied                  // the upstream wants other credentials, or refuses these
	RateLimited             // too many requests; Error.RetryAfter says how long to stay away
	Unavailable             // no answer, a server error, or a connection that kept breaking
	Corrupt                 // the answer contradicts itself or its digest
	Canceled                // the caller's context ended
	Invalid                 // the question makes no sense: bad name, range outside the blob, unknown upstream
	Refused                 // the rules here forbid it, whatever the upstream would say
	Offline                 // no upstream may be asked at all
)

var kindNames = [...]string{"ok", "not-found", "denied", "rate-limited", "unavailable", "corrupt", "canceled", "invalid", "refused", "offline"}

// String is the word used in metrics, logs and the status page.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// MarshalText makes Kind a word in JSON, also as a map key.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Error is what every method of Client and BlobReader returns (io.EOF apart).
// Its text is safe to show and log.
type Error struct {
	Op         string        // "manifest", "head", "blob", "tags"; also the op label of metrics
	Upstream   string        // name of the upstream
	Repo       string        // repository at the upstream
	What       string        // tag or digest asked for, "" for tag lists
	Kind       Kind          // policy
	Status     int           // HTTP status, 0 when there was no answer
	RetryAfter time.Duration // with RateLimited, and Unavailable when the upstream said so; else 0
	Err        error         // cause; its text holds no secrets
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Repo != "" {
		b.WriteString(" " + e.Repo)
		switch {
		case strings.Contains(e.What, ":"):
			b.WriteString("@" + e.What)
		case e.What != "":
			b.WriteString(":" + e.What)
		}
	}
	fmt.Fprintf(&b, " from %s: %s", e.Upstream, e.Kind)
	if e.Status != 0 {
		fmt.Fprintf(&b, " (%d %s)", e.Status, http.StatusText(e.Status))
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, "; not before %s from now", e.RetryAfter.Round(time.Second))
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the Kind of err: None for nil, Canceled for a bare context error,
// Unavailable for an error that is not this package's.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return None
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled
	}
	return Unavailable
}

// kindOfStatus is for answers of 300 and above.
func kindOfStatus(status int) Kind {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return NotFound
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusUnavailableForLegalReasons:
		return Denied
	case http.StatusTooManyRequests:
		return RateLimited
	case http.StatusRequestTimeout:
		return Unavailable
	case http.StatusLoopDetected: // a seeder that was asked already
		return Invalid
	}
	if status >= 400 && status < 500 {
		return Invalid
	}
	return Unavailable
}

var (
	errIdle      = errors.New("no byte came within the idle deadline")
	errRedirects = errors.New("more than 5 redirects")
)

// failure is the cause of one failed attempt, before it gets its Error.
type failure struct {
	kind       Kind
	status     int
	retryAfter time.Duration
	again      bool // an idempotent request may be sent again
	broken     bool // the breaker is open: it was not sent
	err        error
}

func (f *failure) Error() string { return f.err.Error() }

// networkFailure classifies an error of a RoundTripper or a body.
func networkFailure(ctx context.Context, err error) *failure {
	if ctx.Err() != nil {
		return &failure{kind: Canceled, err: context.Cause(ctx)}
	}
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	f = &failure{kind: Unavailable, err: safe(err), again: true}
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		record      tls.RecordHeaderError
		timeout     net.Error
	)
	switch {
	case errors.As(err, &certificate), errors.As(err, &authority):
		f.again = false
		f.err = fmt.Errorf("%w; trust its authority with the upstream CA file, or check the URL", f.err)
	case errors.As(err, &record):
		f.again = false
		f.err = errors.New("it does not speak TLS; if it is a plain registry, write its URL with http://")
	case errors.Is(err, errRedirects):
		f.again = false
	case errors.Is(err, errIdle), errors.As(err, &timeout) && timeout.Timeout():
		// The deadline has been waited for in full: a second try would double
		// the time that a client stands in line.
		f.again = false
	}
	return f
}

var (
	userinfo = regexp.MustCompile(`(://)[^/\s"'@]*@`)
	query    = regexp.MustCompile(`(\?)[^\s"']+`)
)

// scrub removes userinfo and queries of URLs, line breaks and control
// characters from text of others, and keeps it short.
func scrub(s string) string {
	s = userinfo.ReplaceAllString(s, "$1")
	s = query.ReplaceAllString(s, "${1}...")
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}

// safe keeps an error's identity where that holds no secret, and its scrubbed
// text.
func safe(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // drops the URL
	}
	text := err.Error()
	if clean := scrub(text); clean != text {
		return errors.New(clean)
	}
	return err
}
