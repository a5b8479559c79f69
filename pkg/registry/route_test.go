package registry

import (
	"strings"
	"testing"
)

func TestParseRoute(t *testing.T) {
	for _, c := range []struct {
		path string
		want route
	}{
		{"/v2", route{kind: kindPing}},
		{"/v2/", route{kind: kindPing}},
		{"/v2/library/nginx/manifests/latest", route{kindManifest, "library/nginx", "latest"}},
		{"/v2/nginx/blobs/sha256:ab", route{kindBlob, "nginx", "sha256:ab"}},
		{"/v2/ghcr.io/a/b/tags/list", route{kindTags, "ghcr.io/a/b", ""}},
		{"/v2/a/referrers/sha256:ab", route{kindReferrers, "a", "sha256:ab"}},
		{"/v2/manifests/manifests/manifests", route{kindManifest, "manifests", "manifests"}},
		{"/v2/a/blobs/b/manifests/c", route{kindManifest, "a/blobs/b", "c"}},
		{"/v2/tags/list/manifests/list", route{kindManifest, "tags/list", "list"}},
		{"/v2/a/blobs/uploads", route{kindUpload, "a", ""}},
		{"/v2/a/blobs/uploads/", route{kindUpload, "a", ""}},
		{"/v2/a/blobs/uploads/uuid", route{kindUpload, "a", ""}},
		{"/v2/a/manifests/", route{kindManifest, "a", ""}},
		{"/v2//manifests/x", route{kind: kindOther}},
		{"/v2/manifests/x", route{kind: kindOther}},
		{"/v2/_catalog", route{kind: kindOther}},
		{"/v2/tags/list", route{kind: kindOther}},
		{"/v1/_ping", route{kind: kindOther}},
		{"/", route{kind: kindOther}},
		{"", route{kind: kindOther}},
		{"/v2x", route{kind: kindOther}},
	} {
		if got := parseRoute(c.path); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.path, got, c.want)
		}
	}
}

func FuzzParseRoute(f *testing.F) {
	for _, s := range []string{"/v2/a/manifests/b", "/v2/a/blobs/uploads/", "/v2/", "/v2/a/tags/list"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		rt := parseRoute(path)
		switch rt.kind {
		case kindManifest, kindBlob, kindReferrers:
			if path != "/v2/"+rt.repo+"/"+map[kind]string{kindManifest: "manifests", kindBlob: "blobs", kindReferrers: "referrers"}[rt.kind]+"/"+rt.ref {
				t.Fatalf("%q gives %+v", path, rt)
			}
			if strings.Contains(rt.ref, "/") || rt.repo == "" {
				t.Fatalf("%q gives %+v", path, rt)
			}
		case kindTags:
			if path != "/v2/"+rt.repo+"/tags/list" {
				t.Fatalf("%q gives %+v", path, rt)
			}
		}
	})
}
