package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// Writer takes what is pushed to and deleted from repositories. Names have
// passed Writable. Errors choose their status as *Error does; those named here
// are the ones of its own. Implementations are safe for concurrent use.
type Writer interface {
	Uploader

	// Writable is nil where content of n can be pushed and deleted, else the
	// answer to whoever tries. Errors: DENIED, UNSUPPORTED.
	Writable(n Name) error
	// PutManifest stores a manifest and makes tags mean it.
	// Errors: MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN, DIGEST_INVALID,
	// DENIED (412, by the Condition).
	PutManifest(ctx context.Context, n Name, p Put) (Put, error)
	// Delete forgets a tag, or a manifest by digest with every tag that means
	// it. Errors: MANIFEST_UNKNOWN, NAME_UNKNOWN, DENIED (412, by the Condition).
	Delete(ctx context.Context, r Request, c Condition) error
	// DeleteBlob takes a blob out of a repository. Errors: BLOB_UNKNOWN.
	DeleteBlob(ctx context.Context, n Name, d digest.Digest) error
}

// Uploader takes blobs.
type Uploader interface {
	// Mount makes blob d of repository from one of n, too; a zero from means
	// any repository. False: it cannot, and the client has to upload it.
	Mount(ctx context.Context, n Name, d digest.Digest, from Name) (bool, error)
	// StartUpload begins an upload whose digest will be of algorithm alg.
	StartUpload(ctx context.Context, n Name, alg digest.Algorithm) (Upload, error)
	// FindUpload finds one that was started, also by an earlier process.
	// Errors: BLOB_UPLOAD_UNKNOWN.
	FindUpload(ctx context.Context, n Name, id string) (Upload, error)
}

// Upload is a blob on its way in. Its methods are safe for concurrent use; of
// two that write, the later one ends the earlier.
type Upload interface {
	ID() string
	// Size is the number of bytes received in order.
	Size() int64
	// Append adds the bytes of r, which begin at offset; below 0 means at the
	// end. It returns how many bytes there are then, also with an error: what
	// came before it stays. Errors: *OffsetError, r's.
	Append(ctx context.Context, offset int64, r Body) (int64, error)
	// Commit makes what was received blob d, durably, and ends the upload.
	// Errors: DIGEST_INVALID, which ends the upload, too.
	Commit(ctx context.Context, d digest.Digest) error
	// Cancel ends the upload and drops what was received.
	Cancel(ctx context.Context) error
}

// Body is what a client sends.
type Body interface {
	io.Reader
	// Interrupt makes a Read that waits for the client, and every later one,
	// return os.ErrDeadlineExceeded.
	Interrupt()
}

// OffsetError says that bytes do not follow those that were received.
type OffsetError struct{ Offset, Size int64 }

func (e *OffsetError) Error() string {
	return fmt.Sprintf("the chunk begins at %d where %d bytes were received", e.Offset, e.Size)
}

// Put is a manifest that is pushed.
type Put struct {
	Manifest
	Tags      []string
	Condition Condition
	Subject   digest.Digest // of the manifest, in the answer
}

// Condition is what must be true of a tag, or of a manifest by digest, for a
// change to be made (RFC 9110 section 13.1). The zero Condition always is.
type Condition struct {
	Match  digest.Digest // it is this one
	Exists bool          // it is any
	Absent bool          // it is none
}

// Check is nil when the condition is true; current is "" for nothing.
func (c Condition) Check(current digest.Digest) error {
	if c.Match != "" && current != c.Match || c.Exists && current == "" || c.Absent && current != "" {
		now := "there is none"
		if current != "" {
			now = "it is " + current.String()
		}
		return &Error{Status: http.StatusPreconditionFailed, Code: CodeDenied, Message: "the condition of the request is not met: " + now}
	}
	return nil
}

// ReferrerLister lists what refers to a manifest.
type ReferrerLister interface {
	// Referrers answers GET of /v2/<name>/referrers/<digest> with descriptors
	// as the distribution spec wants them ("Listing Referrers"); none where
	// nothing refers to r.Digest. The handler leaves out those of another
	// artifactType; a backend may, where that saves work.
	// Errors: NAME_UNKNOWN and as Backend.Manifest.
	Referrers(ctx context.Context, r Request, artifactType string) ([]Descriptor, error)
}

// Cataloger lists repositories.
type Cataloger interface {
	// Repositories answers GET of /v2/_catalog: up to n names in lexical order
	// that come after last. n <= 0 means no limit.
	Repositories(ctx context.Context, limit int, last string) ([]string, error)
}
