package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Puller is a client that pulls whole images.
type Puller interface {
	// Pull fetches repo:tag (or repo@digest) of the upstream named in the puller and
	// verifies all of it.
	Pull(ctx context.Context, repo, ref string) (*PullReport, error)
}

// PullReport is how one pull went.
type PullReport struct {
	Start    time.Time
	Total    time.Duration
	Manifest time.Duration // until the manifest was there
	Digest   string        // of the manifest
	Blobs    []BlobReport  // in the order they were asked for; empty for Containerd
}

// BlobReport is how one blob came.
type BlobReport struct {
	Digest       string
	Size         int64
	FirstByte    time.Duration // from the request to the first byte of the body
	Total        time.Duration
	FromMirror   int64 // bytes
	FromUpstream int64 // bytes
	Resumes      int   // ranges asked for after a cut
}

// Bytes is the sum of the blobs' sizes.
func (r *PullReport) Bytes() int64 {
	var n int64
	for _, b := range r.Blobs {
		n += b.Size
	}
	return n
}

// FromUpstream is how many bytes the client itself took from the upstream.
func (r *PullReport) FromUpstream() int64 {
	var n int64
	for _, b := range r.Blobs {
		n += b.FromUpstream
	}
	return n
}

// FirstByte is the longest wait for a blob's first byte.
func (r *PullReport) FirstByte() time.Duration {
	var d time.Duration
	for _, b := range r.Blobs {
		d = max(d, b.FirstByte)
	}
	return d
}

// Errors of pulls. Status errors are *StatusError.
var (
	ErrWrongBytes = errors.New("bytes do not match the digest")
	ErrCut        = errors.New("connection cut before the end")
)

// StatusError is an answer that is not 2xx.
type StatusError struct {
	URL    string
	Status int
	Body   string // the first 512 bytes
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("GET %s: status %d: %s", e.URL, e.Status, e.Body)
}
