package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// A directory that Debian's docker-registry wrote is taken in with every digest;
// files are linked, the source stays as it is, also when the store drops what it
// took, and a second run moves nothing.
func TestImportDistribution(t *testing.T) {
	reg := startDockerRegistry(t)
	img, idx := image(t, 3), index(t)
	want := map[string]digest.Digest{
		"team/app:v1":       reg.push("team/app:v1", img),
		"team/app:v2":       reg.push("team/app:v2", image(t, 1)),
		"team/multi:latest": reg.push("team/multi:latest", idx),
		"other:v1":          reg.push("other:v1", img),
	}
	untagged := reg.push("team/app:gone", image(t, 2))
	if err := os.RemoveAll(filepath.Join(reg.dir, "docker/registry/v2/repositories/team/app/_manifests/tags/gone")); err != nil {
		t.Fatal(err)
	}
	before := fingerprint(t, reg.dir)

	src, err := OpenDistribution(reg.dir)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	to := newDirect(t, dir)
	all := items(t, src)
	r := copyAll(t, src, to, all)
	if len(r.Problems) > 0 || r.Images != len(want)+1 || r.Unchanged != 0 || r.BlobsLinked == 0 || r.BlobsCopied != 0 {
		t.Errorf("first run: %+v", r)
	}
	for name, d := range want {
		repo, tag, _ := strings.Cut(name, ":")
		complete(t, to, "moved/"+repo, tag, d)
	}
	complete(t, to, "moved/team/app", untagged.String(), untagged)

	again := copyAll(t, src, to, all)
	if again.Images != r.Images || again.Unchanged != r.Images || again.Manifests+again.BlobsLinked+again.BlobsCopied != 0 || again.BlobsPresent == 0 {
		t.Errorf("second run: %+v", again)
	}
	// What was linked is dropped by the store and written anew elsewhere.
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[0].Digest()
	if err == nil {
		err = to.store.Delete(digest.Digest(h.String()))
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := fingerprint(t, reg.dir); got != before {
		t.Errorf("the source has changed:\n%s\nwas\n%s", got, before)
	}
}

// What was linked and is damaged on the disk is set aside and had again in
// another file: the source is not written to, not even to mend it.
func TestLinkedIsNotMended(t *testing.T) {
	reg := startDockerRegistry(t)
	img := image(t, 1)
	d := reg.push("app:v1", img)
	src, err := OpenDistribution(reg.dir)
	if err != nil {
		t.Fatal(err)
	}
	to := newDirect(t, t.TempDir())
	if r := copyAll(t, src, to, items(t, src)); r.BlobsLinked == 0 {
		t.Fatalf("%+v", r)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	if err := change(t, src.root, img, func(b []byte) []byte { b[0] ^= 1; return b }); err != nil { // in place: both have it
		t.Fatal(err)
	}
	damaged := fingerprint(t, reg.dir)
	desc := registry.Descriptor{Digest: digest.Digest(h.String()), Size: size}
	if _, err := to.store.Check(desc.Digest, func(int) error { return nil }); !errors.Is(err, store.ErrDamaged) {
		t.Fatal(err)
	}
	if there, err := to.Mount(t.Context(), "moved/app", desc); there || err != nil {
		t.Errorf("it is damaged: %v, %v", there, err)
	}
	_, err = to.PutBlob(t.Context(), "moved/app", desc, func() (Content, error) {
		r, err := layers[0].Compressed()
		return Content{ReadCloser: r}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, to, "moved/app", "v1", d)
	if got := fingerprint(t, reg.dir); got != damaged {
		t.Error("the source was written to")
	}
}

// What somebody else may write to is copied, not linked.
func TestImportCopiesWritable(t *testing.T) {
	reg := startDockerRegistry(t)
	d := reg.push("app:v1", image(t, 2))
	src, err := OpenDistribution(filepath.Join(reg.dir, "docker", "registry"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(reg.dir, "docker/registry/v2/blobs/sha256/*/*/data"))
	if err != nil || len(blobs) != 4 {
		t.Fatal(blobs, err)
	}
	for _, path := range blobs {
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	to := newDirect(t, t.TempDir())
	if r := copyAll(t, src, to, items(t, src)); r.BlobsCopied != 3 || r.BlobsLinked != 0 || len(r.Problems) > 0 {
		t.Errorf("%+v", r)
	}
	complete(t, to, "moved/app", "v1", d)
}

// Each thing that is wrong with a source is named, costs the images that need
// it and no other, and leaves nothing wrong at the target.
func TestImportDamaged(t *testing.T) {
	reg := startDockerRegistry(t)
	good := reg.push("good:v1", image(t, 2))
	broken := image(t, 2)
	reg.push("broken:v1", broken)
	short := image(t, 1)
	reg.push("short:v1", short)
	lost := image(t, 1)
	reg.push("lost:v1", lost)
	dangling := reg.push("dangling:v1", image(t, 1))
	if err := remote.Delete(reg.ref("dangling@"+dangling.String()), reg.opts...); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(reg.dir, "docker/registry/v2")
	tags := filepath.Join(root, "repositories/dangling/_manifests/tags")
	junk := filepath.Join(root, "repositories/junk/_manifests/tags/v1/current")
	for _, step := range []error{
		os.MkdirAll(filepath.Join(tags, "v1/current"), 0o755),
		os.WriteFile(filepath.Join(tags, "v1/current/link"), []byte(dangling), 0o644),
		os.MkdirAll(junk, 0o755),
		os.WriteFile(filepath.Join(junk, "link"), []byte("../../etc/passwd"), 0o644),
		change(t, root, broken, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
		change(t, root, short, func(b []byte) []byte { return b[:len(b)-1] }),
		change(t, root, lost, nil),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	src, err := OpenDistribution(root)
	if err != nil {
		t.Fatal(err)
	}
	to := newDirect(t, t.TempDir())
	r := copyAll(t, src, to, items(t, src))
	complete(t, to, "moved/good", "v1", good)
	got := make(map[string]string)
	for _, p := range r.Problems {
		got[p.What] += p.Why
	}
	for what, why := range map[string]string{
		"broken:v1":   "damaged: the content has another digest",
		"short:v1":    "damaged: it has 1 bytes less",
		"lost:v1":     "its content is missing from",
		"dangling:v1": "the repository has no manifest " + dangling.String(),
		"junk:v1":     `the tag's link is "../../etc/passwd"`,
	} {
		if !strings.Contains(got[what], why) {
			t.Errorf("%s: %q, want %q", what, got[what], why)
		}
		repo, tag, _ := strings.Cut(what, ":")
		if _, err := to.Manifest(t.Context(), "moved/"+repo, tag); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s is there: %v", what, err)
		}
	}
}

// change rewrites the first layer of an image in a distribution directory; nil
// removes it.
func change(t *testing.T, root string, img v1.Image, f func([]byte) []byte) error {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	h, err := layers[0].Digest()
	if err != nil {
		return err
	}
	path := filepath.Join(root, "blobs/sha256", h.Hex[:2], h.Hex, "data")
	if f == nil {
		return os.Remove(path)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, f(content), 0o644)
}

func TestOpenDistributionElsewhere(t *testing.T) {
	if _, err := OpenDistribution(t.TempDir()); err == nil || !strings.Contains(err.Error(), "rootdirectory") {
		t.Error(err)
	}
}
