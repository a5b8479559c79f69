package backup

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// prune drops all but the newest snapshots, and then the content that none of
// those that stay needs. A snapshot that cannot be read keeps all content.
func (b *run) prune(keep int) error {
	ids, err := b.list()
	if err != nil {
		return err
	}
	if len(ids) > keep {
		for _, id := range ids[:len(ids)-keep] {
			// Whole, or not there: out of the list first.
			gone := b.path(partialName, "dropped-"+id)
			if err := os.Rename(b.path(snapshotsName, id), gone); err != nil {
				return err
			}
			b.step("snapshot dropped")
			if err := os.RemoveAll(gone); err != nil {
				return err
			}
			b.report.Dropped = append(b.report.Dropped, id)
		}
		ids = ids[len(ids)-keep:]
	}
	if err := syncFS(b.dir); err != nil { // names go before content
		return err
	}
	needed := make(map[string]bool)
	for _, id := range ids {
		s, err := b.snapshot(id)
		if err != nil {
			return fmt.Errorf("no content is dropped: %w", err)
		}
		for _, e := range s.entries {
			if e.Digest != "" {
				needed[contentPath(e.Digest)] = true
			}
		}
	}
	return filepath.WalkDir(b.path(contentName), func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(b.dir, p)
		if err != nil || needed[filepath.ToSlash(rel)] {
			return err
		}
		if fi, err := e.Info(); err == nil {
			b.report.BytesFreed += fi.Size()
		}
		b.step("content dropped")
		return os.Remove(p)
	})
}
