package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ImageSpec says what an image is made of. Equal specs give equal bytes.
type ImageSpec struct {
	Layers []int64 // sizes of the files in the layers, in bytes
	Seed   uint64
}

// Bytes is the sum of the layers' files.
func (s ImageSpec) Bytes() int64 {
	var n int64
	for _, l := range s.Layers {
		n += l
	}
	return n
}

// Image is a generated image: every layer is an uncompressed tar with one file of
// random bytes, so its blob is as large as it says and cannot be compressed, and
// a client can unpack it.
type Image struct {
	Spec ImageSpec
	v1   v1.Image
}

// NewImage makes an image. It reads through every layer once, for the digests,
// and keeps none of them in memory.
func NewImage(spec ImageSpec) (*Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	adds := make([]mutate.Addendum, 0, len(spec.Layers))
	for i, size := range spec.Layers {
		l, err := newLayer(i, size, spec.Seed)
		if err != nil {
			return nil, fmt.Errorf("new image: layer %d: %w", i, err)
		}
		adds = append(adds, mutate.Addendum{
			Layer:     l,
			MediaType: types.OCIUncompressedLayer,
			History:   v1.History{CreatedBy: fmt.Sprintf("lab layer %d", i), Created: v1.Time{Time: time.Unix(0, 0).UTC()}},
		})
	}
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return nil, fmt.Errorf("new image: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("new image: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	cfg.Config.Cmd = []string{"/none"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, fmt.Errorf("new image: %w", err)
	}
	return &Image{Spec: spec, v1: img}, nil
}

// V1 is the image as go-containerregistry has it.
func (i *Image) V1() v1.Image { return i.v1 }

// Digest is that of the manifest, "sha256:...".
func (i *Image) Digest() string {
	d, err := i.v1.Digest()
	if err != nil {
		panic(err) // all parts are in memory or made from a seed
	}
	return d.String()
}

// Blobs are the image's layers and its config, in the order of the manifest, config first.
func (i *Image) Blobs() []v1.Descriptor {
	m, err := i.v1.Manifest()
	if err != nil {
		panic(err)
	}
	return append([]v1.Descriptor{m.Config}, m.Layers...)
}

// Size is what a client fetches: manifest, config and layers, in bytes.
func (i *Image) Size() int64 {
	n, err := i.v1.Size()
	if err != nil {
		panic(err)
	}
	for _, d := range i.Blobs() {
		n += d.Size
	}
	return n
}

// Push sends the image to a registry at base (host:port) as repo:tag. client makes
// the connections, e.g. Host.HTTPClient.
func (i *Image) Push(ctx context.Context, client *http.Client, base, repo, tag string) error {
	ref, err := name.NewTag(base+"/"+repo+":"+tag, name.Insecure)
	if err != nil {
		return fmt.Errorf("push image: %w", err)
	}
	err = remote.Write(ref, i.v1,
		remote.WithContext(ctx),
		remote.WithTransport(client.Transport),
		remote.WithJobs(2))
	if err != nil {
		return fmt.Errorf("push image to %s: %w", ref, err)
	}
	return nil
}

// layer is a tar of one random file, made anew from its seed on each read.
type layer struct {
	index  int
	size   int64 // of the file
	seed   uint64
	head   []byte // the tar header
	digest v1.Hash
}

func newLayer(index int, size int64, seed uint64) (*layer, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	err := tw.WriteHeader(&tar.Header{
		Name: fmt.Sprintf("layer-%02d.bin", index), Mode: 0o644, Size: size,
		ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatPAX,
	})
	if err != nil {
		return nil, err
	}
	l := &layer{index: index, size: size, seed: seed, head: buf.Bytes()}
	h := sha256.New()
	if _, err := io.Copy(h, l.reader()); err != nil {
		return nil, err
	}
	l.digest = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}
	return l, nil
}

// reader gives header, random bytes, padding to 512 and the two end blocks.
func (l *layer) reader() io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(l.seed >> (8 * i))
		key[8+i] = byte(uint64(l.index) >> (8 * i))
	}
	pad := (512-l.size%512)%512 + 1024
	return io.MultiReader(
		bytes.NewReader(l.head),
		io.LimitReader(rand.NewChaCha8(key), l.size),
		bytes.NewReader(make([]byte, pad)))
}

func (l *layer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return io.NopCloser(l.reader()), nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return io.NopCloser(l.reader()), nil }
func (l *layer) Size() (int64, error) {
	return int64(len(l.head)) + l.size + (512-l.size%512)%512 + 1024, nil
}
