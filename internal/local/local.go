package local

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/retention"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Options of a Registry. Dir, Store, Upstream and IsLocal are required.
type Options struct {
	// Dir is where links and uploads are; on the file system of the store.
	Dir   string
	Store *store.Store
	// Upstream is what our names have for one; IsLocal tells whether a name is
	// one of ours.
	Upstream string
	IsLocal  func(registry.Name) bool
	// Named tells whether a manifest of a proxied repository names a blob, which
	// can then be mounted from there. May be nil.
	Named func(n registry.Name, d digest.Digest) bool
	// Pushed is told of content that a repository has from now on: of a blob
	// (Parsed is nil), or of a manifest. May be nil.
	Pushed func(n registry.Name, m registry.Manifest, p *registry.Parsed)
	// Removed is told what a collection takes out of a repository, once that is
	// done. May be nil.
	Removed func(Removal)

	// MakeRoom is called when the store is full: it lets go of content that nobody
	// uses now, and tells whether there was any. May be nil.
	MakeRoom func() bool

	// Durable keeps content and links for good, if not this disk. May be nil.
	Durable Durable

	// Retention says which tags stay; none: all of them.
	Retention retention.Rules
	// TrashPeriod is how long what was removed can be restored; 0: not at all.
	TrashPeriod time.Duration
	// Lease is how long something that no manifest names, or no tag leads to, is
	// safe after it was last pushed, pulled or asked for; default 24 h, at least
	// 5 min.
	Lease time.Duration
	// CollectEvery is how often Collect runs by itself; 0: never.
	CollectEvery time.Duration
	Quotas       []Quota

	// UploadExpiry is how long an upload that gets no bytes is kept; default 24 h.
	UploadExpiry time.Duration

	Now        func() time.Time // default time.Now
	Log        *zap.Logger      // default: none
	Registerer prometheus.Registerer
	Namespace  string
}

// Registry is the local repositories: a registry.Backend, Writer,
// ReferrerLister and Cataloger of their names. Safe for concurrent use.
type Registry struct {
	o     Options
	log   *zap.Logger
	m     *metrics
	stop  context.CancelFunc
	work  sync.WaitGroup
	index *index

	// Locks are taken in this order; mu and that of the index come last.
	collecting sync.Mutex       // of who collects, or empties the trash
	repos      [64]sync.RWMutex // by repository: held to change what is linked to what
	contents   [4096]sync.Mutex // by content, see hold
	leases     sync.RWMutex     // held shared to renew a lease, alone to end one

	mu      sync.Mutex
	names   []string // of repositories that have, or had, something; sorted
	uploads map[string]*upload
	trash   map[string]TrashEntry
}

const (
	uploadsName      = "uploads"
	repositoriesName = "repositories"

	defaultExpiry = 24 * time.Hour
	defaultLease  = 24 * time.Hour
	expireEvery   = 10 * time.Minute
)

// Open opens the repositories in o.Dir, which is made if need be, takes up the
// uploads of an earlier process and lets the store evict what no repository
// links to.
func Open(o Options) (*Registry, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Pushed == nil {
		o.Pushed = func(registry.Name, registry.Manifest, *registry.Parsed) {}
	}
	if o.MakeRoom == nil {
		o.MakeRoom = func() bool { return false }
	}
	if o.Removed == nil {
		o.Removed = func(Removal) {}
	}
	if o.Named == nil {
		o.Named = func(registry.Name, digest.Digest) bool { return false }
	}
	if o.UploadExpiry <= 0 {
		o.UploadExpiry = defaultExpiry
	}
	if o.Lease <= 0 {
		o.Lease = defaultLease
	}
	o.Lease = max(o.Lease, minLease)
	r := &Registry{o: o, log: o.Log, index: newIndex(o.Quotas), uploads: make(map[string]*upload), trash: make(map[string]TrashEntry)}
	err := r.openDirs()
	if err == nil {
		err = errors.Join(r.loadRepositories(), r.loadTrash(), r.loadUploads())
	}
	if err == nil {
		err = r.releaseUnlinked()
	}
	if err != nil {
		return nil, fmt.Errorf("open local repositories in %s: %w", o.Dir, err)
	}
	r.m = newMetrics(r, o.Registerer, o.Namespace)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.work.Go(func() { r.expireUploads(ctx) })
	if o.CollectEvery > 0 {
		r.work.Go(func() { r.collectEvery(ctx, o.CollectEvery) })
	}
	r.log.Info("local repositories open", zap.String("dir", o.Dir), zap.Int("repositories", len(r.names)), zap.Int("uploads", len(r.uploads)))
	return r, nil
}

// Close ends what Open started. Requests must have ended before.
func (r *Registry) Close() {
	r.stop()
	r.work.Wait()
}

// Writable implements registry.Writer.
func (r *Registry) Writable(n registry.Name) error {
	if r.o.IsLocal(n) {
		return nil
	}
	return &registry.Error{Status: 403, Code: registry.CodeDenied,
		Message: fmt.Sprintf("%s is proxied from its upstream, and cannot be changed here; push to a local repository", n)}
}

// name is the full name of a repository.
func (r *Registry) name(repo string) registry.Name {
	return registry.Name{Upstream: r.o.Upstream, Repository: repo}
}

// lock guards what a repository links to.
func (r *Registry) lock(repo string) *sync.RWMutex {
	h := fnv.New32a()
	h.Write([]byte(repo))
	return &r.repos[h.Sum32()%uint32(len(r.repos))]
}

// Repositories implements registry.Cataloger.
func (r *Registry) Repositories(_ context.Context, limit int, last string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, found := slices.BinarySearch(r.names, last)
	if found {
		i++
	}
	rest := r.names[i:]
	if limit > 0 && len(rest) > limit {
		rest = rest[:limit]
	}
	return slices.Clone(rest), nil
}

// known tells whether a repository has, or had, something.
func (r *Registry) known(repo string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, found := slices.BinarySearch(r.names, repo)
	return found
}

// note enters a repository in the list.
func (r *Registry) note(repo string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i, found := slices.BinarySearch(r.names, repo); !found {
		r.names = slices.Insert(r.names, i, repo)
	}
}

// unknown is the answer for what repository n does not have.
func (r *Registry) unknown(n registry.Name, other *registry.Error) error {
	if !r.known(n.Repository) {
		return registry.NameUnknown(n, nil)
	}
	return other
}

// open opens complete content of the store; the file is the caller's.
func (r *Registry) open(d digest.Digest) (*os.File, int64, string, error) {
	b, err := r.o.Store.Blob(d)
	if err != nil {
		return nil, 0, "", err
	}
	defer b.Release()
	f, err := b.File()
	if err != nil {
		return nil, 0, "", err
	}
	return f, b.Size(), b.Meta().MediaType, nil
}

// storeError chooses the answer for an error of the store.
func storeError(err error) error {
	if errors.Is(err, store.ErrFull) {
		return &registry.Error{Status: 507, Code: registry.CodeUnavailable, Message: err.Error(), Err: err}
	}
	return err
}
