package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Durable is where what repositories have outlives this disk. Where there is
// one, the store is a cache whose content may be evicted, and the links here are
// a copy. A *registry.Error of its methods is the answer to the client.
type Durable interface {
	// Push keeps verified content, unless it is kept already. It comes before
	// every link to the content.
	Push(ctx context.Context, d digest.Digest, f *os.File, mediaType string) error
	// Size is the size of content that was pushed. Errors: fs.ErrNotExist.
	Size(ctx context.Context, d digest.Digest) (int64, error)
	// Drop removes content that was pushed, and to which nothing links any more:
	// links went before. No error where there is none.
	Drop(ctx context.Context, d digest.Digest) error
	// Open opens content that the store does not hold whole, by way of a
	// repository that links to it. The request names it by digest.
	// Errors: fs.ErrNotExist.
	Open(ctx context.Context, r registry.Request) (io.ReadSeekCloser, int64, error)
	// Put keeps a link, then has it written here. The path is relative to
	// Options.Dir, with slashes.
	Put(path string, content []byte, write func() error) error
	// Remove removes a link there, then here.
	Remove(path string, remove func() error) error
}

// push keeps content before it is linked.
func (r *Registry) push(ctx context.Context, d digest.Digest, path, mediaType string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.o.Durable.Push(ctx, d, f, mediaType)
}

// evictable lets the store drop content that is kept elsewhere.
func (r *Registry) evictable(d digest.Digest) error {
	b, err := r.o.Store.Blob(d)
	if err != nil {
		return err
	}
	defer b.Release()
	return b.Keep(false)
}

// mountDurable is Mount where content need not be in the store.
func (r *Registry) mountDurable(ctx context.Context, n registry.Name, d digest.Digest, from registry.Name) (bool, error) {
	size, err := r.mountSource(ctx, n, d, from)
	if errors.Is(err, fs.ErrNotExist) {
		r.m.mounts.WithLabelValues("upload").Inc()
		return false, nil
	}
	if err != nil {
		return false, err
	}
	lock := r.lock(n.Repository)
	lock.RLock()
	defer lock.RUnlock()
	if err := r.place(n.Repository, d, size, 0, func() error { return nil }); err != nil {
		return false, err
	}
	r.m.mounts.WithLabelValues("mounted").Inc()
	r.o.Pushed(n, registry.Manifest{Digest: d, Size: size}, nil)
	return true, nil
}

// mountSource sees to it that content which may be mounted is kept, and returns
// its size; fs.ErrNotExist where it may not, or is nowhere.
func (r *Registry) mountSource(ctx context.Context, n registry.Name, d digest.Digest, from registry.Name) (int64, error) {
	has := func(repo string) bool { return r.linked(r.linkPath(repo, blobsName, d), true) }
	linked := r.o.IsLocal(from) && has(from.Repository)
	if from == (registry.Name{}) {
		f, _ := r.index.get(d)
		linked = has(n.Repository) || f.links[blobLink] > 0
	}
	if !linked && !r.mountable(n, d, from) {
		return 0, fs.ErrNotExist
	}
	f, size, mediaType, err := r.open(d)
	if err != nil {
		return r.o.Durable.Size(ctx, d)
	}
	defer f.Close()
	return size, r.o.Durable.Push(ctx, d, f, mediaType)
}

// writeLink is writeLink for a link below r.o.Dir, kept durably first.
func (r *Registry) writeLink(path string, v any) error {
	if r.o.Durable == nil {
		return writeLink(path, v)
	}
	content, err := encodeLink(v)
	if err != nil {
		return err
	}
	rel, err := r.relative(path)
	if err != nil {
		return err
	}
	return r.o.Durable.Put(rel, content, func() error { return writeLink(path, v) })
}

// removeLink is removeLink for a link below r.o.Dir.
func (r *Registry) removeLink(path string) (gone bool, err error) {
	if r.o.Durable == nil || !r.linked(path, false) {
		return removeLink(path)
	}
	rel, err := r.relative(path)
	if err != nil {
		return false, err
	}
	err = r.o.Durable.Remove(rel, func() (err error) {
		gone, err = removeLink(path)
		return err
	})
	return gone, err
}

func (r *Registry) relative(path string) (string, error) {
	rel, err := filepath.Rel(r.o.Dir, path)
	return filepath.ToSlash(rel), err
}

// content opens what a repository links to: in the store, or where it is kept
// for good. The request names it by digest; one of a HEAD is given a size alone
// where nothing is in the store.
func (r *Registry) content(ctx context.Context, req registry.Request) (io.ReadSeekCloser, int64, string, error) {
	f, size, mediaType, err := r.open(req.Digest)
	if err == nil {
		return f, size, mediaType, nil
	}
	if r.o.Durable == nil || !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrNotHeld) {
		return nil, 0, "", err
	}
	if req.Head {
		size, err := r.o.Durable.Size(ctx, req.Digest)
		return nil, size, "", err
	}
	c, size, err := r.o.Durable.Open(ctx, req)
	return c, size, "", err
}
