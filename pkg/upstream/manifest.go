package upstream

import (
	"bytes"
	"context"
	_ "crypto/sha256" // the digest algorithms of the OCI image spec
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest is twice what the distribution spec makes every registry take.
const maxManifest = 8 << 20

// maxAge bounds what a seeder may say of the age of a tag.
const maxAge = 365 * 24 * time.Hour

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	schema1        = "application/vnd.docker.distribution.manifest.v1+"
)

var acceptAll = []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest}

// Manifest is a manifest or index. Content has the Digest.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Content   []byte
	Age       time.Duration // since a seeder that was asked has checked its tag; else 0
}

// Descriptor is what an upstream says about a manifest without sending it.
type Descriptor struct {
	Digest    digest.Digest
	MediaType string
	Size      int64         // bytes of the manifest
	Age       time.Duration // as Manifest's
}

// Manifest gets the manifest or index that ref, a tag or a digest, names.
// accept are media types; none = image manifests and indexes of OCI and docker
// schema 2. The content is at most 8 MiB and has been checked against the
// digest, of a tag's too: against what the upstream says it is.
//
// Kinds: all. Corrupt: content and digest differ, or it is no manifest.
// Invalid: also docker schema 1, which has no config and is not supported.
func (c *Client) Manifest(ctx context.Context, name, repo, ref string, accept []string) (*Manifest, error) {
	e, rq, err := c.manifestRequest("manifest", http.MethodGet, name, repo, ref, accept)
	if err != nil {
		return nil, err
	}
	return each(e, func(u *upstream) (*Manifest, *Error) { return u.manifest(ctx, rq) })
}

// Head asks what a tag or digest is: its digest, media type and size. It costs
// no download and, at upstreams that count, no pull; where the upstream's
// answer lacks something it gets the manifest. The digest is the upstream's
// word, checked only when ref is a digest. Kinds as for Manifest.
func (c *Client) Head(ctx context.Context, name, repo, ref string) (*Descriptor, error) {
	e, rq, err := c.manifestRequest("head", http.MethodHead, name, repo, ref, nil)
	if err != nil {
		return nil, err
	}
	return each(e, func(u *upstream) (*Descriptor, *Error) { return u.head(ctx, *rq) })
}

func (u *upstream) head(ctx context.Context, rq request) (*Descriptor, *Error) {
	ref := rq.what
	resp, e := u.do(ctx, &rq)
	switch {
	case e == nil:
		_ = resp.Close()
		d := &Descriptor{Digest: digest.Digest(resp.header.Get("Docker-Content-Digest")), MediaType: mediaType(resp.header), Size: resp.length, Age: u.age(resp.header)}
		if d.Digest.Validate() == nil && d.MediaType != "" && d.Size > 0 {
			if want := digest.Digest(ref); isDigest(ref) && d.Digest != want && d.Digest.Algorithm() == want.Algorithm() {
				return nil, u.error(&rq, &failure{kind: Corrupt, err: fmt.Errorf("asked for %s it speaks of %s", want, d.Digest)})
			}
			if isDigest(ref) {
				d.Digest = digest.Digest(ref)
			}
			if strings.HasPrefix(d.MediaType, schema1) {
				return nil, u.error(&rq, errSchema1())
			}
			return d, nil
		}
	case e.Kind != Invalid: // 400 and 405 are what those say that know no HEAD
		return nil, e
	}
	rq.method = http.MethodGet
	m, e := u.manifest(ctx, &rq)
	if e != nil {
		return nil, e
	}
	return &Descriptor{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Content)), Age: m.Age}, nil
}

// age is how long ago a seeder checked what it answers with; of others the
// answer counts as their own.
func (u *upstream) age(h http.Header) time.Duration {
	seconds, ok := parseCount(h.Get("Age"))
	if !u.relay() || !ok {
		return 0
	}
	return time.Duration(min(seconds, int64(maxAge/time.Second))) * time.Second
}

func isDigest(ref string) bool { return strings.Contains(ref, ":") }

