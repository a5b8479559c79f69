package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

func manifestInvalid(format string, args ...any) error {
	return &registry.Error{Status: http.StatusBadRequest, Code: registry.CodeManifestInvalid, Message: fmt.Sprintf(format, args...)}
}

// PutManifest implements registry.Writer.
func (r *Registry) PutManifest(ctx context.Context, n registry.Name, p registry.Put) (registry.Put, error) {
	parsed, err := registry.Parse(p.MediaType, p.Content)
	if err != nil {
		return p, manifestInvalid("%v", err)
	}
	if parsed.Kind == registry.KindUnknown {
		return p, manifestInvalid("content of type %q is no manifest that this registry knows", parsed.MediaType)
	}
	p.MediaType = parsed.MediaType
	lock := r.lock(n.Repository)
	lock.Lock()
	defer lock.Unlock()
	if err := r.check(n, p, parsed); err != nil {
		return p, err
	}
	if parsed.Subject != nil {
		p.Subject = parsed.Subject.Digest
	}
	if err := r.placeManifest(ctx, n, p, parsed); err != nil {
		return p, err
	}
	r.m.pushed.Inc()
	r.log.Info("manifest pushed", zap.Stringer("repository", n), zap.Stringer("digest", p.Digest), zap.Strings("tags", p.Tags))
	r.o.Pushed(n, p.Manifest, parsed)
	return p, nil
}

// check holds a manifest to its condition, and to what the repository has.
func (r *Registry) check(n registry.Name, p registry.Put, parsed *registry.Parsed) error {
	current := digest.Digest("")
	if len(p.Tags) == 1 {
		current, _ = r.tag(n.Repository, p.Tags[0])
	} else if r.linked(r.linkPath(n.Repository, manifestsName, p.Digest), false) {
		current = p.Digest
	}
	if err := p.Condition.Check(current); err != nil {
		return err
	}
	var missing []digest.Digest
	for _, c := range parsed.Children {
		if registry.Foreign(c) {
			continue
		}
		has, err := r.has(n.Repository, parsed.Kind, c)
		if err != nil {
			return err
		}
		if !has {
			missing = append(missing, c.Digest)
		}
	}
	if len(missing) > 0 {
		return &registry.Error{Status: http.StatusBadRequest, Code: registry.CodeManifestBlobUnknown, Digests: missing,
			Message: fmt.Sprintf("the manifest names what %s does not have; push it first", n)}
	}
	return nil
}

// has tells whether a repository has the child of a manifest, and renews its
// lease, on which collection relies. An index may also name blobs: build caches
// are pushed so.
func (r *Registry) has(repo string, kind registry.Kind, c registry.Descriptor) (bool, error) {
	if kind == registry.KindIndex {
		if there, err := r.renew(r.linkPath(repo, manifestsName, c.Digest), true); there || err != nil {
			return there, err
		}
	}
	return r.renew(r.linkPath(repo, blobsName, c.Digest), true)
}

// placeManifest puts a manifest into the store and links it.
func (r *Registry) placeManifest(ctx context.Context, n registry.Name, p registry.Put, parsed *registry.Parsed) error {
	unhold := r.hold(p.Digest)
	defer unhold()
	path := r.linkPath(n.Repository, manifestsName, p.Digest)
	there, err := r.renew(path, true)
	if err = errors.Join(err, r.renewReferrers(n.Repository, p.Digest)); err != nil {
		return err
	}
	if !there {
		if err := r.index.admit(n.Repository, manifestsLink, p.Digest, int64(len(p.Content)), 0); err != nil {
			return err
		}
	}
	if err = r.adoptContent(ctx, n, p); err == nil {
		if err = r.linkManifest(n, p, parsed); err != nil {
			err = fmt.Errorf("push %s to %s: %w", p.Digest, n, err)
		}
	}
	if err != nil && !there && !r.linked(path, false) {
		r.index.drop(n.Repository, manifestsLink, p.Digest)
	}
	return err
}

