package durable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/objectstore"
)

const (
	linkTime = 15 * time.Second // for the bucket to take or drop a link
	maxLink  = 8 << 20          // bytes: a referrer's annotations come out of a manifest
	mendRest = 30 * time.Second // between attempts while the bucket does not work
)

// lock guards one link, here and in the bucket.
func (h *Home) lock(path string) *sync.Mutex {
	f := fnv.New32a()
	_, _ = f.Write([]byte(path)) // has no error
	return &h.paths[f.Sum32()%uint32(len(h.paths))]
}

// Put implements local.Durable.
func (h *Home) Put(path string, content []byte, write func() error) error {
	return h.change(path, func(ctx context.Context) error {
		return h.o.Objects.Put(ctx, path, content, objectstore.PutOptions{ContentType: linkType})
	}, write)
}

const linkType = "application/json"

// Remove implements local.Durable.
func (h *Home) Remove(path string, remove func() error) error {
	return h.change(path, func(ctx context.Context) error { return h.o.Objects.Remove(ctx, path) }, remove)
}

// change changes a link in the bucket and then here. The journal has its path
// from before the first until after the second.
func (h *Home) change(path string, there func(context.Context) error, here func() error) error {
	if err := h.usable(); err != nil {
		return h.refuse(err)
	}
	l := h.lock(path)
	l.Lock()
	defer l.Unlock()
	if err := h.enter(path); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(h.ctx, linkTime)
	defer cancel()
	err := h.note(there(ctx))
	if err != nil {
		h.leave(path, false)
		return h.refuse(err)
	}
	if err = here(); err != nil {
		h.leave(path, h.copyLink(path) == nil)
		return err
	}
	h.leave(path, true)
	return nil
}

func (h *Home) journal(path string) string {
	sum := sha256.Sum256([]byte(path))
	return h.state(linksName, hex.EncodeToString(sum[:16]))
}

// enter has the journal know of a path, durably. The caller holds its lock.
func (h *Home) enter(path string) error {
	h.mu.Lock()
	_, known := h.pending[path]
	h.pending[path]++
	h.mu.Unlock()
	if known {
		return nil
	}
	name := h.journal(path)
	err := renameio.WriteFile(name, []byte(path), 0o600, renameio.WithTempDir(filepath.Dir(name)))
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		h.leave(path, false)
		return fmt.Errorf("object store: note %s: %w", path, err)
	}
	return nil
}

// leave ends a change. same tells that disk and bucket agree; else they are
// made to, later.
func (h *Home) leave(path string, same bool) {
	if same {
		if err := os.Remove(h.journal(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("cannot end an entry of the journal", zap.String("path", path), zap.Error(err))
			same = false
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if same {
		delete(h.pending, path)
		return
	}
	h.pending[path]--
	h.hurry()
}

// hurry has what is open mended now.
func (h *Home) hurry() {
	select {
	case h.work <- struct{}{}:
	default:
	}
}

// loadJournal reads what an earlier process did not end.
func (h *Home) loadJournal() error {
	entries, err := os.ReadDir(h.state(linksName))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := h.state(linksName, e.Name())
		path, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if h.journal(string(path)) != name { // a leftover of a write
			if err := os.Remove(name); err != nil {
				return err
			}
			continue
		}
		h.pending[string(path)] = 0
	}
	return nil
}

// mend makes the bucket agree with the disk: about what was here before there
// was a bucket, then about what is in the journal.
func (h *Home) mend() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-h.work:
		case <-timer.C:
		}
		err := h.usable()
		if err == nil && h.syncing.Load() {
			err = h.sync()
		}
		if err == nil {
			err = h.mendLinks()
		}
		if err != nil && h.ctx.Err() == nil {
			h.log.Debug("the object store cannot be mended yet", zap.Error(err))
			timer.Reset(mendRest)
		}
	}
}

func (h *Home) mendLinks() error {
	h.mu.Lock()
	paths := slices.Sorted(maps.Keys(h.pending))
	h.mu.Unlock()
	mended := 0
	for _, path := range paths {
		again, err := h.mendLink(path)
		if err != nil {
			return err
		}
		if again {
			mended++
		}
	}
	if mended > 0 {
		h.log.Info("links in the object store were made to agree with the disk", zap.Int("links", mended))
	}
	return nil
}

// mendLink makes the bucket say what the disk says of one link, if somebody
// left that open.
func (h *Home) mendLink(path string) (mended bool, err error) {
	l := h.lock(path)
	l.Lock()
	defer l.Unlock()
	h.mu.Lock()
	_, open := h.pending[path]
	h.mu.Unlock()
	if !open || h.ctx.Err() != nil {
		return false, h.ctx.Err()
	}
	if err := h.copyLink(path); err != nil {
		return false, err
	}
	h.leave(path, true)
	return true, nil
}

// copyLink makes the bucket say what the disk says of one link. The caller
// holds its lock.
func (h *Home) copyLink(path string) error {
	ctx, cancel := context.WithTimeout(h.ctx, linkTime)
	defer cancel()
	content, err := os.ReadFile(h.dir(filepath.FromSlash(path)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return h.note(h.o.Objects.Remove(ctx, path))
	case err != nil:
		return err
	}
	return h.note(h.o.Objects.Put(ctx, path, content, objectstore.PutOptions{ContentType: linkType}))
}

// isLink tells whether a path, or a key, is one of a link.
func isLink(path string) bool {
	if !filepath.IsLocal(filepath.FromSlash(path)) || strings.ContainsRune(path, '\\') {
		return false
	}
	return strings.HasPrefix(path, "repositories/") || strings.HasPrefix(path, "trash/")
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
