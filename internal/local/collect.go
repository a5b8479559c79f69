package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// ErrCollecting says that a collection is under way, or the trash is being
// emptied.
var ErrCollecting = errors.New("a collection is under way; try again when it has ended")

// errInUse says that something that was to be removed has been used since.
var errInUse = errors.New("used meanwhile")

const (
	// maxReported bounds the removals that a report lists.
	maxReported = 10_000
	// The work that is done under one repository's lock at a time: removals that
	// cost a flush or more each, and blobs that share a few.
	removalsAtOnce = 4
	blobsAtOnce    = 500
	// minLease is more than a use may go unwritten (touchEvery), with much to spare.
	minLease = 5 * time.Minute
)

// CollectOptions say how Collect works.
type CollectOptions struct {
	DryRun bool // change nothing
}

// Report is what a collection did, or would do.
type Report struct {
	DryRun       bool          `json:"dryRun"`
	Started      time.Time     `json:"started"`
	Took         time.Duration `json:"tookNanoseconds"`
	Repositories int           `json:"repositories"` // looked at
	Busy         int           `json:"busy"`         // of these, left for the next time: in use
	Tags         int           `json:"tags"`         // removed
	Manifests    int           `json:"manifests"`
	Blobs        int           `json:"blobs"`   // removed from repositories
	Bytes        int64         `json:"bytes"`   // of manifests and blobs removed
	Expired      int           `json:"expired"` // entries of the trash
	Freed        Freed         `json:"freed"`   // for good
	Removed      []Removal     `json:"removed"` // at most 10000
	Problems     []string      `json:"problems"`
}

func (p *Report) add(m Removal) {
	switch m.Kind {
	case KindTag:
		p.Tags++
	case KindManifest:
		p.Manifests++
	case KindBlob:
		p.Blobs++
	}
	p.Bytes += m.Bytes
	if len(p.Removed) < maxReported {
		p.Removed = append(p.Removed, m)
	}
}

// Collect applies retention to every repository, removes from it what nothing
// leads to, empties the trash of what has expired, and drops content that
// nothing links to. Pushes and pulls go on meanwhile:
//
//   - What is to be removed is found without a lock, from lists that are read
//     under the repository's. Whoever is told that something is there renews its
//     lease (the mtime of its link), and pushing a manifest renews those of all
//     that it names, before it is linked.
//   - Under the lock, with which manifests are pushed, a lease is looked at once
//     more, in one step with the removal. So a manifest was linked before the
//     lists were read, and counts; or its push has renewed the leases, and they
//     are seen; or it comes after the removal and is told what is missing, which
//     its client had no reason to believe in for a lease.
//   - An entry of the trash comes before what it replaces goes: tags, then
//     manifests, the ones that name others first, then blobs. Where something
//     turns out to be in use, the rest of its repository waits for the next run.
//   - Content goes last, when no repository and no entry links to it, while
//     nobody links to it ([Registry.hold]).
//
// A SIGKILL in between leaves things that are in a repository and in the trash,
// or content without a link. The next collection ends both.
//
// Errors: ErrCollecting, ctx's. What else goes wrong is told in the report.
func (r *Registry) Collect(ctx context.Context, o CollectOptions) (Report, error) {
	if !r.collecting.TryLock() {
		return Report{}, ErrCollecting
	}
	defer r.collecting.Unlock()
	began := time.Now()
	c := collection{r: r, now: r.o.Now(), Report: Report{DryRun: o.DryRun, Removed: []Removal{}, Problems: []string{}}, links: map[digest.Digest]int{}}
	c.Started = c.now.UTC()
	names, _ := r.Repositories(ctx, 0, "") // has no error
	for _, repo := range names {
		c.problem(c.repository(ctx, repo))
		if ctx.Err() != nil {
			return c.Report, context.Cause(ctx)
		}
	}
	c.problem(c.expire(ctx))
	c.problem(c.release(ctx))
	if ctx.Err() != nil {
		return c.Report, context.Cause(ctx)
	}
	c.Took = time.Since(began)
	if !o.DryRun {
		r.m.collected(&c.Report)
		r.log.Info("collection ended", zap.Duration("took", c.Took), zap.Int("repositories", c.Repositories), zap.Int("busy", c.Busy),
			zap.Int("tags", c.Tags), zap.Int("manifests", c.Manifests), zap.Int("blobs", c.Blobs), zap.Int64("bytes", c.Bytes),
			zap.Int("expired", c.Expired), zap.Int("freedBlobs", c.Freed.Blobs), zap.Int64("freedBytes", c.Freed.Bytes), zap.Strings("problems", c.Problems))
	}
	return c.Report, nil
}

