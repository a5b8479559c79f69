package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/samara-p2p/samara/pkg/objectstore"
)

// atOnce bounds the requests of a restore, and of a sync.
const atOnce = 16

// restore makes the links here from those of the bucket. They appear in one
// step, so that a crash on the way starts it anew. Content follows when it is
// asked for.
func (h *Home) restore(ctx context.Context) error {
	began := time.Now()
	half := h.dir("restore")
	if err := errors.Join(os.RemoveAll(half), os.MkdirAll(filepath.Join(half, "repositories"), 0o700), os.MkdirAll(filepath.Join(half, "trash"), 0o700)); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	links := 0
	var err error
	for _, prefix := range []string{"repositories/", "trash/"} {
		err = errors.Join(err, h.o.Objects.List(gctx, prefix, func(o objectstore.Object) error {
			if !isLink(o.Key) || o.Size > maxLink || strings.HasSuffix(o.Key, "/") {
				h.log.Warn("an object that is no link is left alone", zap.String("key", o.Key))
				return nil
			}
			links++
			g.Go(func() error { return h.restoreLink(gctx, half, o) })
			return nil
		}))
	}
	if err := errors.Join(g.Wait(), err); err != nil {
		return fmt.Errorf("read the links: %w", err)
	}
	if err := h.restoreSizes(ctx); err != nil {
		return fmt.Errorf("read the sizes of content: %w", err)
	}
	if err := syncAll(half); err != nil {
		return err
	}
	if err := os.RemoveAll(h.dir("trash")); err != nil {
		return err
	}
	for _, name := range []string{"trash", "repositories"} { // the second says that it is done
		if err := os.Rename(filepath.Join(half, name), h.dir(name)); err != nil {
			return err
		}
	}
	h.log.Info("repositories are back from the object store", zap.Int("links", links), zap.Duration("took", time.Since(began)))
	return errors.Join(os.RemoveAll(half), syncDir(h.dir()))
}

// restoreLink writes one link. Its time of last use begins now: nothing is
// removed for having been away.
func (h *Home) restoreLink(ctx context.Context, dir string, o objectstore.Object) error {
	var content []byte
	if o.Size > 0 {
		var err error
		if content, _, err = h.o.Objects.Get(ctx, o.Key, maxLink); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, filepath.FromSlash(o.Key))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// syncAll makes durable what was written below a directory: all of its file
// system at once, which beats a flush per link.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// sync copies what was here before there was a bucket: content first.
func (h *Home) sync() error {
	g, ctx := errgroup.WithContext(h.ctx)
	g.SetLimit(atOnce)
	for _, in := range h.o.Store.Infos() {
		if in.Kept && in.Complete {
			g.Go(func() error { return h.syncContent(ctx, in.Digest) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, ctx = errgroup.WithContext(h.ctx)
	g.SetLimit(atOnce)
	links := 0
	err := filepath.WalkDir(h.dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			return errors.Join(err, ctx.Err())
		}
		rel, err := filepath.Rel(h.dir(), path)
		if key := filepath.ToSlash(rel); err == nil && isLink(key) {
			links++
			g.Go(func() error { return h.syncLink(key) })
		}
		return err
	})
	if err = errors.Join(g.Wait(), err); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(h.state(syncName)); err != nil {
		return err
	}
	h.syncing.Store(false)
	h.log.Info("what was here before is in the object store", zap.Int("links", links))
	return nil
}

func (h *Home) syncLink(path string) error {
	l := h.lock(path)
	l.Lock()
	defer l.Unlock()
	return h.copyLink(path)
}
