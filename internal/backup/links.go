package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// The links of local repositories, as docs/registry.md describes them.
const (
	repositoriesName = "registry/repositories"
	blobsName        = "_blobs"
	manifestsName    = "_manifests"
	tagsName         = "_tags"
	referrersName    = "_referrers"
)

func linkPath(repo, kind string, d digest.Digest) string {
	return path.Join(repositoriesName, repo, kind, d.Algorithm().String(), d.Encoded())
}

func tagPath(repo, tag string) string { return path.Join(repositoriesName, repo, tagsName, tag) }

func referrerPath(repo string, subject, d digest.Digest) string {
	return path.Join(linkPath(repo, referrersName, subject), d.Algorithm().String()+"-"+d.Encoded())
}

// splitLink takes the path of a link apart: what is in kind of a repository.
func splitLink(p string) (repo, kind, rest string, ok bool) {
	p, ok = strings.CutPrefix(p, repositoriesName+"/")
	repo, rest, found := strings.Cut(p, "/_")
	kind, rest, _ = strings.Cut("_"+rest, "/")
	return repo, kind, rest, ok && found
}

// linkDigest is the digest in the path of a link of a manifest or a blob.
func linkDigest(kind, rest string) (digest.Digest, bool) {
	alg, hex, _ := strings.Cut(rest, "/")
	d, err := registry.ParseDigest(alg + ":" + hex)
	return d, err == nil && (kind == blobsName || kind == manifestsName)
}

// manifestLink and tagLink are what this package reads of links.
type manifestLink struct {
	MediaType string        `json:"mediaType"`
	Subject   digest.Digest `json:"subject"`
}

type tagLink struct {
	Digest digest.Digest `json:"digest"`
}

// data is a seeder's data directory, which may be in use.
type data string

// file reads a small file. Errors: fs.ErrNotExist.
func (d data) file(p string) (entry, error) {
	f, err := os.Open(filepath.Join(string(d), filepath.FromSlash(p)))
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return entry{}, err
	}
	content, err := readAtMost(f, registry.MaxManifestSize)
	return entry{Path: p, Mode: fi.Mode().Perm(), Time: fi.ModTime(), Data: content}, err
}

// link reads a link into v. Errors: fs.ErrNotExist, errBadLink.
func (d data) link(p string, v any) (entry, error) {
	e, err := d.file(p)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		return e, fmt.Errorf("%w: %w", errBadLink, err)
	}
	return e, nil
}

// repositories lists the local repositories, sorted.
func (d data) repositories() ([]string, error) {
	root := filepath.Join(string(d), filepath.FromSlash(repositoriesName))
	found := make(map[string]bool)
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // none, or gone meanwhile
		}
		if err != nil {
			return err
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), "_") {
			if rel, err := filepath.Rel(root, filepath.Dir(p)); err == nil && registry.ValidRepository(filepath.ToSlash(rel)) {
				found[filepath.ToSlash(rel)] = true
			}
			return fs.SkipDir
		}
		return nil
	})
	var repos []string
	for repo := range found {
		repos = append(repos, repo)
	}
	slices.Sort(repos)
	return repos, err
}

// tags lists the tags of a repository.
func (d data) tags(repo string) ([]string, error) {
	names, err := d.names(path.Join(repositoriesName, repo, tagsName))
	return slices.DeleteFunc(names, func(s string) bool { return !registry.ValidTag(s) }), err
}

// digests lists the links of a kind.
func (d data) digests(repo, kind string) ([]digest.Digest, error) {
	var list []digest.Digest
	for _, alg := range []string{"sha256", "sha512"} {
		names, err := d.names(path.Join(repositoriesName, repo, kind, alg))
		if err != nil {
			return nil, err
		}
		for _, hex := range names {
			if dg, ok := linkDigest(kind, alg+"/"+hex); ok {
				list = append(list, dg)
			}
		}
	}
	return list, nil
}

// names lists a directory; nothing where there is none.
func (d data) names(p string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(string(d), filepath.FromSlash(p)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}
