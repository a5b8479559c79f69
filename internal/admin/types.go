package admin

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/events"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/status"
)

// Cache is what a seeder does with the content of upstreams.
type Cache interface {
	// Usage tells what content takes: of repositories below a prefix (whole path
	// components of canonical names), or of all for "".
	Usage(ctx context.Context, prefix string) (Usage, error)
	// Prewarm fetches images as a pull of theirs would. It goes on with the next
	// image when one fails; the error says how many did.
	Prewarm(ctx context.Context, r PrewarmRequest, p *Progress) (PrewarmResult, error)
	// Purge drops what is cached of a repository, so that it is fetched anew.
	Purge(ctx context.Context, r PurgeRequest) (Purged, error)
	// Upstreams tells how they do.
	Upstreams() []status.Upstream
	// Events tells how endpoints of events do.
	Events() []events.State
}

// Scrubber checks what lies on the disk.
type Scrubber interface {
	// Scrub tells about the round under way, or the last one.
	Scrub() status.Scrub
	// ScrubNow begins a round; false where one is under way.
	ScrubNow() bool
}

// Local is what a seeder does with repositories that are pushed to it
// (*local.Registry).
type Local interface {
	// Collect errors: local.ErrCollecting.
	Collect(ctx context.Context, o local.CollectOptions) (local.Report, error)
	Trash(repository string) []local.TrashEntry
	// Restore errors: *registry.Error.
	Restore(ctx context.Context, repository, reference string) (local.Restored, error)
	// EmptyTrash errors: local.ErrCollecting.
	EmptyTrash(ctx context.Context, repository string) (local.Freed, error)
}

// Usage is what content takes.
type Usage struct {
	Store        StoreUsage        `json:"store"`
	Upstreams    []UpstreamUsage   `json:"upstreams"`
	Repositories []RepositoryUsage `json:"repositories"` // the largest first
}

// StoreUsage is that of the whole store, whoever has it.
type StoreUsage struct {
	Bytes   int64 `json:"bytes"`
	Quota   int64 `json:"quota"` // 0: none
	Blobs   int   `json:"blobs"` // manifests, too
	Partial int   `json:"partial"`
}

// UpstreamUsage is that of the repositories of an upstream, each blob once.
type UpstreamUsage struct {
	Upstream string    `json:"upstream"`
	Bytes    int64     `json:"bytes"`
	Blobs    int       `json:"blobs"`
	LastPull time.Time `json:"lastPull,omitzero"`
}

// RepositoryUsage is that of one repository. What several have counts for each.
type RepositoryUsage struct {
	Repository string    `json:"repository"` // its canonical name
	Local      bool      `json:"local"`      // pushed here
	Bytes      int64     `json:"bytes"`
	Blobs      int       `json:"blobs"` // manifests, too
	Tags       int       `json:"tags"`
	LastPull   time.Time `json:"lastPull,omitzero"`
}

// PrewarmRequest asks for images.
type PrewarmRequest struct {
	Images    []string `json:"images"`              // as clients name them
	Platforms []string `json:"platforms,omitempty"` // "linux/arm64", or "all"; by itself the seeder's own
	Parallel  int      `json:"parallel,omitempty"`  // blobs at a time; by itself 3, at most 16
}

// PrewarmResult is what became of them.
type PrewarmResult struct {
	Images []PrewarmedImage `json:"images"`
}

// PrewarmedImage is what became of one.
type PrewarmedImage struct {
	Image   string        `json:"image"`
	Digest  digest.Digest `json:"digest,omitempty"`
	Blobs   int           `json:"blobs"`
	Bytes   int64         `json:"bytes"`
	Fetched int64         `json:"fetched"` // bytes that were not here, or not all of them
	Error   string        `json:"error,omitempty"`
}

// PurgeRequest says what to drop.
type PurgeRequest struct {
	Repository string `json:"repository"`          // as clients name it
	Reference  string `json:"reference,omitempty"` // a tag or digest; by itself all
}

// Purged is what was dropped.
type Purged struct {
	Repository string `json:"repository"` // its canonical name
	Tags       int    `json:"tags"`       // forgotten
	Blobs      int    `json:"blobs"`      // manifests, too
	Bytes      int64  `json:"bytes"`
	Shared     int    `json:"shared"` // blobs that stay: others have them, or they are in use
}

// CollectRequest asks for a collection of local repositories.
type CollectRequest struct {
	DryRun bool `json:"dryRun,omitempty"`
}

// RestoreRequest says what to bring back.
type RestoreRequest struct {
	Repository string `json:"repository"`
	Reference  string `json:"reference"` // a tag or digest
}

// Trash is what can be restored, the latest first.
type Trash struct {
	Entries []TrashEntry `json:"entries"`
}

// TrashEntry is something that was removed from a local repository.
type TrashEntry struct {
	Repository string        `json:"repository"`
	Kind       string        `json:"kind"` // tag, manifest, blobs
	Tags       []string      `json:"tags,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	Blobs      int           `json:"blobs"`
	Bytes      int64         `json:"bytes"`
	Reason     string        `json:"reason"`
	Deleted    time.Time     `json:"deleted"`
	Expires    time.Time     `json:"expires"`
}

// Upstreams is how they do.
type Upstreams struct {
	Upstreams []status.Upstream `json:"upstreams"`
}

// Endpoints is how the endpoints of events do.
type Endpoints struct {
	Endpoints []events.State `json:"endpoints"`
}

// Jobs are those that run and those that ended lately, the latest first.
type Jobs struct {
	Jobs []Job `json:"jobs"`
}

// The states of a job.
const (
	Running  = "running"
	Done     = "done"
	Failed   = "failed"
	Canceled = "canceled"
)

// Job is something that takes long.
type Job struct {
	ID      string        `json:"id"`
	Kind    string        `json:"kind"`           // prewarm, collect
	User    string        `json:"user"`           // who started it
	State   string        `json:"state"`          // running, done, failed, canceled
	Started time.Time     `json:"started"`        //
	Ended   time.Time     `json:"ended,omitzero"` //
	Now     ProgressState `json:"progress"`
	Error   string        `json:"error,omitempty"`

	Prewarm *PrewarmResult `json:"prewarm,omitempty"`
	Collect *local.Report  `json:"collect,omitempty"`
}

// Problem is the answer where something went wrong.
type Problem struct {
	Error string `json:"error"`
}
