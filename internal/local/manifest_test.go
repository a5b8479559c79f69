package local

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

func metaOf(source string) store.Meta { return store.Meta{Sources: []string{source}} }

const (
	imageType = "Content-Type: " + ocispec.MediaTypeImageManifest
	indexType = "Content-Type: " + ocispec.MediaTypeImageIndex
)

// manifest wants a manifest's bytes, by tag or digest.
func (b *bench) manifest(repo, ref string, content []byte, mediaType string) {
	b.t.Helper()
	for _, method := range []string{"GET", "HEAD"} {
		a := b.do(method, "/v2/"+repo+"/manifests/"+ref, nil, 200)
		if method == "GET" && !bytes.Equal(a.body, content) || a.Header.Get("Content-Type") != mediaType ||
			a.Header.Get("Content-Length") != fmt.Sprint(len(content)) {
			b.t.Errorf("%s of %s: %v", ref, repo, a.Header)
		}
	}
}

func TestManifest(t *testing.T) {
	b := newBench(t)
	d, content := b.image("team/app", "v1", "layer")
	for range 2 {
		b.manifest("team/app", "v1", content, ocispec.MediaTypeImageManifest)
		b.manifest("team/app", d.String(), content, ocispec.MediaTypeImageManifest)
		b.manifest("reg.test/team/app", "v1", content, ocispec.MediaTypeImageManifest)
		b.do("GET", "/v2/team/app/manifests/v1?ns=reg.test", nil, 200)
		b.do("GET", "/v2/team/app/manifests/v2", nil, 404)
		b.do("GET", "/v2/team/other/manifests/v1", nil, 404)
		b.do("GET", "/v2/team/other/manifests/"+d.String(), nil, 404)
		b.restart()
	}
	if a := b.do("GET", "/v2/team/app/manifests/v1", nil, 304, fmt.Sprintf("If-None-Match: %q", d)); len(a.body) > 0 {
		t.Errorf("%q", a.body)
	}

	// By digest, with tags; by one of another algorithm.
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := alg.FromBytes(content)
		a := b.do("PUT", "/v2/team/app/manifests/"+d.String()+"?tag=a&tag=b."+alg.String(), content, 201, imageType)
		if a.Header.Get("Docker-Content-Digest") != d.String() || !slices.Equal(a.Header.Values("OCI-Tag"), []string{"a", "b." + alg.String()}) {
			t.Errorf("%v", a.Header)
		}
		b.manifest("team/app", d.String(), content, ocispec.MediaTypeImageManifest)
		if a := b.do("HEAD", "/v2/team/app/manifests/a", nil, 200); a.Header.Get("Docker-Content-Digest") != d.String() {
			t.Errorf("%v", a.Header)
		}
	}

	// An index, and one of it.
	for i, tag := range []string{"index", "nested"} {
		index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
			ocispec.MediaTypeImageIndex, []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex}[i], d, len(content))
		b.do("PUT", "/v2/team/app/manifests/"+tag, index, 201, indexType)
		b.manifest("team/app", tag, index, ocispec.MediaTypeImageIndex)
		d, content = digest.FromBytes(index), index
	}

	// Docker's schema 2, byte for byte; its type is what it says itself.
	docker := bytes.ReplaceAll(imageOf(b.push("team/app", []byte("{}")), 2, b.push("team/app", []byte("x")), 1, ""),
		[]byte(ocispec.MediaTypeImageManifest), []byte(registry.MediaTypeDockerManifest))
	b.do("PUT", "/v2/team/app/manifests/docker", docker, 201, "Content-Type: "+registry.MediaTypeDockerManifest+"; charset=utf-8")
	b.manifest("team/app", "docker", docker, registry.MediaTypeDockerManifest)
	b.do("PUT", "/v2/team/app/manifests/untyped", docker, 201)
	b.manifest("team/app", "untyped", docker, registry.MediaTypeDockerManifest)
}

