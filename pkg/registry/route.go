package registry

import "strings"

// Endpoint is which part of the API a path under /v2/ belongs to. Its values
// are metric labels.
type Endpoint string

// The endpoints, with the part of a path that makes them.
const (
	EndpointPing      Endpoint = "ping"      // /v2/
	EndpointCatalog   Endpoint = "catalog"   // _catalog
	EndpointManifest  Endpoint = "manifest"  // NAME/manifests/TAG-OR-DIGEST
	EndpointBlob      Endpoint = "blob"      // NAME/blobs/DIGEST
	EndpointTags      Endpoint = "tags"      // NAME/tags/list
	EndpointReferrers Endpoint = "referrers" // NAME/referrers/DIGEST
	EndpointUpload    Endpoint = "upload"    // NAME/blobs/uploads/[ID]
	EndpointOther     Endpoint = "other"     // not of the API
)

// Route is what a path under /v2/ names. Nothing in it is validated.
type Route struct {
	Endpoint Endpoint
	// Repository is as in the path: it may begin with an upstream. Whoever
	// decides by repository needs Resolver.Resolve, which also takes ?ns=.
	Repository string
	Reference  string // tag, digest, ID of an upload, or nothing
}

// ParsePath reads a decoded URL path. Repository names have slashes and may
// contain words like "manifests", so the end of the path decides. A path that
// is not of the API gives EndpointOther.
func ParsePath(path string) Route {
	switch path {
	case "/v2", "/v2/":
		return Route{Endpoint: EndpointPing}
	case "/v2/_catalog", "/v2/_catalog/":
		return Route{Endpoint: EndpointCatalog}
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return Route{Endpoint: EndpointOther}
	}
	if repo, ok := strings.CutSuffix(rest, "/tags/list"); ok && repo != "" {
		return Route{Endpoint: EndpointTags, Repository: repo}
	}
	head, ref, ok := cutLast(rest)
	if !ok {
		return Route{Endpoint: EndpointOther}
	}
	repo, noun, ok := cutLast(head)
	if !ok || repo == "" {
		return Route{Endpoint: EndpointOther}
	}
	switch noun {
	case "manifests":
		return Route{Endpoint: EndpointManifest, Repository: repo, Reference: ref}
	case "blobs":
		if ref == "uploads" {
			return Route{Endpoint: EndpointUpload, Repository: repo}
		}
		return Route{Endpoint: EndpointBlob, Repository: repo, Reference: ref}
	case "referrers":
		return Route{Endpoint: EndpointReferrers, Repository: repo, Reference: ref}
	case "uploads":
		if repo, ok := strings.CutSuffix(repo, "/blobs"); ok && repo != "" {
			return Route{Endpoint: EndpointUpload, Repository: repo, Reference: ref}
		}
	}
	return Route{Endpoint: EndpointOther}
}

// cutLast splits at the last slash.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
