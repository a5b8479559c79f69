package upstreamtest

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what AddImage made.
type Image struct {
	Descriptor ocispec.Descriptor // of the manifest, with the platform
	Digest     digest.Digest      // of the manifest
	Manifest   []byte
	Config     digest.Digest
	Layers     []digest.Digest
	Size       int64 // of the layers and the config
}

// AddBlob keeps a blob and returns its digest. The content is not copied.
func (s *Server) AddBlob(content []byte) digest.Digest {
	d := digest.FromBytes(content)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = content
	return d
}

// AddRandomBlob keeps a blob of random bytes.
func (s *Server) AddRandomBlob(size int) (digest.Digest, []byte) {
	content := make([]byte, size)
	s.random(content)
	return s.AddBlob(content), content
}

// Blob is the content of a blob or manifest the server holds, nil otherwise.
func (s *Server) Blob(d digest.Digest) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.blobs[d]; ok {
		return c
	}
	return s.manifests[d].content
}

// AddManifest keeps a manifest under its digest and, unless tag is "", a tag.
func (s *Server) AddManifest(repo, tag, mediaType string, text []byte) digest.Digest {
	d := digest.FromBytes(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manifests[d] = manifest{mediaType, text}
	s.owners[content{repo, d}] = true
	if s.tags[repo] == nil {
		s.tags[repo] = map[string]digest.Digest{}
	}
	if tag != "" {
		s.tags[repo][tag] = d
	}
	return d
}

// Give says that blobs are a repository's; see Scope.
func (s *Server) Give(repo string, blobs ...digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range blobs {
		s.owners[content{repo, d}] = true
	}
}

// AddImage makes an OCI image for linux/amd64 with random layers of these
// sizes in bytes. tag may be "".
func (s *Server) AddImage(repo, tag string, layerSizes ...int) Image {
	return s.AddPlatformImage(repo, tag, "linux", "amd64", layerSizes...)
}

// AddPlatformImage is AddImage for another platform.
func (s *Server) AddPlatformImage(repo, tag, os, arch string, layerSizes ...int) Image {
	var img Image
	platform := ocispec.Platform{OS: os, Architecture: arch}
	config := ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i, size := range layerSizes {
		content := s.layer(i, size)
		d := s.AddBlob(content)
		img.Layers = append(img.Layers, d)
		img.Size += int64(size)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(size)})
	}
	c := mustJSON(config)
	img.Config = s.AddBlob(c)
	img.Size += int64(len(c))
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: img.Config, Size: int64(len(c))}
	img.Manifest = mustJSON(m)
	img.Digest = s.AddManifest(repo, tag, m.MediaType, img.Manifest)
	s.Give(repo, append(img.Layers, img.Config)...)
	img.Descriptor = ocispec.Descriptor{MediaType: m.MediaType, Digest: img.Digest, Size: int64(len(img.Manifest)), Platform: &platform}
	return img
}

// AddIndex makes an OCI index of these images.
func (s *Server) AddIndex(repo, tag string, images ...Image) (digest.Digest, []byte) {
	x := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, img := range images {
		x.Manifests = append(x.Manifests, img.Descriptor)
	}
	content := mustJSON(x)
	return s.AddManifest(repo, tag, x.MediaType, content), content
}

// layer is random bytes in a tar with one file, padded to the size; too small
// a layer is only random bytes.
func (s *Server) layer(i, size int) []byte {
	content := make([]byte, size)
	s.random(content)
	const frame = 512 + 1024 // header and end of archive
	file := (size - frame) &^ 511
	if size < 2048 || file <= 0 {
		return content
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: fmt.Sprintf("layer-%d-%s", i, digest.FromBytes(content[:512]).Encoded()[:8]), Mode: 0o644, Size: int64(file)}
	_ = w.WriteHeader(h)
	_, _ = w.Write(content[:file])
	_ = w.Close()
	clear(content)
	copy(content, b.Bytes())
	return content
}

// random fills p; each call goes on with another seed.
func (s *Server) random(p []byte) {
	s.mu.Lock()
	s.seed++
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], s.seed)
	s.mu.Unlock()
	_, _ = io.ReadFull(rand.NewChaCha8(seed), p)
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types are ours: cannot happen
	}
	return b
}
