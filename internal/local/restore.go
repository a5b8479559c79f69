package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Restored is what came back from the trash.
type Restored struct {
	Repository string          `json:"repository"`
	Tags       []string        `json:"tags"`
	Manifests  []digest.Digest `json:"manifests"`
	Blobs      []digest.Digest `json:"blobs"`
}

// Restore brings back what was removed from a repository last under a tag, or
// as a manifest or blob by digest: a manifest with its blobs, the manifests that
// it names, those that refer to it, and the tags that went with it and mean
// nothing else now. What comes back counts as pushed at this moment.
//
// Blobs are linked before the manifests that name them, these before tags, and
// the entries go last: a crash leaves some of it in both places, to be restored
// once more.
//
// Errors: MANIFEST_UNKNOWN (404, it is not in the trash), DENIED (403 by a
// quota; 409 where the tag means something else now).
func (r *Registry) Restore(ctx context.Context, repository, reference string) (Restored, error) {
	n := r.name(repository)
	if !registry.ValidRepository(repository) {
		return Restored{}, registry.NameUnknown(n, nil)
	}
	lock := r.lock(repository)
	lock.Lock()
	defer lock.Unlock()
	s := restoring{r: r, ctx: ctx, Restored: Restored{Repository: repository, Tags: []string{}, Manifests: []digest.Digest{}, Blobs: []digest.Digest{}},
		entries: r.Trash(repository), used: map[string]TrashEntry{}}
	if err := s.reference(reference); err != nil {
		return Restored{}, err
	}
	if err := r.forget(slices.Collect(maps.Values(s.used))); err != nil {
		return s.Restored, err
	}
	r.log.Info("restored from the trash", zap.Stringer("repository", n), zap.String("reference", reference),
		zap.Int("tags", len(s.Tags)), zap.Int("manifests", len(s.Manifests)), zap.Int("blobs", len(s.Blobs)))
	return s.Restored, nil
}

// restoring is one Restore. Its caller holds the repository's lock.
type restoring struct {
	Restored
	r       *Registry
	ctx     context.Context
	entries []TrashEntry // of the repository, the latest first
	used    map[string]TrashEntry
}

// find is the latest entry that fulfils a condition.
func (s *restoring) find(ok func(TrashEntry) bool) (TrashEntry, bool) {
	i := slices.IndexFunc(s.entries, ok)
	if i < 0 {
		return TrashEntry{}, false
	}
	return s.entries[i], true
}

func (s *restoring) unknown(reference string) error {
	return &registry.Error{Status: http.StatusNotFound, Code: registry.CodeManifestUnknown,
		Message: fmt.Sprintf("nothing of %s is in the trash as %.128q", s.Repository, reference)}
}

func (s *restoring) reference(reference string) error {
	d, err := registry.ParseDigest(reference)
	if err == nil {
		if _, ok := s.find(func(e TrashEntry) bool { return e.Kind == KindManifest && e.Digest == d }); ok {
			return s.manifest(d)
		}
		e, ok := s.find(func(e TrashEntry) bool { return slices.ContainsFunc(e.Blobs, is(d)) })
		if !ok {
			return s.unknown(reference)
		}
		return s.blob(e.Blobs[slices.IndexFunc(e.Blobs, is(d))])
	}
	e, ok := s.find(func(e TrashEntry) bool { return slices.Contains(e.Tags, reference) })
	if !ok {
		return s.unknown(reference)
	}
	if current, ok := s.r.tag(s.Repository, reference); ok && current != e.Digest {
		return &registry.Error{Status: http.StatusConflict, Code: registry.CodeDenied,
			Message: fmt.Sprintf("%s:%s means %s now; delete that tag first, or restore %s by digest", s.Repository, reference, current, e.Digest)}
	}
	if err := s.manifest(e.Digest); err != nil {
		return err
	}
	return s.tag(reference, e)
}

func is(d digest.Digest) func(Content) bool { return func(c Content) bool { return c.Digest == d } }

