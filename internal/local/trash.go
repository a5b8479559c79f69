package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

const (
	trashName = "trash"
	// entriesAtOnce is how many are removed under one repository's lock at a time.
	entriesAtOnce = 100
)

// Kinds of what is in the trash, or was removed.
const (
	KindTag      = "tag"
	KindManifest = "manifest"
	KindBlob     = "blob"
	KindBlobs    = "blobs" // some, in one entry of the trash
)

// Reasons for which something was removed.
const (
	ReasonClient    = "client"    // a client deleted it
	ReasonRetention = "retention" // no rule keeps it
	ReasonUnused    = "unused"    // no tag leads to it, or no manifest names it
)

// TrashEntry is something that was removed from a repository and can come
// back. Its content stays until it expires.
type TrashEntry struct {
	ID         string    `json:"id"`
	Repository string    `json:"repository"`
	Kind       string    `json:"kind"`
	Reason     string    `json:"reason"`
	Deleted    time.Time `json:"deleted"`
	Expires    time.Time `json:"expires,omitzero"`
	// Tags meant Digest and were removed; of a manifest those that went with it.
	Tags []string `json:"tags,omitempty"`
	// Digest is that of the manifest.
	Digest   digest.Digest `json:"digest,omitempty"`
	Manifest *manifestLink `json:"manifest,omitempty"`
	// Blobs are those removed, or those that a manifest needs.
	Blobs []Content `json:"blobs,omitempty"`
	Bytes int64     `json:"bytes"` // of the content, also where others link to it
}

// Content is some content and its size in bytes.
type Content struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// contents are what the entry keeps.
func (e *TrashEntry) contents() []Content {
	if e.Manifest == nil {
		return e.Blobs
	}
	return append([]Content{{e.Digest, e.Manifest.Size}}, e.Blobs...)
}

func (r *Registry) trashPath(id string) string { return filepath.Join(r.o.Dir, trashName, id) }

// discard enters something in the trash, durably, before it is removed. The
// caller holds the repository's lock. Without a trash period nothing is entered.
func (r *Registry) discard(e TrashEntry) error {
	if r.o.TrashPeriod <= 0 {
		return nil
	}
	e.Deleted = r.o.Now().UTC()
	e.ID = e.Deleted.Format("20060102T150405") + "-" + newID()[:8]
	e.Bytes = 0
	for _, c := range e.contents() {
		e.Bytes += c.Size
	}
	if err := r.writeLink(r.trashPath(e.ID), e); err != nil {
		return fmt.Errorf("put %s of %s into the trash: %w", e.Kind, e.Repository, err)
	}
	r.enter(e)
	return nil
}

// enter makes an entry known.
func (r *Registry) enter(e TrashEntry) {
	for _, c := range e.contents() {
		r.index.add(e.Repository, trashLink, c.Digest, c.Size)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trash[e.ID] = e
}

// forget removes entries of one repository from the trash, durably: they have
// expired, or are back in it. The caller holds the repository's lock. The content
// is dropped by the next release where nothing else links to it.
func (r *Registry) forget(list []TrashEntry) error {
	for _, e := range list {
		path := r.trashPath(e.ID)
		remove := func() error {
			if err := os.Remove(path); !isGone(err) {
				return err
			}
			return nil
		}
		var err error
		if r.o.Durable == nil {
			err = remove()
		} else {
			err = r.o.Durable.Remove(trashName+"/"+e.ID, remove)
		}
		if err != nil {
			return fmt.Errorf("remove %s from the trash: %w", e.ID, err)
		}
	}
	if err := syncFile(filepath.Join(r.o.Dir, trashName)); err != nil {
		return err
	}
	for _, e := range list {
		r.mu.Lock()
		_, there := r.trash[e.ID]
		delete(r.trash, e.ID)
		r.mu.Unlock()
		if !there {
			continue
		}
		for _, c := range e.contents() {
			r.index.drop(e.Repository, trashLink, c.Digest)
		}
	}
	return nil
}

// loadTrash reads the entries of an earlier process.
func (r *Registry) loadTrash() error {
	dir := filepath.Join(r.o.Dir, trashName)
	if err := makeDirs(dir); err != nil {
		return err
	}
	names, err := sorted(dir, func(s string) bool { return !strings.HasPrefix(s, ".") })
	if err != nil {
		return err
	}
	for _, name := range names {
		var e TrashEntry
		err := readLink(filepath.Join(dir, name), &e)
		if err == nil && (e.ID != name || !registry.ValidRepository(e.Repository) || !e.valid()) {
			err = errors.New("it is no entry")
		}
		if err != nil {
			r.log.Error("an entry of the trash cannot be read, and what it keeps goes; remove it", zap.String("entry", name), zap.Error(err))
			continue
		}
		r.enter(e)
	}
	return nil
}

// valid tells whether all that becomes part of a path may.
func (e *TrashEntry) valid() bool {
	digests := []digest.Digest{}
	for _, c := range e.contents() {
		digests = append(digests, c.Digest)
	}
	if e.Kind != KindBlobs {
		digests = append(digests, e.Digest)
	}
	if e.Manifest != nil && e.Manifest.Subject != "" {
		digests = append(digests, e.Manifest.Subject)
	}
	for _, d := range digests {
		if _, err := registry.ParseDigest(string(d)); err != nil {
			return false
		}
	}
	return (e.Kind == KindManifest) == (e.Manifest != nil) && (e.Kind != KindTag || len(e.Tags) == 1) && !slices.ContainsFunc(e.Tags, func(t string) bool { return !registry.ValidTag(t) })
}

// Trash lists what can be restored, the latest first; of one repository, or of
// all for "".
func (r *Registry) Trash(repository string) []TrashEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []TrashEntry{}
	for _, e := range r.trash {
		if repository == "" || e.Repository == repository {
			e.Expires = e.Deleted.Add(r.o.TrashPeriod)
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b TrashEntry) int {
		return cmp.Or(b.Deleted.Compare(a.Deleted), cmp.Compare(b.ID, a.ID))
	})
	return list
}

// EmptyTrash drops what was removed from a repository, or from all for "",
// before it expires, and the content that nothing else links to.
// Errors: ErrCollecting, ctx's, or the system's.
func (r *Registry) EmptyTrash(ctx context.Context, repository string) (Freed, error) {
	if !r.collecting.TryLock() {
		return Freed{}, ErrCollecting
	}
	defer r.collecting.Unlock()
	err := r.dropEntries(ctx, r.Trash(repository))
	freed, err2 := r.releaseLoose(ctx)
	r.log.Info("trash emptied", zap.String("repository", repository), zap.Int("blobs", freed.Blobs), zap.Int64("bytes", freed.Bytes))
	return freed, errors.Join(err, err2)
}

// dropEntries forgets entries, some at a time under the lock of their repository.
func (r *Registry) dropEntries(ctx context.Context, list []TrashEntry) error {
	byRepository := map[string][]TrashEntry{}
	for _, e := range list {
		byRepository[e.Repository] = append(byRepository[e.Repository], e)
	}
	var errs []error
	for repo, all := range byRepository {
		for some := range slices.Chunk(all, entriesAtOnce) {
			if err := ctx.Err(); err != nil {
				return errors.Join(append(errs, err)...)
			}
			lock := r.lock(repo)
			lock.Lock()
			errs = append(errs, r.forget(some))
			lock.Unlock()
		}
	}
	return errors.Join(errs...)
}

// isGone tells an error of something that is not there.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
