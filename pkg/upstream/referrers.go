package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxReferrers bounds what refers to one manifest; further ones are left out.
const maxReferrers = 10_000

// Referrers lists what refers to a manifest (distribution spec v1.1, "Listing
// Referrers"): signatures, attestations, SBOMs. An upstream without that API is
// asked for the tag that stands in for it. None is no error.
//
// Kinds: all but NotFound.
func (c *Client) Referrers(ctx context.Context, name, repo string, d digest.Digest) ([]ocispec.Descriptor, error) {
	e, err := c.find("referrers", name, repo, d.String())
	if err != nil {
		return nil, err
	}
	rq := request{op: "referrers", method: http.MethodGet, repo: repo, what: d.String()}
	if err := d.Validate(); err != nil {
		rq.what = scrub(d.String())
		return nil, e.own().error(&rq, &failure{kind: Invalid, err: err})
	}
	list, err := each(e, func(u *upstream) ([]ocispec.Descriptor, *Error) { return u.referrers(ctx, rq, d) })
	if KindOf(err) == NotFound {
		return []ocispec.Descriptor{}, nil
	}
	return list, err
}

func (u *upstream) referrers(ctx context.Context, rq request, d digest.Digest) ([]ocispec.Descriptor, *Error) {
	rq.header = http.Header{"Accept": {ocispec.MediaTypeImageIndex}}
	rq.path = "referrers/" + d.String()
	list := []ocispec.Descriptor{}
	for pages := 1; ; pages++ {
		page, next, e := u.referrerPage(ctx, &rq)
		switch {
		case e != nil && pages == 1 && (e.Kind == NotFound || e.Kind == Invalid):
			return u.referrersTag(ctx, rq, d) // it does not know the API
		case e != nil:
			return nil, e
		case next != nil && next.Encode() == rq.query.Encode():
			return nil, u.error(&rq, &failure{kind: Corrupt, err: errors.New("a page of the list says that itself comes next")})
		}
		if list = append(list, page...); next == nil || len(list) >= maxReferrers || pages == maxTagPages {
			return list[:min(len(list), maxReferrers)], nil
		}
		rq.query = next
	}
}

// referrersTag reads the list that clients keep under a tag where a registry
// keeps none. NotFound: there is no such tag, and nothing refers to d.
func (u *upstream) referrersTag(ctx context.Context, rq request, d digest.Digest) ([]ocispec.Descriptor, *Error) {
	rq.path, rq.query = "manifests/"+referrersTag(d), nil
	page, _, e := u.referrerPage(ctx, &rq)
	return page, e
}

// referrersTag is the spec's "Referrers Tag Schema".
func referrersTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded()[:min(len(d.Encoded()), 64)]
}

// referrerPage gets one page and the query of the next, nil at the end.
func (u *upstream) referrerPage(ctx context.Context, rq *request) ([]ocispec.Descriptor, url.Values, *Error) {
	resp, e := u.do(ctx, rq)
	if e != nil {
		return nil, nil, e
	}
	defer resp.Close()
	content, err := io.ReadAll(io.LimitReader(resp.body, maxManifest+1))
	if err != nil {
		return nil, nil, u.error(rq, networkFailure(ctx, err))
	}
	var index ocispec.Index
	switch err := json.Unmarshal(content, &index); {
	case len(content) > maxManifest:
		return nil, nil, u.error(rq, &failure{kind: Corrupt, err: fmt.Errorf("a page of the list is longer than %d MiB", maxManifest>>20)})
	case err != nil && strings.HasPrefix(rq.path, "referrers/"):
		// A page for people, say: what answers does not know the API.
		return nil, nil, u.error(rq, &failure{kind: NotFound, err: errors.New("the list is not JSON")})
	case err != nil:
		return nil, nil, u.error(rq, &failure{kind: Corrupt, err: errors.New("the list is not JSON")})
	}
	var page []ocispec.Descriptor
	for _, d := range index.Manifests {
		if d.Digest.Validate() == nil && d.Size >= 0 {
			page = append(page, d)
		}
	}
	next, _ := parseNextLink(resp.header["Link"])
	return page, next, nil
}