// manifest brings a manifest back, unless it is there.
func (s *restoring) manifest(d digest.Digest) error {
	r, repo := s.r, s.Repository
	if r.linked(r.linkPath(repo, manifestsName, d), true) {
		return nil
	}
	e, ok := s.find(func(e TrashEntry) bool { return e.Kind == KindManifest && e.Digest == d })
	if !ok {
		return s.unknown(d.String())
	}
	parsed, err := r.parse(s.ctx, repo, d, e.Manifest.MediaType)
	if err != nil {
		return fmt.Errorf("restore %s: %w", d, err)
	}
	for _, b := range e.Blobs {
		if err := s.blob(b); err != nil {
			return err
		}
	}
	for _, c := range parsed.Children {
		if parsed.Kind != registry.KindIndex || r.linked(r.linkPath(repo, blobsName, c.Digest), false) {
			continue
		}
		if err := s.manifest(c.Digest); err != nil && !isUnknown(err) { // else it was gone before
			return err
		}
	}
	if err := s.link(e, parsed); err != nil {
		return err
	}
	s.Manifests = append(s.Manifests, d)
	s.used[e.ID] = e
	return s.companions(e)
}

// link links a manifest.
func (s *restoring) link(e TrashEntry, parsed *registry.Parsed) error {
	r := s.r
	unhold := r.hold(e.Digest)
	defer unhold()
	if err := r.index.admit(s.Repository, manifestsLink, e.Digest, e.Manifest.Size, 0); err != nil {
		return err
	}
	var err error
	if e.Manifest.Subject != "" {
		err = r.writeLink(r.referrerPath(s.Repository, e.Manifest.Subject, e.Digest), parsed.Referrer(e.Digest, e.Manifest.Size))
	}
	path := r.linkPath(s.Repository, manifestsName, e.Digest)
	if err == nil {
		l := *e.Manifest
		l.Pushed = r.o.Now()
		err = r.writeLink(path, l)
	}
	if err != nil && !r.linked(path, false) {
		r.index.drop(s.Repository, manifestsLink, e.Digest)
	}
	return err
}

// companions brings back what went with a manifest, as far as it is there: its
// tags, what refers to it, and the tags that speak of it.
func (s *restoring) companions(e TrashEntry) error {
	for _, t := range e.Tags {
		if err := s.tag(t, e); err != nil {
			return err
		}
	}
	for _, o := range s.entries {
		var err error
		switch {
		case o.Manifest != nil && o.Manifest.Subject == e.Digest:
			err = s.manifest(o.Digest)
		case o.Kind == KindTag && strings.HasPrefix(o.Tags[0], strings.Replace(e.Digest.String(), ":", "-", 1)):
			if err = s.manifest(o.Digest); err == nil {
				err = s.tag(o.Tags[0], o)
			}
		}
		if err != nil && !isUnknown(err) {
			return err
		}
	}
	return nil
}

// isUnknown tells an error of what is not in the trash.
func isUnknown(err error) bool {
	var e *registry.Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// tag makes a tag mean what it meant, unless it means something.
func (s *restoring) tag(t string, e TrashEntry) error {
	if _, ok := s.r.tag(s.Repository, t); !ok {
		if err := s.r.writeLink(s.r.tagPath(s.Repository, t), tagLink{Digest: e.Digest, Tagged: s.r.o.Now()}); err != nil {
			return err
		}
		s.Tags = append(s.Tags, t)
	}
	s.used[e.ID] = e
	return nil
}

// blob links a blob, unless it is linked.
func (s *restoring) blob(b Content) error {
	if s.r.linked(s.r.linkPath(s.Repository, blobsName, b.Digest), true) {
		return nil
	}
	there := func() error {
		in, err := s.r.o.Store.Stat(b.Digest)
		if (err != nil || !in.Complete) && s.r.o.Durable == nil {
			return fmt.Errorf("restore %s: %w", b.Digest, os.ErrNotExist)
		}
		return nil
	}
	if err := s.r.place(s.Repository, b.Digest, b.Size, 0, there); err != nil {
		return err
	}
	s.Blobs = append(s.Blobs, b.Digest)
	return nil
}