func (c *Client) manifestRequest(op, method, name, repo, ref string, accept []string) (*entry, *request, error) {
	e, err := c.find(op, name, repo, ref)
	if err != nil {
		return nil, nil, err
	}
	rq := &request{op: op, method: method, repo: repo, what: ref, path: "manifests/" + ref, header: http.Header{}}
	if isDigest(ref) {
		err = digest.Digest(ref).Validate()
	} else if !tagGrammar.MatchString(ref) {
		err = errors.New("neither a tag nor a digest")
	}
	if err != nil {
		rq.what = scrub(ref)
		return nil, nil, e.own().error(rq, &failure{kind: Invalid, err: err})
	}
	if len(accept) == 0 {
		accept = acceptAll
	}
	for _, a := range accept {
		if strings.ContainsAny(a, "\r\n\x00") {
			return nil, nil, e.own().error(rq, &failure{kind: Invalid, err: errors.New("a media type to accept holds a line break")})
		}
	}
	// One header: some registries read only the first.
	rq.header.Set("Accept", strings.Join(accept, ", "))
	return e, rq, nil
}

// manifest gets and checks; a connection cut in mid-body is tried again.
func (u *upstream) manifest(ctx context.Context, rq *request) (*Manifest, *Error) {
	for try := 1; ; try++ {
		resp, e := u.do(ctx, rq)
		if e != nil {
			return nil, e
		}
		content, f := readManifest(ctx, resp)
		if f == nil {
			var m *Manifest
			if m, f = checkManifest(rq.what, resp.header, content); f == nil {
				m.Age = u.age(resp.header)
				return m, nil
			}
		}
		if !f.again || try >= maxTries {
			return nil, u.error(rq, f)
		}
		u.count(&u.stats.Retries, u.metrics.retries, 1)
	}
}

func readManifest(ctx context.Context, resp *response) ([]byte, *failure) {
	defer resp.Close()
	tooLong := &failure{kind: Corrupt, err: fmt.Errorf("the manifest is longer than %d MiB", maxManifest>>20)}
	if resp.length > maxManifest {
		return nil, tooLong
	}
	var b bytes.Buffer
	if resp.length > 0 {
		b.Grow(int(resp.length) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(resp.body, maxManifest+1))
	switch {
	case err != nil:
		return nil, networkFailure(ctx, err)
	case n > maxManifest:
		return nil, tooLong
	}
	return b.Bytes(), nil
}

func checkManifest(ref string, h http.Header, content []byte) (*Manifest, *failure) {
	m := &Manifest{Content: content, MediaType: mediaType(h)}
	said := digest.Digest(h.Get("Docker-Content-Digest"))
	switch {
	case isDigest(ref):
		m.Digest = digest.Digest(ref)
	case said.Validate() == nil:
		m.Digest = said
	default:
		m.Digest = digest.FromBytes(content)
	}
	if got := m.Digest.Algorithm().FromBytes(content); got != m.Digest {
		return nil, &failure{kind: Corrupt, err: fmt.Errorf("the content's digest is %s, it should be %s", got, m.Digest)}
	}
	var peek struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(content, &peek); err != nil {
		return nil, &failure{kind: Corrupt, err: fmt.Errorf("what it sent is no manifest but %q", m.MediaType)}
	}
	if strings.HasPrefix(m.MediaType, schema1) || peek.SchemaVersion == 1 && peek.MediaType == "" {
		return nil, errSchema1()
	}
	if m.MediaType == "" {
		m.MediaType = peek.MediaType
	}
	if m.MediaType == "" {
		switch {
		case peek.Manifests != nil:
			m.MediaType = ocispec.MediaTypeImageIndex
		case peek.Layers != nil:
			m.MediaType = ocispec.MediaTypeImageManifest
		default:
			return nil, &failure{kind: Corrupt, err: errors.New("neither the header nor the content names a media type")}
		}
	}
	return m, nil
}

func errSchema1() *failure {
	return &failure{kind: Invalid, err: errors.New("a docker schema 1 manifest; these are obsolete and not supported, push the image again with a current client")}
}

// mediaType is the Content-Type without parameters; "" when it is missing or
// one of those that servers fill in without looking.
func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	switch t {
	case "application/json", "text/plain", "application/octet-stream", "binary/octet-stream":
		return ""
	}
	return t
}