// collection is one run.
type collection struct {
	Report
	r   *Registry
	now time.Time
	// links is how many links a dry run would have taken from content.
	links map[digest.Digest]int
}

func (c *collection) problem(err error) {
	if err != nil {
		c.Problems = append(c.Problems, err.Error())
	}
}

// repository collects in one repository.
func (c *collection) repository(ctx context.Context, repo string) error {
	c.Repositories++
	s, err := c.r.look(ctx, repo)
	if err != nil {
		return err
	}
	size := func(d digest.Digest) int64 {
		f, _ := c.r.index.get(d)
		return f.size
	}
	todo := s.plan(c.r.o.Retention.For(repo), c.now, c.r.o.Lease, size)
	if c.DryRun {
		c.pretend(s, todo)
		return nil
	}
	for len(todo) > 0 && ctx.Err() == nil {
		n := batch(todo)
		if err := c.remove(ctx, s, todo[:n]); errors.Is(err, errInUse) {
			c.Busy++
			return nil
		} else if err != nil {
			return err
		}
		todo = todo[n:]
	}
	return nil
}

// batch is how many removals are done at once: a few, or many blobs.
func batch(todo []Removal) int {
	n := 1
	limit := removalsAtOnce
	if todo[0].Kind == KindBlob {
		limit = blobsAtOnce
	}
	for n < len(todo) && n < limit && (todo[n].Kind == KindBlob) == (todo[0].Kind == KindBlob) {
		n++
	}
	return n
}

// pretend does what remove does, without it.
func (c *collection) pretend(s *seen, todo []Removal) {
	for _, m := range todo {
		c.add(m)
		if m.Kind != KindTag && c.r.o.TrashPeriod <= 0 { // else the trash has it
			c.links[m.Digest]++
		}
	}
}

// remove does some of what is to be done in a repository.
func (c *collection) remove(ctx context.Context, s *seen, todo []Removal) error {
	lock := c.r.lock(s.repo)
	lock.Lock()
	defer lock.Unlock()
	if todo[0].Kind == KindBlob {
		return c.removeBlobs(s.repo, todo)
	}
	for _, m := range todo {
		var err error
		if m.Kind == KindTag {
			err = c.removeTag(m, s.tags[m.Tag])
		} else {
			err = c.removeManifest(ctx, m, s.manifests[m.Digest])
		}
		if err != nil {
			return err
		}
		c.add(m)
		c.r.log.Info("collected", zap.String("kind", m.Kind), zap.String("repository", m.Repository),
			zap.String("tag", m.Tag), zap.Stringer("digest", m.Digest), zap.String("reason", m.Reason))
		c.r.o.Removed(m)
	}
	return nil
}

func (c *collection) removeTag(m Removal, was seenTag) error {
	r := c.r
	var now tagLink
	path := r.tagPath(m.Repository, m.Tag)
	if err := readLink(path, &now); err != nil || now.Digest != was.Digest || !now.Tagged.Equal(was.Tagged) || r.usedSince(path, m.used) {
		return errInUse
	}
	if err := r.discard(TrashEntry{Repository: m.Repository, Kind: KindTag, Reason: m.Reason, Digest: m.Digest, Tags: []string{m.Tag}}); err != nil {
		return err
	}
	if err := r.removeUnused(path, m.used); err != nil {
		return err
	}
	return syncFile(filepath.Dir(path))
}

func (c *collection) removeManifest(ctx context.Context, m Removal, was *seenManifest) error {
	r := c.r
	path := r.linkPath(m.Repository, manifestsName, m.Digest)
	if r.usedSince(path, m.used) {
		return errInUse
	}
	if err := r.discardManifest(ctx, m.Repository, m.Digest, was.manifestLink, nil, m.Reason); err != nil {
		return err
	}
	if err := r.removeUnused(path, m.used); err != nil {
		return err
	}
	if err := syncFile(filepath.Dir(path)); err != nil {
		return err
	}
	r.index.drop(m.Repository, manifestsLink, m.Digest)
	if was.Subject == "" {
		return nil
	}
	_, err := r.removeLink(r.referrerPath(m.Repository, was.Subject, m.Digest))
	return err
}

