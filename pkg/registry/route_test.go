package registry

import (
	"strings"
	"testing"
)

func TestParseRoute(t *testing.T) {
	for _, c := range []struct {
		path string
		want Route
	}{
		{"/v2", Route{Endpoint: EndpointPing}},
		{"/v2/", Route{Endpoint: EndpointPing}},
		{"/v2/library/nginx/manifests/latest", Route{EndpointManifest, "library/nginx", "latest"}},
		{"/v2/nginx/blobs/sha256:ab", Route{EndpointBlob, "nginx", "sha256:ab"}},
		{"/v2/ghcr.io/a/b/tags/list", Route{EndpointTags, "ghcr.io/a/b", ""}},
		{"/v2/a/referrers/sha256:ab", Route{EndpointReferrers, "a", "sha256:ab"}},
		{"/v2/manifests/manifests/manifests", Route{EndpointManifest, "manifests", "manifests"}},
		{"/v2/a/blobs/b/manifests/c", Route{EndpointManifest, "a/blobs/b", "c"}},
		{"/v2/tags/list/manifests/list", Route{EndpointManifest, "tags/list", "list"}},
		{"/v2/a/blobs/uploads", Route{EndpointUpload, "a", ""}},
		{"/v2/a/blobs/uploads/", Route{EndpointUpload, "a", ""}},
		{"/v2/a/blobs/uploads/uuid", Route{EndpointUpload, "a", "uuid"}},
		{"/v2/a/manifests/", Route{EndpointManifest, "a", ""}},
		{"/v2//manifests/x", Route{Endpoint: EndpointOther}},
		{"/v2/manifests/x", Route{Endpoint: EndpointOther}},
		{"/v2/_catalog", Route{Endpoint: EndpointCatalog}},
		{"/v2/tags/list", Route{Endpoint: EndpointOther}},
		{"/v1/_ping", Route{Endpoint: EndpointOther}},
		{"/", Route{Endpoint: EndpointOther}},
		{"", Route{Endpoint: EndpointOther}},
		{"/v2x", Route{Endpoint: EndpointOther}},
	} {
		if got := ParsePath(c.path); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.path, got, c.want)
		}
	}
}

func FuzzParseRoute(f *testing.F) {
	for _, s := range []string{"/v2/a/manifests/b", "/v2/a/blobs/uploads/", "/v2/", "/v2/a/tags/list"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		rt := ParsePath(path)
		switch rt.Endpoint {
		case EndpointManifest, EndpointBlob, EndpointReferrers:
			if path != "/v2/"+rt.Repository+"/"+map[Endpoint]string{EndpointManifest: "manifests", EndpointBlob: "blobs", EndpointReferrers: "referrers"}[rt.Endpoint]+"/"+rt.Reference {
				t.Fatalf("%q gives %+v", path, rt)
			}
			if strings.Contains(rt.Reference, "/") || rt.Repository == "" {
				t.Fatalf("%q gives %+v", path, rt)
			}
		case EndpointTags:
			if path != "/v2/"+rt.Repository+"/tags/list" {
				t.Fatalf("%q gives %+v", path, rt)
			}
		}
	})
}
