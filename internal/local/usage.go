package local

import (
	"context"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Usage is what a repository takes.
type Usage struct {
	Repository string    `json:"repository"`
	Bytes      int64     `json:"bytes"` // of manifests and blobs, whoever else has them
	Blobs      int       `json:"blobs"`
	Manifests  int       `json:"manifests"`
	Tags       int       `json:"tags"`
	LastPull   time.Time `json:"lastPull"` // of a tag or manifest; the push where there was none
}

// Usage tells of every repository what it takes, ordered by name.
func (r *Registry) Usage(ctx context.Context) ([]Usage, error) {
	names, err := r.Repositories(ctx, 0, "")
	if err != nil {
		return nil, err
	}
	list := make([]Usage, 0, len(names))
	for _, repo := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		u, err := r.usage(repo)
		if err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	return list, nil
}

// Quotas tells how much of each quota is taken, in the order of Options.Quotas.
func (r *Registry) Quotas() []QuotaUsage { return r.index.usage() }

func (r *Registry) usage(repo string) (Usage, error) {
	u := Usage{Repository: repo}
	counted := map[digest.Digest]bool{}
	count := func(n *int, manifests bool) func(digest.Digest, fs.FileInfo) error {
		return func(d digest.Digest, fi fs.FileInfo) error {
			*n++
			if f, ok := r.index.get(d); ok && !counted[d] {
				counted[d] = true
				u.Bytes += f.size
			}
			if manifests && fi.ModTime().After(u.LastPull) {
				u.LastPull = fi.ModTime()
			}
			return nil
		}
	}
	dir := r.repoDir(repo)
	if err := eachDigest(filepath.Join(dir, blobsName), count(&u.Blobs, false)); err != nil {
		return u, err
	}
	if err := eachDigest(filepath.Join(dir, manifestsName), count(&u.Manifests, true)); err != nil {
		return u, err
	}
	tags, err := sorted(filepath.Join(dir, tagsName), registry.ValidTag)
	u.Tags = len(tags)
	return u, err
}