// discardManifest enters a manifest in the trash, with the blobs that it needs.
func (r *Registry) discardManifest(ctx context.Context, repo string, d digest.Digest, l manifestLink, tags []string, reason string) error {
	if r.o.TrashPeriod <= 0 {
		return nil
	}
	e := TrashEntry{Repository: repo, Kind: KindManifest, Reason: reason, Digest: d, Manifest: &l, Tags: tags}
	list, err := r.named(ctx, repo, d, l)
	if err != nil {
		// It cannot come back, and nothing is lost with it.
		r.log.Error("a manifest that is deleted cannot be read, and does not go into the trash", zap.String("repository", repo), zap.Stringer("digest", d), zap.Error(err))
		return nil
	}
	for _, child := range list {
		if f, ok := r.index.get(child); ok && r.linked(r.linkPath(repo, blobsName, child), false) && !slices.Contains(e.Blobs, Content{child, f.size}) {
			e.Blobs = append(e.Blobs, Content{child, f.size})
		}
	}
	return r.discard(e)
}

// removeBlobs takes blobs out of a repository, those in use left out.
func (c *collection) removeBlobs(repo string, todo []Removal) error {
	r := c.r
	e := TrashEntry{Repository: repo, Kind: KindBlobs, Reason: ReasonUnused}
	var idle []Removal
	for _, m := range todo {
		if !r.usedSince(r.linkPath(repo, blobsName, m.Digest), m.used) {
			idle = append(idle, m)
			e.Blobs = append(e.Blobs, Content{m.Digest, m.Bytes})
		}
	}
	if len(idle) == 0 {
		return nil
	}
	if err := r.discard(e); err != nil {
		return err
	}
	var errs []error
	var gone []Removal
	dirs := map[string]bool{}
	for _, m := range idle {
		path := r.linkPath(repo, blobsName, m.Digest)
		switch err := r.removeUnused(path, m.used); {
		case err == nil:
			gone = append(gone, m)
			dirs[filepath.Dir(path)] = true
		case !errors.Is(err, errInUse):
			errs = append(errs, err)
		}
	}
	for dir := range dirs {
		errs = append(errs, syncFile(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return err // what is gone stays counted until the next start
	}
	for _, m := range gone {
		r.index.drop(repo, blobLink, m.Digest)
		c.add(m)
		r.o.Removed(m)
	}
	return nil
}

// usedSince tells whether a link was used after a moment, or is gone.
func (r *Registry) usedSince(path string, since time.Time) bool {
	fi, err := os.Stat(path)
	return err != nil || fi.ModTime().After(since)
}

// removeUnused removes a link that was not used since; the caller syncs its
// directory. Nobody can renew its lease in between. Errors: errInUse.
func (r *Registry) removeUnused(path string, since time.Time) error {
	remove := func() error {
		r.leases.Lock()
		if r.usedSince(path, since) {
			r.leases.Unlock()
			return errInUse
		}
		err := os.Remove(path)
		r.leases.Unlock()
		if err != nil || r.o.Durable == nil {
			return err
		}
		return syncFile(filepath.Dir(path))
	}
	if r.o.Durable == nil || r.usedSince(path, since) {
		return remove()
	}
	rel, err := r.relative(path)
	if err != nil {
		return err
	}
	return r.o.Durable.Remove(rel, remove)
}

// expire drops the entries of the trash whose period is over.
func (c *collection) expire(ctx context.Context) error {
	var old []TrashEntry
	for _, e := range c.r.Trash("") {
		if !e.Expires.After(c.now) {
			old = append(old, e)
		}
	}
	c.Expired = len(old)
	if !c.DryRun {
		return c.r.dropEntries(ctx, old)
	}
	for _, e := range old {
		for _, content := range e.contents() {
			c.links[content.Digest]++
		}
	}
	return nil
}

// release drops content without links.
func (c *collection) release(ctx context.Context) (err error) {
	orphans := c.r.orphans()
	if !c.DryRun {
		for _, in := range orphans {
			c.r.index.loosen(in.Digest, in.Size)
		}
		c.Freed, err = c.r.releaseLoose(ctx)
		return err
	}
	free := c.r.index.looseSizes()
	for _, in := range orphans {
		free[in.Digest] = in.Size
	}
	for d, n := range c.links {
		if f, ok := c.r.index.get(d); ok && f.repositories()+f.links[trashLink] == n {
			free[d] = f.size
		}
	}
	for _, size := range free {
		c.Freed.add(size)
	}
	return nil
}

// collectEvery collects now and then, until ctx ends.
func (r *Registry) collectEvery(ctx context.Context, every time.Duration) {
	timer := time.NewTimer(min(every, firstCollection))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if _, err := r.Collect(ctx, CollectOptions{}); err != nil && ctx.Err() == nil {
			r.log.Info("no collection this time", zap.Error(err))
		}
		timer.Reset(every)
	}
}

// firstCollection is how long after the start the first collection comes at the
// latest: a seeder that is restarted every day collects, too.
const firstCollection = 15 * time.Minute
