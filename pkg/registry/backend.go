package registry

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Request is what a client asked for, resolved and validated.
type Request struct {
	Name      Name
	Named     bool          // the client named the upstream; false: Name.Upstream is the default
	Reference string        // tag or digest as sent; a valid one
	Digest    digest.Digest // set when Reference is a digest
	Head      bool          // only headers are wanted
	Range     string        // the Range header, as sent; see Parts
	First     int64         // offset of the first byte wanted of a blob, where the range says so; a hint
	Accept    []string      // values of the Accept header, as sent
	UserAgent string
}

// Bound tells whether the client never leaves a mirror that has given it a
// manifest: whatever it is refused afterwards fails its pull (contract 10). These
// are the programs made of containers/image.
func (q *Request) Bound() bool {
	switch q.agent() {
	case "containers", "skopeo", "libpod", "podman", "cri-o", "buildah":
		return true
	}
	return false
}

// NeedsByte tells whether the client goes on elsewhere where a body ends early
// only if some of it has come; where nothing has, its pull fails. That is regclient.
func (q *Request) NeedsByte() bool { return q.agent() == "regclient" }

// agent is the client's name without its version.
func (q *Request) agent() string {
	agent, _, _ := strings.Cut(strings.ToLower(q.UserAgent), "/")
	return agent
}

// Manifest is a manifest of any type, byte for byte as its upstream has it.
type Manifest struct {
	Digest    digest.Digest
	MediaType string // goes to the client as it is (contract 3)
	Content   []byte // may be nil in answer to Head
	Size      int64  // of the content; needed only when Content is nil
	// Age is how long ago it was checked that a tag means this. It goes out as
	// the Age header, so that a cache behind this one need not begin to count
	// anew.
	Age time.Duration
	// Cached goes out as headers.
	Cached Cached
}

// Blob is content of known size, of which every byte can be delivered.
type Blob struct {
	Digest digest.Digest
	Size   int64
	// Content is read and then closed by the handler. A *os.File goes out by
	// sendfile; an io.WriterTo is asked to write itself, so that a reader over
	// a growing file can use sendfile too. Reads may block while bytes are
	// still on their way and must end when the request's context ends. Close
	// may be called while a Read is under way. May be nil in answer to Head.
	Content io.ReadSeekCloser
	// Redirect is a URL that has the content, for this client; Content is nil then.
	Redirect string
	Cached   Cached // goes out as headers
}

// Backend is where the handler's content comes from. Every method is called
// with the request's context, which lives until the client is gone or the
// body is sent: it covers the body, not the decision. A backend bounds its
// own decision (contract 11, 12) and returns an error once it cannot help.
// Errors choose their status as *Error does. Implementations are safe for
// concurrent use.
type Backend interface {
	// Manifest answers GET and HEAD of /v2/<name>/manifests/<reference>.
	// Errors: MANIFEST_UNKNOWN, NAME_UNKNOWN, DENIED, UNAUTHORIZED,
	// TOOMANYREQUESTS, UNAVAILABLE.
	Manifest(ctx context.Context, r Request) (*Manifest, error)
	// Blob answers GET and HEAD of /v2/<name>/blobs/<digest>. Returning
	// without error is a promise to deliver every byte (contract 9).
	// Errors: BLOB_UNKNOWN and as Manifest.
	Blob(ctx context.Context, r Request) (Blob, error)
	// Tags answers GET of /v2/<name>/tags/list: up to n tags in lexical order
	// that come after last. n <= 0 means no limit, last == "" from the first.
	// Errors: NAME_UNKNOWN and as Manifest.
	Tags(ctx context.Context, n Name, limit int, last string) ([]string, error)
}
