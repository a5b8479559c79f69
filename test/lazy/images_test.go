package lazy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/test/lab"
)

// strange are images unlike most, which a mirror passes on untouched.
var strange = []struct {
	name string
	make func(*testing.T, *Upstream) []*Blob // its blobs, as tag name
}{
	{"encrypted", func(t *testing.T, u *Upstream) []*Blob {
		const kind = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
		a, b := u.noise(5*mib, 1, kind), u.noise(700<<10, 2, "application/vnd.oci.image.layer.v1.tar+zstd+encrypted")
		for _, l := range []*Blob{a, b} {
			l.Annotations = map[string]string{"org.opencontainers.image.enc.keys.jwe": "eyJwcm90ZWN0ZWQiOiJ9", "org.opencontainers.image.enc.pubopts": "e30="}
		}
		return u.image(t, "encrypted", ocispec.Manifest{}, u.config(t, 2), a, b)
	}},
	{"artifact", func(t *testing.T, u *Upstream) []*Blob {
		empty := u.Content(ocispec.MediaTypeEmptyJSON, []byte("{}"))
		return u.image(t, "artifact", ocispec.Manifest{ArtifactType: "application/vnd.example.model"}, empty,
			u.noise(3*mib, 3, "application/vnd.example.weights"), u.Content("text/markdown", []byte("# read me")))
	}},
	{"zstd", func(t *testing.T, u *Upstream) []*Blob {
		return u.image(t, "zstd", ocispec.Manifest{}, u.config(t, 1), u.noise(2*mib, 4, ocispec.MediaTypeImageLayerZstd))
	}},
	{"127-layers", func(t *testing.T, u *Upstream) []*Blob {
		var layers []*Blob
		for i := range 127 {
			layers = append(layers, u.noise(int64(1000+i*3000), uint64(100+i), ocispec.MediaTypeImageLayerGzip))
		}
		return u.image(t, "127-layers", ocispec.Manifest{}, u.config(t, 127), layers...)
	}},
}

// noise is content of this type in memory.
func (u *Upstream) noise(size int64, seed uint64, mediaType string) *Blob {
	p := make([]byte, size)
	_, _ = (&Blob{Size: size, seed: seed << 40}).ReadAt(p, 0) // never fails within
	return u.Content(mediaType, p)
}

// config is that of an image of n layers.
func (u *Upstream) config(t *testing.T, n int) *Blob {
	t.Helper()
	c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for i := range n {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString(fmt.Sprint("layer", i)))
	}
	return u.Content(ocispec.MediaTypeImageConfig, must(json.Marshal(c))(t))
}

// image tags a manifest and returns its blobs.
func (u *Upstream) image(t *testing.T, tag string, m ocispec.Manifest, config *Blob, layers ...*Blob) []*Blob {
	t.Helper()
	m.Versioned, m.MediaType, m.Config = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest, config.descriptor()
	for _, l := range layers {
		m.Layers = append(m.Layers, l.descriptor())
	}
	u.Manifest(tag, m.MediaType, must(json.Marshal(m))(t))
	return append(layers, config)
}

// copier is a client that copies an image from a registry into a directory.
type copier struct {
	name string
	args func(ref, host, dir, platform string) []string
	// Where the manifest and a blob of this digest are found.
	manifest func(dir string, d digest.Digest) string
	blob     func(dir string, d digest.Digest) string
}

var copiers = []copier{
	{"skopeo", func(ref, _, dir, platform string) []string {
		return []string{"copy", "--src-tls-verify=false", "--override-arch", platform, "docker://" + ref, "dir:" + dir}
	}, func(dir string, _ digest.Digest) string { return filepath.Join(dir, "manifest.json") },
		func(dir string, d digest.Digest) string { return filepath.Join(dir, d.Encoded()) }},
	{"crane", func(ref, _, dir, platform string) []string {
		return []string{"pull", "--insecure", "--format=oci", "--platform=linux/" + platform, ref, dir}
	}, inLayout, inLayout},
	{"regctl", func(ref, host, dir, platform string) []string {
		return []string{"--host", "reg=" + host + ",tls=disabled", "image", "copy", "--platform", "linux/" + platform, ref, "ocidir://" + dir + ":v1"}
	}, inLayout, inLayout},
}

func inLayout(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", string(d.Algorithm()), d.Encoded())
}

// copied is an image that a client has copied.
type copied struct {
	dir string
	by  copier
}

func (c copied) manifest(d digest.Digest) string { return c.by.manifest(c.dir, d) }
func (c copied) blob(d digest.Digest) string     { return c.by.blob(c.dir, d) }