func TestManifestErrors(t *testing.T) {
	b := newBench(t)
	one, two := digest.FromString("one"), digest.FromString("two")
	lacking := string(imageOf(one, 3, two, 3, ""))
	for _, test := range []struct {
		name, ref, body, header string
		status                  int
		code                    string
	}{
		{name: "missing blobs", ref: "v1", body: lacking, header: imageType, status: 400, code: "MANIFEST_BLOB_UNKNOWN MANIFEST_BLOB_UNKNOWN"},
		{name: "missing manifest", ref: "v1", body: `{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"` + one.String() + `","size":3}]}`, header: indexType, status: 400, code: "MANIFEST_BLOB_UNKNOWN"},
		{name: "not JSON", ref: "v1", body: "{", header: imageType, status: 400, code: "MANIFEST_INVALID"},
		{name: "another type inside", ref: "v1", body: lacking, header: indexType, status: 400, code: "MANIFEST_INVALID"},
		{name: "no manifest", ref: "v1", body: "{}", header: "Content-Type: application/json", status: 400, code: "MANIFEST_INVALID"},
		{name: "schema 1", ref: "v1", body: "{}", header: "Content-Type: " + registry.MediaTypeDockerSchema1, status: 400, code: "MANIFEST_INVALID"},
		{name: "digest", ref: one.String(), body: lacking, header: imageType, status: 400, code: "DIGEST_INVALID"},
		{name: "no tag", ref: ".v1", body: lacking, header: imageType, status: 400, code: "MANIFEST_INVALID"},
		{name: "too large", ref: "v1", body: strings.Repeat(" ", registry.MaxManifestSize+1), header: imageType, status: 413, code: "MANIFEST_INVALID"},
		{name: "bad tag beside a digest", ref: digest.FromString(lacking).String() + "?tag=a/b", body: lacking, header: imageType, status: 400, code: "MANIFEST_INVALID"},
		{name: "too many tags", ref: digest.FromString(lacking).String() + "?tag=a" + strings.Repeat("&tag=a", 100), body: lacking, header: imageType, status: 414, code: "MANIFEST_INVALID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.within(t)
			a := b.do("PUT", "/v2/team/app/manifests/"+test.ref, test.body, test.status, test.header)
			if a.codes() != test.code {
				t.Errorf("%s", a.body)
			}
			if test.name == "missing blobs" && !strings.Contains(string(a.body), two.String()) {
				t.Errorf("%s", a.body)
			}
		})
	}
	b.do("GET", "/v2/team/app/tags/list", nil, 404)
	b.do("DELETE", "/v2/team/app/manifests/v1", nil, 404)
}

// A tag is changed only if the condition holds: two that update it in turn
// lose nothing (If-Match), two that make it do not overwrite each other.
func TestConditions(t *testing.T) {
	b := newBench(t)
	first, content := b.image("team/app", "v1", "one")
	second := bytes.Replace(content, []byte("}]}"), []byte(`}],"annotations":{"a":"b"}}`), 1)
	path := "/v2/team/app/manifests/v1"
	for _, test := range []struct {
		method, path, header string
		status               int
	}{
		{"PUT", path, "If-None-Match: *", 412},
		{"PUT", path, fmt.Sprintf("If-Match: %q", digest.FromBytes(second)), 412},
		{"PUT", path, "If-Match: nonsense", 400},
		{"PUT", path, `If-None-Match: "x"`, 400},
		{"PUT", "/v2/team/app/manifests/v2", "If-Match: *", 412},
		{"PUT", "/v2/team/app/manifests/v2", "If-None-Match: *", 201},
		{"PUT", path, fmt.Sprintf("If-Match: %q", first), 201},
		{"DELETE", path, fmt.Sprintf("If-Match: %q", first), 412},
		{"DELETE", path, fmt.Sprintf("If-Match: %q", digest.FromBytes(second)), 202},
		{"DELETE", "/v2/team/app/manifests/" + first.String(), "If-None-Match: *", 412},
	} {
		b.do(test.method, test.path, second, test.status, test.header, imageType)
	}
}

