package upstream

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// BlobSize asks for the size of a blob, in bytes, by HEAD.
//
// Kinds: all. Invalid: also an upstream that does not say. Refused: also
// a blob that is too large for its rules.
func (c *Client) BlobSize(ctx context.Context, name, repo string, d digest.Digest) (int64, error) {
	e, err := c.find("blob size", name, repo, d.String())
	if err != nil {
		return 0, err
	}
	rq := &request{op: "blob size", method: http.MethodHead, repo: repo, what: d.String(), path: "blobs/" + d.String()}
	if err := d.Validate(); err != nil {
		rq.what = scrub(rq.what)
		return 0, e.own().error(rq, &failure{kind: Invalid, err: err})
	}
	return each(e, func(u *upstream) (int64, *Error) { return u.blobSize(ctx, rq) })
}

func (u *upstream) blobSize(ctx context.Context, rq *request) (int64, *Error) {
	resp, e := u.do(ctx, rq)
	if e != nil {
		return 0, e
	}
	defer resp.Close()
	if resp.length < 0 {
		return 0, u.error(rq, &failure{kind: Invalid, err: errors.New("the answer has no Content-Length")})
	}
	if err := u.maxBlob.size(resp.length); err != nil {
		return 0, u.error(rq, &failure{kind: Refused, err: err})
	}
	return resp.length, nil
}