// withEach runs f with each copier that is installed; copy has it copy an image
// from the first peerd.
func (w *World) withEach(ctx context.Context, t *testing.T, f func(t *testing.T, copy func(tag, platform string) copied)) {
	host := must(hostOf(w.Peers[0]))(t)
	for _, c := range copiers {
		t.Run(c.name, func(t *testing.T) {
			program := lookClient(c.name)
			if program == "" {
				t.Skipf("%s is not installed", c.name)
			}
			f(t, func(tag, platform string) copied {
				dir := filepath.Join(t.TempDir(), tag)
				cmd := exec.CommandContext(ctx, program, c.args(host+"/"+Name+"/"+Repository+":"+tag, host, dir, platform)...)
				cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
				}
				return copied{dir, c}
			})
		})
	}
}

// hostOf is HOST:PORT of a peerd's mirror.
func hostOf(p *lab.Peerd) (string, error) {
	var host string
	_, err := fmt.Sscanf(p.Mirror, "http://%s", &host)
	return host, err
}

// lookClient finds a program in the PATH, or where `make clients` puts it.
func lookClient(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs(filepath.Join("../../bin", name))
	if _, serr := os.Stat(path); err != nil || serr != nil {
		return ""
	}
	return path
}

// Whatever an image is made of passes a mirror untouched: manifest, media types
// and bytes.
func TestStrangeImages(t *testing.T) {
	ctx, w := newWorld(t, 1)
	images := make(map[string][]*Blob)
	for _, s := range strange {
		images[s.name] = s.make(t, w.Up)
	}
	w.withEach(ctx, t, func(t *testing.T, copy func(string, string) copied) {
		for _, s := range strange {
			t.Run(s.name, func(t *testing.T) {
				want := w.Up.manifests[s.name].content
				image := copy(s.name, "amd64")
				if got, err := os.ReadFile(image.manifest(digest.FromBytes(want))); err != nil || !bytes.Equal(got, want) {
					t.Errorf("manifest: %.200s, %v; want %.200s", got, err, want)
				}
				for _, b := range images[s.name] {
					if got, err := os.ReadFile(image.blob(b.Digest)); err != nil || !bytes.Equal(got, b.content) {
						t.Errorf("%s of %d bytes, %s: %d bytes, %v", b.MediaType, b.Size, b.Digest, len(got), err)
					}
				}
			})
		}
	})
	for name, blobs := range images {
		for _, b := range blobs {
			if n := b.Sent(); n > b.Size {
				t.Errorf("%s: %d bytes left the upstream for a blob of %d", name, n, b.Size)
			}
		}
	}
}

// Of an index of many platforms only the one that is asked for is fetched.
func TestManyPlatforms(t *testing.T) {
	ctx, w := newWorld(t, 1)
	platforms := []string{"amd64", "arm64", "386", "arm", "ppc64le", "s390x", "riscv64", "mips64le", "loong64", "mips", "mipsle", "ppc64"}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	blobs := make(map[string][]*Blob)
	for i, arch := range platforms {
		c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(arch)}}}
		config := w.Up.Content(ocispec.MediaTypeImageConfig, must(json.Marshal(c))(t))
		blobs[arch] = w.Up.image(t, arch, ocispec.Manifest{}, config, w.Up.noise(int64(i+1)<<18, uint64(500+i), ocispec.MediaTypeImageLayerGzip))
		m := w.Up.manifests[arch]
		index.Manifests = append(index.Manifests, ocispec.Descriptor{MediaType: m.mediaType, Digest: digest.FromBytes(m.content), Size: int64(len(m.content)),
			Platform: &c.Platform})
	}
	w.Up.Manifest("multi", index.MediaType, must(json.Marshal(index))(t))
	asked := map[string]bool{}
	next := 0
	w.withEach(ctx, t, func(t *testing.T, copy func(string, string) copied) {
		arch := platforms[next%len(platforms)]
		next++
		asked[arch] = true
		image := copy("multi", arch)
		for _, b := range blobs[arch] {
			if got, err := os.ReadFile(image.blob(b.Digest)); err != nil || !bytes.Equal(got, b.content) {
				t.Errorf("%s of %s: %d bytes, %v", b.MediaType, arch, len(got), err)
			}
		}
		for _, other := range platforms {
			for _, b := range blobs[other] {
				if _, err := os.Stat(image.blob(b.Digest)); other != arch && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("a blob of %s was copied with %s: %v", other, arch, err)
				}
			}
		}
	})
	for arch, list := range blobs {
		for _, b := range list {
			if n := b.Sent(); !asked[arch] && n > 0 || asked[arch] && n != b.Size {
				t.Errorf("%s: %d of %d bytes left the upstream", arch, n, b.Size)
			}
		}
	}
}