func TestDelete(t *testing.T) {
	b := newBench(t)
	d, content := b.image("team/app", "v1", "layer")
	b.do("PUT", "/v2/team/app/manifests/v2", content, 201, imageType)
	other, _ := b.image("team/app", "other", "another")
	b.do("DELETE", "/v2/team/app/manifests/v1", nil, 202)
	b.do("GET", "/v2/team/app/manifests/v1", nil, 404)
	b.do("DELETE", "/v2/team/app/manifests/v1", nil, 404)
	b.manifest("team/app", "v2", content, ocispec.MediaTypeImageManifest)
	b.do("DELETE", "/v2/team/app/manifests/"+d.String(), nil, 202)
	b.do("DELETE", "/v2/team/app/manifests/"+d.String(), nil, 404)
	for range 2 {
		b.do("GET", "/v2/team/app/manifests/v2", nil, 404)
		b.do("GET", "/v2/team/app/manifests/"+d.String(), nil, 404)
		if a := b.do("GET", "/v2/team/app/tags/list", nil, 200); string(a.body) != `{"name":"team/app","tags":["other"]}` {
			t.Errorf("%s", a.body)
		}
		b.restart()
	}
	// Pushed again, it has the tag that is pushed with it and no other.
	b.do("PUT", "/v2/team/app/manifests/v3", content, 201, imageType)
	b.do("GET", "/v2/team/app/manifests/v2", nil, 404)
	b.do("DELETE", "/v2/team/app/manifests/"+other.String(), nil, 202)
	if a := b.do("GET", "/v2/team/app/tags/list", nil, 200); string(a.body) != `{"name":"team/app","tags":["v3"]}` {
		t.Errorf("%s", a.body)
	}
}

// pages follows Link headers, and returns what each page lists under key.
func (b *bench) pages(path, key string) (all [][]string) {
	b.t.Helper()
	for range 10 {
		a := b.do("GET", path, nil, 200)
		var list map[string]json.RawMessage
		var names []string
		if err := json.Unmarshal(a.body, &list); err != nil {
			b.t.Fatal(err)
		}
		if err := json.Unmarshal(list[key], &names); err != nil {
			b.t.Fatal(err)
		}
		all = append(all, names)
		link := a.Header.Get("Link")
		if link == "" {
			return all
		}
		path = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	}
	b.t.Fatalf("no end of pages: %q", all)
	return nil
}

