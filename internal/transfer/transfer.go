package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// ErrNotFound is in the error of a Source that does not have what was asked for.
var ErrNotFound = errors.New("not found")

// Source is where images are taken from. Repositories are named as the source
// names them. What a Source returns need not have its digest: Copier checks.
// Safe for concurrent use.
type Source interface {
	// Manifest gets a manifest by tag or digest. Errors: ErrNotFound.
	Manifest(ctx context.Context, repo, ref string) (registry.Manifest, error)
	// Blob opens a blob. Errors: ErrNotFound.
	Blob(ctx context.Context, repo string, d registry.Descriptor) (Content, error)
	// Referrers lists what refers to a manifest; none is no error.
	Referrers(ctx context.Context, repo string, d digest.Digest) ([]registry.Descriptor, error)
}

// Content is the bytes of a blob. File, where there is one, holds just these
// bytes under its name and is never written to: it can be linked.
type Content struct {
	io.ReadCloser
	File *os.File
}

// Target is where images go. Safe for concurrent use.
type Target interface {
	// Has tells whether a repository has a manifest, and the tag (if any) means it.
	Has(ctx context.Context, repo string, d digest.Digest, tag string) (bool, error)
	// Mount makes a blob one of a repository where its bytes are there already.
	Mount(ctx context.Context, repo string, d registry.Descriptor) (bool, error)
	// PutBlob makes a blob one of a repository; linked tells that its bytes were
	// not copied. It may open the content again, after an attempt that failed.
	// At its end the content fails unless it was d: that *Fault is returned, and
	// nothing kept.
	PutBlob(ctx context.Context, repo string, d registry.Descriptor, open func() (Content, error)) (linked bool, err error)
	// PutManifest stores a manifest, and makes the tag (if any) mean it. A
	// manifest that is refused for what it is is a *Fault.
	PutManifest(ctx context.Context, repo string, m registry.Manifest, tag string) error
}

// Item is one image to move: a tag or a digest of a repository, and what it is
// to be called.
type Item struct {
	Repository, Reference string
	ToRepository          string
	// ToTag may be empty: it has no tag there. For a LayoutWriter it may also be a
	// digest, which then is that of what is moved.
	ToTag string
}

func (i Item) String() string {
	if registry.IsDigest(i.Reference) {
		return i.Repository + "@" + i.Reference
	}
	return i.Repository + ":" + i.Reference
}

// Fault is something wrong with what was to be moved: one image is left out,
// and the others are not concerned.
type Fault struct {
	What string // "blob sha256:... of team/app"
	Err  error
}

func (f *Fault) Error() string { return f.What + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// errDamaged is the fault of content that does not have its digest.
var errDamaged = errors.New("damaged: the content has another digest")

// Problem is what was left out, and why.
type Problem struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Report is what a run has done.
type Report struct {
	Images        int       `json:"images"`       // that are at the target now
	Unchanged     int       `json:"unchanged"`    // of them, those that were there before
	Manifests     int64     `json:"manifests"`    // written
	BlobsCopied   int64     `json:"blobsCopied"`  // their bytes were
	BlobsLinked   int64     `json:"blobsLinked"`  // by a hard link
	BlobsPresent  int64     `json:"blobsPresent"` // were there already
	BytesCopied   int64     `json:"bytesCopied"`
	BytesLinked   int64     `json:"bytesLinked"`
	Unreferenced  int       `json:"unreferenced,omitempty"` // blobs of the source that no manifest names; not moved
	Problems      []Problem `json:"problems"`
	Seconds       float64   `json:"seconds"`
	DryRun        bool      `json:"dryRun,omitempty"`
	DryRunImages  []string  `json:"dryRunImages,omitempty"`
	started       time.Time
	problemsKnown map[Problem]bool
}

// NewReport begins a report.
func NewReport() *Report {
	return &Report{Problems: []Problem{}, started: time.Now(), problemsKnown: make(map[Problem]bool)}
}

// Add notes what is left out, once.
func (r *Report) Add(what, why string) {
	p := Problem{what, why}
	if !r.problemsKnown[p] {
		r.problemsKnown[p] = true
		r.Problems = append(r.Problems, p)
	}
}

// Progress is what a run does at this moment, to be read while it goes on.
type Progress struct {
	Images, Total atomic.Int64 // done, and to do in all
	Blobs, Bytes  atomic.Int64 // done; bytes also of blobs under way
	doing         atomic.Pointer[string]
}

// Doing is what is under way.
func (p *Progress) Doing() string {
	if s := p.doing.Load(); s != nil {
		return *s
	}
	return ""
}

// Begin says what is under way.
func (p *Progress) Begin(what string) { p.doing.Store(&what) }

// verified reads bytes that must be those of a descriptor, and fails at their
// end if they are not.
type verified struct {
	io.Closer
	r    io.Reader
	v    digest.Verifier
	d    registry.Descriptor
	left int64
	told *atomic.Int64 // of every byte
}

func newVerified(r io.ReadCloser, d registry.Descriptor, told *atomic.Int64) *verified {
	return &verified{Closer: r, r: r, v: d.Digest.Verifier(), d: d, left: d.Size, told: told}
}

// Read implements io.Reader. Errors are *Fault: whoever reads is at the target.
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.left -= int64(n)
	_, _ = v.v.Write(p[:n]) // never fails
	v.told.Add(int64(n))
	end := errors.Is(err, io.EOF)
	switch {
	case v.left < 0:
		err = fmt.Errorf("damaged: it has more than the %d bytes that its manifest says", v.d.Size)
	case end && v.left > 0:
		err = fmt.Errorf("damaged: it has %d bytes less than the %d that its manifest says", v.left, v.d.Size)
	case end && !v.v.Verified():
		err = errDamaged
	case end, err == nil:
		return n, err
	}
	return n, &Fault{What: "blob " + v.d.Digest.String(), Err: err}
}
