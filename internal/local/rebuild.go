package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// openDirs makes the directories. Where the links are missing and the store
// keeps what was pushed, they are made again from that.
func (r *Registry) openDirs() error {
	repositories := filepath.Join(r.o.Dir, repositoriesName)
	_, err := os.Stat(repositories)
	lost := errors.Is(err, fs.ErrNotExist)
	if err := makeDirs(filepath.Join(r.o.Dir, uploadsName)); err != nil {
		return err
	}
	if !lost {
		return err
	}
	// Somewhere else first, so that what a crash leaves half-way is not taken
	// for all.
	half := &Registry{o: r.o, log: r.log, index: newIndex(nil)}
	half.o.Dir, half.o.Durable = filepath.Join(r.o.Dir, rebuildName), nil
	made := filepath.Join(half.o.Dir, repositoriesName)
	if err := errors.Join(os.RemoveAll(half.o.Dir), makeDirs(made)); err != nil {
		return err
	}
	if err := half.rebuild(); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	if err := os.Rename(made, repositories); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(half.o.Dir), syncFile(r.o.Dir))
}

const rebuildName = "rebuild"

// rebuild links what the store keeps to the repositories that it was pushed
// to, as far as the store knows them: what a blob was mounted to follows from
// the manifests there. What tags meant is not to be known.
func (r *Registry) rebuild() error {
	links := 0
	for _, in := range r.o.Store.Infos() {
		if !in.Kept || !in.Complete {
			continue
		}
		for _, source := range in.Meta.Sources {
			n, err := registry.ParseName(source)
			if err != nil || n.Upstream != r.o.Upstream {
				continue
			}
			if err := r.rebuildLink(n, in); err != nil {
				return err
			}
			links++
		}
	}
	if links > 0 {
		r.log.Warn("the links of local repositories were missing and were made again from the store; tags are lost: push or tag again by digest",
			zap.String("dir", r.o.Dir), zap.Int("links", links))
	}
	return nil
}

// rebuildBlob links a blob, which the store keeps from now on.
func (r *Registry) rebuildBlob(repo string, in store.Info) error {
	return r.place(repo, in.Digest, in.Size, 0, func() error { return nil })
}

func (r *Registry) rebuildLink(n registry.Name, in store.Info) error {
	if !registry.IsManifestType(in.Meta.MediaType) {
		return r.rebuildBlob(n.Repository, in)
	}
	f, _, _, err := r.open(in.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, registry.MaxManifestSize))
	if err != nil {
		return err
	}
	parsed, err := registry.Parse(in.Meta.MediaType, content)
	if err != nil {
		return nil // it was no manifest when it was pushed
	}
	for _, c := range parsed.Children {
		child, err := r.o.Store.Stat(c.Digest)
		if err != nil || !child.Complete || registry.IsManifestType(child.Meta.MediaType) {
			continue
		}
		if err := r.rebuildBlob(n.Repository, child); err != nil {
			return err
		}
	}
	p := registry.Put{Manifest: registry.Manifest{Digest: in.Digest, MediaType: parsed.MediaType, Content: content}}
	if parsed.Subject != nil {
		p.Subject = parsed.Subject.Digest
	}
	return r.linkManifest(n, p, parsed)
}
