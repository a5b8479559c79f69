package objectstore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/minio/minio-go/v7"
)

// Kind is what an error means to whoever asked.
type Kind uint8

// The kinds of errors.
const (
	Unavailable Kind = iota // no answer, a server error, too many requests
	NotFound                // there is no such object, or no such bucket
	Denied                  // credentials are missing, wrong, or do not suffice
	Invalid                 // the store does not do what was asked
	Canceled                // the caller's context ended
)

var kindNames = [...]string{"unavailable", "not-found", "denied", "invalid", "canceled"}

// String is the word used in metrics and logs.
func (k Kind) String() string { return kindNames[k] }

// Error is a request that failed.
type Error struct {
	Op       string // "put", "get", ...
	Location Location
	Key      string // below the prefix
	Kind     Kind
	Err      error

	bucket bool // the bucket itself is not there
}

// Error says what was tried, where, and what to do where that is known.
func (e *Error) Error() string {
	at := e.Location
	if e.Key != "" {
		at.Prefix = at.key(e.Key)
	}
	return fmt.Sprintf("object store: %s %s: %v", e.Op, at, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the Kind of an error of this package; Unavailable for any other.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Unavailable
}

// NoBucket tells whether it is the bucket that is not there.
func NoBucket(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.bucket
}

// errStalled ends a call that does not get on.
var errStalled = errors.New("the object store did not answer in time")

// explain makes an Error of what the library says.
func (c *Client) explain(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Location: c.o.Location, Key: key, Err: err}
	var s3 minio.ErrorResponse
	var unknown x509.UnknownAuthorityError
	var ue *url.Error
	switch {
	case errors.Is(context.Cause(ctx), errStalled):
		e.Err = errStalled
	case ctx.Err() != nil:
		e.Kind, e.Err = Canceled, context.Cause(ctx)
	case errors.As(err, &s3):
		e.Kind, e.Err, e.bucket = kindOf(s3), describe(s3), s3.Code == minio.NoSuchBucket
	case errors.As(err, &unknown):
		e.Err = fmt.Errorf("%w; give its authority with --object-store-ca", unknown)
	case errors.As(err, &ue):
		e.Err = ue.Err // without the URL, which is long and says nothing new
	}
	return e
}

func kindOf(s3 minio.ErrorResponse) Kind {
	switch {
	case s3.Code == minio.NoSuchKey || s3.Code == minio.NoSuchBucket || s3.StatusCode == http.StatusNotFound:
		return NotFound
	case s3.StatusCode == http.StatusForbidden || s3.StatusCode == http.StatusUnauthorized:
		return Denied
	case s3.StatusCode == http.StatusTooManyRequests || s3.StatusCode == http.StatusRequestTimeout || s3.StatusCode >= 500 && s3.StatusCode != http.StatusNotImplemented:
		return Unavailable
	case s3.StatusCode == 0: // it was no answer of a store
		return Unavailable
	}
	return Invalid
}

// describe is the store's own word. Its texts name keys, users and requests,
// no secrets; they are quoted, since they come from elsewhere.
func describe(s3 minio.ErrorResponse) error {
	fix := ""
	switch s3.Code {
	case minio.NoSuchBucket:
		fix = "; make the bucket, or name another with --object-store"
	case minio.AccessDenied, "InvalidAccessKeyId", "SignatureDoesNotMatch":
		fix = "; look at the credentials and what they permit (docs/objectstore.md)"
	case "AuthorizationHeaderMalformed", "PermanentRedirect":
		fix = "; give the bucket's region with --object-store-region"
	}
	return fmt.Errorf("status %d, %.64q: %.300q%s", s3.StatusCode, s3.Code, s3.Message, fix)
}
