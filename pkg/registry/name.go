package registry

import (
	_ "crypto/sha256" // digests of this algorithm can be checked
	_ "crypto/sha512" // likewise
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// MaxNameLength bounds "upstream/repository" as a whole. The distribution
// spec asks implementations to cope with 255 for host and path together.
const MaxNameLength = 255

// Grammar of the distribution spec v1.1, "Pulling manifests".
var (
	repositoryRE = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	// upstreamRE is a host with an optional port, in canonical form. Brackets
	// are for IPv6 literals.
	upstreamRE = regexp.MustCompile(`^([a-z0-9]+((\.|_+|-+)[a-z0-9]+)*|\[[0-9a-f:]+\])(:[0-9]{1,5})?$`)
)

// Name says which repository of which upstream is meant.
type Name struct {
	Upstream   string // canonical, e.g. "docker.io", "registry.lab.test:5000"
	Repository string // e.g. "library/nginx"
}

// String is "docker.io/library/nginx"; ParseName reads it back.
func (n Name) String() string {
	if n.Upstream == "" {
		return n.Repository
	}
	return n.Upstream + "/" + n.Repository
}

// ParseName reads "upstream/repository". The first component is always the
// upstream, host-shaped or not; it is made canonical. Errors are *Error with
// code NAME_INVALID.
func ParseName(s string) (Name, error) {
	up, repo, ok := strings.Cut(s, "/")
	if !ok {
		return Name{}, nameInvalid(s, "want upstream/repository")
	}
	up = CanonicalUpstream(up)
	return newName(up, repo)
}

// newName validates both parts. docker.io's official images get their
// "library/" (contract 20).
func newName(upstream, repo string) (Name, error) {
	if !ValidUpstream(upstream) {
		return Name{}, nameInvalid(upstream, "not an upstream's name")
	}
	if upstream == DockerHub && repo != "" && !strings.Contains(repo, "/") {
		repo = "library/" + repo
	}
	n := Name{Upstream: upstream, Repository: repo}
	if !ValidRepository(repo) {
		return Name{}, nameInvalid(repo, "repository names are lower-case path components of letters, digits, '.', '_' and '-'")
	}
	if l := len(n.String()); l > MaxNameLength {
		return Name{}, nameInvalid(fmt.Sprintf("%.32s…", repo), fmt.Sprintf("name is %d bytes long, at most %d are allowed", l, MaxNameLength))
	}
	return n, nil
}

// ValidRepository tells whether s is a repository name by the distribution
// spec's grammar.
func ValidRepository(s string) bool {
	return len(s) <= MaxNameLength && repositoryRE.MatchString(s)
}

// ValidTag tells whether s is a tag by the distribution spec's grammar.
func ValidTag(s string) bool { return tagRE.MatchString(s) }

// ValidUpstream tells whether s is an upstream's name in canonical form: a
// host name or any word of the same characters, with an optional port.
func ValidUpstream(s string) bool {
	return len(s) <= MaxNameLength && upstreamRE.MatchString(s)
}

// ParseDigest reads a digest that this project can verify: sha256 or sha512.
// Errors are *Error with code DIGEST_INVALID.
func ParseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", digestInvalid(s, err)
	}
	switch d.Algorithm() {
	case digest.SHA256, digest.SHA512:
		return d, nil
	default:
		return "", digestInvalid(s, fmt.Errorf("algorithm %s is not supported; sha256 and sha512 are", d.Algorithm()))
	}
}

// IsDigest tells whether a reference has the shape of a digest rather than of
// a tag. A tag cannot contain ':'.
func IsDigest(reference string) bool { return strings.Contains(reference, ":") }
