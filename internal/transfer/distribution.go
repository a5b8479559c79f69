package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Distribution is the data directory of a distribution registry (registry:2 and
// 3, Debian's docker-registry): a Source. Its layout is what distribution's
// registry/storage/paths.go describes; of a blob only the digest is believed.
type Distribution struct {
	root string // the directory with blobs and repositories
}

const maxDistributionLink = 4 << 10

// OpenDistribution finds the registry in dir: its root directory, or one of
// those below on the way to docker/registry/v2.
func OpenDistribution(dir string) (*Distribution, error) {
	for _, below := range []string{"docker/registry/v2", "registry/v2", "v2", "."} {
		root := filepath.Join(dir, filepath.FromSlash(below))
		fi, err := os.Stat(filepath.Join(root, "repositories"))
		if err == nil && fi.IsDir() {
			return &Distribution{root: root}, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: no data directory of a registry: there is no docker/registry/v2/repositories in it; give what the registry's configuration has as rootdirectory", dir)
}

// Repositories lists the repositories, sorted.
func (s *Distribution) Repositories() ([]string, error) {
	root := filepath.Join(s.root, "repositories")
	var repos []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		switch {
		case e.Name() == "_manifests" && e.IsDir():
			repos = append(repos, strings.TrimSuffix(rel, "/_manifests"))
			return fs.SkipDir
		case e.IsDir() && strings.HasPrefix(e.Name(), "_"):
			return fs.SkipDir
		}
		return nil
	})
	slices.Sort(repos)
	return repos, err
}

// References lists what a repository has: its tags, then by digest the manifests
// that no tag means.
func (s *Distribution) References(repo string) ([]string, error) {
	tags, err := names(s.repo(repo, "_manifests", "tags"))
	if err != nil {
		return nil, err
	}
	tagged := make(map[digest.Digest]bool)
	for _, tag := range tags {
		if d, err := s.tag(repo, tag); err == nil {
			tagged[d] = true
		}
	}
	revisions, err := s.digests(repo, "_manifests", "revisions")
	for _, d := range revisions {
		if !tagged[d] {
			tags = append(tags, d.String())
		}
	}
	return tags, err
}

// Blobs lists the blobs of a repository.
func (s *Distribution) Blobs(repo string) ([]digest.Digest, error) { return s.digests(repo, "_layers") }

// digests lists what has a link below a directory of a repository.
func (s *Distribution) digests(repo string, dir ...string) ([]digest.Digest, error) {
	var list []digest.Digest
	for _, alg := range []string{"sha256", "sha512"} {
		hexes, err := names(s.repo(repo, append(slices.Clone(dir), alg)...))
		if err != nil {
			return nil, err
		}
		for _, hex := range hexes {
			d, err := registry.ParseDigest(alg + ":" + hex)
			if err != nil {
				continue
			}
			// Deletion removes the link and leaves the directory.
			if _, err := os.Stat(s.repo(repo, append(slices.Clone(dir), alg, hex, "link")...)); err == nil {
				list = append(list, d)
			}
		}
	}
	return list, nil
}

// names lists a directory; nothing where there is none.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}

func (s *Distribution) repo(repo string, elem ...string) string {
	return filepath.Join(append([]string{s.root, "repositories", filepath.FromSlash(repo)}, elem...)...)
}

// Manifest implements Source.
func (s *Distribution) Manifest(_ context.Context, repo, ref string) (registry.Manifest, error) {
	d := digest.Digest(ref)
	if !registry.IsDigest(ref) {
		var err error
		if d, err = s.tag(repo, ref); err != nil {
			return registry.Manifest{}, err
		}
	}
	if _, err := os.Stat(s.repo(repo, "_manifests", "revisions", d.Algorithm().String(), d.Encoded(), "link")); err != nil {
		return registry.Manifest{}, fmt.Errorf("%w: the repository has no manifest %s (any more)", ErrNotFound, d)
	}
	f, err := s.open(d)
	if err != nil {
		return registry.Manifest{}, err
	}
	defer f.Close()
	content, err := readManifest(f)
	return registry.Manifest{Digest: d, Content: content}, err // the type is in the content
}

// readManifest reads no more than a manifest may have.
func readManifest(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, registry.MaxManifestSize+1))
	if err == nil && len(content) > registry.MaxManifestSize {
		err = fmt.Errorf("it has more than the %d bytes that a manifest may have", registry.MaxManifestSize)
	}
	return content, err
}

// tag is what a tag means.
func (s *Distribution) tag(repo, tag string) (digest.Digest, error) {
	f, err := os.Open(s.repo(repo, "_manifests", "tags", tag, "current", "link"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: the tag names no manifest", ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDistributionLink))
	if err != nil {
		return "", err
	}
	d, err := registry.ParseDigest(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("damaged: the tag's link is %.80q, which is no digest", text)
	}
	return d, nil
}

// open opens a blob; the digest has been validated.
func (s *Distribution) open(d digest.Digest) (*os.File, error) {
	hex := d.Encoded()
	f, err := os.Open(filepath.Join(s.root, "blobs", d.Algorithm().String(), hex[:2], hex, "data"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: its content is missing from %s", ErrNotFound, filepath.Join(s.root, "blobs"))
	}
	return f, err
}

// Blob implements Source. Whether the repository has a link to it does not
// matter: one of its manifests names it.
func (s *Distribution) Blob(_ context.Context, _ string, d registry.Descriptor) (Content, error) {
	f, err := s.open(d.Digest)
	return Content{ReadCloser: f, File: f}, err
}

// Referrers implements Source. Distribution has no such list: what refers to an
// image is one more manifest of the repository.
func (s *Distribution) Referrers(context.Context, string, digest.Digest) ([]registry.Descriptor, error) {
	return nil, nil
}
