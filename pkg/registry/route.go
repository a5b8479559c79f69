package registry

import "strings"

// kind is what a path under /v2/ names. Its values are metric labels.
type kind string

const (
	kindPing      kind = "ping"
	kindManifest  kind = "manifest"
	kindBlob      kind = "blob"
	kindTags      kind = "tags"
	kindReferrers kind = "referrers"
	kindUpload    kind = "upload"
	kindOther     kind = "other"
)

type route struct {
	kind kind
	repo string // as in the path: may begin with an upstream; not validated
	ref  string // tag, digest or nothing; not validated
}

// parseRoute reads a decoded URL path. Repository names have slashes and may
// contain words like "manifests", so the end of the path decides. A path that
// is not of the API gives kindOther.
func parseRoute(path string) route {
	if path == "/v2" || path == "/v2/" {
		return route{kind: kindPing}
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return route{kind: kindOther}
	}
	if repo, ok := strings.CutSuffix(rest, "/tags/list"); ok && repo != "" {
		return route{kind: kindTags, repo: repo}
	}
	head, ref, ok := cutLast(rest)
	if !ok {
		return route{kind: kindOther}
	}
	repo, noun, ok := cutLast(head)
	if !ok || repo == "" {
		return route{kind: kindOther}
	}
	switch noun {
	case "manifests":
		return route{kind: kindManifest, repo: repo, ref: ref}
	case "blobs":
		if ref == "uploads" {
			return route{kind: kindUpload, repo: repo}
		}
		return route{kind: kindBlob, repo: repo, ref: ref}
	case "referrers":
		return route{kind: kindReferrers, repo: repo, ref: ref}
	case "uploads":
		if repo, ok := strings.CutSuffix(repo, "/blobs"); ok {
			return route{kind: kindUpload, repo: repo}
		}
	}
	return route{kind: kindOther}
}

// cutLast splits at the last slash.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