// adoptContent puts a manifest into the store by way of a file of its own.
func (r *Registry) adoptContent(ctx context.Context, n registry.Name, p registry.Put) error {
	f, err := os.CreateTemp(filepath.Join(r.o.Dir, uploadsName), "manifest-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is gone where all went well
	_, err = f.Write(p.Content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.adopt(ctx, n.Repository, p.Digest, f.Name(), p.MediaType)
}

// linkManifest makes a manifest one of a repository. What refers to its
// subject comes first: it counts only together with the manifest.
func (r *Registry) linkManifest(n registry.Name, p registry.Put, parsed *registry.Parsed) error {
	repo := n.Repository
	if p.Subject != "" {
		if err := r.writeLink(r.referrerPath(repo, p.Subject, p.Digest), parsed.Referrer(p.Digest, int64(len(p.Content)))); err != nil {
			return err
		}
	}
	path := r.linkPath(repo, manifestsName, p.Digest)
	var old manifestLink
	if readLink(path, &old) != nil || old.MediaType != p.MediaType {
		l := manifestLink{MediaType: p.MediaType, Size: int64(len(p.Content)), Pushed: r.o.Now(), Subject: p.Subject, Names: names(parsed)}
		if err := r.writeLink(path, l); err != nil {
			return err
		}
	}
	r.note(repo)
	for _, tag := range p.Tags {
		if err := r.writeLink(r.tagPath(repo, tag), tagLink{Digest: p.Digest, Tagged: r.o.Now()}); err != nil {
			return err
		}
	}
	return nil
}

// renewReferrers renews the leases of what refers to a manifest that is pushed,
// maybe once more, and with which it stays from now on.
func (r *Registry) renewReferrers(repo string, subject digest.Digest) error {
	list, err := r.Referrers(context.Background(), registry.Request{Name: r.name(repo), Digest: subject}, "")
	for _, d := range list {
		_, err2 := r.renew(r.linkPath(repo, manifestsName, d.Digest), true)
		err = errors.Join(err, err2)
	}
	return err
}

// names are what a manifest names.
func names(parsed *registry.Parsed) []digest.Digest {
	list := make([]digest.Digest, len(parsed.Children))
	for i, c := range parsed.Children {
		list[i] = c.Digest
	}
	return list
}

// tag is what a tag means; false where it means nothing.
func (r *Registry) tag(repo, tag string) (digest.Digest, bool) {
	path := r.tagPath(repo, tag)
	var l tagLink
	if err := readLink(path, &l); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			r.log.Error("a tag cannot be read; push it again", zap.String("repository", repo), zap.String("tag", tag), zap.Error(err))
		}
		return "", false
	}
	if _, err := registry.ParseDigest(string(l.Digest)); err != nil || !r.linked(r.linkPath(repo, manifestsName, l.Digest), false) {
		return "", false
	}
	return l.Digest, true
}

// Delete implements registry.Writer.
func (r *Registry) Delete(ctx context.Context, req registry.Request, c registry.Condition) error {
	lock := r.lock(req.Name.Repository)
	lock.Lock()
	defer lock.Unlock()
	repo := req.Name.Repository
	unknown := r.unknown(req.Name, registry.ManifestUnknown(req.Name, req.Reference, nil))
	if req.Digest == "" {
		d, ok := r.tag(repo, req.Reference)
		if err := c.Check(d); err != nil {
			return err
		}
		if !ok {
			return unknown
		}
		err := r.discard(TrashEntry{Repository: repo, Kind: KindTag, Reason: ReasonClient, Digest: d, Tags: []string{req.Reference}})
		if err == nil {
			_, err = r.removeLink(r.tagPath(repo, req.Reference))
		}
		if err != nil {
			return fmt.Errorf("delete tag %s of %s: %w", req.Reference, req.Name, err)
		}
		r.deleted("tag", req)
		return nil
	}
	var l manifestLink
	if err := readLink(r.linkPath(repo, manifestsName, req.Digest), &l); errors.Is(err, os.ErrNotExist) {
		return unknown
	}
	if err := c.Check(req.Digest); err != nil {
		return err
	}
	if err := r.unlinkManifest(ctx, repo, req.Digest, l); err != nil {
		return fmt.Errorf("delete %s of %s: %w", req.Digest, req.Name, err)
	}
	r.deleted("manifest", req)
	return nil
}

