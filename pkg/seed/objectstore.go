package seed

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/durable"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/objectstore"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

const (
	// copyTimeout is how long a manifest's copy is looked for before the
	// upstream is asked.
	copyTimeout = 3 * time.Second
	// redirectLife is how long a URL that a client was sent to is good for: to
	// begin the download, and to resume it.
	redirectLife = 20 * time.Minute
	// redirectFrom is the size in bytes from which a redirect is worth a request more.
	redirectFrom = 1 << 20
)

// bucket is the seeder's object store. All methods but those that need one
// work on a nil bucket: there is none.
type bucket struct {
	c    config.Seeder
	o    objectstore.Options
	home *durable.Home
	d    *daemon.Daemon
}

// newBucket is nil where the configuration has no object store.
func newBucket(c config.Seeder) (*bucket, error) {
	if c.Bucket == "" {
		return nil, nil
	}
	o, err := c.ObjectStore.Options()
	if err != nil {
		return nil, err
	}
	return &bucket{c: c, o: o}, nil
}

// open is what the daemon calls to have it opened.
func (b *bucket) open() func(context.Context, *daemon.Daemon) (daemon.Durable, error) {
	if b == nil {
		return nil
	}
	names := make([]string, len(b.c.LocalNames))
	for i, n := range b.c.LocalNames {
		names[i] = registry.CanonicalUpstream(n)
	}
	return func(ctx context.Context, d *daemon.Daemon) (daemon.Durable, error) {
		b.o.Log, b.o.Registerer, b.o.Namespace = d.Log.Named("objectstore"), d.Metrics, "seeder"
		client, err := objectstore.New(b.o)
		if err != nil {
			return nil, err
		}
		b.d = d
		b.home, err = durable.Open(ctx, durable.Options{
			Data: b.c.Data, Objects: client, Store: d.Store, CopyPulled: b.c.BucketCopyPulled,
			IsLocal: func(upstream string) bool { return slices.Contains(names, upstream) },
			Log:     d.Log.Named("objectstore"), Registerer: d.Metrics, Namespace: "seeder",
		})
		if err != nil {
			client.Close()
			return nil, err
		}
		return b.home, nil
	}
}

// status adds the object store to the status page.
func (b *bucket) status(st *status.Status) {
	if b == nil || b.home == nil {
		return
	}
	s := b.home.Status()
	st.ObjectStore = &status.ObjectStore{Location: s.Location, Copies: s.Copies, Pending: s.Pending, Copying: s.Syncing, Error: s.Error}
	if s.Error != "" {
		st.ObjectStore.Since = s.Since
		st.Warnings = append(st.Warnings, status.Warning{Code: "object-store-failing",
			Text:   "the object store " + s.Location + " does not work, and pushes are refused: " + s.Error,
			Remedy: "look at the object store, the way to it and the credentials (docs/objectstore.md); what is on disk is served meanwhile"})
	}
}

// content is where manifests are looked for before their upstream is asked.
func (b *bucket) content(d *daemon.Daemon) metadata.Content {
	if b == nil || !b.c.BucketCopyPulled {
		return d.Engine
	}
	return copied{d.Engine, b.home}
}

// copied is the engine's content and, where a manifest is not there, the copy
// that was made of it.
type copied struct {
	*fetch.Engine
	home *durable.Home
}

// Held implements metadata.Content.
func (c copied) Held(d digest.Digest, limit int64) ([]byte, string, error) {
	content, mediaType, err := c.Engine.Held(d, limit)
	if err == nil || !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrNotHeld) {
		return content, mediaType, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), copyTimeout)
	defer cancel()
	content, mediaType, source, cerr := c.home.Manifest(ctx, d, limit)
	if cerr != nil || !registry.IsManifestType(mediaType) {
		return nil, "", err
	}
	return content, mediaType, c.Keep(d, content, mediaType, fetch.ParseSource(source))
}

// of is the object store as local repositories see it.
func (b *bucket) of(d *daemon.Daemon) local.Durable { return localContent{b.home, d} }

// localContent opens what the store does not hold by way of the engine: pieces
// are hashed, signed and shared in the swarm as they come.
type localContent struct {
	*durable.Home
	d *daemon.Daemon
}

// Open implements local.Durable.
func (l localContent) Open(ctx context.Context, r registry.Request) (io.ReadSeekCloser, int64, error) {
	w := fetch.Want{Digest: r.Digest, Source: fetch.Source{Upstream: r.Name.Upstream, Repository: r.Name.Repository}}
	var err error
	if w.Size, err = l.Size(ctx, r.Digest); err != nil {
		return nil, 0, err
	}
	metadata.Narrow(&w, r)
	octx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	content, size, err := l.d.Engine.Open(octx, ctx, w)
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return content, size, err
	case errors.Is(err, fetch.ErrNotFound):
		return nil, 0, errors.Join(fs.ErrNotExist, err)
	}
	l.d.Log.Warn("content cannot be had from the object store", zap.Stringer("repository", r.Name), zap.Stringer("digest", r.Digest), zap.Error(err))
	status, why := http.StatusServiceUnavailable, "the registry's object store does not give this content at the moment; try again"
	if errors.Is(err, store.ErrFull) {
		status, why = http.StatusInsufficientStorage, "the registry's cache has no room for this content; ask its operator for a larger --quota"
	}
	return nil, 0, &registry.Error{Status: status, Code: registry.CodeUnavailable, Message: why, RetryAfter: 5 * time.Second, Err: err}
}

// learn has the catalogue know what a manifest of a local repository names: it
// may not have been on disk when the seeder started.
func (b *bucket) learn(n registry.Name, m *registry.Manifest) {
	if _, known := b.d.Catalog.Find(m.Digest); !known && len(m.Content) > 0 {
		_, _ = b.d.Catalog.Learn(n, m.Digest, m.MediaType, m.Content) // it was looked at when it was pushed
	}
}

// redirects tells whether a client may be sent to the object store: never a
// peer or a seeder, who would have the bytes pass the swarm by.
func (b *bucket) redirects(r registry.Request) bool {
	return b.c.BucketRedirect && !r.Head && !strings.HasPrefix(r.UserAgent, "samara-")
}

// url signs a URL for a blob that is in the object store; any error means to
// serve it from here.
func (b *bucket) url(ctx context.Context, r registry.Request) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	return b.home.URL(ctx, fetch.Source{Upstream: r.Name.Upstream, Repository: r.Name.Repository}, r.Digest, redirectFrom, redirectLife)
}