func TestLists(t *testing.T) {
	b := newBench(t)
	for _, tag := range []string{"c", "a", "B", "d"} {
		b.image("team/app", tag, "layer")
	}
	b.push("team/app/deep", nil)
	b.push("team", nil)
	for range 2 {
		for path, want := range map[string]string{
			"/v2/team/app/tags/list":          "[[B a c d]]",
			"/v2/team/app/tags/list?n=3":      "[[B a c] [d]]",
			"/v2/team/app/tags/list?n=2":      "[[B a] [c d]]",
			"/v2/team/app/tags/list?n=0":      "[[]]",
			"/v2/team/app/tags/list?last=a":   "[[c d]]",
			"/v2/team/app/tags/list?last=zzz": "[[]]",
			"/v2/team/tags/list":              "[[]]",
		} {
			if got := fmt.Sprint(b.pages(path, "tags")); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		for path, want := range map[string]string{
			"/v2/_catalog":                 "[[team team/app team/app/deep]]",
			"/v2/_catalog?n=2":             "[[team team/app] [team/app/deep]]",
			"/v2/_catalog?n=1":             "[[team] [team/app] [team/app/deep]]",
			"/v2/_catalog?last=team/apple": "[[]]",
			"/v2/_catalog?last=team/aa":    "[[team/app team/app/deep]]",
		} {
			if got := fmt.Sprint(b.pages(path, "repositories")); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		b.do("GET", "/v2/_catalog?n=x", nil, 400)
		b.restart()
	}
}

func TestReferrers(t *testing.T) {
	b := newBench(t)
	subject := digest.FromString("to come")
	config, layer := b.push("team/app", []byte("{}")), b.push("team/app", []byte("sig"))
	refers := func(more string) []byte {
		return imageOf(config, 2, layer, 3, fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":7}%s`, ocispec.MediaTypeImageManifest, subject, more))
	}
	contents := [][]byte{refers(`,"artifactType":"a/sbom","annotations":{"k":"v"}`), refers("")}
	for _, c := range contents {
		a := b.do("PUT", "/v2/team/app/manifests/"+digest.FromBytes(c).String(), c, 201, imageType)
		if a.Header.Get("OCI-Subject") != subject.String() {
			t.Errorf("%v", a.Header)
		}
	}
	list := func(query string) (types []string) {
		t.Helper()
		a := b.do("GET", "/v2/team/app/referrers/"+subject.String()+query, nil, 200)
		var index ocispec.Index
		if err := json.Unmarshal(a.body, &index); err != nil || a.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex ||
			index.MediaType != ocispec.MediaTypeImageIndex || index.SchemaVersion != 2 || index.Manifests == nil {
			t.Fatalf("%v, %v, %s", err, a.Header, a.body)
		}
		if applied := a.Header.Get("OCI-Filters-Applied"); (applied == "artifactType") != (query != "") {
			t.Errorf("filters applied: %q", applied)
		}
		for _, m := range index.Manifests {
			types = append(types, m.ArtifactType)
			if m.ArtifactType == "a/sbom" && (m.Annotations["k"] != "v" || m.Digest != digest.FromBytes(contents[0]) || m.Size != int64(len(contents[0]))) {
				t.Errorf("%+v", m)
			}
		}
		slices.Sort(types)
		return types
	}
	const configType = "application/vnd.oci.image.config.v1+json"
	for range 2 {
		for query, want := range map[string][]string{"": {"a/sbom", configType}, "?artifactType=a/sbom": {"a/sbom"}, "?artifactType=" + strings.ReplaceAll(configType, "+", "%2b"): {configType}, "?artifactType=x": nil} {
			if got := list(query); !slices.Equal(got, want) {
				t.Errorf("%s: %q", query, got)
			}
		}
		b.restart()
	}
	b.do("DELETE", "/v2/team/app/manifests/"+digest.FromBytes(contents[0]).String(), nil, 202)
	if got := list(""); !slices.Equal(got, []string{configType}) {
		t.Errorf("%q", got)
	}
	b.do("GET", "/v2/team/app/referrers/v1", nil, 400)
	if a := b.do("GET", "/v2/team/nothing/referrers/"+subject.String(), nil, 200); !strings.Contains(string(a.body), `"manifests":[]`) {
		t.Errorf("%s", a.body)
	}
}

// A link that cannot be read costs that link, and says so; pushing again mends it.
func TestDamagedLinks(t *testing.T) {
	b := newBench(t)
	d, content := b.image("team/app", "v1", "layer")
	dir := b.reg.repoDir("team/app")
	damage := func(path ...string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(append([]string{dir}, path...)...), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(manifestsName, "sha256", d.Encoded())
	b.restart()
	b.manifest("team/app", "v1", content, ocispec.MediaTypeImageManifest)
	damage(tagsName, "v1")
	b.do("GET", "/v2/team/app/manifests/v1", nil, 404)
	b.image("team/app", "v1", "layer")
	b.manifest("team/app", "v1", content, ocispec.MediaTypeImageManifest)
	// Content that is gone from the store.
	if err := b.store.Delete(d); err != nil {
		t.Fatal(err)
	}
	b.do("GET", "/v2/team/app/manifests/v1", nil, 404)
	b.restart()
	b.image("team/app", "v1", "layer")
	b.manifest("team/app", "v1", content, ocispec.MediaTypeImageManifest)
}

// A pull is noted with the link, a minute's precision: retention goes by it.
func TestLastPull(t *testing.T) {
	b := newBench(t)
	d, _ := b.image("team/app", "v1", "layer")
	at := func() time.Time {
		t.Helper()
		fi, err := os.Stat(b.reg.tagPath("team/app", "v1"))
		if err != nil {
			t.Fatal(err)
		}
		fj, err := os.Stat(b.reg.linkPath("team/app", manifestsName, d))
		if err != nil || fj.ModTime().Sub(fi.ModTime()).Abs() > 10*time.Second {
			t.Errorf("%v and %v, %v", fi.ModTime(), fj.ModTime(), err)
		}
		return fi.ModTime()
	}
	before := at()
	b.clock.Add(3600)
	b.do("GET", "/v2/team/app/manifests/v1", nil, 200)
	if got := at().Sub(before); got < 50*time.Minute {
		t.Errorf("%v later", got)
	}
}

// Links that are lost are made again from what the store keeps. Tags are not
// to be had from there.
func TestRebuild(t *testing.T) {
	b := newBench(t)
	d, content := b.image("team/app", "v1", "layer")
	b.image("team/other", "v1", "layer")
	layer := digest.FromString("layer")
	b.do("POST", "/v2/team/third/blobs/uploads/?mount="+layer.String(), nil, 201) // without a manifest, nobody knows
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, d, len(content))
	b.do("PUT", "/v2/team/app/manifests/all", index, 201, indexType)
	refers := imageOf(digest.FromString("{}"), 2, layer, 5, fmt.Sprintf(`,"subject":{"mediaType":"x","digest":%q,"size":7}`, d))
	b.do("PUT", "/v2/team/app/manifests/sig", refers, 201, imageType)
	at := b.begin("team/app")
	b.stop()
	if err := os.RemoveAll(filepath.Join(b.dir, "registry", repositoriesName)); err != nil {
		t.Fatal(err)
	}
	b.start()
	for range 2 {
		for _, repo := range []string{"team/app", "team/other"} {
			b.manifest(repo, d.String(), content, ocispec.MediaTypeImageManifest)
			b.blob(repo, layer, []byte("layer"))
			b.blob(repo, digest.FromString("{}"), []byte("{}"))
		}
		b.manifest("team/app", digest.FromBytes(index).String(), index, ocispec.MediaTypeImageIndex)
		if a := b.do("GET", "/v2/team/app/referrers/"+d.String(), nil, 200); !strings.Contains(string(a.body), digest.FromBytes(refers).String()) {
			t.Errorf("%s", a.body)
		}
		if a := b.do("GET", "/v2/team/app/tags/list", nil, 200); !strings.Contains(string(a.body), `"tags":[]`) {
			t.Errorf("%s", a.body)
		}
		b.do("GET", blobPath("team/third", layer), nil, 404)
		b.do("GET", at, nil, 204)
		b.restart()
	}
	if in, err := b.store.Stat(layer); err != nil || !in.Kept {
		t.Errorf("kept %v, %v", in.Kept, err)
	}
}

// Many clients push, mount, delete and list at a time.
func TestTogether(t *testing.T) {
	b := newBench(t)
	layer := storetest.Content(9, 300_000)
	d := digest.FromBytes(layer)
	config := digest.FromString("{}")
	content := imageOf(config, 2, d, len(layer), "")
	var wg sync.WaitGroup
	for i := range 12 {
		repo := fmt.Sprintf("team/app%d", i%4)
		wg.Go(func() {
			for _, step := range []struct {
				method, path string
				body         []byte
			}{
				{"POST", "/v2/" + repo + "/blobs/uploads/?digest=" + d.String(), layer},
				{"POST", "/v2/" + repo + "/blobs/uploads/?mount=" + config.String(), nil},
				{"POST", "/v2/" + repo + "/blobs/uploads/?digest=" + config.String(), []byte("{}")},
				{"PUT", "/v2/" + repo + "/manifests/v1", content},
				{"GET", "/v2/" + repo + "/manifests/v1", nil},
				{"GET", "/v2/" + repo + "/tags/list", nil},
				{"PUT", fmt.Sprintf("/v2/%s/manifests/own%d", repo, i), content},
				{"DELETE", fmt.Sprintf("/v2/%s/manifests/own%d", repo, i), nil},
				{"GET", "/v2/_catalog", nil},
			} {
				a, err := b.try(step.method, step.path, step.body, imageType)
				if err != nil || a.StatusCode >= 300 {
					t.Errorf("%s %s: %v, %s", step.method, step.path, err, a.body)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		repo := fmt.Sprintf("team/app%d", i)
		b.manifest(repo, "v1", content, ocispec.MediaTypeImageManifest)
		b.blob(repo, d, layer)
		if a := b.do("GET", "/v2/"+repo+"/tags/list", nil, 200); !strings.Contains(string(a.body), `"tags":["v1"]`) {
			t.Errorf("%s", a.body)
		}
	}
}
