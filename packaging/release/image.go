package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is who runs in the images: nobody that a host knows.
const user = "65532:65532"

// image writes PROGRAM_VERSION.oci.tar, an OCI image layout with an index of
// one image for each architecture. An image is one layer with one static
// binary: nothing else is needed, and nothing else can be used by an intruder.
func (r *release) image(name string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range r.arches {
		img, err := r.imageOf(name, arch)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	dir := filepath.Join(r.work, "layout-"+name)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	ref := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": r.version})
	if err := l.AppendIndex(index, ref); err != nil {
		return err
	}
	return r.tarLayout(dir, r.artefact(name, "", "oci.tar"))
}

func (r *release) imageOf(name, arch string) (v1.Image, error) {
	var files bytes.Buffer
	err := writeTar(&files, r.time, []entry{
		{name: "tmp/", mode: 0o1777},
		{name: "usr/"}, {name: "usr/bin/"},
		{name: "usr/bin/" + name, file: r.binary(name, arch), mode: 0o755},
	})
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer,
		History: v1.History{Created: v1.Time{Time: r.time}, CreatedBy: "packaging/release"}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", arch, v1.Time{Time: r.time}
	file.Config = v1.Config{
		User:       user,
		Entrypoint: []string{"/usr/bin/" + name},
		Cmd:        []string{"serve"},
		Env:        []string{"PATH=/usr/bin"},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":    name,
			"org.opencontainers.image.version":  r.version,
			"org.opencontainers.image.source":   "https://" + module,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return mutate.ConfigFile(img, file)
}

// tarLayout packs a layout, its files sorted.
func (r *release) tarLayout(dir, file string) error {
	var entries []entry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			entries = append(entries, entry{name: name + "/"})
			return nil
		}
		entries = append(entries, entry{name: name, file: path, mode: 0o644})
		return nil
	})
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := writeTar(out, r.time, entries); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
