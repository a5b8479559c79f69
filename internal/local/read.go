package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Manifest implements registry.Backend.
func (r *Registry) Manifest(ctx context.Context, req registry.Request) (*registry.Manifest, error) {
	repo, d := req.Name.Repository, req.Digest
	unknown := registry.ManifestUnknown(req.Name, req.Reference, nil)
	if d == "" {
		var ok bool
		if d, ok = r.tag(repo, req.Reference); !ok {
			return nil, r.unknown(req.Name, unknown)
		}
		r.linked(r.tagPath(repo, req.Reference), true)
	}
	path := r.linkPath(repo, manifestsName, d)
	var l manifestLink
	err := readLink(path, &l)
	if errors.Is(err, os.ErrNotExist) {
		return nil, r.unknown(req.Name, unknown)
	}
	f, _, mediaType, ferr := r.content(ctx, registry.Request{Name: req.Name, Digest: d})
	if ferr != nil && !r.linked(path, false) { // removed meanwhile
		return nil, r.unknown(req.Name, unknown)
	}
	if ferr != nil {
		return nil, r.lost(req.Name, d, ferr, unknown)
	}
	defer f.Close()
	if err != nil { // the store knows the type, too
		r.log.Error("the link of a manifest cannot be read; push it again", zap.Stringer("repository", req.Name), zap.Stringer("digest", d), zap.Error(err))
		l.MediaType = mediaType
	}
	r.linked(path, true)
	content, err := io.ReadAll(io.LimitReader(f, registry.MaxManifestSize))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s of %s: %w", d, req.Name, err)
	}
	return &registry.Manifest{Digest: d, MediaType: l.MediaType, Content: content}, nil
}

// Blob implements registry.Backend.
func (r *Registry) Blob(ctx context.Context, req registry.Request) (registry.Blob, error) {
	unknown := registry.BlobUnknown(req.Digest, nil)
	path := r.linkPath(req.Name.Repository, blobsName, req.Digest)
	if !r.linked(path, true) {
		return registry.Blob{}, r.unknown(req.Name, unknown)
	}
	f, size, _, err := r.content(ctx, req)
	if err != nil && !r.linked(path, false) { // removed meanwhile
		return registry.Blob{}, r.unknown(req.Name, unknown)
	}
	if err != nil {
		return registry.Blob{}, r.lost(req.Name, req.Digest, err, unknown)
	}
	return registry.Blob{Digest: req.Digest, Size: size, Content: f}, nil
}

// lost is the answer for content that is linked and cannot be had.
func (r *Registry) lost(n registry.Name, d digest.Digest, err error, unknown *registry.Error) error {
	if errors.Is(err, store.ErrClosed) || errors.As(err, new(*registry.Error)) || errors.Is(err, context.Canceled) {
		return err
	}
	r.log.Error("content of a local repository is missing from the store; push it again",
		zap.Stringer("repository", n), zap.Stringer("digest", d), zap.Error(err))
	if errors.Is(err, store.ErrDamaged) { // 404, or no client would push it again
		damaged := *unknown
		damaged.Message += ": it is damaged on this registry's disk and is being had again; to push it mends it"
		return &damaged
	}
	return unknown
}

// Tags implements registry.Backend.
func (r *Registry) Tags(_ context.Context, n registry.Name, limit int, last string) ([]string, error) {
	if !r.known(n.Repository) {
		return nil, registry.NameUnknown(n, nil)
	}
	all, err := sorted(filepath.Join(r.repoDir(n.Repository), tagsName), registry.ValidTag)
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", n, err)
	}
	var page []string
	for _, t := range all {
		if t <= last {
			continue
		}
		if _, ok := r.tag(n.Repository, t); ok {
			page = append(page, t)
		}
		if limit > 0 && len(page) == limit {
			break
		}
	}
	return page, nil
}

// Tagged is what a tag means; false where it means nothing. To look is no pull.
func (r *Registry) Tagged(repository, tag string) (digest.Digest, bool) {
	if !registry.ValidTag(tag) {
		return "", false
	}
	return r.tag(repository, tag)
}

// Referrers implements registry.ReferrerLister.
func (r *Registry) Referrers(_ context.Context, req registry.Request, artifactType string) ([]registry.Descriptor, error) {
	repo := req.Name.Repository
	dir := r.linkPath(repo, referrersName, req.Digest)
	names, err := sorted(dir, func(s string) bool { return !strings.HasPrefix(s, ".") })
	if err != nil {
		return nil, fmt.Errorf("referrers of %s in %s: %w", req.Digest, req.Name, err)
	}
	var list []registry.Descriptor
	for _, name := range names {
		var d registry.Descriptor
		if err := readLink(filepath.Join(dir, name), &d); err != nil {
			r.log.Error("a referrer cannot be read; push it again", zap.Stringer("repository", req.Name), zap.Error(err))
			continue
		}
		if _, err := registry.ParseDigest(string(d.Digest)); err != nil || artifactType != "" && d.ArtifactType != artifactType {
			continue
		}
		if r.linked(r.linkPath(repo, manifestsName, d.Digest), false) {
			list = append(list, d)
		}
	}
	return list, nil
}

// mountable tells whether a blob can be mounted: from a local repository,
// from one that is proxied, or without a from, wherever here it is.
func (r *Registry) mountable(n registry.Name, d digest.Digest, from registry.Name) bool {
	in, err := r.o.Store.Stat(d)
	if err != nil || !in.Complete {
		return false
	}
	has := func(repo string) bool { return r.linked(r.linkPath(repo, blobsName, d), true) }
	switch {
	case from == registry.Name{}:
		f, _ := r.index.get(d)
		return has(n.Repository) || f.links[blobLink] > 0
	case r.o.IsLocal(from):
		return has(from.Repository)
	}
	return slices.Contains(in.Meta.Sources, from.String()) || r.o.Named(from, d)
}
