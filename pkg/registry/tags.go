package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Tags remembers on disk what tags were last seen to mean. It is a cache: an
// entry that cannot be read counts as absent. One small file per tag, at
//
//	DIR/<upstream>/<repository>/_tags/<tag>.json
//
// where a component of a repository can never be "_tags". Files are replaced
// by rename and not synced: after a power cut the last few may be missing or
// empty. Safe for concurrent use, and by any number of processes.
type Tags struct{ dir string }

// TagEntry is what a tag meant at a time.
type TagEntry struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Checked   time.Time     `json:"checked"` // when an upstream (or seeder) last said so
}

const (
	tagsDir    = "_tags"
	tagSuffix  = ".json"
	tempPrefix = ".tmp-" // no tag begins with '.'
	// maxTagFile bounds what is read back of one entry.
	maxTagFile = 4 << 10
)

// OpenTags uses dir, which is created if need be, and removes what an
// interrupted write left there.
func OpenTags(dir string) (*Tags, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open tag cache: %w", err)
	}
	t := &Tags{dir: dir}
	err := t.walk(func(path string, _ Name, tag string) error {
		if tag == "" {
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open tag cache: %w", err)
	}
	return t, nil
}

// Get tells what a tag last meant; false when it was never seen or its entry
// cannot be read.
func (t *Tags) Get(n Name, tag string) (TagEntry, bool) {
	path, err := t.path(n, tag)
	if err != nil {
		return TagEntry{}, false
	}
	e, err := readTag(path)
	return e, err == nil
}

// Put remembers an entry. Errors are of the file system, or *Error for a name
// or tag outside the grammar.
func (t *Tags) Put(n Name, tag string, e TagEntry) error {
	path, err := t.path(n, tag)
	if err != nil {
		return err
	}
	if _, err := ParseDigest(string(e.Digest)); err != nil {
		return fmt.Errorf("put tag %s of %s: %w", tag, n, err)
	}
	content, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("put tag %s of %s: %w", tag, n, err)
	}
	if err := replaceFile(path, content); err != nil {
		return fmt.Errorf("put tag %s of %s: %w", tag, n, err)
	}
	return nil
}

// Delete forgets a tag; one that is not there is no error.
func (t *Tags) Delete(n Name, tag string) error {
	path, err := t.path(n, tag)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete tag %s of %s: %w", tag, n, err)
	}
	return nil
}

// List gives the remembered tags of a repository in lexical order; none for a
// repository that was never seen.
func (t *Tags) List(n Name) []string {
	path, err := t.path(n, "x")
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	var tags []string
	for _, e := range entries {
		if tag, ok := strings.CutSuffix(e.Name(), tagSuffix); ok && ValidTag(tag) {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}

// Prune forgets the tags that keep does not want, and entries that cannot be
// read, and returns how many. Tags are made by every build; without it the
// cache only grows.
func (t *Tags) Prune(keep func(TagEntry) bool) (int, error) {
	var n int
	err := t.walk(func(path string, _ Name, tag string) error {
		if tag == "" {
			return nil
		}
		if e, err := readTag(path); err == nil && keep(e) {
			return nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		n++
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("prune tag cache: %w", err)
	}
	return n, nil
}

// walk calls f for every file below _tags directories; tag is "" for one that
// is no entry (an interrupted write).
func (t *Tags) walk(f func(path string, n Name, tag string) error) error {
	return filepath.WalkDir(t.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // replaced or deleted while we walk
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(t.dir, path)
		if err != nil {
			return err
		}
		dir, file := filepath.Split(filepath.ToSlash(rel))
		repo, ok := strings.CutSuffix(strings.TrimSuffix(dir, "/"), "/"+tagsDir)
		if !ok {
			return nil // not ours
		}
		n, err := ParseName(repo)
		if err != nil {
			return nil // not ours either
		}
		if strings.HasPrefix(file, tempPrefix) {
			return f(path, n, "")
		}
		if tag, ok := strings.CutSuffix(file, tagSuffix); ok && ValidTag(tag) {
			return f(path, n, tag)
		}
		return nil
	})
}

// path of an entry; validation makes it safe to use names from clients.
func (t *Tags) path(n Name, tag string) (string, error) {
	v, err := newName(n.Upstream, n.Repository)
	if err != nil {
		return "", err
	}
	if !ValidTag(tag) {
		return "", &Error{Status: 400, Code: CodeManifestInvalid, Message: fmt.Sprintf("%q is not a tag", short(tag))}
	}
	return filepath.Join(t.dir, v.Upstream, filepath.FromSlash(v.Repository), tagsDir, tag+tagSuffix), nil
}

func readTag(path string) (TagEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return TagEntry{}, err
	}
	defer f.Close()
	var buf [maxTagFile]byte
	k, err := readAll(f, buf[:])
	if err != nil {
		return TagEntry{}, err
	}
	var e TagEntry
	if err := json.Unmarshal(buf[:k], &e); err != nil {
		return TagEntry{}, err
	}
	if _, err := ParseDigest(string(e.Digest)); err != nil {
		return TagEntry{}, err
	}
	return e, nil
}
