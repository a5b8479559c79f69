package registry

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func desc(name string, size int) string {
	return fmt.Sprintf(`{"mediaType":"application/x","digest":%q,"size":%d}`, digest.FromString(name), size)
}

func TestParse(t *testing.T) {
	image := `{"schemaVersion":2,"config":` + desc("config", 1) + `,"layers":[` + desc("l1", 2) + `,` + desc("l2", 0) + `]}`
	typed := func(mediaType string) string {
		return strings.Replace(image, "{", `{"mediaType":"`+mediaType+`",`, 1)
	}
	index := `{"schemaVersion":2,"manifests":[` + desc("m1", 1) + `,` + desc("m2", 2) + `]}`
	for _, c := range []struct {
		name, mediaType, content string
		kind                     Kind
		want                     string // names of the children
		gotType                  string // if another than mediaType
		err                      bool
	}{
		{name: "oci image", mediaType: ocispec.MediaTypeImageManifest, content: image, kind: KindImage, want: "config l1 l2"},
		{name: "docker image", mediaType: MediaTypeDockerManifest, content: typed(MediaTypeDockerManifest), kind: KindImage, want: "config l1 l2"},
		{name: "parameters", mediaType: ocispec.MediaTypeImageManifest + "; charset=utf-8", content: image, kind: KindImage, want: "config l1 l2", gotType: ocispec.MediaTypeImageManifest},
		{name: "oci index", mediaType: ocispec.MediaTypeImageIndex, content: index, kind: KindIndex, want: "m1 m2"},
		{name: "docker list", mediaType: MediaTypeDockerManifestList, content: index, kind: KindIndex, want: "m1 m2"},
		{name: "empty index", mediaType: ocispec.MediaTypeImageIndex, content: `{"manifests":[]}`, kind: KindIndex},
		{name: "served as json, says what it is", mediaType: "application/json", content: typed(ocispec.MediaTypeImageManifest), kind: KindImage, want: "config l1 l2", gotType: ocispec.MediaTypeImageManifest},
		{name: "served as nothing, image by its fields", content: image, kind: KindImage, want: "config l1 l2", gotType: ocispec.MediaTypeImageManifest},
		{name: "served as nothing, index by its fields", content: index, kind: KindIndex, want: "m1 m2", gotType: ocispec.MediaTypeImageIndex},
		{name: "artifact", mediaType: MediaTypeArtifactManifest, content: `{"blobs":[` + desc("b", 1) + `],"subject":` + desc("s", 1) + `}`, kind: KindImage, want: "b"},
		{name: "schema 1", mediaType: MediaTypeDockerSchema1JWS, content: `{"fsLayers":[]}`, kind: KindUnknown},
		{name: "unknown type", mediaType: "application/vnd.acme+json", content: image, kind: KindUnknown},
		{name: "unknown type inside", mediaType: "application/json", content: typed("application/vnd.acme+json"), kind: KindUnknown, gotType: "application/vnd.acme+json"},
		{name: "not json, served as bytes", mediaType: "application/octet-stream", content: "\x1f\x8b", kind: KindUnknown},
		{name: "not json", mediaType: ocispec.MediaTypeImageManifest, content: "\x1f\x8b", err: true},
		{name: "another type inside", mediaType: ocispec.MediaTypeImageManifest, content: typed(ocispec.MediaTypeImageIndex), err: true},
		{name: "both at once (CVE-2021-41190)", mediaType: ocispec.MediaTypeImageManifest, content: strings.Replace(image, "{", `{"manifests":[],`, 1), err: true},
		{name: "index with layers (CVE-2021-41190)", mediaType: ocispec.MediaTypeImageIndex, content: image, err: true},
		{name: "image with manifests", mediaType: ocispec.MediaTypeImageManifest, content: index, err: true},
		{name: "bad digest", mediaType: ocispec.MediaTypeImageManifest, content: `{"layers":[{"digest":"sha256:x","size":1}]}`, err: true},
		{name: "no digest", mediaType: ocispec.MediaTypeImageManifest, content: `{"layers":[{"size":1}]}`, err: true},
		{name: "negative size", mediaType: ocispec.MediaTypeImageManifest, content: `{"layers":[` + desc("l", -1) + `]}`, err: true},
		{name: "bad subject", mediaType: ocispec.MediaTypeImageManifest, content: `{"layers":[],"subject":{}}`, err: true},
		{name: "too many", mediaType: ocispec.MediaTypeImageManifest, content: `{"layers":[` + strings.Repeat(desc("l", 1)+",", maxChildren) + desc("l", 1) + `]}`, err: true},
		{name: "too large", mediaType: ocispec.MediaTypeImageManifest, content: `{"layers":[]}` + strings.Repeat(" ", MaxManifestSize), err: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse(c.mediaType, []byte(c.content))
			if (err != nil) != c.err {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			var want []digest.Digest
			for _, n := range strings.Fields(c.want) {
				want = append(want, digest.FromString(n))
			}
			if p.Kind != c.kind || !slices.Equal(Digests(p.Children), want) {
				t.Errorf("got %v %v", p.Kind, p.Children)
			}
			if c.gotType == "" {
				c.gotType = c.mediaType
			}
			if p.MediaType != c.gotType {
				t.Errorf("type %q, want %q", p.MediaType, c.gotType)
			}
		})
	}
}

