package upstream

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// BlobSize asks for the size of a blob, in bytes, by HEAD.
//
// Kinds: all. Invalid: also an upstream that does not say.
func (c *Client) BlobSize(ctx context.Context, name, repo string, d digest.Digest) (int64, error) {
	u, err := c.find("blob size", name, repo, d.String())
	if err != nil {
		return 0, err
	}
	rq := &request{op: "blob size", method: http.MethodHead, repo: repo, what: d.String(), path: "blobs/" + d.String(), lane: u.metadata}
	if err := d.Validate(); err != nil {
		rq.what = scrub(rq.what)
		return 0, u.error(rq, &failure{kind: Invalid, err: err})
	}
	resp, e := u.do(ctx, rq)
	if e != nil {
		return 0, e
	}
	defer resp.Close()
	if resp.length < 0 {
		return 0, u.error(rq, &failure{kind: Invalid, err: errors.New("the answer has no Content-Length")})
	}
	return resp.length, nil
}
