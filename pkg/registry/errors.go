package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Error codes of the distribution spec, "Error Codes".
const (
	CodeBlobUnknown         = "BLOB_UNKNOWN"
	CodeBlobUploadInvalid   = "BLOB_UPLOAD_INVALID"
	CodeBlobUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	CodeDenied              = "DENIED"
	CodeDigestInvalid       = "DIGEST_INVALID"
	CodeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	CodeManifestInvalid     = "MANIFEST_INVALID"
	CodeManifestUnknown     = "MANIFEST_UNKNOWN"
	CodeNameInvalid         = "NAME_INVALID"
	CodeNameUnknown         = "NAME_UNKNOWN"
	CodeSizeInvalid         = "SIZE_INVALID"
	CodeTooManyRequests     = "TOOMANYREQUESTS"
	CodeUnauthorized        = "UNAUTHORIZED"
	CodeUnsupported         = "UNSUPPORTED"
	// CodeUnavailable and CodeUnknown are not in the spec's table; registries
	// in the field use them for what the table does not cover.
	CodeUnavailable = "UNAVAILABLE"
	CodeUnknown     = "UNKNOWN"
	// CodeRangeInvalid is the code distribution/distribution uses with 416.
	CodeRangeInvalid = "RANGE_INVALID"
)

// Error is an answer to a client that is not a success. A Backend returns one,
// possibly wrapped, to choose status and code; any other error becomes 500
// UNKNOWN, context.DeadlineExceeded 503 UNAVAILABLE. A handler with
// NotFoundOnly turns them into 404, unless they have a Challenge.
type Error struct {
	Status     int    // HTTP status, 400 to 599
	Code       string // of the Code constants
	Message    string // for a person; must carry no secret
	RetryAfter time.Duration
	// Challenge goes out as WWW-Authenticate, with status 401. It is what a
	// handler with NotFoundOnly lets through: only with it can a client get what
	// it needs to be given more (contract 25).
	Challenge string
	// Digests are what the error is about, one entry of the answer each; none
	// makes it one entry.
	Digests []digest.Digest
	Err     error // cause; for logs only, never sent
}

// Error tells all; a cause that is in the message is not told twice.
func (e *Error) Error() string {
	s := e.Code
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Err != nil && !strings.Contains(s, e.Err.Error()) {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// BlobUnknown is 404 BLOB_UNKNOWN. cause may be nil.
func BlobUnknown(d digest.Digest, cause error) *Error {
	return &Error{Status: http.StatusNotFound, Code: CodeBlobUnknown,
		Message: fmt.Sprintf("blob %s cannot be had here", d), Err: cause}
}

// ManifestUnknown is 404 MANIFEST_UNKNOWN. cause may be nil.
func ManifestUnknown(n Name, reference string, cause error) *Error {
	return &Error{Status: http.StatusNotFound, Code: CodeManifestUnknown,
		Message: fmt.Sprintf("manifest %s of %s cannot be had here", short(reference), n), Err: cause}
}

// NameUnknown is 404 NAME_UNKNOWN. cause may be nil.
func NameUnknown(n Name, cause error) *Error {
	return &Error{Status: http.StatusNotFound, Code: CodeNameUnknown,
		Message: fmt.Sprintf("repository %s cannot be had here", n), Err: cause}
}

func nameInvalid(s, why string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: CodeNameInvalid,
		Message: fmt.Sprintf("%q: %s", short(s), why)}
}

func digestInvalid(s string, err error) *Error {
	return &Error{Status: http.StatusBadRequest, Code: CodeDigestInvalid,
		Message: fmt.Sprintf("%q: %v", short(s), err)}
}

// short keeps what a client sent from filling logs and answers.
func short(s string) string {
	const limit = 160
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// WriteError answers r with e as the handler does, for what stands before it.
func WriteError(w http.ResponseWriter, r *http.Request, e *Error) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	writeError(w, r, e)
}

// writeError sends e as an OCI error body. Content-Length is always set, so
// that a flush does not turn the response into chunks.
func writeError(w http.ResponseWriter, r *http.Request, e *Error) {
	type detail struct {
		Digest digest.Digest `json:"digest"`
	}
	type item struct {
		Code    string  `json:"code"`
		Message string  `json:"message"`
		Detail  *detail `json:"detail,omitempty"`
	}
	items := make([]item, 0, max(1, len(e.Digests)))
	for _, d := range e.Digests {
		items = append(items, item{e.Code, e.Message, &detail{d}})
	}
	if len(items) == 0 {
		items = append(items, item{Code: e.Code, Message: e.Message})
	}
	body, err := json.Marshal(struct {
		Errors []item `json:"errors"`
	}{items})
	if err != nil { // two strings always marshal
		body = []byte(`{"errors":[]}`)
	}
	h := w.Header()
	for _, k := range []string{"Accept-Ranges", "Cache-Control", "Content-Range", "Docker-Content-Digest", "ETag", "Link", "OCI-Filters-Applied", headerCache, headerSource} {
		if k == "Content-Range" && e.Status == http.StatusRequestedRangeNotSatisfiable {
			continue
		}
		h.Del(k)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	if e.Challenge != "" {
		h.Set("WWW-Authenticate", e.Challenge)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(e.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone; nobody is left to tell
	}
}

// asError gives the Error inside err, or one that stands for it.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		if e.Status < 400 || e.Status > 599 {
			return &Error{Status: 500, Code: CodeUnknown, Message: e.Message, Err: err}
		}
		return e
	}
	if isDeadline(err) {
		return &Error{Status: http.StatusServiceUnavailable, Code: CodeUnavailable,
			Message: "no source answered in time", RetryAfter: 5 * time.Second, Err: err}
	}
	return &Error{Status: http.StatusInternalServerError, Code: CodeUnknown,
		Message: "internal error; the log has its cause", Err: err}
}