func (r *Registry) deleted(kind string, req registry.Request) {
	r.m.deleted.WithLabelValues(kind).Inc()
	r.log.Info("deleted", zap.String("kind", kind), zap.Stringer("repository", req.Name), zap.String("reference", req.Reference))
}

// unlinkManifest takes a manifest out of a repository: first its tags, or they
// would mean it again when it is pushed again.
func (r *Registry) unlinkManifest(ctx context.Context, repo string, d digest.Digest, l manifestLink) error {
	all, err := sorted(filepath.Join(r.repoDir(repo), tagsName), registry.ValidTag)
	if err != nil {
		return err
	}
	var tags []string
	for _, t := range all {
		if is, _ := r.tag(repo, t); is == d {
			tags = append(tags, t)
		}
	}
	if err := r.discardManifest(ctx, repo, d, l, tags, ReasonClient); err != nil {
		return err
	}
	for _, t := range tags {
		if _, err := r.removeLink(r.tagPath(repo, t)); err != nil {
			return err
		}
	}
	gone, err := r.removeLink(r.linkPath(repo, manifestsName, d))
	if gone {
		r.index.drop(repo, manifestsLink, d)
	}
	if err != nil || l.Subject == "" {
		return err
	}
	_, err = r.removeLink(r.referrerPath(repo, l.Subject, d))
	return err
}

// DeleteBlob implements registry.Writer.
func (r *Registry) DeleteBlob(_ context.Context, n registry.Name, d digest.Digest) error {
	lock := r.lock(n.Repository)
	lock.Lock()
	defer lock.Unlock()
	path := r.linkPath(n.Repository, blobsName, d)
	if !r.linked(path, false) {
		return r.unknown(n, registry.BlobUnknown(d, nil))
	}
	f, _ := r.index.get(d)
	err := r.discard(TrashEntry{Repository: n.Repository, Kind: KindBlobs, Reason: ReasonClient, Blobs: []Content{{d, f.size}}})
	if err == nil {
		var gone bool
		if gone, err = r.removeLink(path); gone {
			r.index.drop(n.Repository, blobLink, d)
		}
	}
	if err != nil {
		return fmt.Errorf("delete blob %s of %s: %w", d, n, err)
	}
	r.deleted("blob", registry.Request{Name: n, Reference: d.String()})
	return nil
}

// Mount implements registry.Writer.
func (r *Registry) Mount(ctx context.Context, n registry.Name, d digest.Digest, from registry.Name) (bool, error) {
	if r.o.Durable != nil {
		return r.mountDurable(ctx, n, d, from)
	}
	if !r.mountable(n, d, from) {
		r.m.mounts.WithLabelValues("upload").Inc()
		return false, nil
	}
	b, err := r.o.Store.Blob(d)
	if err != nil {
		return false, nil // gone meanwhile
	}
	defer b.Release()
	if !b.Complete() {
		return false, nil
	}
	lock := r.lock(n.Repository)
	lock.RLock()
	defer lock.RUnlock()
	err = r.place(n.Repository, d, b.Size(), 0, func() error { return b.Keep(true) })
	if errors.Is(err, store.ErrNotFound) {
		return false, nil // released meanwhile
	}
	if err != nil {
		return false, storeError(err)
	}
	r.m.mounts.WithLabelValues("mounted").Inc()
	r.o.Pushed(n, registry.Manifest{Digest: d, Size: b.Size()}, nil)
	return true, nil
}
