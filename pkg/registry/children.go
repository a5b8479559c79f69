package registry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// MaxManifestSize bounds a manifest that is read or parsed. The
	// distribution spec asks for at least 4 MiB.
	MaxManifestSize = 8 << 20
	// maxChildren bounds the descriptors of one manifest.
	maxChildren = 10000
	// maxBlobSize bounds the size a descriptor may claim (1 EiB).
	maxBlobSize = 1 << 60
)

// Media types that are not in image-spec.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerSchema1      = "application/vnd.docker.distribution.manifest.v1+json"
	MediaTypeDockerSchema1JWS   = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	// MediaTypeArtifactManifest was in image-spec v1.1 release candidates.
	MediaTypeArtifactManifest = "application/vnd.oci.artifact.manifest.v1+json"
)

// ManifestTypes are the media types worth naming in an Accept header, most
// wanted first.
func ManifestTypes() []string {
	return []string{ocispec.MediaTypeImageIndex, MediaTypeDockerManifestList, ocispec.MediaTypeImageManifest,
		MediaTypeDockerManifest, MediaTypeArtifactManifest, MediaTypeDockerSchema1JWS, MediaTypeDockerSchema1}
}

// Descriptor points at content, as in image-spec.
type Descriptor = ocispec.Descriptor

// Kind says what a manifest's children are.
type Kind int

const (
	// KindUnknown content has no children that this package can name.
	KindUnknown Kind = iota
	// KindIndex children are manifests, one or more per platform.
	KindIndex
	// KindImage children are blobs: the config, then the layers.
	KindImage
)

func (k Kind) String() string {
	switch k {
	case KindIndex:
		return "index"
	case KindImage:
		return "image"
	default:
		return "unknown"
	}
}

// Parsed is what a manifest points at.
type Parsed struct {
	Kind         Kind
	MediaType    string // as the content says, else as it was served
	ArtifactType string
	Annotations  map[string]string
	Children     []Descriptor // by Kind; in the order of the manifest
	Subject      *Descriptor  // what a referrer refers to; not a child: no client pulls it along
	config       string       // media type of an image's config
}

// Referrer describes a manifest of this digest and size in a list of referrers
// (distribution spec, "Listing Referrers").
func (p *Parsed) Referrer(d digest.Digest, size int64) Descriptor {
	return Descriptor{MediaType: p.MediaType, Digest: d, Size: size,
		ArtifactType: cmp.Or(p.ArtifactType, p.config), Annotations: p.Annotations}
}

var (
	errManifestSize = errors.New("manifest is larger than 8 MiB")
	errAmbiguous    = errors.New("manifest is an index and an image at once")
)

// document is the union of index, image manifest and artifact manifest.
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        *[]Descriptor     `json:"layers"`
	Manifests     *[]Descriptor     `json:"manifests"`
	Blobs         *[]Descriptor     `json:"blobs"`
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// Parse reads a manifest of any type. mediaType is what it was served as; when
// that is no manifest type (a registry that says application/json) the content
// decides. Content of a type nobody knows, and docker schema 1, gives
// KindUnknown and no error: it can be passed on, but nothing follows from it.
// An error means that content which claims a known type is not of it; no
// client could use it either. Descriptors are valid: a sha256 or sha512
// digest and a size of 0 or more.
func Parse(mediaType string, content []byte) (*Parsed, error) {
	if len(content) > MaxManifestSize {
		return nil, fmt.Errorf("parse manifest: %w", errManifestSize)
	}
	served := bareType(mediaType)
	if served != "" && kindOf(served) == KindUnknown && !generic(served) {
		return &Parsed{MediaType: served}, nil
	}
	var doc document
	if err := json.Unmarshal(content, &doc); err != nil {
		if generic(served) {
			return &Parsed{MediaType: served}, nil
		}
		return nil, fmt.Errorf("parse manifest of type %s: %w", served, err)
	}
	p, err := doc.parsed(served)
	if err != nil {
		return nil, fmt.Errorf("parse manifest of type %s: %w", p.MediaType, err)
	}
	return p, nil
}

// Children is Parse for callers that only follow pointers.
func Children(mediaType string, content []byte) ([]Descriptor, Kind, error) {
	p, err := Parse(mediaType, content)
	if err != nil {
		return nil, KindUnknown, err
	}
	return p.Children, p.Kind, nil
}