func TestParseSubject(t *testing.T) {
	p, err := Parse(ocispec.MediaTypeImageManifest, []byte(`{"artifactType":"application/sig","config":`+desc("c", 2)+`,"layers":[],"subject":`+desc("s", 9)+`}`))
	if err != nil || p.Subject == nil || p.Subject.Digest != digest.FromString("s") || p.ArtifactType != "application/sig" || len(p.Children) != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestDigestsAndForeign(t *testing.T) {
	a, b := Descriptor{Digest: digest.FromString("a")}, Descriptor{Digest: digest.FromString("b"), MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
	if got := Digests([]Descriptor{a, b, a}); !slices.Equal(got, []digest.Digest{a.Digest, b.Digest}) {
		t.Errorf("got %v", got)
	}
	if Foreign(a) || !Foreign(b) || !Foreign(Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}) {
		t.Error("foreign")
	}
	if !IsManifestType(MediaTypeDockerSchema1) || !IsManifestType(ocispec.MediaTypeImageIndex) || IsManifestType(ocispec.MediaTypeImageLayer) {
		t.Error("manifest types")
	}
	for _, m := range ManifestTypes() {
		if !IsManifestType(m) {
			t.Errorf("%s", m)
		}
	}
}

func TestSelect(t *testing.T) {
	child := func(platform string) Descriptor {
		d := Descriptor{Digest: digest.FromString(platform)}
		if platform != "" {
			parts := strings.Split(platform+"//", "/")
			d.Platform = &Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		}
		return d
	}
	for _, c := range []struct{ name, children, platform, want string }{
		{"one of two", "linux/amd64 linux/arm64", "linux/arm64", "linux/arm64"},
		{"none", "linux/amd64 windows/amd64", "linux/arm64", ""},
		{"attestations are left out", "linux/amd64 unknown/unknown", "linux/amd64", "linux/amd64"},
		{"names of uname", "linux/x86_64 linux/aarch64", "linux/amd64", "linux/x86_64"},
		{"arm64 is arm64/v8", "linux/arm64/v8", "linux/arm64", "linux/arm64/v8"},
		{"own variant first", "linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v7", "linux/arm/v7 linux/arm/v6 linux/arm/v5"},
		{"no newer variant", "linux/arm/v7 linux/arm/v6", "linux/arm/v6", "linux/arm/v6"},
		{"amd64 has v1", "linux/amd64/v3 linux/amd64", "linux/amd64", "linux/amd64"},
		{"amd64/v3 falls back", "linux/amd64 linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v2 linux/amd64"},
		{"arm64/v9 falls back", "linux/arm64 linux/arm64/v9", "linux/arm64/v9", "linux/arm64/v9 linux/arm64"},
		{"not 386 on amd64", "linux/386", "linux/amd64", ""},
		{"no platform comes last", "- linux/amd64", "linux/amd64", "linux/amd64 -"},
		{"armhf", "linux/armhf", "linux/arm/v7", "linux/armhf"},
		{"odd variants", "linux/ppc64le/power9", "linux/ppc64le", ""},
		{"equal ones keep their order", "linux/s390x linux/s390x", "linux/s390x", "linux/s390x linux/s390x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := ParsePlatform(c.platform)
			if err != nil {
				t.Fatal(err)
			}
			var in []Descriptor
			for _, s := range strings.Fields(c.children) {
				in = append(in, child(strings.TrimPrefix(s, "-")))
			}
			var want []digest.Digest
			for _, s := range strings.Fields(c.want) {
				want = append(want, digest.FromString(strings.TrimPrefix(s, "-")))
			}
			var got []digest.Digest
			for _, d := range Select(in, p) {
				got = append(got, d.Digest)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
	if got := Select([]Descriptor{child(""), child(HostPlatform().OS + "/" + HostPlatform().Architecture)}, HostPlatform()); len(got) != 2 {
		t.Errorf("host: got %v", got)
	}
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "a/b/c/d"} {
		if _, err := ParsePlatform(bad); err == nil {
			t.Errorf("ParsePlatform(%q): no error", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ocispec.MediaTypeImageManifest, []byte(`{"config":`+desc("c", 1)+`,"layers":[`+desc("l", 1)+`]}`))
	f.Add(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[{"digest":"`+emptyDigest+`","size":1,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`))
	f.Add("", []byte(`{"mediaType":"application/json","Manifests":[],"layers":null}`))
	f.Add("text/plain;x", []byte(`[]`))
	f.Fuzz(func(t *testing.T, mediaType string, content []byte) {
		p, err := Parse(mediaType, content)
		if err != nil {
			if p != nil {
				t.Fatal("both a result and an error")
			}
			return
		}
		if p.Kind == KindUnknown && len(p.Children) > 0 {
			t.Fatalf("children of nothing: %+v", p)
		}
		for _, c := range p.Children {
			if _, err := ParseDigest(c.Digest.String()); err != nil || c.Size < 0 {
				t.Fatalf("child %+v", c)
			}
		}
		Select(p.Children, Platform{OS: "linux", Architecture: "arm", Variant: "v7"})
	})
}
