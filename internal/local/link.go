package local

import (
	"context"
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
	// Names are what the manifest names, so that a collection need not read it;
	// nil in a link of an older version.
	Names []digest.Digest `json:"names"`
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
	return syncFile(filepath.Dir(dir))
}

// syncFile flushes a file or a directory.
func syncFile(path string) error {
	f, err := os.Open(path)
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
	return syncFile(dir)
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
	return true, syncFile(filepath.Dir(path))
}

// linked tells whether a link is there. Use marks it as used now, which renews
// its lease.
func (r *Registry) linked(path string, use bool) bool {
	there, err := r.renew(path, use)
	return there && err == nil
}

// renew is linked for whoever relies on the lease.
func (r *Registry) renew(path string, use bool) (bool, error) {
	if use {
		r.leases.RLock()
		defer r.leases.RUnlock()
	}
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return false, nil
	}
	if now := r.o.Now(); use && now.Sub(fi.ModTime()) > touchEvery {
		if err := os.Chtimes(path, now, now); err != nil {
			return true, fmt.Errorf("renew a lease: %w", err)
		}
	}
	return true, nil
}

// loadRepositories lists the repositories, counts what they link to, and
// removes what interrupted writes left.
func (r *Registry) loadRepositories() error {
	root := filepath.Join(r.o.Dir, repositoriesName)
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
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
			return nil
		case strings.HasPrefix(e.Name(), "."):
			return os.Remove(path)
		}
		return r.loadLink(repo, strings.Split("_"+inside, "/"))
	})
}

// loadLink counts the link at _blobs/ALG/HEX or _manifests/ALG/HEX.
func (r *Registry) loadLink(repo string, parts []string) error {
	kinds := map[string]kind{blobsName: blobLink, manifestsName: manifestsLink}
	k, counts := kinds[parts[0]]
	if !counts || len(parts) != 3 {
		return nil
	}
	d, err := registry.ParseDigest(parts[1] + ":" + parts[2])
	if err != nil {
		return nil
	}
	size, err := r.size(d)
	if err == nil {
		r.index.add(repo, k, d, size)
	}
	return err
}

// size is that of content, 0 where it is lost.
func (r *Registry) size(d digest.Digest) (int64, error) {
	in, err := r.o.Store.Stat(d)
	if err == nil || r.o.Durable == nil {
		return in.Size, nil
	}
	size, err := r.o.Durable.Size(context.Background(), d)
	if err != nil && !isGone(err) {
		r.log.Warn("the size of content is not to be known; it counts as empty until the next start", zap.Stringer("digest", d), zap.Error(err))
	}
	return size, nil
}

// releaseUnlinked compares what the store keeps with what is linked, and lets
// it evict what is not: a blob whose upload was committed and that a crash kept
// from its repository, or that was to be released.
func (r *Registry) releaseUnlinked() error {
	keep := func(d digest.Digest, on bool) error {
		b, err := r.o.Store.Blob(d)
		if err != nil {
			return err
		}
		defer b.Release()
		return b.Keep(on)
	}
	there := make(map[digest.Digest]bool)
	for _, in := range r.o.Store.Infos() {
		_, want := r.index.get(in.Digest)
		there[in.Digest] = true
		if want == in.Kept || want && r.o.Durable != nil { // it is kept elsewhere
			continue
		}
		r.log.Info("a blob is linked and not kept, or the other way round", zap.Stringer("digest", in.Digest), zap.Bool("linked", want))
		if err := keep(in.Digest, want); err != nil {
			return err
		}
	}
	if r.o.Durable != nil {
		return nil // it comes back when it is asked for
	}
	for d := range r.index.refs {
		if !there[d] {
			r.log.Error("content of a local repository is missing from the store; push it again", zap.Stringer("digest", d))
		}
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
