package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// shelf is local repositories with one of everything: an image, an index, a
// signature by cosign's tag, a referrer and one that refers to it, digests of
// sha512.
type shelf struct {
	*Direct
	image, index, armImage, signature, referrer, nested, long digest.Digest
}

func (s *shelf) put(t *testing.T, repo, tag, mediaType string, content []byte, alg digest.Algorithm) registry.Descriptor {
	t.Helper()
	d := registry.Descriptor{MediaType: mediaType, Digest: alg.FromBytes(content), Size: int64(len(content))}
	var err error
	if registry.IsManifestType(mediaType) {
		err = s.PutManifest(t.Context(), repo, registry.Manifest{Digest: d.Digest, MediaType: mediaType, Content: content}, tag)
	} else {
		_, err = s.PutBlob(t.Context(), repo, d, func() (Content, error) {
			return Content{ReadCloser: io.NopCloser(bytes.NewReader(content))}, nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// layerOf makes an image of one layer.
func (s *shelf) layerOf(t *testing.T, repo, tag, layer string, alg digest.Algorithm, subject *registry.Descriptor) registry.Descriptor {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: s.put(t, repo, "", ocispec.MediaTypeImageConfig, []byte("{}"), digest.SHA256),
		Layers: []registry.Descriptor{s.put(t, repo, "", ocispec.MediaTypeImageLayer, []byte(layer), alg)}}
	m.SchemaVersion = 2
	content, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return s.put(t, repo, tag, m.MediaType, content, alg)
}

const app = "team/app"

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{Direct: newDirect(t, t.TempDir())}
	amd := s.layerOf(t, app, "v1", "amd64", digest.SHA256, nil)
	arm := s.layerOf(t, app, "", "arm64", digest.SHA256, nil)
	s.image, s.armImage = amd.Digest, arm.Digest
	amd.Platform, arm.Platform = &registry.Platform{OS: "linux", Architecture: "amd64"}, &registry.Platform{OS: "linux", Architecture: "arm64"}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []registry.Descriptor{amd, arm}}
	index.SchemaVersion = 2
	content, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	s.index = s.put(t, app, "multi", index.MediaType, content, digest.SHA256).Digest
	s.signature = s.layerOf(t, app, strings.Replace(s.image.String(), ":", "-", 1)+".sig", "signature", digest.SHA256, nil).Digest
	ref := s.layerOf(t, app, "", "sbom", digest.SHA256, &registry.Descriptor{MediaType: amd.MediaType, Digest: amd.Digest, Size: amd.Size})
	s.referrer = ref.Digest
	s.nested = s.layerOf(t, app, "", "signature of the sbom", digest.SHA256, &registry.Descriptor{MediaType: ref.MediaType, Digest: ref.Digest, Size: ref.Size}).Digest
	s.long = s.layerOf(t, app, "long", "sha512", digest.SHA512, nil).Digest
	return s
}

func exported(refs ...string) []Item {
	var list []Item
	for _, ref := range refs {
		list = append(list, Item{Repository: app, Reference: ref, ToRepository: app, ToTag: ref})
	}
	return list
}

func (s *shelf) export(t *testing.T, dir string, change ...func(*Copier)) *Report {
	t.Helper()
	l, err := NewLayoutWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := copyAll(t, s, l, exported("v1", "multi", "long", s.armImage.String()), change...)
	if err := l.Finish(); err != nil {
		t.Fatal(err)
	}
	return r
}

// tarOf writes a layout as a tar.
func tarOf(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layout.tar")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(WriteTar(dir, f), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Images that leave as a layout, or a tar, and are taken in elsewhere have all
// their digests, with what refers to them; the same images make the same bytes.
func TestRoundTrip(t *testing.T) {
	s := newShelf(t)
	dir := t.TempDir()
	if r := s.export(t, dir); len(r.Problems) > 0 || r.Images != 4 {
		t.Fatalf("%+v", r)
	}
	path := tarOf(t, dir)
	other := t.TempDir()
	s.export(t, other)
	a, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(tarOf(t, other)); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the same images make other bytes: %v", err)
	}
	for _, from := range []string{dir, path} {
		src, err := OpenLayout(from, "")
		if err != nil {
			t.Fatal(err)
		}
		var items []Item
		for _, im := range src.Images() {
			it := Item{Repository: im[0], Reference: im[1], ToRepository: im[0]}
			if !registry.IsDigest(im[1]) {
				it.ToTag = im[1]
			}
			items = append(items, it)
		}
		to := newDirect(t, t.TempDir())
		if r := copyAll(t, src, to, items); len(r.Problems)+len(src.Nameless) > 0 {
			t.Errorf("%+v", r)
		}
		for ref, d := range map[string]digest.Digest{"v1": s.image, "multi": s.index, "long": s.long, s.armImage.String(): s.armImage,
			strings.Replace(s.image.String(), ":", "-", 1) + ".sig": s.signature, s.nested.String(): s.nested} {
			complete(t, to, app, ref, d)
		}
		list, err := to.Referrers(t.Context(), app, s.image)
		if err != nil || len(list) != 1 || list[0].Digest != s.referrer {
			t.Errorf("referrers: %v, %v", list, err)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What is there and right is not written again; what is there and wrong is.
func TestExportResumes(t *testing.T) {
	s := newShelf(t)
	dir := t.TempDir()
	s.export(t, dir)
	if r := s.export(t, dir); r.Unchanged != r.Images || r.BlobsCopied != 0 {
		t.Errorf("second run: %+v", r)
	}
	wrong := filepath.Join(dir, blobName(digest.FromString("amd64")))
	if err := os.WriteFile(wrong, []byte("AMD64"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := s.export(t, dir); r.BlobsCopied != 1 {
		t.Errorf("third run: %+v", r)
	}
	content, err := os.ReadFile(wrong)
	if err != nil || string(content) != "amd64" {
		t.Errorf("%q, %v", content, err)
	}
	if _, err := os.Stat(filepath.Join(dir, partialName)); err == nil {
		t.Error("what was on its way is still there")
	}
	if _, err := NewLayoutWriter(filepath.Dir(dir)); err == nil || !strings.Contains(err.Error(), "no OCI layout") {
		t.Errorf("a directory of something else: %v", err)
	}
}

// One platform is an image of its own, several are an index of them.
func TestPlatforms(t *testing.T) {
	s := newShelf(t)
	arm, amd := registry.Platform{OS: "linux", Architecture: "arm64"}, registry.Platform{OS: "linux", Architecture: "amd64"}
	for name, want := range map[string]struct {
		list []registry.Platform
		is   func(digest.Digest) bool
	}{
		"one":  {[]registry.Platform{arm}, func(d digest.Digest) bool { return d == s.armImage }},
		"two":  {[]registry.Platform{amd, arm}, func(d digest.Digest) bool { return d == s.index }},
		"none": {nil, func(d digest.Digest) bool { return d == s.index }},
	} {
		t.Run(name, func(t *testing.T) {
			to := newDirect(t, t.TempDir())
			r := copyAll(t, s, to, []Item{{app, "multi", "x", "t"}}, func(c *Copier) { c.Platforms = want.list })
			m, err := to.Manifest(t.Context(), "x", "t")
			if err != nil || !want.is(m.Digest) || len(r.Problems) > 0 {
				t.Errorf("%s, %v, %+v", m.Digest, err, r)
			}
			complete(t, to, "x", "t", m.Digest)
		})
	}
	// What was named by the index's digest is listed by its own.
	l, err := NewLayoutWriter(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	copyAll(t, s, l, []Item{{app, s.index.String(), app, s.index.String()}}, func(c *Copier) { c.Platforms = []registry.Platform{arm} })
	if has, err := l.Has(t.Context(), app, s.armImage, s.armImage.String()); !has || err != nil {
		t.Errorf("%v, %v", has, err)
	}
	r := copyAll(t, s, newDirect(t, t.TempDir()), []Item{{app, "multi", "x", "t"}},
		func(c *Copier) { c.Platforms = []registry.Platform{{OS: "plan9", Architecture: "mips"}} })
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Why, "nothing for platform plan9/mips") {
		t.Errorf("%+v", r)
	}
}

// skopeo reads what was exported, by the name of each image.
func TestSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed (apt install skopeo): what it makes of a layout is not tested")
	}
	reg := startDockerRegistry(t)
	img := mutate.ConfigMediaType(mutate.MediaType(image(t, 2), types.OCIManifestSchema1), types.OCIConfigJSON) // docker's types are not for layouts, it thinks
	want := reg.push("team/app:v1", img)
	reg.push("team/multi:v1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}))
	src, err := OpenDistribution(reg.dir)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := NewLayoutWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	copyAll(t, src, l, []Item{{"team/app", "v1", "team/app", "v1"}, {"team/multi", "v1", "team/multi", "v1"}})
	if err := l.Finish(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), skopeo, "inspect", "--format", "{{.Digest}}", "oci:"+dir+":team/app:v1").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != want.String() {
		t.Errorf("skopeo inspect: %s, %v; want %s", out, err, want)
	}
	for _, from := range []string{"oci:" + dir + ":team/multi:v1", "oci-archive:" + tarOf(t, dir) + ":team/app:v1"} {
		out, err = exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "--tmpdir", t.TempDir(), "copy", "--all", from, "oci:"+t.TempDir()+":x").CombinedOutput()
		if err != nil {
			t.Errorf("skopeo copy %s: %v: %s", from, err, out)
		}
	}
	// And what skopeo writes is read: there the name is a tag alone.
	theirs := filepath.Join(t.TempDir(), "skopeo")
	out, err = exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests", "--quiet", "docker://"+reg.addr+"/team/app:v1", "oci:"+theirs+":v1").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo copy: %v: %s", err, out)
	}
	layout, err := OpenLayout(theirs, "renamed/app")
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Close()
	to := newDirect(t, t.TempDir())
	copyAll(t, layout, to, []Item{{"renamed/app", "v1", "renamed/app", "v1"}})
	complete(t, to, "renamed/app", "v1", want)
}

// docker save's archive without a layout gets manifests, always the same.
func TestDockerArchive(t *testing.T) {
	img := image(t, 2)
	path := filepath.Join(t.TempDir(), "saved.tar")
	tag, err := name.NewTag("team/app:v1")
	if err == nil {
		err = tarball.WriteToFile(path, tag, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenDockerArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := [][2]string{{"team/app", "v1"}}; !slices.Equal(a.Images(), want) {
		t.Errorf("%v", a.Images())
	}
	to := newDirect(t, t.TempDir())
	if r := copyAll(t, a, to, []Item{{"team/app", "v1", "team/app", "v1"}}); len(r.Problems) > 0 || r.Images != 1 {
		t.Errorf("%+v", r)
	}
	m, err := to.Manifest(t.Context(), "team/app", "v1")
	if err != nil {
		t.Fatal(err)
	}
	complete(t, to, "team/app", "v1", m.Digest)
	if _, err := OpenLayout(path, ""); err == nil {
		t.Error("it is no layout")
	}
}

func TestLayoutNames(t *testing.T) {
	const ref, containerd = ocispec.AnnotationRefName, containerdName
	d := digest.FromString("x")
	for _, c := range []struct {
		annotations    map[string]string
		fallback, want string
	}{
		{nil, "", " "},
		{nil, "team/app", "team/app " + d.String()},
		{map[string]string{ref: "v1"}, "", " "},
		{map[string]string{ref: "v1"}, "team/app", "team/app v1"},
		{map[string]string{ref: "team/app:v1"}, "x", "team/app v1"},
		{map[string]string{ref: "team/app@" + d.String()}, "", "team/app " + d.String()},
		{map[string]string{ref: "latest", containerd: "docker.io/library/nginx:1.27"}, "", "docker.io/library/nginx 1.27"},
		{map[string]string{ref: "reg.test:5000/a/b:v1"}, "", "reg.test:5000/a/b v1"},
		{map[string]string{ref: "../../x:v1"}, "", " "},
	} {
		repo, tag := layoutName(registry.Descriptor{Digest: d, Annotations: c.annotations}, c.fallback)
		if got := repo + " " + tag; got != c.want {
			t.Errorf("%v, %q: %q, want %q", c.annotations, c.fallback, got, c.want)
		}
	}
}

// A broken layout is an error, or a problem with a reason, never a panic.
func TestBrokenLayout(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"nothing":     {nil, "no such file"},
		"no JSON":     {map[string]string{"index.json": "<html>"}, "invalid character"},
		"no digest":   {map[string]string{"index.json": `{"manifests":[{"digest":"md5:x"}]}`}, "index.json"},
		"no tar":      {map[string]string{"": "text"}, "not compressed"},
		"large index": {map[string]string{"index.json": strings.Repeat(" ", registry.MaxManifestSize+1)}, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := dir
			for file, text := range c.files {
				if file == "" {
					file, path = "layout.tar", filepath.Join(dir, "layout.tar")
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := OpenLayout(path, ""); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A running seeder is pushed to, and pulled from, by its API; what another of
// its repositories has is mounted.
func TestRemote(t *testing.T) {
	s := newShelf(t)
	far := newDirect(t, t.TempDir())
	srv := httptest.NewServer(registry.NewHandler(far.local, registry.HandlerOptions{Resolver: far.names, Writer: far.local, Cataloger: far.local, Referrers: far.local}))
	defer srv.Close()
	to, err := NewRemote(srv.URL, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	items := []Item{{app, "v1", app, "v1"}, {app, "multi", app, "multi"}, {app, "v1", "other", "v1"}}
	if r := copyAll(t, s, to, items); len(r.Problems) > 0 || r.Images != 3 || r.BlobsLinked != 5 { // config and layer, sbom and two signatures
		t.Errorf("%+v", r)
	}
	complete(t, far, app, "multi", s.index)
	complete(t, far, "other", "v1", s.image)
	if r := copyAll(t, s, to, items); r.Unchanged != 3 || r.BlobsCopied+r.BlobsLinked != 0 {
		t.Errorf("second run: %+v", r)
	}

	client, err := upstream.New([]upstream.Registry{{Name: "seeder", URL: srv.URL}}, upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	src := &Upstreams{Client: client, Split: func(repo string) (registry.Name, error) {
		return registry.Name{Upstream: "seeder", Repository: repo}, nil
	}}
	back := newDirect(t, t.TempDir())
	r := copyAll(t, src, back, []Item{{app, "multi", app, "multi"}, {app, "nothing", app, "nothing"}}) // v1, which has referrers, is one of multi
	if len(r.Problems) != 1 || r.Problems[0].What != app+":nothing" {
		t.Errorf("%+v", r)
	}
	complete(t, back, app, "multi", s.index)
	complete(t, back, app, strings.Replace(s.image.String(), ":", "-", 1)+".sig", s.signature)
	if list, err := back.Referrers(t.Context(), app, s.image); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// failing is a source whose blobs are other bytes than they should be.
type failing struct {
	Source
	content string
}

func (f failing) Blob(context.Context, string, registry.Descriptor) (Content, error) {
	return Content{ReadCloser: io.NopCloser(strings.NewReader(f.content))}, nil
}

// No target keeps wrong bytes, and each says what was wrong.
func TestWrongBytes(t *testing.T) {
	s := newShelf(t)
	far := newDirect(t, t.TempDir())
	srv := httptest.NewServer(registry.NewHandler(far.local, registry.HandlerOptions{Resolver: far.names, Writer: far.local}))
	defer srv.Close()
	remote, err := NewRemote(srv.URL, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	layout, err := NewLayoutWriter(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]Target{"direct": newDirect(t, t.TempDir()), "remote": remote, "layout": layout} {
		for content, want := range map[string]string{"": "bytes less", "{]": "another digest", "{}more": "more than"} {
			r := copyAll(t, failing{s, content}, to, []Item{{app, "v1", app, "v1"}}, func(c *Copier) { c.Jobs = 1 })
			if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Why, want) || r.Images != 0 {
				t.Errorf("%s, %q: %+v", name, content, r)
			}
			if has, err := to.Has(t.Context(), app, s.image, "v1"); has || err != nil {
				t.Errorf("%s: %v, %v", name, has, err)
			}
		}
	}
}

func TestSelection(t *testing.T) {
	s, err := NewSelection([]string{"team/**", "lib/*:v1.*"}, []string{"team/secret/**", "**:*-dev"}, []string{"team/old=attic", "team=group/team", "=all"})
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]bool{"team/a:v1": true, "team/a/b:v1": true, "team/secret/x:v1": false, "team/a:v1-dev": false,
		"lib/x:v1.2": true, "lib/x:v2": false, "lib/x/y:v1.2": false, "other:v1": false} {
		repo, tag, _ := strings.Cut(image, ":")
		if got := s.Chosen(repo, tag); got != want {
			t.Errorf("%s: %v", image, got)
		}
	}
	if s.Chosen("lib/x", "sha256:"+strings.Repeat("a", 64)) {
		t.Error("what has no tag matches no pattern of tags")
	}
	for from, want := range map[string]string{"team/a": "group/team/a", "team/old/x": "attic/x", "teamwork": "all/teamwork", "team": "group/team"} {
		if got, err := s.Rename(from); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", from, got, err, want)
		}
	}
	for _, bad := range []string{"x", "a=a", "=Bad", "=", "x=-"} {
		if _, err := NewSelection(nil, nil, []string{bad}); err == nil {
			t.Errorf("rename %q is taken", bad)
		}
	}
	drop, err := NewSelection(nil, nil, []string{"a="})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := drop.Rename("a"); err == nil {
		t.Error("a repository without a name")
	}
	if got, err := drop.Rename("a/b"); got != "b" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestParseImage(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	got := make(map[string]string)
	for _, s := range []string{"a", "a/b:v1", "reg.test:5000/a", "reg.test:5000/a:v1", "a@" + d, "a:v1@" + d, "", "A:v1", "a:", "a@x", "a:v 1"} {
		repo, ref, err := ParseImage(s)
		if err != nil {
			ref = "error"
		}
		got[s] = fmt.Sprint(repo, " ", ref)
	}
	want := map[string]string{"a": "a latest", "a/b:v1": "a/b v1", "reg.test:5000/a": "reg.test:5000/a latest", "reg.test:5000/a:v1": "reg.test:5000/a v1",
		"a@" + d: "a " + d, "a:v1@" + d: "a " + d, "": " error", "A:v1": " error", "a:": " error", "a@x": " error", "a:v 1": " error"}
	if !maps.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
}

// A running seeder is told from a directory that cannot be used.
func TestDirectLocked(t *testing.T) {
	dir := t.TempDir()
	newDirect(t, dir)
	if _, err := openDirect(dir); !errors.Is(err, store.ErrLocked) {
		t.Error(err)
	}
}
