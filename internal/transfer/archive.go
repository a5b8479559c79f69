package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// DockerArchive is what `docker save` wrote before it wrote OCI layouts: a
// Source. Such an archive has no manifests: they are made here, always the same
// of the same archive, with layers compressed by gzip.
type DockerArchive struct {
	names     [][2]string // repository and tag
	manifests map[string]registry.Manifest
	layers    map[digest.Digest]func() (io.ReadCloser, error)
}

// OpenDockerArchive reads the archive's list of images. Errors: io/fs.ErrNotExist.
func OpenDockerArchive(path string) (*DockerArchive, error) {
	open := func() (io.ReadCloser, error) { return os.Open(path) }
	list, err := tarball.LoadManifest(open)
	if err != nil {
		return nil, fmt.Errorf("%s: neither an OCI layout (index.json) nor a docker archive (manifest.json): %w", path, err)
	}
	a := &DockerArchive{manifests: make(map[string]registry.Manifest), layers: make(map[digest.Digest]func() (io.ReadCloser, error))}
	for _, d := range list {
		for _, text := range d.RepoTags {
			tag, err := name.NewTag(text)
			if err == nil {
				err = a.add(open, tag)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: image %s: %w", path, text, err)
			}
		}
	}
	return a, nil
}

func (a *DockerArchive) add(open tarball.Opener, tag name.Tag) error {
	img, err := tarball.Image(open, &tag)
	if err != nil {
		return err
	}
	content, err := img.RawManifest()
	if err != nil {
		return err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	a.layers[digest.FromBytes(config)] = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil }
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return err
		}
		a.layers[digest.Digest(h.String())] = l.Compressed
	}
	m := registry.Manifest{Digest: digest.FromBytes(content), MediaType: string(mediaType), Content: content}
	repo := tag.Context().RepositoryStr() // without docker.io, which archives leave out or not
	if host := tag.Context().RegistryStr(); host != name.DefaultRegistry {
		repo = host + "/" + repo
	}
	a.names = append(a.names, [2]string{repo, tag.TagStr()})
	a.manifests[repo+":"+tag.TagStr()] = m
	return nil
}

// Images lists the images, as repository and tag.
func (a *DockerArchive) Images() [][2]string { return a.names }

// Manifest implements Source.
func (a *DockerArchive) Manifest(_ context.Context, repo, ref string) (registry.Manifest, error) {
	m, ok := a.manifests[repo+":"+ref]
	if !ok {
		return m, ErrNotFound
	}
	return m, nil
}

// Blob implements Source.
func (a *DockerArchive) Blob(_ context.Context, _ string, d registry.Descriptor) (Content, error) {
	open, ok := a.layers[d.Digest]
	if !ok {
		return Content{}, ErrNotFound
	}
	r, err := open()
	return Content{ReadCloser: r}, err
}

// Referrers implements Source. An archive has none.
func (a *DockerArchive) Referrers(context.Context, string, digest.Digest) ([]registry.Descriptor, error) {
	return nil, nil
}