func (doc *document) parsed(served string) (*Parsed, error) {
	p := &Parsed{MediaType: served, ArtifactType: doc.ArtifactType, Annotations: doc.Annotations}
	inner := bareType(doc.MediaType)
	if generic(served) {
		p.MediaType = inner
	} else if inner != "" && inner != served {
		return p, fmt.Errorf("content says it is %q", short(inner))
	}
	// A document that is both would be read differently by different clients
	// (CVE-2021-41190).
	image := doc.Layers != nil || doc.Config != nil || doc.Blobs != nil
	if doc.Manifests != nil && image {
		return p, errAmbiguous
	}
	p.Kind = kindOf(p.MediaType)
	if p.Kind == KindUnknown && p.MediaType == "" {
		switch { // image-spec made mediaType optional
		case doc.Manifests != nil:
			p.Kind, p.MediaType = KindIndex, ocispec.MediaTypeImageIndex
		case doc.Layers != nil:
			p.Kind, p.MediaType = KindImage, ocispec.MediaTypeImageManifest
		}
	}
	switch p.Kind {
	case KindIndex:
		if image {
			return p, errAmbiguous
		}
		if doc.Manifests != nil {
			p.Children = *doc.Manifests
		}
	case KindImage:
		if doc.Manifests != nil {
			return p, errAmbiguous
		}
		p.Children = doc.blobs()
		if doc.Config != nil {
			p.config = doc.Config.MediaType
		}
	default:
		return p, nil
	}
	if len(p.Children) > maxChildren {
		return p, fmt.Errorf("%d descriptors, at most %d are read", len(p.Children), maxChildren)
	}
	for i := range p.Children {
		if err := checkDescriptor(&p.Children[i]); err != nil {
			return p, fmt.Errorf("descriptor %d: %w", i, err)
		}
	}
	if doc.Subject != nil {
		if err := checkDescriptor(doc.Subject); err != nil {
			return p, fmt.Errorf("subject: %w", err)
		}
		p.Subject = doc.Subject
	}
	return p, nil
}

// blobs are config, layers and (artifact manifests) blobs.
func (doc *document) blobs() []Descriptor {
	var all []Descriptor
	if doc.Config != nil {
		all = append(all, *doc.Config)
	}
	for _, list := range []*[]Descriptor{doc.Layers, doc.Blobs} {
		if list != nil {
			all = append(all, *list...)
		}
	}
	return all
}

func checkDescriptor(d *Descriptor) error {
	if _, err := ParseDigest(string(d.Digest)); err != nil {
		return err
	}
	if d.Size < 0 || d.Size > maxBlobSize {
		return fmt.Errorf("size %d of %s", d.Size, d.Digest)
	}
	return nil
}

// kindOf knows the manifest types whose children can be read.
func kindOf(mediaType string) Kind {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, MediaTypeDockerManifestList:
		return KindIndex
	case ocispec.MediaTypeImageManifest, MediaTypeDockerManifest, MediaTypeArtifactManifest:
		return KindImage
	}
	return KindUnknown
}

// IsManifestType tells whether content of this type is fetched from
// /manifests/ rather than /blobs/.
func IsManifestType(mediaType string) bool {
	m := bareType(mediaType)
	return kindOf(m) != KindUnknown || m == MediaTypeDockerSchema1 || m == MediaTypeDockerSchema1JWS
}

// generic types say nothing about the content.
func generic(mediaType string) bool {
	switch mediaType {
	case "", "application/json", "text/plain", "application/octet-stream":
		return true
	}
	return false
}

// bareType drops parameters like "; charset=utf-8".
func bareType(s string) string {
	if t, _, err := mime.ParseMediaType(s); err == nil {
		return t
	}
	s, _, _ = strings.Cut(s, ";")
	return strings.ToLower(strings.TrimSpace(s))
}

// Foreign tells whether a layer is, by its media type, to be had from the URLs
// in its descriptor and not from registries (Windows base layers).
func Foreign(d Descriptor) bool {
	return strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
}

// Digests of the children, without repeats, in order.
func Digests(children []Descriptor) []digest.Digest {
	seen := make(map[digest.Digest]bool, len(children))
	var out []digest.Digest
	for _, c := range children {
		if !seen[c.Digest] {
			seen[c.Digest] = true
			out = append(out, c.Digest)
		}
	}
	return out
}
