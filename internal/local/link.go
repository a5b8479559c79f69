package local

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

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

// What a repository's directory holds. No component of a repository's name
// begins with '_'.
const (
	manifestsName = "_manifests" // ALG/HEX: manifestLink
	blobsName     = "_blobs"     // ALG/HEX: empty
	tagsName      = "_tags"      // TAG: tagLink
	referrersName = "_referrers" // ALG/HEX of the subject, ALG-HEX: a descriptor

	dirPerm  = 0o700
	filePerm = 0o600
	// maxLink bounds what is read of one link: a descriptor with annotations
	// comes out of a manifest.
	maxLink = registry.MaxManifestSize
	// touchEvery bounds how often a use is written to disk.
	touchEvery = time.Minute
)

// manifestLink is a manifest in a repository. The file's mtime is the time of
// the last pull.
type manifestLink struct {
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Pushed    time.Time     `json:"pushed"`
	Subject   digest.Digest `json:"subject,omitempty"`
}

// tagLink is what a tag means. The file's mtime is the time of the last pull.
type tagLink struct {
	Digest digest.Digest `json:"digest"`
	Tagged time.Time     `json:"tagged"`
}

func (r *Registry) repoDir(repo string) string {
	return filepath.Join(r.o.Dir, repositoriesName, filepath.FromSlash(repo))
}

// linkPath is the link of a blob or manifest. The digest has been validated.
func (r *Registry) linkPath(repo, kind string, d digest.Digest) string {
	return filepath.Join(r.repoDir(repo), kind, d.Algorithm().String(), d.Encoded())
}

func (r *Registry) tagPath(repo, tag string) string {
	return filepath.Join(r.repoDir(repo), tagsName, tag)
}

func (r *Registry) referrerPath(repo string, subject, d digest.Digest) string {
	return filepath.Join(r.linkPath(repo, referrersName, subject), d.Algorithm().String()+"-"+d.Encoded())
}

// makeDirs makes a directory and those above it, durably.
func makeDirs(dir string) error {
	err := os.Mkdir(dir, dirPerm)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDirs(filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(dir, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// writeLink puts v under path as JSON, durably and in one step; nil makes an
// empty file.
func writeLink(path string, v any) error {
	dir := filepath.Dir(path)
	if err := makeDirs(dir); err != nil {
		return err
	}
	content, err := encodeLink(v)
	switch {
	case err != nil:
	case v == nil:
		var f *os.File
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, filePerm); err == nil {
			err = f.Close()
		}
	default:
		err = renameio.WriteFile(path, content, filePerm, renameio.WithTempDir(dir))
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// encodeLink is what a link's file holds; nothing for nil.
func encodeLink(v any) ([]byte, error) {
	if v == nil {
		return []byte{}, nil
	}
	content, err := json.Marshal(v)
	return append(content, '\n'), err
}

// readLink reads what writeLink wrote. Errors: fs.ErrNotExist; one that cannot
// be understood is an error, too.
func readLink(path string, v any) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Size() > maxLink {
		return fmt.Errorf("%s: %d bytes are more than a link has", path, fi.Size())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// removeLink removes a link, durably; it reports whether there was one.
func removeLink(path string) (bool, error) {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

// linked tells whether a link is there. Use marks it as used now.
func (r *Registry) linked(path string, use bool) bool {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	if now := r.o.Now(); use && now.Sub(fi.ModTime()) > touchEvery {
		_ = os.Chtimes(path, now, now) // advice for retention and collection, no more
	}
	return true
}

// link makes a blob one of a repository.
func (r *Registry) link(repo string, d digest.Digest) error {
	path := r.linkPath(repo, blobsName, d)
	if r.linked(path, true) {
		return nil
	}
	if err := r.writeLink(path, nil); err != nil {
		return fmt.Errorf("link %s to %s: %w", d, repo, err)
	}
	r.note(repo)
	return nil
}

// loadRepositories lists the repositories, removes what interrupted writes
// left, and lets the store evict what none of them links to: a blob whose
// upload was committed and that a crash kept from its repository, or that was
// deleted from the last one.
func (r *Registry) loadRepositories() error {
	root := filepath.Join(r.o.Dir, repositoriesName)
	linked := make(map[digest.Digest]bool)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, root), string(filepath.Separator))
		repo, inside, found := strings.Cut(filepath.ToSlash(rel), "/_")
		switch {
		case !found:
			return nil
		case e.IsDir():
			if registry.ValidRepository(repo) {
				r.note(repo)
			}
		case strings.HasPrefix(e.Name(), "."):
			return os.Remove(path)
		default:
			if parts := strings.Split("_"+inside, "/"); len(parts) == 3 && (parts[0] == blobsName || parts[0] == manifestsName) {
				linked[digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])] = true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.releaseUnlinked(linked)
}

// releaseUnlinked compares what the store keeps with what is linked.
func (r *Registry) releaseUnlinked(linked map[digest.Digest]bool) error {
	keep := func(d digest.Digest, on bool) error {
		b, err := r.o.Store.Blob(d)
		if err != nil {
			return err
		}
		defer b.Release()
		return b.Keep(on)
	}
	for _, in := range r.o.Store.Infos() {
		want := linked[in.Digest]
		delete(linked, in.Digest)
		if want == in.Kept || want && r.o.Durable != nil { // it is kept elsewhere
			continue
		}
		r.log.Info("a blob is linked and not kept, or the other way round", zap.Stringer("digest", in.Digest), zap.Bool("linked", want))
		if err := keep(in.Digest, want); err != nil {
			return err
		}
	}
	for d := range linked {
		if r.o.Durable != nil {
			break // they come back when they are asked for
		}
		r.log.Error("content of a local repository is missing from the store; push it again", zap.Stringer("digest", d))
	}
	return nil
}

// sorted lists the names in a directory that ok accepts; none where there is
// no such directory.
func sorted(dir string, ok func(string) bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if ok(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
